//! Programs that know nothing of this allocator print the same under it.

mod common;

use common::{Folder, command, has, run};
use std::path::Path;
use std::process::Command;

/// Runs a command with and without the object, in folders that are alike, and compares all there is to see.
#[track_caller]
fn same(name: &str, tools: &[&str], make: impl Fn() -> Command) {
    if !tools.iter().all(|tool| has(tool)) {
        return;
    }
    let folder = Folder::new(name);
    let work = folder.path().join("work");
    let [plain, ours] = [false, true].map(|preload| {
        let _ = std::fs::remove_dir_all(&work);
        std::fs::create_dir(&work).unwrap();
        run(make().current_dir(&work), preload, folder.path())
    });
    assert!(plain.status.success() && !plain.out.is_empty(), "without the object: {plain:?}");
    assert_eq!((ours.status, &ours.out, &ours.err), (plain.status, &plain.out, &plain.err));
}

fn input(name: &str) -> String {
    common::source(name).display().to_string()
}

/// What `benches/preload` measures with, too.
fn measured(name: &str) -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/preload/programs/").to_string() + name
}

#[test]
fn bash_with_loops_arrays_and_subshells() {
    same("bash", &["bash"], || command("bash", [input("loops.sh")]));
}

#[test]
fn python_with_json_threads_and_children() {
    same("python", &["python3"], || {
        let mut python = command("python3", [input("everything.py")]);
        python.env("PYTHONMALLOC", "malloc").env("PYTHONHASHSEED", "0");
        python
    });
}

#[test]
fn git_with_a_history_and_its_packs() {
    same("git", &["git", "bash"], || command("bash", [measured("history.sh")]));
}

#[test]
fn sqlite_with_tables_and_indexes() {
    same("sqlite", &["sqlite3"], || {
        command("sqlite3", [":memory:", &format!(".read {}", measured("rows.sql"))])
    });
}

#[test]
fn lua_with_tables_and_strings() {
    let lua = ["lua5.4", "lua"].into_iter().find(|lua| is_here(lua)).unwrap_or("lua5.4");
    same("lua", &[lua], || command(lua, [measured("tables.lua")]));
}

fn is_here(tool: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|at| at.join(tool).is_file()))
}

#[test]
fn compilers_that_compile_the_programs_of_these_tests() {
    same("cc", &["cc"], || command("cc", ["-O2", "-S", "-o", "/dev/stdout", &input("check.c")]));
    same("c++", &["c++"], || {
        command("c++", ["-std=c++17", "-O2", "-S", "-o", "/dev/stdout", &input("check.cpp")])
    });
}

#[test]
fn perl_and_the_shell_tools() {
    same("perl", &["perl"], || {
        command(
            "perl",
            [
                "-e",
                "my %h; $h{$_ % 997} .= \"$_,\" for 1..50000; print map { \"$_=$h{$_}\\n\" } sort keys %h",
            ],
        )
    });
    same("tools", &["bash", "sort", "awk", "xargs", "tar", "gzip"], || {
        let script = "seq 1 60000 | awk '{ print $1 * 7919 % 10007, $1 }' | sort --parallel=2 -S 4M -k1,1n -k2,2n | tee sorted | md5sum; \
                      ls -la / | awk 'NR == 1 { print $1 }'; split -l 5000 sorted part.; ls part.* | xargs -P 2 -n 2 gzip; ls | wc -l; \
                      gzip -dc part.*.gz | cmp - sorted && echo same; tar cf - part.* | tar tf - | wc -l";
        command("bash", ["-c", script])
    });
}

#[test]
fn the_inputs_are_there() {
    for path in [
        input("loops.sh"),
        input("everything.py"),
        measured("history.sh"),
        measured("rows.sql"),
        measured("tables.lua"),
    ] {
        assert!(Path::new(&path).is_file(), "{path}");
    }
}

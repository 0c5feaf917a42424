//! Every function that the object has, called by programs written for that: see `programs`.

mod common;

use common::{Folder, command, compile, object, run};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

#[test]
fn a_c_program_gets_what_the_standards_say() {
    let folder = Folder::new("c");
    let program = compile("cc", &[], "check.c", folder.path());
    let plug_in = compile("cc", &["-shared", "-fPIC"], "plug_in.c", folder.path());
    let done = run(&mut command(program, [plug_in]), true, folder.path());
    assert!(done.status.success() && done.out == "all held\n", "{done:?}");
}

#[test]
fn a_cxx_program_has_every_form_of_new_and_delete() {
    let folder = Folder::new("cxx");
    let program = compile("c++", &["-std=c++17"], "check.cpp", folder.path());
    let done = run(&mut command(program, [""; 0]), true, folder.path());
    assert!(done.status.success() && done.out == "all held\n", "{done:?}");
}

#[test]
fn new_without_memory_and_without_a_cxx_library_says_so_and_ends() {
    // A C program that calls `operator new` by its name has nobody to throw.
    let folder = Folder::new("no-cxx");
    let program = compile("cc", &[], "no_cxx.c", folder.path());
    let done = run(&mut command(&program, ["throws"]), true, folder.path());
    assert!(done.err.contains("operator new: no memory for"), "{done:?}");
    assert_eq!(done.status.signal(), Some(libc::SIGABRT), "{done:?}");
    let done = run(&mut command(&program, ["gives-null"]), true, folder.path());
    assert!(done.status.success() && done.out == "null\n", "{done:?}");
}

#[test]
fn misuse_ends_the_program_with_a_line_that_says_what() {
    let folder = Folder::new("misuse");
    let program = compile("cc", &[], "misuse.c", folder.path());
    for (case, words) in [
        ("twice-small", "freed twice"),
        ("twice-large", "freed twice"),
        ("foreign", "somebody else"),
        ("foreign-realloc", "somebody else"),
        ("inside-small", "inside a block"),
        ("inside-large", "inside a block"),
    ] {
        let done = run(&mut command(&program, [case]), true, folder.path());
        let line = done.err.lines().find(|line| line.starts_with("democratising: 0x"));
        assert!(line.is_some_and(|line| line.contains(words)), "{case}: {done:?}");
        assert_eq!(done.status.signal(), Some(libc::SIGABRT), "{case}: {done:?}");
    }
    let done = run(&mut command(&program, ["nothing"]), true, folder.path());
    assert!(done.status.success() && done.err.is_empty(), "{done:?}");
}

#[test]
fn who_handles_the_abort_that_misuse_ends_in_has_the_heap() {
    let folder = Folder::new("aborted");
    let program = compile("cc", &["-fno-builtin", "-Wno-use-after-free"], "aborted.c", folder.path());
    let done = run(&mut command(program, [""; 0]), true, folder.path());
    assert!(done.err.contains("freed twice") && done.out == "distinct\n", "{done:?}");
}

#[test]
fn a_thread_that_frees_first_in_a_keys_destructor_leaves_no_cache_behind() {
    let folder = Folder::new("late");
    let program = compile("cc", &["-fno-builtin"], "late.c", folder.path());
    let done = run(&mut command(program, [""; 0]), true, folder.path());
    assert!(done.status.success() && done.out == "gone\n", "{done:?}");
}

#[test]
fn malloc_and_free_leave_errno_alone_though_the_system_refuses() {
    if !common::has("strace") {
        return;
    }
    let folder = Folder::new("errno");
    let program = compile("cc", &[], "errno.c", folder.path());
    let log = folder.path().join("calls");
    let mut traced =
        command("strace", ["-qq", "-e", "trace=madvise", "-e", "inject=madvise:error=EINVAL", "-o"]);
    traced.arg(&log).arg("-E").arg(format!("LD_PRELOAD={}", object().display())).arg(program);
    let done = run(&mut traced, false, folder.path());
    assert!(done.status.success() && done.out == "errno stayed\n", "{done:?}");
    let refused = std::fs::read_to_string(&log).unwrap();
    assert!(refused.contains("MADV_DONTNEED) = -1 EINVAL"), "nothing was given back: {refused}");
}

/// The number in front of a word of a text.
fn number_before(text: &str, word: &str) -> Option<u64> {
    text[..text.find(word)?].split_whitespace().last()?.parse().ok()
}

#[test]
fn statistics_are_printed_at_the_end_where_they_are_asked_for() {
    let folder = Folder::new("stats");
    // `ls` closes its standard error before it ends.
    let done = run(command("ls", ["/"]).env("DEMOCRATISING_STATS", "1"), true, folder.path());
    assert!(done.status.success() && done.err.starts_with("democratising: the heap of process "), "{done:?}");
    assert!(number_before(&done.err, "blocks\n").is_some_and(|blocks| blocks > 10), "{done:?}");
    for value in ["0", ""] {
        let done = run(command("ls", ["/"]).env("DEMOCRATISING_STATS", value), true, folder.path());
        assert!(done.status.success() && done.err.is_empty(), "{done:?}");
    }
    let done = run(command("ls", ["/"]).env_remove("DEMOCRATISING_STATS"), true, folder.path());
    assert!(done.status.success() && done.err.is_empty(), "{done:?}");
}

#[test]
fn statistics_are_not_written_into_a_file_of_the_programs_own() {
    let folder = Folder::new("own-file");
    let file = folder.path().join("mine");
    // Whatever the descriptor is: each of them is a file of the program's at the end.
    let script = "for i in {3..600}; do eval \"exec $i>>\\\"\\$1\\\"\"; done; echo mine >&3";
    let mut bash = command("bash", ["-c", script, "bash"]);
    bash.arg(&file).env("DEMOCRATISING_STATS", "1");
    let done = run(&mut bash, true, folder.path());
    assert!(done.status.success(), "{done:?}");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "mine\n");
    // A low number that a script uses does not take the report away.
    let script = "exec 3>/dev/null; echo >&3";
    let done = run(command("bash", ["-c", script]).env("DEMOCRATISING_STATS", "1"), true, folder.path());
    assert!(done.err.starts_with("democratising: the heap of process "), "{done:?}");
}

#[test]
fn the_object_stays_when_it_is_closed() {
    let name = std::ffi::CString::new(object().as_os_str().as_encoded_bytes()).unwrap();
    // SAFETY: 1. The name is a C string. 2. What runs when the object is loaded touches nothing of this program's.
    unsafe {
        let handle = libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
        assert!(!handle.is_null());
        assert_eq!(libc::dlclose(handle), 0);
        assert!(!libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD).is_null(), "it is gone");
    }
}

#[test]
fn a_program_without_an_unwinder_gets_none() {
    let folder = Folder::new("maps");
    let done = run(&mut command("cat", ["/proc/self/maps"]), true, folder.path());
    assert!(done.status.success() && done.out.contains("/libdemocratising.so"), "{done:?}");
    assert!(!done.out.contains("libgcc_s"), "{done:?}");
}

#[test]
fn a_library_that_is_to_prefer_its_own_functions_has_this_heap_all_the_same() {
    let folder = Folder::new("bound");
    let inner = folder.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    let program = compile("cc", &[], "bound.c", folder.path());
    let plug_in = compile("cc", &["-shared", "-fPIC"], "plug_in.c", &inner);
    let outer = compile("cc", &["-shared", "-fPIC", "-Wl,-rpath,$ORIGIN/inner"], "outer.c", folder.path());
    let plain = run(&mut command(&program, [&plug_in, &outer]), false, folder.path());
    let done = run(&mut command(&program, [&plug_in, &outer]), true, folder.path());
    assert!(done.status.success() && done.out.starts_with("exchanged\nfound\n"), "{done:?}");
    assert_eq!((&done.out, &done.err), (&plain.out, &plain.err));
}

#[test]
fn the_first_use_of_the_heap_may_be_for_what_runs_around_forks() {
    let folder = Folder::new("first-fork");
    let program = compile("cc", &[], "first_fork.c", folder.path());
    let done = run(&mut command(program, [""; 0]), true, folder.path());
    assert!(done.status.success() && done.out == "registered\n", "{done:?}");
}

#[test]
fn a_program_with_little_address_space_runs() {
    let folder = Folder::new("limited");
    // 300 MB of addresses: what the heap reserves shrinks, and what cannot be had is an error of the program's.
    let script = "ulimit -v 300000; x=$(printf '%01000000d' 7); echo ${#x}; exec sort --version";
    let plain = run(&mut command("bash", ["-c", script]), false, folder.path());
    let done = run(&mut command("bash", ["-c", script]), true, folder.path());
    assert!(done.status.success() && done.out == plain.out && done.err.is_empty(), "{done:?}");
}

#[test]
fn a_program_that_may_write_little_memory_runs() {
    let folder = Folder::new("little-data");
    // All that is private and writable counts, the heap's own tables too.
    for kib in [100_000, 1_000_000, 2_000_000] {
        let script =
            format!("ulimit -d {kib}; x=$(printf '%01000000d' 7); echo ${{#x}}; exec sort --version");
        let plain = run(&mut command("bash", ["-c", &script]), false, folder.path());
        let done = run(&mut command("bash", ["-c", &script]), true, folder.path());
        assert!(done.status.success() && done.out == plain.out && done.err.is_empty(), "{kib} KiB: {done:?}");
    }
}

#[test]
fn a_program_that_may_call_only_what_services_may_is_not_ended_for_the_heaps_calls() {
    let folder = Folder::new("filtered");
    let program = compile("cc", &["-fno-builtin"], "filtered.c", folder.path());
    let plain = run(&mut command(&program, [""; 0]), false, folder.path());
    assert!(plain.status.success(), "{plain:?}");
    if plain.out == "no filters\n" {
        return eprintln!("NOT TESTED: this kernel takes no filters");
    }
    let done = run(&mut command(&program, [""; 0]), true, folder.path());
    assert!(done.status.success() && done.out == "all held\n", "{done:?}");
}

#[test]
fn a_block_becomes_shorter_though_there_is_no_memory_for_another() {
    let folder = Folder::new("shorter");
    let program = compile("cc", &["-fno-builtin"], "shorter.c", folder.path());
    let done = run(&mut command(program, [""; 0]), true, folder.path());
    assert!(done.status.success() && done.out == "all held\n", "{done:?}");
}

#[test]
fn a_thread_that_is_to_be_cancelled_is_not_while_the_heap_speaks() {
    let folder = Folder::new("cancelled");
    let program = compile("cc", &["-fno-builtin", "-Wno-use-after-free"], "cancelled.c", folder.path());
    let done = run(&mut command(&program, ["misuse"]), true, folder.path());
    assert!(done.err.starts_with("democratising: 0x") && done.err.contains("freed twice"), "{done:?}");
    assert_eq!(done.status.signal(), Some(libc::SIGABRT), "{done:?}");
    for (case, start, end) in [
        ("info", "<malloc version=", "</malloc>\n"),
        ("stats", "democratising: the heap of process ", "page faults\n"),
    ] {
        let done = run(&mut command(&program, [case]), true, folder.path());
        assert!(done.status.success() && done.out == "cancelled, cleaned\n", "{done:?}");
        assert!(done.err.starts_with(start) && done.err.ends_with(end), "{done:?}");
    }
}

#[test]
fn a_thread_that_comes_first_when_there_is_no_memory_is_told_so() {
    let folder = Folder::new("starved");
    let program = compile("cc", &["-fno-builtin"], "starved.c", folder.path());
    // Where addresses are limited the heap has a quarter of them, and what it needs besides can still be had.
    let mut limited = command("bash", ["-c", "ulimit -v 400000; exec \"$0\""]);
    let done = run(limited.arg(&program), true, folder.path());
    assert!(done.status.success() && done.out == "told\n", "{done:?}");
}

#[cfg(feature = "hardened")]
#[test]
fn what_is_wrong_is_told_at_the_call_itself() {
    let folder = Folder::new("at-once");
    let program = compile(
        "cc",
        &[
            // Or the compiler leaves out what is wrong.
            "-fno-builtin",
            "-Wno-use-after-free",
            "-Wno-free-nonheap-object",
            "-Wno-array-bounds",
            "-Wno-stringop-overflow",
        ],
        "at_once.c",
        folder.path(),
    );
    for (case, words) in [
        ("twice", "freed twice"),
        ("behind", "written behind its end"),
        ("behind-realloc", "written behind its end"),
        ("inside", "inside a block"),
        ("large", "written behind its end"),
    ] {
        let done = run(&mut command(&program, [case]), true, folder.path());
        let line = done.err.lines().find(|line| line.starts_with("democratising: 0x"));
        assert!(line.is_some_and(|line| line.contains(words)), "{case}: {done:?}");
        assert_eq!(done.status.signal(), Some(libc::SIGABRT), "{case}: {done:?}");
    }
    let done = run(&mut command(&program, ["nothing"]), true, folder.path());
    assert!(done.status.success() && done.err.is_empty(), "{done:?}");
}

// The hardened heap's hits are calls.
#[cfg(all(target_arch = "x86_64", target_os = "linux", not(feature = "hardened")))]
#[test]
fn malloc_and_free_find_their_cache_without_a_call() {
    if !common::has("objdump") {
        return;
    }
    let listed = Command::new("objdump").args(["-d", "--no-show-raw-insn"]).arg(object()).output().unwrap();
    let text = String::from_utf8_lossy(&listed.stdout);
    let addresses = Command::new("nm").args(["-D", "--defined-only"]).arg(object()).output().unwrap();
    let addresses = String::from_utf8_lossy(&addresses.stdout);
    for (name, most) in [("malloc", 18), ("free", 38)] {
        let line = addresses.lines().find(|line| line.ends_with(&format!(" T {name}"))).unwrap();
        let start = format!("{}:", line.split(' ').next().unwrap().trim_start_matches('0'));
        // From the first instruction to the first return: the hit, since slow paths are jumps behind it.
        let hit: Vec<&str> = text
            .lines()
            .skip_while(|line| line.trim_start().split('\t').next() != Some(&start))
            .take_while(|line| !line.trim().is_empty())
            .collect();
        let end =
            hit.iter().position(|line| line.split('\t').nth(1).is_some_and(|part| part.trim() == "ret"));
        let end = end.unwrap_or_else(|| panic!("{name} does not return: {hit:#?}")) + 1;
        assert!(end <= most, "{name}: {end} instructions, more than {most}: {hit:#?}");
        assert!(!hit[..end].iter().any(|line| line.contains("call")), "{name}: {hit:#?}");
    }
}

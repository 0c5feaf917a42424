//! Checkpoints and durable renames: the order of the steps, and what stands where after each kind of fault.
//!
//! Faults are real ones. The kernel's come from `strace`, which counts, fails or kills at one exact system call of a
//! child process; the child is this program again, running one test (see `child`).
#![cfg(all(feature = "std", target_os = "linux"))]

#[path = "fs/child.rs"]
mod child;
#[path = "fs/steps.rs"]
mod steps;

use child::child;
use democratising::DemoError;
use democratising::fs::{ModelCheckpoint, persist};
use democratising::tempfile::{self, NamedTempFile};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Output;
use steps::{entries, ones, save, step, with_old};

/// Runs one test of this program again as a child, behind the words of `before`.
fn as_child(before: &[&str], test: &str, path: &Path) -> Output {
    let output = child::command(before, test, path).output();
    output.unwrap_or_else(|error| {
        panic!("cannot run {}, which this test needs; install it: {error}", before[0])
    })
}

/// Saves step 2 in a child under strace with these options. Returns its output and what strace saw.
fn traced(options: &[&str], test: &str, path: &Path) -> (Output, Vec<String>) {
    let log = NamedTempFile::new().unwrap();
    let mut before = vec!["strace", "-f", "-y", "-o", log.path().to_str().unwrap()];
    before.extend(["-e", "trace=openat,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink"]);
    before.extend(options);
    let output = as_child(&before, test, path);
    let log = fs::read_to_string(log.path()).unwrap();
    assert!(log.contains("openat("), "strace saw nothing; may this user trace? {output:?}");
    (output, log.lines().map(String::from).collect())
}

/// The steps that strace saw of what ends in `directory`.
fn steps(log: &[String], directory: &Path) -> Vec<&'static str> {
    let inside = format!("<{}", directory.to_str().unwrap());
    let step = |line: &String| {
        let call = line.split_once(' ')?.1.trim_start();
        let of_file = call.contains(".democratising-") || call.contains(".tmp");
        let failed = call.contains(" = -1 ");
        match call.split_once('(')?.0 {
            "fsync" if !call.contains(&inside) => Some("sync file elsewhere"),
            "fsync" if call.contains(&format!("{inside}>")) => Some("sync directory"),
            "fsync" if of_file => Some("sync file"),
            "rename" | "renameat" | "renameat2" if of_file && failed => Some("rename refused"),
            "rename" | "renameat" | "renameat2" if of_file => Some("rename"),
            _ => None,
        }
    };
    log.iter().filter_map(step).collect()
}

#[test]
fn the_file_is_synced_then_renamed_then_the_directory_synced() {
    if let Some(path) = child() {
        return save(&path, "2").unwrap();
    }
    let (directory, path) = with_old();
    let test = "the_file_is_synced_then_renamed_then_the_directory_synced";
    let (output, log) = traced(&[], test, &path);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(step(&path), "2");
    assert_eq!(steps(&log, directory.path()), ["sync file", "rename", "sync directory"], "{log:#?}");
}

#[test]
fn a_persisted_file_goes_through_the_same_steps() {
    if let Some(path) = child() {
        persist(NamedTempFile::new_in(path.parent().unwrap()).unwrap(), &path).unwrap();
        return;
    }
    let (directory, path) = with_old();
    let (output, log) = traced(&[], "a_persisted_file_goes_through_the_same_steps", &path);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(steps(&log, directory.path()), ["sync file", "rename", "sync directory"], "{log:#?}");
}

#[test]
fn a_copy_from_another_file_system_goes_through_the_same_steps() {
    if let Some(path) = child() {
        persist(NamedTempFile::new_in("/dev/shm").unwrap(), &path).unwrap();
        return;
    }
    let (directory, path) = with_old();
    let (output, log) = traced(&[], "a_copy_from_another_file_system_goes_through_the_same_steps", &path);
    assert!(output.status.success(), "{output:?}");
    let wanted = ["sync file elsewhere", "rename refused", "sync file", "rename", "sync directory"];
    assert_eq!(steps(&log, directory.path()), wanted, "{log:#?}");
    let made = log.iter().find(|line| line.contains("O_CREAT") && line.contains(".democratising-"));
    assert!(
        made.is_some_and(|line| line.contains(" 0600)")),
        "the copy is as private as the temp file: {made:?}"
    );
    assert_eq!(entries(directory.path()), ["model.safetensors"]);
}

#[test]
fn a_file_system_without_locks_is_written_all_the_same() {
    if let Some(path) = child() {
        return save(&path, "2").unwrap();
    }
    let (directory, path) = with_old();
    let inject = ["-e", "trace=openat,flock", "-e", "inject=flock:error=ENOLCK"];
    let (output, log) = traced(&inject, "a_file_system_without_locks_is_written_all_the_same", &path);
    assert!(log.iter().any(|line| line.contains("ENOLCK")), "{log:#?}");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(step(&path), "2");
    assert_eq!(entries(directory.path()), ["model.safetensors"]);
}

#[test]
fn a_file_that_cannot_be_synced_is_given_up() {
    if let Some(path) = child() {
        let error = save(&path, "2").unwrap_err();
        assert!(error.to_string().starts_with("cannot sync "), "{error}");
        assert!(matches!(error, DemoError::Io { source, .. } if source.raw_os_error() == Some(5)));
        return;
    }
    let (directory, path) = with_old();
    let inject = ["-e", "inject=fsync:error=EIO:when=1"];
    let (output, log) = traced(&inject, "a_file_that_cannot_be_synced_is_given_up", &path);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        log.iter().filter(|line| line.contains("fsync(")).count(),
        1,
        "and never synced again: {log:#?}"
    );
    assert_eq!(step(&path), "1");
    assert_eq!(entries(directory.path()), ["model.safetensors"]);
}

#[test]
fn a_directory_that_cannot_be_synced_is_told_apart() {
    if let Some(path) = child() {
        let error = save(&path, "2").unwrap_err();
        assert!(
            matches!(&error, DemoError::NotDurable { path: at, source } if at == &path && source.raw_os_error() == Some(5))
        );
        return;
    }
    let (directory, path) = with_old();
    let inject = ["-e", "inject=fsync:error=EIO:when=2"];
    let (output, _) = traced(&inject, "a_directory_that_cannot_be_synced_is_told_apart", &path);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(step(&path), "2", "the new file is in place");
    assert_eq!(entries(directory.path()), ["model.safetensors"]);
}

#[test]
fn a_rename_that_fails_leaves_the_old_file() {
    if let Some(path) = child() {
        let error = save(&path, "2").unwrap_err();
        assert!(error.to_string().starts_with("cannot rename a temp file to "), "{error}");
        return;
    }
    let (directory, path) = with_old();
    let inject = ["-e", "inject=rename,renameat,renameat2:error=EACCES"];
    let (output, _) = traced(&inject, "a_rename_that_fails_leaves_the_old_file", &path);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(step(&path), "1");
    assert_eq!(entries(directory.path()), ["model.safetensors"]);
}

#[test]
fn a_process_killed_at_any_step_leaves_a_whole_file() {
    if let Some(path) = child() {
        return save(&path, "2").unwrap();
    }
    // A signal comes as the call ends, and SIGKILL prevents a rename that has not begun: strace stops before it.
    for (call, when, after) in
        [("fsync", 1, "1"), ("rename,renameat,renameat2", 1, "1 or 2"), ("fsync", 2, "2")]
    {
        let (directory, path) = with_old();
        let inject = format!("inject={call}:signal=SIGKILL:when={when}");
        let (output, _) = traced(&["-e", &inject], "a_process_killed_at_any_step_leaves_a_whole_file", &path);
        assert!(!output.status.success(), "it was killed at {call}");
        let step = step(&path);
        assert!(after.contains(&step), "step {step} after a kill at {call} {when}");
        let left = entries(directory.path());
        let hidden = left.iter().filter(|name| name.starts_with(".democratising-")).count();
        assert_eq!(left.len(), 1 + hidden);
        assert_eq!(hidden, usize::from(step == "1"), "only a temp file can be left, hidden");
        save(&path, "3").unwrap();
        assert_eq!(self::step(&path), "3", "and it is in nobody's way");
    }
}

#[test]
fn a_file_system_that_is_full_is_an_error_and_loses_nothing() {
    if let Some(path) = child() {
        let error = save(&path, "2").unwrap_err();
        assert!(error.to_string().starts_with("cannot write "), "{error}");
        assert!(matches!(error, DemoError::Io { source, .. } if source.kind() == ErrorKind::FileTooLarge));
        return;
    }
    let (directory, path) = with_old();
    // A limit of 64 blocks on a file's size fails the same writes that a full disk fails.
    let before = ["sh", "-c", "trap '' XFSZ; ulimit -f 64; exec \"$@\"", "sh"];
    let output = as_child(&before, "a_file_system_that_is_full_is_an_error_and_loses_nothing", &path);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(step(&path), "1");
    assert_eq!(entries(directory.path()), ["model.safetensors"]);
}

#[test]
fn a_new_file_goes_by_the_mask_of_the_process() {
    if let Some(path) = child() {
        return save(&path, "2").unwrap();
    }
    for (mask, mode) in [("022", 0o644), ("077", 0o600), ("000", 0o666)] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("m");
        let before = ["sh", "-c", &format!("umask {mask}; exec \"$@\""), "sh"];
        let output = as_child(&before, "a_new_file_goes_by_the_mask_of_the_process", &path);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, mode, "as File::create would, under {mask}");
    }
}

#[test]
fn a_relative_path_means_where_the_process_was_when_it_began() {
    if let Some(path) = child() {
        std::env::set_current_dir(path.parent().unwrap()).unwrap();
        let checkpoint = ModelCheckpoint::create("relative").unwrap().add("w", &ones(2)).unwrap();
        std::env::set_current_dir("/").unwrap();
        return checkpoint.commit().unwrap();
    }
    let (directory, path) = with_old();
    let output = as_child(&["env"], "a_relative_path_means_where_the_process_was_when_it_began", &path);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(entries(directory.path()), ["model.safetensors", "relative"]);
    assert_eq!(ModelCheckpoint::load(directory.path().join("relative")).unwrap().get("w").unwrap(), ones(2));
}

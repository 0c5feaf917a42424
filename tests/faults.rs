//! A fault at every system call of a save, each in turn: the checkpoint before or the new one loads, always, and nothing
//! half written stays.
//!
//! `strace` fails or kills a child at one exact call. The child is this program again.
#![cfg(all(feature = "std", target_os = "linux"))]

#[path = "fs/child.rs"]
mod child;

use democratising::fs::{CheckpointDir, ModelCheckpoint};
use democratising::tempfile::{NamedTempFile, TempDir, tempdir};
use democratising::{Result, Tensor};
use std::path::Path;
use std::process::Output;

/// More than one piece is written.
fn tensor(step: u64) -> Tensor {
    Tensor::new(&[2_200_000], vec![step as f32; 2_200_000]).unwrap()
}

fn save(directory: &Path, step: u64) -> Result<()> {
    CheckpointDir::open(directory)?.keep_last(2).save(step, [("w", &tensor(step))])
}

/// Saves step 2 over step 1 in a child with one injected fault, and holds what is there to the promise.
/// Returns whether the fault was met.
fn with_fault(inject: &str) -> bool {
    let directory = tempdir().unwrap();
    save(directory.path(), 1).unwrap();
    let output = run(inject, &directory);
    let saved = output.status.success();

    let opened = CheckpointDir::open(directory.path()).unwrap();
    let (step, checkpoint) = opened.latest_valid().unwrap().unwrap();
    assert!(step == 1 || step == 2, "{inject}: {output:?}");
    assert!(step == 2 || !saved, "{inject}: the child was told that it is safe: {output:?}");
    assert_eq!(checkpoint.get("w").unwrap(), tensor(step), "{inject}");
    assert!(checkpoint.skipped().is_empty(), "{inject}: nothing torn stands under a checkpoint's name");
    let left = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let hidden: Vec<_> = left.filter(|name| name.to_str().unwrap().ends_with(".tmp")).collect();
    assert!(hidden.is_empty(), "{inject}: {hidden:?} after the next open");
    opened.save(3, [("w", &tensor(3))]).unwrap();
    assert_eq!(opened.latest_valid().unwrap().unwrap().0, 3, "{inject}: and it goes on");
    !saved
}

fn run(inject: &str, directory: &TempDir) -> Output {
    let log = directory.path().join("strace.log");
    let trace = inject.replacen("inject", "trace", 1);
    let trace = trace.split(':').next().unwrap();
    let before = ["strace", "-f", "-qq", "-o", log.to_str().unwrap(), "-e", trace, "-e", inject];
    let output = child::command(&before, "a_save_in_a_child", directory.path()).output();
    let output = output
        .unwrap_or_else(|error| panic!("cannot run strace, which this test needs; install it: {error}"));
    std::fs::remove_file(log).unwrap();
    output
}

#[test]
fn a_save_in_a_child() {
    if let Some(directory) = child::child() {
        save(&directory, 2).unwrap();
    }
}

/// Injects a fault into the first call, the second, and so on, until a save meets it no more; says how many it met.
fn at_every(calls: &str, fault: &str) -> usize {
    let mut met = 0;
    // Calls before the save, as when the test is announced, are hit as well, and do no harm; a few may succeed in spite of
    // their fault.
    let mut missed_in_a_row = 0;
    for when in 1..200 {
        if with_fault(&format!("inject={calls}:{fault}:when={when}")) {
            met += 1;
            missed_in_a_row = 0;
        } else {
            missed_in_a_row += 1;
            if missed_in_a_row == 3 {
                return met;
            }
        }
    }
    panic!("a save makes fewer than 200 of {calls}");
}

#[test]
fn a_sync_that_fails_is_never_taken_for_one_that_worked() {
    let what = "that of what holds the directory, the file's, and the directory's";
    assert_eq!(at_every("fsync,fdatasync", "error=EIO"), 3, "{what}");
}

#[test]
fn a_disk_that_is_full_at_any_write_loses_nothing() {
    assert!(at_every("write,pwrite64,writev", "error=ENOSPC") >= 5, "header, pieces, checksums");
}

#[test]
fn a_quota_that_ends_at_any_write_loses_nothing() {
    assert!(at_every("write,pwrite64,writev", "error=EDQUOT") >= 5);
}

#[test]
fn a_process_killed_at_any_write_loses_nothing() {
    assert!(at_every("write,pwrite64,writev", "signal=SIGKILL") >= 5);
}

#[test]
fn a_process_killed_at_any_sync_or_rename_loses_nothing() {
    assert_eq!(at_every("fsync,fdatasync", "signal=SIGKILL"), 3);
    assert_eq!(at_every("rename,renameat,renameat2", "signal=SIGKILL"), 1);
}

#[test]
fn an_open_in_a_child() {
    if let Some(directory) = child::child() {
        CheckpointDir::open(directory.join("a/b/c")).unwrap();
    }
}

/// Opens `a/b/c` in a child with these options of `strace`; the directories that it synced, relative to `directory`.
fn synced_by_an_open(options: &[&str], directory: &Path) -> Vec<String> {
    let log = NamedTempFile::new().unwrap();
    let mut before = vec!["strace", "-f", "-y", "-o", log.path().to_str().unwrap(), "-e", "trace=fsync"];
    before.extend(options);
    let output = child::command(&before, "an_open_in_a_child", directory).output().unwrap();
    assert_eq!(output.status.success(), options.is_empty(), "{output:?}");
    let log = std::fs::read_to_string(log.path()).unwrap();
    let synced = log.lines().filter(|line| line.contains(" = 0"));
    let path = |line: &str| Some(line.split_once('<')?.1.split_once('>')?.0.to_owned());
    let inside = |path: String| Some(path.strip_prefix(directory.to_str()?)?.to_owned());
    synced.filter_map(path).filter_map(inside).collect()
}

#[test]
fn a_directory_that_a_killed_process_made_and_did_not_sync_is_synced_by_the_next() {
    // The second is that of what holds `directory`, which was there.
    for (when, synced) in [("1", vec!["/a", "", "/a/b"]), ("3", vec!["/a/b", "/a"]), ("4", vec!["/a/b"])] {
        let directory = tempdir().unwrap();
        let kill = format!("inject=fsync:signal=SIGKILL:when={when}");
        synced_by_an_open(&["-e", &kill], directory.path());
        assert_eq!(synced_by_an_open(&[], directory.path()), synced, "killed at sync {when}");
    }
}

#[test]
fn a_directory_whose_entry_cannot_be_synced_is_not_left() {
    let directory = tempdir().unwrap();
    synced_by_an_open(&["-e", "inject=fsync:error=EIO:when=1"], directory.path());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn what_a_killed_process_left_is_removed_by_the_next_and_by_a_collection() {
    let directory = tempdir().unwrap();
    save(directory.path(), 1).unwrap();
    let temp_files = || {
        let names = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".tmp")).count()
    };
    let leave_one = || {
        assert!(!run("inject=fsync:signal=SIGKILL:when=2", &directory).status.success());
        assert_eq!(temp_files(), 1, "the killed child's");
    };
    leave_one();
    let ours = ModelCheckpoint::create(directory.path().join("other.safetensors")).unwrap();
    assert_eq!(temp_files(), 1, "ours; the other was removed when this one was made");
    CheckpointDir::open(directory.path()).unwrap();
    assert_eq!(democratising::fs::sweep(directory.path()).unwrap(), 0, "it is held, so it is left alone");
    assert_eq!(temp_files(), 1);
    drop(ours);

    leave_one();
    let collected = democratising::gc::collect().unwrap();
    assert_eq!((collected.files >= 1, temp_files()), (true, 0), "{collected:?}");
}

#[test]
fn a_load_in_a_child() {
    if let Some(directory) = child::child() {
        let path = directory.join("model.safetensors");
        let checkpoint = ModelCheckpoint::load(&path).unwrap();
        match checkpoint.get("w").unwrap().as_slice::<f32>() {
            Ok(elements) => println!("it has {} elements", elements.len()),
            Err(error) => println!("{error}; {:?}", checkpoint.verify()),
        }
    }
}

#[test]
fn a_disk_that_cannot_be_read_is_told_from_a_file_that_was_cut_short() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    ModelCheckpoint::create(&path).unwrap().add("w", &tensor(1)).unwrap().commit().unwrap();
    let told = |inject: &[&str]| {
        let log = directory.path().join("strace.log");
        let mut before =
            vec!["strace", "-f", "-qq", "-o", log.to_str().unwrap(), "-e", "trace=madvise,pread64"];
        before.extend(inject.iter().flat_map(|inject| ["-e", inject]));
        let output = child::command(&before, "a_load_in_a_child", directory.path()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    // What the kernel says of pages that cannot be had, for whatever reason.
    let unmapped = "inject=madvise:error=EFAULT";
    let said = told(&[unmapped]);
    assert!(said.contains("it has 2200000 elements"), "they can be read: {said}");
    // The first ones are those of whoever loads the program.
    let said = told(&[unmapped, "inject=pread64:error=EIO:when=20+"]);
    assert!(said.contains("Input/output error") && said.contains("Err(Io"), "{said}");
}

#[test]
fn a_lock_that_is_interrupted_is_asked_for_again() {
    let met = with_fault("inject=flock:error=EINTR:when=1+2");
    assert!(!met, "the save went on");
}

#[test]
fn a_temp_file_in_a_child() {
    if let Some(directory) = child::child() {
        let _kept = democratising::fs::temp_file_in(&directory).unwrap();
        println!("{} swept", democratising::fs::sweep(&directory).unwrap());
    }
}

#[test]
fn a_temp_file_whose_lock_was_interrupted_is_swept_by_nobody() {
    let directory = tempdir().unwrap();
    let log = directory.path().join("strace.log");
    let before = ["strace", "-f", "-qq", "-o", log.to_str().unwrap(), "-e", "trace=flock"];
    let before = [&before[..], &["-e", "inject=flock:error=EINTR:when=1"]].concat();
    let output = child::command(&before, "a_temp_file_in_a_child", directory.path()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("0 swept"), "{said}");
}

#[test]
fn a_sweep_in_a_child() {
    if let Some(directory) = child::child() {
        println!("{} swept", democratising::fs::sweep(&directory).unwrap());
    }
}

#[test]
fn a_sweep_that_comes_late_leaves_what_has_the_name_by_now() {
    let directory = tempdir().unwrap();
    let name = directory.path().join(".democratising-twin.tmp");
    std::fs::write(&name, "left by a process that ended").unwrap();
    let log = empty_log(&directory);
    let before =
        ["strace", "-f", "-qq", "-o", &log, "-e", "trace=flock", "-e", "inject=flock:delay_enter=2s"];
    let mut sweep = child::command(&before, "a_sweep_in_a_child", directory.path());
    let sweep = sweep.stdout(std::process::Stdio::piped()).spawn().unwrap();
    // It has opened the file when it comes to the lock.
    while std::fs::read_to_string(&log).is_ok_and(|log| !log.contains("flock(")) {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    std::fs::remove_file(&name).unwrap();
    std::fs::write(&name, "somebody's").unwrap();
    let output = sweep.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("0 swept"), "{output:?}");
    assert_eq!(std::fs::read_to_string(name).unwrap(), "somebody's");
}

fn empty_log(directory: &TempDir) -> String {
    let log = directory.path().join("strace.log");
    std::fs::write(&log, "").unwrap();
    log.to_str().unwrap().into()
}

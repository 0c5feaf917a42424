//! Temp files and directories: counted while they are held, gone when they are dropped, and swept when nobody holds them.
#![cfg(feature = "std")]
#![cfg_attr(not(unix), allow(unused_imports))]

// The budget of descriptors is the process's.
#[path = "common/alone.rs"]
mod alone;
#[cfg(unix)]
#[path = "common/fork.rs"]
mod fork;

use alone::alone;
use democratising::fs::{self, ModelCheckpoint};
use democratising::pool::budget::scope::{Kind, Scope};
use democratising::tempfile::tempdir;
use democratising::{Result, gc};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

#[test]
fn temp_files_and_directories_are_charged_and_given_back() -> Result<()> {
    let _alone = alone();
    let budget = fs::descriptors();
    let before = budget.used();
    let temp = fs::temp_dir()?;
    let mut file = fs::temp_file_in(temp.path())?;
    let checkpoint = ModelCheckpoint::create(temp.path().join("m"))?;
    assert_eq!(budget.used(), before + 3);
    assert_eq!(fs::sweep(temp.path())?, 0, "all of it is wanted");

    let limit = budget.limit();
    budget.set_limit(before + 3);
    let error = fs::temp_file().unwrap_err().to_string();
    budget.set_limit(limit);
    assert!(error.contains("cannot create a temp file in") && error.contains("fs::descriptors()"), "{error}");
    let few = Scope::new("few");
    few.set_limit(Kind::Files, 0);
    let error = few.run(fs::temp_file).unwrap_err().to_string();
    assert!(error.contains("files of \"few\"") && error.ends_with("raise the scope's limit"), "{error}");

    /// Keeps a temp file that could be done without.
    struct Spare(Mutex<Option<fs::TempFile>>);
    impl gc::Reclaim for Spare {
        fn reclaimable_bytes(&self) -> u64 {
            0
        }
        fn reclaim(&self, _target: u64, _until: gc::Deadline) -> u64 {
            self.0.lock().unwrap().take().is_some().into()
        }
        fn resource(&self) -> gc::Resource {
            gc::Resource::Files
        }
    }
    let scope = Scope::new("one file");
    scope.set_limit(Kind::Files, 1);
    let spare = Spare(Mutex::new(Some(scope.run(fs::temp_file)?)));
    let spare = gc::register("a temp file to spare", 0, spare);
    drop(scope.run(fs::temp_file)?);
    assert!(gc::unregister(spare));

    file.write_all(b"kept")?;
    file.persist(temp.path().join("kept"))?;
    drop(checkpoint);
    assert_eq!(std::fs::read(temp.path().join("kept"))?, b"kept");
    assert_eq!(budget.used(), before + 1);
    let at = temp.path().to_path_buf();
    drop(temp);
    assert!(!at.exists());
    assert_eq!(budget.used(), before);
    Ok(())
}

/// Leaves this process so many descriptors more.
#[cfg(unix)]
fn leave_descriptors(count: i32) {
    use std::os::fd::AsRawFd;
    let free = std::fs::File::open("/dev/null").unwrap().as_raw_fd();
    // SAFETY: 1. All zeros is a value, and the place for the answer is valid. 2. The caller is a process of its own.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = (free + count) as libc::rlim_t;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
}

#[cfg(unix)]
#[test]
fn a_temp_directory_is_not_left_for_want_of_descriptors() {
    let _alone = alone();
    let temp = tempdir().unwrap();
    for (descriptors, is_made) in [(0, false), (1, true)] {
        let ended = fork::in_child(|| {
            leave_descriptors(descriptors);
            fs::temp_dir_in(temp.path()).is_ok() == is_made
        });
        assert_eq!(ended, fork::RIGHT, "{descriptors}");
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0, "{descriptors}");
    }
}

#[cfg(unix)]
#[test]
fn what_nobody_holds_is_swept_and_nothing_else() -> Result<()> {
    let _alone = alone();
    let temp = tempdir()?;
    let path = |name: &str| temp.path().join(name);
    std::fs::write(path(".democratising-dead.tmp"), b"half")?;
    std::fs::create_dir_all(path(".democratising-dir.tmp/inner"))?;
    std::fs::write(path("model.tmp"), b"somebody's")?;
    std::os::unix::fs::symlink("model.tmp", path(".democratising-link.tmp"))?;
    std::fs::write(path(".democratising-notes"), b"somebody's")?;
    assert!(std::process::Command::new("mkfifo").arg(path(".democratising-pipe.tmp")).status()?.success());
    let ours = fs::temp_dir_in(temp.path())?;
    assert_eq!(fs::sweep(temp.path())?, 2);
    assert!(ours.path().exists() && path(".democratising-link.tmp").is_symlink());
    for kept in ["model.tmp", ".democratising-notes", ".democratising-pipe.tmp"] {
        assert!(path(kept).exists(), "{kept}");
    }
    assert!(fs::sweep(path("missing")).is_err());
    Ok(())
}

#[test]
fn what_was_taken_out_to_stay_is_swept_by_nobody() -> Result<()> {
    let _alone = alone();
    let temp = tempdir()?;
    let written = || -> Result<fs::TempFile> {
        let mut file = fs::temp_file_in(temp.path())?;
        file.write_all(b"precious")?;
        Ok(file)
    };
    let used = fs::descriptors().used();
    let (file, by_keep) = written()?.into_inner().keep()?;
    drop(file);
    let by_path = written()?.into_inner().into_temp_path().keep().unwrap();
    let mut file = written()?.into_inner();
    file.disable_cleanup(true);
    let by_choice = file.path().to_path_buf();
    drop(file);
    let closed = written()?.into_inner().into_temp_path();
    assert_eq!(fs::descriptors().used(), used);
    gc::collect()?;
    assert_eq!(fs::sweep(temp.path())?, 0);
    for path in [&by_keep, &by_path, &by_choice, &closed.to_path_buf()] {
        assert_eq!(std::fs::read(path)?, b"precious");
        assert_eq!(path.parent(), Some(temp.path()));
    }
    drop(closed);
    // What is still ours goes.
    drop(written()?);
    assert_eq!(std::fs::read_dir(temp.path())?.count(), 3);
    Ok(())
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_is_a_temp_file_no_more_can_be_locked_by_others() -> Result<()> {
    let _alone = alone();
    let temp = tempdir()?;
    let path = temp.path().join("model");
    let is_free = |path: &Path| {
        let tried = std::process::Command::new("flock").arg("--nonblock").arg(path).arg("true").status();
        tried.map(|status| status.success())
    };
    let held = fs::temp_file_in(temp.path())?;
    assert!(!is_free(held.path())?, "sweeps are to see that it is wanted");
    let inner = held.into_inner();
    assert!(is_free(inner.path())?);
    let renamed = fs::temp_file_in(temp.path())?.persist(&path)?;
    assert!(is_free(&path)?);
    let copied = fs::persist(tempfile::NamedTempFile::new_in("/dev/shm")?, &path)?;
    assert!(is_free(&path)?);
    drop((renamed, copied));
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_relative_directory_is_swept_wherever_the_process_is_by_then() -> Result<()> {
    let _alone = alone();
    let (temp, before) = (tempdir()?, std::env::current_dir()?);
    std::env::set_current_dir(temp.path())?;
    std::fs::create_dir("here")?;
    std::fs::create_dir("there")?;
    drop((fs::temp_file_in("here")?, fs::temp_dir_in("there")?));
    std::env::set_current_dir(before)?;
    let stale = ["here", "there"].map(|place| temp.path().join(place).join(".democratising-dead.tmp"));
    for stale in &stale {
        std::fs::write(stale, b"half")?;
    }
    gc::collect()?;
    for stale in &stale {
        assert!(!stale.exists(), "{stale:?}");
    }
    Ok(())
}

#[test]
fn a_temp_file_is_there_when_it_was_made_however_many_sweep() {
    let _alone = alone();
    let temp = tempdir().unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|threads| {
        for _ in 0..3 {
            threads.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let _ = fs::sweep(temp.path());
                }
            });
        }
        let missing = (0..2000).filter(|_| {
            let file = fs::temp_file_in(temp.path());
            !file.is_ok_and(|file| file.path().exists())
        });
        let missing = missing.count();
        done.store(true, Ordering::Relaxed);
        assert_eq!(missing, 0);
    });
}

#[test]
fn a_temp_file_is_read_from_any_place_after_it_was_written() -> Result<()> {
    let _alone = alone();
    let mut file = fs::temp_file()?;
    file.write_all(b"one two")?;
    file.flush()?;
    file.seek(SeekFrom::Start(4))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    assert_eq!(text, "two");
    file.as_file_mut().set_len(3)?;
    let mut inner = file.into_inner();
    inner.rewind()?;
    text.clear();
    inner.read_to_string(&mut text)?;
    assert_eq!(text, "one", "it is the same file, open as it was");
    Ok(())
}

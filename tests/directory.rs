//! Checkpoint directories, background commits, and progress.
#![cfg(feature = "std")]
#![cfg_attr(not(unix), allow(unused_imports))]

// The budget of descriptors is the process's.
#[path = "common/alone.rs"]
mod alone;
#[cfg(unix)]
#[path = "fs/child.rs"]
mod child;
#[cfg(unix)]
#[path = "common/fork.rs"]
mod fork;

use alone::alone;
use democratising::fs::{self, CheckpointDir, Metric, ModelCheckpoint};
use democratising::pool::budget::scope::{Kind, Scope};
use democratising::tempfile::tempdir;
use democratising::{DemoError, MemoryPool, Result, Tensor};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

fn w(step: u64) -> Tensor {
    Tensor::new(&[100], vec![step as f32; 100]).unwrap()
}

fn save(dir: &CheckpointDir, step: u64) {
    dir.save(step, [("w", &w(step))]).unwrap();
}

fn damage(path: &Path) {
    let mut content = std::fs::read(path).unwrap();
    *content.last_mut().unwrap() ^= 1;
    std::fs::write(path, content).unwrap();
}

#[test]
fn without_rules_every_step_is_kept_and_the_last_is_found() -> Result<()> {
    let _alone = alone();
    let temp = tempdir()?;
    let dir = CheckpointDir::open(temp.path().join("runs/a/b"))?;
    assert!(dir.latest_valid()?.is_none());
    for step in [5, 100, 20, 0] {
        save(&dir, step);
    }
    assert_eq!(dir.steps()?, [0, 5, 20, 100], "by number, not by letter");
    let (step, checkpoint) = dir.latest_valid()?.unwrap();
    assert_eq!((step, checkpoint.get("w")?), (100, w(100)));
    if cfg!(windows) {
        drop(checkpoint);
    }
    save(&dir, 100);
    assert_eq!(dir.steps()?.len(), 4, "a step can be saved again");
    Ok(())
}

#[test]
fn rules_keep_the_last_the_best_and_every_so_many() -> Result<()> {
    let _alone = alone();
    let temp = tempdir()?;
    let dir = CheckpointDir::open(temp.path())?
        .keep_last(2)
        .keep_every(10)
        .keep_best(Metric::lowest("loss"), 2)
        .keep_best(Metric::highest("accuracy"), 1);
    let loss = |step: u64| if step == 3 || step == 17 { 0.1 } else { 1.0 / (step + 1) as f64 + 0.5 };
    for step in 0..=25 {
        let accuracy = if step == 7 {
            "0.99"
        } else if step == 8 {
            "NaN"
        } else {
            "0.5"
        };
        let metadata = [("loss", loss(step).to_string()), ("accuracy", accuracy.into())];
        dir.save_with(step, [("w", &w(step))], metadata)?;
    }
    assert_eq!(dir.steps()?, [0, 3, 7, 10, 17, 20, 24, 25]);

    let strict = tempdir()?;
    let dir = CheckpointDir::open(strict.path())?.keep_last(0);
    save(&dir, 2);
    save(&dir, 1);
    assert_eq!(dir.steps()?, [1], "the one just saved stays, whatever the rules say");

    let every = tempdir()?;
    let dir = CheckpointDir::open(every.path())?.keep_every(2);
    (1..=5).for_each(|step| save(&dir, step));
    assert_eq!(dir.steps()?, [2, 4, 5]);

    let best = tempdir()?;
    let dir = CheckpointDir::open(best.path())?.keep_best(Metric::lowest("loss"), 2);
    for (step, loss) in [(1, "0.5"), (2, " 0.1\n"), (3, "0.5"), (4, "0.5"), (5, "0.9")] {
        dir.save_with(step, [("w", &w(step))], [("loss", loss)])?;
    }
    dir.prune(None)?;
    assert_eq!(dir.steps()?, [2, 4], "of equals the later, and numbers as programs print them");
    Ok(())
}

#[test]
fn damaged_files_are_passed_over_and_told() -> Result<()> {
    let _alone = alone();
    let temp = tempdir()?;
    let dir = CheckpointDir::open(temp.path())?;
    (1..=4).for_each(|step| save(&dir, step));
    damage(&temp.path().join("checkpoint-4.safetensors"));
    std::fs::write(temp.path().join("checkpoint-3.safetensors"), b"torn")?;
    std::fs::write(temp.path().join("checkpoint-x.safetensors"), b"somebody's")?;
    std::fs::write(temp.path().join("checkpoint-09.safetensors"), b"somebody's")?;
    let (step, checkpoint) = dir.latest_valid()?.unwrap();
    assert_eq!((step, checkpoint.get("w")?), (2, w(2)));
    let told: Vec<_> =
        checkpoint.skipped().iter().map(|skipped| (skipped.step, skipped.error.to_string())).collect();
    assert_eq!(told.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [4, 3]);
    assert!(told[0].1.contains("checksum") && told[0].1.contains("checkpoint-4"), "{told:?}");
    drop(checkpoint);

    for step in [1, 2] {
        damage(&temp.path().join(format!("checkpoint-{step}.safetensors")));
    }
    let error = dir.latest_valid().unwrap_err().to_string();
    assert!(error.contains("checkpoint-4"), "all are damaged, and that is not the same as none: {error}");
    Ok(())
}

#[test]
fn a_checkpoint_that_cannot_be_opened_now_is_kept_and_none_older_is_taken_for_the_last() -> Result<()> {
    let _alone = alone();
    let temp = tempdir()?;
    let dir = CheckpointDir::open(temp.path())?.keep_best(Metric::lowest("loss"), 2);
    let save = |step, loss: &str| dir.save_with(step, [("w", &w(step))], [("loss", loss)]);
    save(1, "0.1")?;
    save(2, "0.2")?;
    let scope = Scope::new("no room to map");
    scope.set_limit(Kind::MappedBytes, 0);
    scope.run(|| save(3, "9.9"))?;
    assert_eq!(dir.steps()?, [1, 2, 3], "nobody could tell which are the best");
    let error = scope.run(|| dir.latest_valid()).unwrap_err();
    assert!(
        matches!(&error, DemoError::Io { source, .. } if source.kind() == ErrorKind::OutOfMemory),
        "{error}"
    );
    assert_eq!(dir.latest_valid()?.map(|(step, _)| step), Some(3));
    scope.set_limit(Kind::MappedBytes, 10_000);
    let large = Tensor::zeros(&[10_000])?;
    let far = tempdir()?;
    let other = CheckpointDir::open(far.path())?;
    other.save(1, [("w", &w(1))])?;
    other.save(2, [("w", &large)])?;
    let error = scope.run(|| other.latest_valid()).unwrap_err();
    assert!(error.to_string().contains("checkpoint-2"), "there is room for an older one: {error}");
    save(4, "9.8")?;
    assert_eq!(dir.steps()?, [1, 2, 4], "now they can be told");

    damage(&temp.path().join("checkpoint-1.safetensors"));
    std::fs::write(temp.path().join("checkpoint-2.safetensors"), b"torn")?;
    save(5, "0.5")?;
    save(6, "0.6")?;
    assert_eq!(dir.steps()?, [1, 2, 5, 6], "what is torn has no number, and is kept beside the two best");
    Ok(())
}

#[cfg(unix)]
#[test]
fn many_best_are_kept_with_few_descriptors() {
    const TEST: &str = "many_best_are_kept_with_few_descriptors";
    let Some(at) = child::child() else {
        let temp = tempdir().unwrap();
        // The limit is the process's, so this runs in a child.
        let few = ["sh", "-c", "ulimit -n 40 && exec \"$@\"", "sh"];
        let output = child::command(&few, TEST, temp.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        return;
    };
    let dir = CheckpointDir::open(at).unwrap().keep_best(Metric::lowest("loss"), 100);
    for step in 1..=60 {
        dir.save_with(step, [("w", &w(step))], [("loss", (100 - step).to_string())]).unwrap();
    }
    assert_eq!(dir.steps().unwrap(), (1..=60).collect::<Vec<_>>());
}

#[test]
fn a_directory_is_open_once() -> Result<()> {
    let _alone = alone();
    let temp = tempdir()?;
    let dir = CheckpointDir::open(temp.path())?;
    let error = CheckpointDir::open(temp.path()).unwrap_err();
    assert!(
        matches!(&error, DemoError::Io { source, .. } if source.kind() == ErrorKind::ResourceBusy),
        "{error}"
    );
    assert!(error.to_string().contains("another CheckpointDir has it open"), "{error}");
    drop(dir);
    CheckpointDir::open(temp.path())?;
    let file = temp.path().join("file");
    std::fs::write(&file, b"")?;
    assert!(CheckpointDir::open(file).is_err());
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_directory_is_its_processs_and_free_when_that_drops_it_whatever_was_forked() -> Result<()> {
    let _alone = alone();
    let temp = tempdir()?;
    let mut dir = Some(CheckpointDir::open(temp.path())?);
    let ended = fork::in_child(|| {
        drop(dir.take());
        true
    });
    assert_eq!(ended, fork::RIGHT);
    assert!(CheckpointDir::open(temp.path()).is_err(), "the parent has it still");

    // SAFETY: 1. The child waits for a signal, and is killed below.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        loop {
            // SAFETY: 1. It takes nothing and changes nothing.
            unsafe { libc::pause() };
        }
    }
    drop(dir);
    let opened = CheckpointDir::open(temp.path()).map(drop);
    // SAFETY: 1. The child of a moment ago, and an integer of ours.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, &mut 0, 0);
    }
    opened
}

#[test]
fn a_directory_that_a_sweep_would_remove_is_refused() -> Result<()> {
    let temp = tempdir()?;
    let error = CheckpointDir::open(temp.path().join(".democratising-runs.tmp")).unwrap_err();
    assert!(error.to_string().ends_with("(.democratising-*.tmp) are swept; choose another name"), "{error}");
    assert_eq!(std::fs::read_dir(temp.path())?.count(), 0);
    Ok(())
}

#[cfg(target_os = "linux")]
#[test]
fn a_directory_that_cannot_be_made_is_an_error_that_names_it() {
    for place in ["/proc/runs", "/proc/runs/a/b"] {
        let error = CheckpointDir::open(place).unwrap_err();
        assert!(
            matches!(&error, DemoError::Io { source, .. } if source.kind() == ErrorKind::NotFound),
            "{error}"
        );
        assert!(
            error.to_string().starts_with(&format!("cannot create the checkpoint directory {place}")),
            "{error}"
        );
    }
    let temp = tempdir().unwrap();
    let file = temp.path().join("file");
    std::fs::write(&file, b"somebody's").unwrap();
    let error = CheckpointDir::open(&file).unwrap_err().to_string();
    assert!(error.starts_with("cannot create the checkpoint directory"), "{error}");
    assert_eq!(std::fs::read(&file).unwrap(), b"somebody's");
}

#[cfg(target_os = "linux")]
#[test]
fn a_directory_is_opened_where_nothing_can_be_synced_that_it_stands_in() {
    if let Some(path) = child::child() {
        return drop(CheckpointDir::open(path).unwrap());
    }
    let temp = tempdir().unwrap();
    for (error, is_opened) in [("EINVAL", true), ("EROFS", true), ("EIO", false)] {
        let inject = format!("inject=fsync:error={error}:when=1");
        let log = temp.path().join("log");
        let strace = ["strace", "-f", "-o", log.to_str().unwrap(), "-e", "trace=fsync", "-e", &inject];
        let test = "a_directory_is_opened_where_nothing_can_be_synced_that_it_stands_in";
        let output = child::command(&strace, test, temp.path()).output().unwrap();
        assert!(std::fs::read_to_string(&log).unwrap().contains("(INJECTED)"), "{output:?}");
        assert_eq!(output.status.success(), is_opened, "{error}: {output:?}");
    }
}

#[cfg(unix)]
#[test]
fn only_files_are_steps_whatever_else_is_named_so() -> Result<()> {
    let _alone = alone();
    let (temp, elsewhere) = (tempdir()?, tempdir()?);
    let dir = CheckpointDir::open(temp.path())?.keep_last(2);
    let path = |step: u64| temp.path().join(format!("checkpoint-{step}.safetensors"));
    std::fs::create_dir(path(1))?;
    assert!(std::process::Command::new("mkfifo").arg(path(90)).status()?.success());
    std::os::unix::fs::symlink("nowhere", path(91))?;
    (2..=4).for_each(|step| save(&dir, step));
    assert_eq!(dir.steps()?, [3, 4]);
    assert_eq!(dir.latest_valid()?.map(|(step, _)| step), Some(4));
    std::fs::rename(path(4), elsewhere.path().join("moved"))?;
    std::os::unix::fs::symlink(elsewhere.path().join("moved"), path(4))?;
    std::fs::write(path(5), b"")?;
    let itself = path(6);
    std::os::unix::fs::symlink(&itself, &itself)?;
    let (step, checkpoint) = dir.latest_valid()?.unwrap();
    assert_eq!(
        (step, checkpoint.skipped().len()),
        (4, 2),
        "a link to a file is one; an empty file is damaged, and so is a link to itself"
    );
    Ok(())
}

#[test]
fn a_background_commit_saves_what_was_added_and_one_is_under_way_at_a_time() -> Result<()> {
    let _alone = alone();
    let temp = tempdir()?;
    let path = |name: &str| temp.path().join(name);
    let mut tensor = w(1);
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut pending = Vec::new();
    for name in ["a", "b", "c"] {
        let (running, most) = (Arc::clone(&running), Arc::clone(&most));
        // From the first piece to the last.
        let listener = move |progress: fs::Progress<'_>| {
            if progress.tensor == "first" {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(std::time::Duration::from_millis(30));
            } else {
                running.fetch_sub(1, Ordering::SeqCst);
            }
        };
        let checkpoint = ModelCheckpoint::create(path(name))?.on_progress(listener).add("first", &tensor)?;
        pending.push(checkpoint.add("second", &tensor)?.commit_async()?);
        tensor.as_mut_slice::<f32>()?.fill(9.0);
    }
    for pending in pending {
        pending.wait()?;
    }
    assert_eq!(most.load(Ordering::SeqCst), 1);
    assert_eq!(ModelCheckpoint::load(path("a"))?.get("second")?, w(1), "as it was when it was added");
    assert_eq!(ModelCheckpoint::load(path("c"))?.get("second")?, w(9));

    let (go_on, waits) = mpsc::channel::<()>();
    let held = ModelCheckpoint::create(path("g"))?.add("w", &w(1))?.on_progress(move |_| {
        let _ = waits.recv();
    });
    let held = held.commit_async()?;
    assert!(!held.is_finished());
    drop(go_on);
    held.wait()?;

    let slow = ModelCheckpoint::create(path("d"))?.add("w", &w(1))?;
    drop(slow.on_progress(|_| std::thread::sleep(std::time::Duration::from_millis(50))).commit_async()?);
    assert!(path("d").exists(), "dropping it waits");
    let panics =
        ModelCheckpoint::create(path("e"))?.add("w", &w(1))?.on_progress(|_| panic!("in a listener"));
    let error = panics.commit_async()?.wait().unwrap_err().to_string();
    assert!(error.contains("panicked") && !path("e").exists(), "{error}");
    ModelCheckpoint::create(path("f"))?.add("w", &w(1))?.commit_async()?.wait()?;
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_fork_waits_for_no_commit_that_its_parent_has_under_way() -> Result<()> {
    let _turn = alone();
    let directory = tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (go_on, told) = mpsc::channel::<()>();
    let told = Mutex::new(told);
    let slow = ModelCheckpoint::create(path("slow"))?.add("w", &w(1))?;
    // Until the other end is dropped.
    let pending = slow.on_progress(move |_| drop(told.lock().map(|told| told.recv()))).commit_async()?;
    let ended = fork::in_child(|| {
        let own = ModelCheckpoint::create(path("own")).and_then(|own| own.add("w", &w(2)));
        own.and_then(|own| own.commit_async()?.wait()).is_ok()
    });
    drop(go_on);
    pending.wait()?;
    assert_eq!(ended, fork::RIGHT);
    assert_eq!(ModelCheckpoint::load(path("own"))?.get("w")?, w(2));
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_fork_has_no_commit_to_wait_for_that_its_parent_has_under_way() -> Result<()> {
    let _turn = alone();
    let directory = tempdir().unwrap();
    let path = directory.path().join("slow");
    let (go_on, told) = mpsc::channel::<()>();
    let told = Mutex::new(told);
    let slow = ModelCheckpoint::create(&path)?.add("w", &w(1))?;
    let listener = move |_: fs::Progress<'_>| drop(told.lock().map(|told| told.recv()));
    let mut pending = Some(slow.on_progress(listener).commit_async()?);
    let waited = fork::in_child(|| {
        let inherited = pending.take().unwrap();
        inherited.is_finished() && inherited.wait().unwrap_err().to_string().contains("its parent")
    });
    let dropped = fork::in_child(|| {
        drop(pending.take());
        true
    });
    drop(go_on);
    pending.unwrap().wait()?;
    assert_eq!((waited, dropped), (fork::RIGHT, fork::RIGHT));
    assert_eq!(ModelCheckpoint::load(path)?.get("w")?, w(1));
    Ok(())
}

#[test]
fn progress_is_told_in_order_up_to_the_end() -> Result<()> {
    let _alone = alone();
    let temp = tempdir()?;
    let (to, told) = mpsc::channel();
    let large = Tensor::new(&[2_250_000], vec![1u32; 2_250_000])?;
    let checkpoint = ModelCheckpoint::create(temp.path().join("m"))?.add("a", &large)?.add("b", &w(1))?;
    checkpoint
        .on_progress(move |p| to.send((p.tensor.to_string(), p.written_bytes, p.total_bytes)).unwrap())
        .commit()?;
    let told: Vec<_> = told.iter().collect();
    assert!(told.len() >= 5, "{told:?}");
    assert!(told.windows(2).all(|w| w[0].1 < w[1].1));
    assert!(told.iter().all(|(_, _, total)| *total == 9_000_400));
    assert_eq!((told[0].0.as_str(), told.last().unwrap().1), ("b", 9_000_400));
    Ok(())
}

#[test]
fn a_save_needs_no_second_copy_of_a_tensor_or_view() -> Result<()> {
    let _alone = alone();
    let temp = tempdir()?;
    // From the pool, and a view of it whose elements lie apart.
    let tensor = Tensor::zeros(&[2048, 2048])?;
    let turned = tensor.transpose(0, 1)?;
    let before = MemoryPool::stats().in_use_bytes;
    let most = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&most);
    let listener = move |_: fs::Progress<'_>| {
        seen.fetch_max(MemoryPool::stats().in_use_bytes as usize, Ordering::SeqCst);
    };
    let checkpoint = ModelCheckpoint::create(temp.path().join("m"))?.add("tensor", &tensor)?;
    checkpoint.add("turned", &turned)?.on_progress(listener).commit()?;
    let most = most.load(Ordering::SeqCst) as u64;
    assert!(most > 0 && most <= before + (1 << 20), "{most} bytes of the pool, {before} before");
    Ok(())
}

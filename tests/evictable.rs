//! Tensors that give way: to the host, to a file, and back, with every element.
#![cfg(feature = "std")]

#[path = "common/start.rs"]
mod start;

use democratising::fs::{self, Evictable, Kept};
use democratising::pool::budget::scope::{Kind, Scope};
use democratising::{DemoError, Device, Tensor, gc};
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};

/// Collections ask every tensor of the process, so these tests take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| (i * 7 + seed) as f32).collect()
}

fn tensor(n: usize, seed: usize) -> Tensor {
    let mut tensor = Tensor::zeros(&[n]).unwrap();
    tensor.as_mut_slice::<f32>().unwrap().copy_from_slice(&numbers(n, seed));
    tensor
}

#[test]
fn a_collection_moves_what_nobody_has_in_hand_and_it_comes_back_as_it_was() {
    let _turn = turn();
    let scope = Scope::process().child("moved");
    let (one, other) = scope.run(|| (tensor(1000, 1).evictable("one"), tensor(1000, 2).evictable("other")));
    let in_hand = other.get().unwrap();
    let files = scope.used(Kind::Files);
    let given = gc::collect().unwrap();
    assert!(given.host_bytes >= 4000, "{given:?}");
    assert_eq!((one.kept(), other.kept()), (Kept::File, Kept::InPlace));
    assert_eq!((scope.used(Kind::HostBytes), scope.used(Kind::Files)), (4000, files + 1));
    drop(in_hand);
    assert_eq!(one.get().unwrap().as_slice::<f32>().unwrap(), numbers(1000, 1));
    assert_eq!(
        (one.kept(), scope.used(Kind::Files), scope.used(Kind::HostBytes)),
        (Kept::InPlace, files, 8000)
    );
    gc::collect().unwrap();
    assert_eq!(other.kept(), Kept::File);
    assert_eq!(other.into_tensor().unwrap().as_slice::<f32>().unwrap(), numbers(1000, 2));
    drop(one);
    assert_eq!(
        (scope.used(Kind::HostBytes), scope.used(Kind::Files)),
        (0, files),
        "its file is gone with it"
    );
}

#[test]
fn more_tensors_than_a_scope_has_room_for_are_kept_by_moving_those_wanted_longest_ago() {
    let _turn = turn();
    const BYTES: u64 = 400_000;
    let scope = Scope::process().child("out of core");
    scope.set_limit(Kind::HostBytes, 4 * BYTES);
    let made: Vec<Evictable> = (0..12)
        .map(|i| scope.run(|| tensor(BYTES as usize / 4, i).evictable(format!("block {i}"))))
        .collect();
    assert!(scope.peak(Kind::HostBytes) <= 4 * BYTES);
    let in_place = |made: &[Evictable]| -> Vec<usize> {
        (0..made.len()).filter(|&i| made[i].kept() == Kept::InPlace).collect()
    };
    assert_eq!(in_place(&made), [8, 9, 10, 11], "the last ones");
    for round in 0..3 {
        for i in (0..made.len()).map(|i| (i * 5 + round) % made.len()) {
            assert_eq!(
                made[i].get().unwrap().as_slice::<f32>().unwrap(),
                numbers(BYTES as usize / 4, i),
                "{i}"
            );
        }
    }
    assert!(scope.peak(Kind::HostBytes) <= 4 * BYTES);
    // All in hand: there is no room for a fifth, and the error says so.
    let held: Vec<Tensor> = (0..4).map(|i| made[i].get().unwrap()).collect();
    let error = made[4].get().unwrap_err();
    assert!(matches!(&error, DemoError::OutOfMemory(report) if report.limit_bytes == 4 * BYTES), "{error}");
    drop(held);
    assert_eq!(made[4].get().unwrap().len(), BYTES as usize / 4);
}

#[test]
fn one_tensor_goes_at_a_time_and_it_is_that_wanted_longest_ago() {
    let _turn = turn();
    let scope = Scope::process().child("one at a time");
    scope.set_limit(Kind::HostBytes, 3 * 4000);
    let make = |name: &str| scope.run(|| tensor(1000, 1).evictable(name));
    let (first, second) = (make("first"), make("second"));
    drop(first.get().unwrap());
    let third = make("third");
    let kept = || [&first, &second, &third].map(|one| one.kept() == Kept::InPlace);
    let mut held = Vec::new();
    for in_place in [[true, false, true], [false, false, true], [false; 3]] {
        held.push(scope.run(|| tensor(1000, 2)));
        assert_eq!(kept(), in_place);
    }
    drop(held);
    assert_eq!(first.get().unwrap().as_slice::<f32>().unwrap(), numbers(1000, 1));
}

#[test]
fn a_full_scope_moves_its_own_tensors_and_leaves_those_of_others() {
    let _turn = turn();
    const BYTES: u64 = 400_000;
    let (full, roomy) = (Scope::process().child("full"), Scope::process().child("roomy"));
    full.set_limit(Kind::HostBytes, 2 * BYTES);
    let make = |scope: &Scope, i| scope.run(|| tensor(BYTES as usize / 4, i).evictable(format!("{i}")));
    // Wanted longest ago, and of no help.
    let others: Vec<Evictable> = (0..3).map(|i| make(&roomy, i)).collect();
    // Idle in the pool, and of no help either.
    drop(roomy.run(|| tensor(BYTES as usize, 9)));
    let step = full.child("step");
    let own: Vec<Evictable> = (3..7).map(|i| make(&step, i)).collect();
    let kept = |all: &[Evictable]| all.iter().map(Evictable::kept).collect::<Vec<_>>();
    assert_eq!(kept(&own), [Kept::File, Kept::File, Kept::InPlace, Kept::InPlace]);
    assert_eq!(kept(&others), [Kept::InPlace; 3]);
    assert!(
        step.is_within(&full) && full.is_within(&full) && !full.is_within(&step) && !roomy.is_within(&full)
    );
    assert!(full.is_within(&Scope::process()));
}

#[test]
fn views_and_other_types_come_back_with_their_shape() {
    let _turn = turn();
    let whole = Tensor::new(&[30, 40], (0..1200).collect::<Vec<i64>>()).unwrap();
    let turned = whole.transpose(0, 1).unwrap();
    drop(whole);
    let kept = turned.evictable("turned");
    gc::collect().unwrap();
    assert_eq!((kept.kept(), kept.shape(), kept.dtype().name()), (Kept::File, &[40, 30][..], "I64"));
    let back = kept.get().unwrap();
    assert_eq!(back.iter::<i64>().unwrap().take(3).collect::<Vec<_>>(), [0, 40, 80]);
    let flags =
        Tensor::new(&[100], (0..100).map(|i| i % 3 == 0).collect::<Vec<bool>>()).unwrap().evictable("flags");
    let tiny = Tensor::new(&[2], vec![1u8, 2]).unwrap().evictable("tiny");
    gc::collect().unwrap();
    assert_eq!(
        (flags.kept(), tiny.kept()),
        (Kept::File, Kept::InPlace),
        "what is in the tensor itself frees nothing"
    );
    assert!(flags.get().unwrap().as_slice::<bool>().unwrap()[99]);
    assert_eq!(format!("{tiny:?}"), "Evictable(\"tiny\", [2], U8 of host, InPlace)");
}

#[test]
fn what_is_mapped_from_a_file_stays_there() {
    let _turn = turn();
    let folder = fs::temp_dir().unwrap();
    let path = folder.path().join("w.safetensors");
    fs::ModelCheckpoint::create(&path).unwrap().add("w", &tensor(5000, 3)).unwrap().commit().unwrap();
    let mapped = fs::ModelCheckpoint::load(&path).unwrap().get("w").unwrap().evictable("w");
    gc::collect().unwrap();
    assert_eq!(mapped.kept(), Kept::InPlace);
}

#[test]
fn a_file_that_somebody_changed_is_an_error_that_names_the_tensor() {
    let _turn = turn();
    let folder = fs::temp_dir().unwrap();
    // The directory of temp files is a setting of the process, so this runs in a child.
    const CHILD: &str = "DEMOCRATISING_TEST_CHANGED";
    if std::env::var_os(CHILD).is_none() {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command
            .args([
                "--exact",
                "a_file_that_somebody_changed_is_an_error_that_names_the_tensor",
                "--nocapture",
            ])
            .env(CHILD, "1")
            .env(if cfg!(windows) { "TMP" } else { "TMPDIR" }, folder.path());
        let output = start::output(&mut command).unwrap();
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let kept = tensor(1000, 1).evictable("weights");
    gc::collect().unwrap();
    let files: Vec<_> =
        std::fs::read_dir(std::env::temp_dir()).unwrap().map(|file| file.unwrap().path()).collect();
    let file = files.iter().find(|path| path.is_file()).unwrap();
    let mut bytes = std::fs::read(file).unwrap();
    bytes[77] ^= 1;
    std::fs::write(file, bytes).unwrap();
    let error = kept.get().unwrap_err().to_string();
    assert!(error.contains("\"weights\"") && error.contains("checksum"), "{error}");
    std::fs::write(file, [0; 10]).unwrap();
    let error = kept.get().unwrap_err().to_string();
    assert!(error.contains("read back"), "{error}");
}

#[test]
fn without_room_on_the_disk_it_stays_where_it_is() {
    let _turn = turn();
    const CHILD: &str = "DEMOCRATISING_TEST_NO_DISK";
    if std::env::var_os(CHILD).is_none() {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "without_room_on_the_disk_it_stays_where_it_is", "--nocapture"])
            .env(CHILD, "1")
            .env(if cfg!(windows) { "TMP" } else { "TMPDIR" }, "/nowhere/at/all");
        let output = start::output(&mut command).unwrap();
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let kept = tensor(1000, 1).evictable("weights");
    assert_eq!(gc::collect().unwrap().files, 0);
    assert_eq!(kept.kept(), Kept::InPlace);
    assert_eq!(kept.get().unwrap().as_slice::<f32>().unwrap(), numbers(1000, 1));
}

#[test]
fn threads_that_want_collect_and_drop_see_every_element() {
    let _turn = turn();
    let kept: Vec<Evictable> = (0..8).map(|i| tensor(2000, i).evictable(format!("{i}"))).collect();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let kept = &kept;
            scope.spawn(move || {
                for round in 0..60 {
                    let i = (round * 3 + thread * 5) % 8;
                    assert_eq!(kept[i].get().unwrap().as_slice::<f32>().unwrap(), numbers(2000, i));
                    if round % 4 == thread {
                        gc::collect().unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(kept[0].device(), &Device::host());
}

/// Looks at a tensor for which room is made, and then makes that room.
struct Looks {
    at: Arc<Evictable>,
    to: mpsc::Sender<(String, Kept, Option<ErrorKind>, std::thread::JoinHandle<Tensor>)>,
    room: Mutex<Option<Tensor>>,
}

impl gc::Reclaim for Looks {
    fn reclaimable_bytes(&self) -> u64 {
        1
    }

    fn reclaim(&self, _target_bytes: u64, _until: gc::Deadline) -> u64 {
        let Some(room) = self.room.lock().unwrap().take() else { return 0 };
        let kind = match self.at.get() {
            Err(DemoError::Io { source, .. }) => Some(source.kind()),
            _ => None,
        };
        let elsewhere = std::thread::scope(|threads| threads.spawn(|| self.at.kept()).join().unwrap());
        let at = Arc::clone(&self.at);
        let waits = std::thread::spawn(move || at.get().unwrap());
        self.to.send((format!("{:?}", self.at), elsewhere, kind, waits)).unwrap();
        room.byte_len() as u64
    }
}

#[test]
fn tensors_that_are_wanted_while_they_are_put_in_order_are_asked_all_the_same() {
    let _turn = turn();
    let all: Vec<_> = (0..100).map(|i| tensor(20, i).evictable(format!("{i}"))).collect();
    let over = AtomicBool::new(false);
    let answers = std::thread::scope(|threads| {
        for first in [0, 50] {
            let (all, over) = (&all, &over);
            threads.spawn(move || {
                for i in (0..50).cycle().take_while(|_| !over.load(Relaxed)) {
                    all[first + i * 7 % 50].get().unwrap();
                }
            });
        }
        let is_there = |_: &u32| gc::reclaimable().iter().any(|(name, ..)| name == "evictable tensors");
        let answers = (0..2000).filter(is_there).count();
        over.store(true, Relaxed);
        answers
    });
    assert_eq!(answers, 2000, "a sort that sees them change panics, and then nobody is moved");
}

#[test]
fn a_reclaimer_may_look_at_the_tensor_for_which_it_makes_room() {
    let _turn = turn();
    const BYTES: u64 = 400_000;
    let scope = Scope::process().child("looked at");
    scope.set_limit(Kind::HostBytes, BYTES);
    let kept = Arc::new(scope.run(|| tensor(BYTES as usize / 4, 1).evictable("looked at")));
    gc::collect().unwrap();
    assert_eq!(kept.kept(), Kept::File);
    let room = Mutex::new(Some(scope.run(|| tensor(BYTES as usize / 4, 2))));
    let (to, told) = mpsc::channel();
    let id = gc::register("looks", 0, Looks { at: Arc::clone(&kept), to, room });
    let (done, back) = mpsc::channel();
    // On a thread of its own, so that one that never comes back is told.
    let wanted = Arc::clone(&kept);
    std::thread::spawn(move || done.send(wanted.get().unwrap()).unwrap());
    let back = back.recv_timeout(std::time::Duration::from_secs(60)).expect("it never comes back");
    gc::unregister(id);
    assert_eq!(back.as_slice::<f32>().unwrap(), numbers(BYTES as usize / 4, 1));
    let (text, elsewhere, kind, waits) = told.recv().unwrap();
    assert_eq!(text, "Evictable(\"looked at\", [100000], F32 of host, File)");
    assert_eq!((elsewhere, kind), (Kept::File, Some(ErrorKind::Deadlock)));
    assert_eq!(waits.join().unwrap(), back, "who asked meanwhile has waited for it");
}

//! Scopes: what is held in one is held in all around it, limits hold at every level, and what ended is forgotten when it holds nothing.

#[path = "common/draw.rs"]
mod draw;
#[path = "common/over.rs"]
mod over;

use democratising::error::Role;
use democratising::pool::budget::Budget;
use democratising::pool::budget::machine::MachineMemory;
use democratising::pool::budget::path;
use democratising::pool::budget::scope::{self, Kind, Scope};
use democratising::{DemoError, Tensor, fs, gc};
use draw::Draw;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;

/// What a test makes is in a scope of its own, so that tests side by side do not see each other.
fn alone(name: &str) -> Scope {
    Scope::process().child(name)
}

#[test]
fn what_is_held_in_a_scope_is_held_in_all_around_it_and_comes_back() {
    let outer = alone("outer");
    let inner = outer.child("inner");
    let process_before = scope::process_budget(Kind::Connections).used();
    let held = inner.charge(Kind::Connections, 3).unwrap();
    assert_eq!((inner.used(Kind::Connections), outer.used(Kind::Connections)), (3, 3));
    assert_eq!(scope::process_budget(Kind::Connections).used(), process_before + 3);
    assert_eq!((inner.depth(), inner.parent().unwrap().name()), (2, "outer"));
    drop(held);
    assert_eq!((inner.used(Kind::Connections), outer.used(Kind::Connections)), (0, 0));
    assert_eq!((inner.peak(Kind::Connections), outer.peak(Kind::Connections)), (3, 3));
}

#[test]
fn the_scope_that_is_full_is_named_and_those_within_it_hold_nothing_of_it() {
    let outer = alone("full");
    outer.set_limit(Kind::Files, 4);
    let inner = outer.child("roomy");
    let _held = inner.charge(Kind::Files, 3).unwrap();
    let refused = inner.charge(Kind::Files, 2).unwrap_err();
    assert_eq!(refused.scope().name(), "full");
    assert_eq!(refused.to_string(), "files of \"full\": over budget: 2 asked for, 1 left of 4");
    assert_eq!((inner.used(Kind::Files), outer.used(Kind::Files)), (3, 3));
    assert_eq!(inner.left(Kind::Files), 1);
}

#[test]
fn guards_may_go_in_any_order_and_the_last_that_is_there_counts() {
    let name = || Scope::current().name().to_owned();
    let [a, b, c] = ["a", "b", "c"].map(alone);
    drop((a.enter(), b.enter()));
    assert_eq!(name(), "process", "a tuple drops its first first");

    let mut draw = Draw(7);
    for _ in 0..if cfg!(miri) { 20 } else { 500 } {
        let mut guards = Vec::new();
        for _ in 0..20 {
            if guards.is_empty() || draw.below(2) == 0 {
                let scope = [&a, &b, &c][draw.below(3) as usize];
                guards.push((scope.name(), scope.enter()));
            } else {
                let at = draw.below(guards.len() as u64) as usize;
                drop(guards.remove(at));
            }
            assert_eq!(name(), guards.last().map_or("process", |(name, _)| name));
        }
        drop(guards);
        assert_eq!(name(), "process");
    }
}

#[test]
fn a_holding_may_be_dropped_on_another_thread_and_after_its_scope() {
    let scope = alone("short");
    let held = scope.charge(Kind::HostBytes, 7).unwrap();
    let left = scope.end();
    assert_eq!((left.of(Kind::HostBytes), left.is_nothing()), (7, false));
    let still = left.scope().clone();
    assert!(still.has_ended());
    drop(left);
    thread::spawn(move || drop(held)).join().unwrap();
    assert_eq!(still.used(Kind::HostBytes), 0);
    assert_eq!(still.end().to_string(), "scope \"short\" holds nothing");
}

#[test]
fn an_ended_scope_stays_in_the_ledger_as_long_as_something_is_held() {
    let find = || Scope::all().into_iter().find(|scope| scope.name() == "request 77");
    let held = alone("request 77").charge(Kind::HostBytes, 1).unwrap();
    assert_eq!(find().expect("held, so listed").used(Kind::HostBytes), 1);
    drop(held);
    assert!(over::are_over(|scope| scope.name() == "request 77"));
}

#[test]
fn tensors_mappings_and_temp_files_are_charged_where_they_are_made() {
    let scope = alone("step");
    let directory = tempfile_dir();
    let path = directory.path().join("w.safetensors");
    let (tensor, clone, adopted, checkpoint, file) = scope.run(|| {
        let tensor = Tensor::zeros(&[1000]).unwrap();
        let clone = tensor.clone();
        let adopted = Tensor::new(&[100], vec![0u8; 100]).unwrap();
        let mut roomy = Vec::with_capacity(1000);
        roomy.resize(100, 0u8);
        let before = Scope::current().used(Kind::HostBytes);
        let roomy = Tensor::new(&[100], roomy).unwrap();
        assert_eq!(Scope::current().used(Kind::HostBytes), before + 1000, "all that the vector holds");
        drop(roomy);
        let tiny = Tensor::new(&[2], vec![0u8; 2]).unwrap();
        assert_eq!(tiny.byte_len(), 2, "held in the tensor itself, and not charged");
        fs::ModelCheckpoint::create(&path).unwrap().add("w", &tensor).unwrap().commit().unwrap();
        (tensor, clone, adopted, fs::ModelCheckpoint::load(&path).unwrap(), fs::temp_file().unwrap())
    });
    let file_bytes = std::fs::metadata(&path).unwrap().len();
    assert_eq!(scope.used(Kind::HostBytes), 4100);
    assert_eq!((scope.used(Kind::MappedBytes), scope.used(Kind::Files)), (file_bytes, 1));
    drop((tensor, adopted));
    assert_eq!(scope.used(Kind::HostBytes), 4000, "a clone still holds it");
    let mapped = checkpoint.get("w").unwrap();
    drop((clone, checkpoint, file));
    assert_eq!((scope.used(Kind::HostBytes), scope.used(Kind::Files)), (0, 0));
    assert_eq!(scope.used(Kind::MappedBytes), file_bytes, "its tensor keeps the mapping");
    drop(mapped);
    assert!(scope.end().is_nothing());
}

fn tempfile_dir() -> democratising::tempfile::TempDir {
    democratising::tempfile::tempdir().unwrap()
}

#[test]
fn a_change_of_a_shared_tensor_is_charged_as_a_copy() {
    let scope = alone("copies");
    let (first, mut second) = scope.run(|| {
        let first = Tensor::zeros(&[1000]).unwrap();
        let second = first.clone();
        (first, second)
    });
    scope.run(|| second.as_mut_slice::<f32>().unwrap()[0] = 1.0);
    assert_eq!(scope.used(Kind::HostBytes), 8000);
    drop(first);
    assert_eq!(scope.used(Kind::HostBytes), 4000);
}

#[test]
fn out_of_memory_names_the_scope_its_limit_and_the_largest_holders() {
    let step = alone("training step");
    step.set_limit(Kind::HostBytes, 100_000);
    let large = step.child("activations");
    let _kept = large.run(|| Tensor::zeros(&[20_000])).unwrap();
    let error = step.run(|| Tensor::zeros(&[10_000])).unwrap_err();
    let text = error.to_string();
    let DemoError::OutOfMemory(report) = error else { panic!("{text}") };
    assert_eq!(report.scope(), Some("training step"));
    assert_eq!((report.requested_bytes, report.in_use_bytes, report.limit_bytes), (40_000, 80_000, 100_000));
    assert!(report.largest_free_bytes <= 20_000, "{report:?}");
    let holder = |name| report.scopes().find(|scope| scope.name == name).map(|scope| scope.bytes);
    assert_eq!((holder("training step"), holder("activations")), (Some(80_000), Some(80_000)));
    assert!(text.contains("in scope \"training step\"") && text.contains("\"activations\" 80000"), "{text}");
}

#[test]
fn out_of_memory_names_both_of_two_scopes_with_one_name_that_hold_as_much() {
    let [full, other] = [alone("request"), alone("request")];
    full.set_limit(Kind::HostBytes, 10 << 20);
    let _held = [&full, &other].map(|scope| scope.run(|| Tensor::zeros(&[2 << 20]).unwrap()));
    let error = full.run(|| Tensor::zeros(&[1 << 20])).unwrap_err();
    let DemoError::OutOfMemory(report) = error else { panic!("{error}") };
    let of_that_name = report.scopes().filter(|scope| scope.name == "request");
    let rows: Vec<_> = of_that_name.map(|scope| (scope.bytes, scope.role)).collect();
    assert_eq!(rows, [(8 << 20, Role::FullScope), (8 << 20, Role::Scope)], "{report:?}");
}

#[test]
fn a_name_that_ends_in_a_number_is_told_from_what_it_holds() {
    let request = alone("request 7");
    request.set_limit(Kind::HostBytes, 10_000);
    let held = request.run(|| Tensor::zeros(&[1000]).unwrap());
    let text = request.run(|| Tensor::zeros(&[2000])).unwrap_err().to_string();
    assert!(text.contains("in scope \"request 7\": 8000 bytes requested"), "{text}");
    assert!(text.contains("\"request 7\" 4000"), "{text}");
    drop(held);
}

#[test]
fn a_future_is_in_its_scope_whenever_it_is_polled() {
    let scope = alone("task");
    let mut polled = 0;
    let future = core::future::poll_fn(move |context| {
        assert_eq!(Scope::current().name(), "task");
        polled += 1;
        if polled == 2 {
            return core::task::Poll::Ready(polled);
        }
        context.waker().wake_by_ref();
        core::task::Poll::Pending
    });
    let mut future = core::pin::pin!(scope.wrap(future));
    let mut context = core::task::Context::from_waker(core::task::Waker::noop());
    assert!(future.as_mut().poll(&mut context).is_pending());
    assert_eq!(Scope::current().name(), "process", "outside of the future it is as before");
    assert!(future.as_mut().poll(&mut context).is_ready());
}

#[test]
fn eight_threads_in_a_tree_never_hold_more_than_any_limit_of_it() {
    let root = alone("root of eight");
    root.set_limit(Kind::HostBytes, 1000);
    let halves = [root.child("left"), root.child("right")];
    halves.iter().for_each(|half| {
        half.set_limit(Kind::HostBytes, 700);
    });
    let refused = AtomicU64::new(0);
    thread::scope(|threads| {
        for seed in 1..=8 {
            let (root, half, refused) = (&root, &halves[seed as usize % 2], &refused);
            threads.spawn(move || {
                let mut draw = Draw(seed);
                let mut kept = Vec::new();
                for _ in 0..20_000 {
                    match half.charge(Kind::HostBytes, draw.below(300)) {
                        Ok(held) => kept.push(held),
                        Err(why) => {
                            assert!(why.over().left < why.over().asked);
                            refused.fetch_add(1, SeqCst);
                        }
                    }
                    assert!(root.used(Kind::HostBytes) <= 1000 && half.used(Kind::HostBytes) <= 700);
                    while kept.len() > draw.below(4) as usize {
                        drop(kept.swap_remove(draw.below(kept.len() as u64) as usize));
                    }
                }
            });
        }
    });
    assert!(refused.into_inner() > 0, "the limit was never reached: this test shows nothing");
    assert!(root.peak(Kind::HostBytes) <= 1000 && root.peak(Kind::HostBytes) > 500);
    assert!(halves.iter().all(|half| half.used(Kind::HostBytes) == 0));
    assert!(root.end().is_nothing());
}

/// Tensors that could be made again, given up one by one.
struct Cache(Mutex<Vec<Tensor>>);

impl gc::Reclaim for Cache {
    fn reclaimable_bytes(&self) -> u64 {
        self.0.lock().unwrap().iter().map(|tensor| tensor.byte_len() as u64).sum()
    }

    fn reclaim(&self, target_bytes: u64, _until: gc::Deadline) -> u64 {
        let mut given = 0;
        while given < target_bytes {
            let Some(tensor) = self.0.lock().unwrap().pop() else { break };
            given += tensor.byte_len() as u64;
        }
        given
    }
}

#[test]
fn eight_threads_at_a_limit_never_fail_while_a_cache_could_give_way() {
    const TENSOR: u64 = 40_000;
    // Room for what eight threads hold at once, and for a little of what is cached.
    let scope = alone("eight at a limit");
    scope.set_limit(Kind::HostBytes, 20 * TENSOR);
    let cache = Arc::new(Cache(Mutex::new(Vec::new())));
    let id = gc::register("cache of eight", 0, Arc::clone(&cache) as Arc<dyn gc::Reclaim>);
    thread::scope(|threads| {
        for _ in 0..8 {
            threads.spawn(|| {
                for _ in 0..300 {
                    let made = scope.run(|| Tensor::zeros(&[TENSOR as usize / 4]));
                    let tensor = made.expect("what is cached can be given up");
                    assert!(scope.used(Kind::HostBytes) <= 20 * TENSOR);
                    cache.0.lock().unwrap().push(tensor);
                }
            });
        }
    });
    assert!(scope.peak(Kind::HostBytes) <= 20 * TENSOR);
    assert!(gc::unregister(id));
    drop(cache);
    assert!(scope.end().is_nothing());
}

#[test]
fn a_path_counts_in_the_order_it_is_given() {
    let budgets = [Budget::new(5), Budget::new(3)];
    assert_eq!(path::try_take(&budgets, 4).unwrap_err().depth, 1);
    assert_eq!(path::try_take(budgets.iter().rev(), 4).unwrap_err().depth, 0);
}

/// A file below a root, with the folders to it.
fn put(root: &std::path::Path, at: &str, text: &str) {
    let path = root.join(at);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

#[test]
fn the_limit_of_the_machine_is_the_least_that_the_kernel_tells() {
    let root = tempfile_dir();
    let read = || MachineMemory::read_under(root.path());
    assert_eq!((read(), read().limit_bytes()), (MachineMemory::default(), None));

    put(root.path(), "proc/meminfo", "MemFree: 1 kB\nMemTotal:       1024 kB\n");
    assert_eq!(read().limit_bytes(), Some(1 << 20));

    // Version 2: the group's own limit, or that of a group around it.
    put(root.path(), "proc/self/cgroup", "0::/a/b\n");
    put(root.path(), "sys/fs/cgroup/a/b/memory.max", "max\n");
    assert_eq!(read().cgroup_v2_bytes, None);
    put(root.path(), "sys/fs/cgroup/a/memory.max", "500000\n");
    assert_eq!((read().cgroup_v2_bytes, read().limit_bytes()), (Some(500_000), Some(500_000)));
    put(root.path(), "sys/fs/cgroup/a/b/memory.max", "400000\n");
    assert_eq!(read().limit_bytes(), Some(400_000));

    // Version 1, and no limit as it writes that.
    put(root.path(), "proc/self/cgroup", "12:cpu,cpuacct:/x\n9:memory:/y\n");
    put(root.path(), "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    assert_eq!((read().cgroup_v1_bytes, read().cgroup_v2_bytes), (None, None));
    put(root.path(), "sys/fs/cgroup/memory/y/memory.limit_in_bytes", "300000");
    assert_eq!(read().limit_bytes(), Some(300_000));

    // In a container the path is one outside of it, and its root is the group.
    put(root.path(), "proc/self/cgroup", "0::/../../elsewhere\n");
    put(root.path(), "sys/fs/cgroup/memory.max", "200000");
    assert_eq!(read().cgroup_v2_bytes, Some(200_000));
    put(root.path(), "sys/fs/cgroup/memory.max", "a number");
    assert_eq!(read().limit_bytes(), Some(1 << 20), "what cannot be read is no limit");
}

#[test]
fn the_snapshot_shows_every_scope_behind_the_one_around_it() {
    let outer = alone("epoch 3");
    let inner = outer.child("batch 9");
    inner.set_limit(Kind::HostBytes, 1 << 20);
    let tensor = inner.run(|| Tensor::zeros(&[1000])).unwrap();
    let _ = inner.end();
    let now = democratising::resources();
    assert_eq!((now.scopes[0].name.as_str(), now.scopes[0].depth), ("process", 0));
    let at = now.scopes.iter().position(|scope| scope.name == "epoch 3").unwrap();
    let row = &now.scopes[at + 1];
    assert_eq!((row.name.as_str(), row.depth, row.ended), ("batch 9", 2, true));
    let host = &row.held[Kind::HostBytes as usize];
    assert_eq!((host.kind, host.used, host.limit), ("host bytes", 4000, Some(1 << 20)));
    assert!(now.memory[0].in_use_bytes >= 4000 && now.memory[0].name == "pool");
    let table = now.to_string();
    let line = table.lines().find(|line| line.contains("batch 9 (ended)")).unwrap();
    let words: Vec<_> = line.split_whitespace().skip(3).collect();
    assert_eq!(words, ["host", "bytes", "4000", "4000", "1048576"], "{table}");
    #[cfg(feature = "serde")]
    {
        let json: serde_json::Value = serde_json::to_value(&now).unwrap();
        assert_eq!(json["scopes"][at + 1]["held"][0]["used"], 4000);
    }
    drop(tensor);
}

#[test]
fn the_process_has_the_limit_of_its_machine() {
    let machine = MachineMemory::read().limit_bytes().expect("Linux tells");
    assert_eq!(scope::process_budget(Kind::HostBytes).limit(), machine);
}

#[test]
fn scopes_nested_as_deep_as_can_be_end_without_a_deep_stack_and_are_reported_in_time() {
    let done = std::thread::Builder::new().stack_size(256 << 10).spawn(|| {
        let mut scope = alone("deep");
        for _ in 0..20_000 {
            scope = scope.child("deeper");
        }
        assert!(
            democratising::resources().scopes.iter().filter(|row| row.name == "deeper").count() >= 20_000
        );
        drop(scope);
    });
    done.unwrap().join().unwrap();
}

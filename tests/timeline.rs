//! What is recorded of memory, and how other programs read it.

#[cfg(unix)]
#[path = "common/fork.rs"]
mod fork;

// A process has one recording.
#[path = "common/alone.rs"]
mod alone;

use alone::alone;
use democratising::pool::budget::scope::Scope;
use democratising::timeline::{self, Action, Event, Options, Place, Timeline};
use democratising::{DemoError, MemoryPool, Tensor};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

fn named<'a>(timeline: &'a Timeline, name: &'a str) -> impl Iterator<Item = &'a Event> {
    timeline.events().iter().filter(move |event| timeline.name(event.name) == name)
}

fn zeros(bytes: usize) -> Tensor {
    Tensor::zeros(&[bytes / 4]).unwrap()
}

/// A little of everything: two scopes, a vector that a tensor adopts, a mark, a block that stays.
fn story() -> (Timeline, Tensor) {
    timeline::start(Options::new()).unwrap();
    let kept = Scope::new("weights \"w\" </script>").run(|| zeros(3 << 20));
    let adopted = Tensor::new(&[1000], vec![1.0f32; 1000]).unwrap();
    timeline::mark("step\n1");
    for _ in 0..3 {
        drop(Scope::new("step").run(|| (zeros(5 << 20), zeros(100 << 10))));
    }
    drop(adopted);
    (timeline::stop().unwrap(), kept)
}

#[test]
fn blocks_are_recorded_with_size_scope_place_and_end() {
    let _alone = alone();
    let (timeline, kept) = story();
    let weights: Vec<&Event> = named(&timeline, "weights \"w\" </script>").collect();
    let [weights] = weights[..] else { panic!("{weights:?}") };
    assert_eq!((weights.action, weights.place, weights.bytes), (Action::Allocate, Place::Pool, 3 << 20));
    assert_eq!(weights.address, kept.as_bytes().unwrap().as_ptr() as u64);
    assert!(weights.more >= weights.bytes && weights.more < weights.bytes + (64 << 10), "{weights:?}");

    let step: Vec<&Event> =
        named(&timeline, "step").filter(|event| event.action == Action::Allocate).collect();
    assert_eq!(
        step.iter().map(|event| event.bytes >> 10).collect::<Vec<_>>(),
        [5 << 10, 100, 5 << 10, 100, 5 << 10, 100]
    );
    for taken in &step {
        let given = timeline.events().iter().find(|event| {
            event.action == Action::Free && event.address == taken.address && event.time_ns >= taken.time_ns
        });
        assert_eq!(
            given.map(|given| (given.bytes, given.more)),
            Some((taken.bytes, taken.more)),
            "{taken:?}"
        );
    }
    let adopted: Vec<&Event> =
        timeline.events().iter().filter(|event| event.place == Place::Heap && event.address > 0).collect();
    assert_eq!(
        adopted.iter().map(|event| (event.action, event.bytes)).collect::<Vec<_>>(),
        [(Action::Allocate, 4000), (Action::Free, 4000)]
    );
    assert_eq!(named(&timeline, "step\n1").map(|event| event.action).collect::<Vec<_>>(), [Action::Mark]);
    assert!(timeline.events().iter().any(|event| event.action == Action::Reserve && event.bytes >= 3 << 20));
    assert!(timeline.events().is_sorted_by_key(|event| event.time_ns));
    assert!(
        timeline.thread(weights.thread).contains("blocks_are_recorded"),
        "{}",
        timeline.thread(weights.thread)
    );
}

#[test]
fn nothing_is_recorded_before_and_after_and_a_second_start_is_refused() {
    let _alone = alone();
    for refused in [timeline::stop(), timeline::snapshot()] {
        let why = refused.unwrap_err().to_string();
        assert!(why.contains("call timeline::start first"), "{why}");
    }
    timeline::start(Options::new().capacity(10)).unwrap();
    let second = timeline::start(Options::new()).unwrap_err().to_string();
    assert!(second.contains("call timeline::stop first"), "{second}");
    assert!(timeline::is_recording());
    timeline::stop().unwrap();
    assert!(!timeline::is_recording());
    drop(zeros(1 << 20));
    timeline::start(Options::new()).unwrap();
    assert_eq!(timeline::stop().unwrap().events(), []);
    for capacity in [0, usize::MAX, (1 << 28) + 1] {
        let refused = timeline::start(Options::new().capacity(capacity)).unwrap_err();
        assert!(matches!(refused, DemoError::InvalidConfig { .. }), "{refused}");
    }
}

/// What is live after each event, told by the recording alone.
fn live(timeline: &Timeline) -> BTreeMap<(Place, u64), u64> {
    let mut live: BTreeMap<_, _> =
        timeline.before().iter().map(|event| ((event.place, event.address), event.bytes)).collect();
    for event in timeline.events() {
        match event.action {
            Action::Allocate => {
                assert_eq!(live.insert((event.place, event.address), event.bytes), None, "{event:?}")
            }
            Action::Free => {
                assert_eq!(live.remove(&(event.place, event.address)), Some(event.bytes), "{event:?}")
            }
            _ => {}
        }
    }
    live
}

#[test]
fn a_ring_that_overflows_keeps_the_last_events_and_all_that_was_live_before_them() {
    let _alone = alone();
    timeline::start(Options::new().capacity(50)).unwrap();
    let mut kept: Vec<Tensor> = (0..20).map(|i| zeros((i + 1) << 12)).collect();
    for round in 0..200 {
        kept.swap_remove(round * 7 % 20);
        kept.push(zeros((round % 30 + 1) << 12));
    }
    let timeline = timeline::snapshot().unwrap();
    assert_eq!(timeline.events().len(), 50);
    assert!(timeline.dropped() >= 370, "{}", timeline.dropped());
    let expected: BTreeMap<_, _> = kept
        .iter()
        .map(|tensor| {
            (
                (Place::Pool, tensor.as_bytes().unwrap().as_ptr() as u64),
                tensor.as_bytes().unwrap().len() as u64,
            )
        })
        .collect();
    assert_eq!(live(&timeline), expected);
    assert!(timeline.reserved_before(Place::Pool).is_some());
    timeline::stop().unwrap();
}

#[test]
fn blocks_from_before_the_recording_are_known_by_their_free() {
    let _alone = alone();
    let old = zeros(7 << 20);
    let at = old.as_bytes().unwrap().as_ptr() as u64;
    timeline::start(Options::new()).unwrap();
    drop(old);
    let timeline = timeline::stop().unwrap();
    let [before] = timeline.before() else { panic!("{:?}", timeline.before()) };
    assert_eq!(
        (before.address, before.bytes, timeline.name(before.name)),
        (at, 7 << 20, "(before the recording)")
    );
    assert_eq!(live(&timeline), BTreeMap::new());
}

#[test]
fn threads_that_share_memory_leave_a_history_without_contradiction() {
    let _alone = alone();
    timeline::start(Options::new()).unwrap();
    std::thread::scope(|threads| {
        for i in 0..4 {
            threads.spawn(move || {
                Scope::new(format!("worker {i}")).run(|| {
                    let mut kept = Vec::new();
                    for round in 0..300usize {
                        kept.push(zeros((round * 37 % 50 + 1) << 11));
                        if kept.len() > 10 {
                            kept.swap_remove(round % 10);
                        }
                    }
                });
            });
        }
    });
    let timeline = timeline::stop().unwrap();
    assert_eq!(live(&timeline), BTreeMap::new());
    assert_eq!(timeline.dropped(), 0);
    for i in 0..4 {
        let name = format!("worker {i}");
        assert_eq!(named(&timeline, &name).filter(|event| event.action == Action::Allocate).count(), 300);
    }
}

#[test]
fn a_grown_block_is_a_new_one() {
    use allocator_api2::vec::Vec;
    let _alone = alone();
    timeline::start(Options::new()).unwrap();
    let mut bytes = Vec::new_in(MemoryPool);
    for i in 0..1 << 20 {
        bytes.push(i as u8);
    }
    bytes.shrink_to_fit();
    drop(bytes);
    let timeline = timeline::stop().unwrap();
    assert_eq!(live(&timeline), BTreeMap::new());
    assert!(timeline.events().iter().filter(|event| event.action == Action::Allocate).count() > 10);
}

#[test]
fn running_out_of_memory_and_collections_are_told() {
    let _alone = alone();
    let scope = Scope::new("too small");
    scope.set_limit(democratising::pool::budget::scope::Kind::HostBytes, 1 << 20);
    timeline::start(Options::new()).unwrap();
    assert!(scope.run(|| Tensor::zeros(&[2 << 20])).is_err());
    democratising::gc::collect().unwrap();
    let timeline = timeline::stop().unwrap();
    let failed: Vec<(&str, u64)> = timeline
        .events()
        .iter()
        .filter(|event| event.action == Action::OutOfMemory)
        .map(|event| (timeline.name(event.name), event.bytes))
        .collect();
    assert_eq!(failed, [("too small", 8 << 20)]);
    assert!(timeline.events().iter().any(|event| event.action == Action::Collect));
}

fn text(timeline: &Timeline) -> String {
    let mut bytes = Vec::new();
    timeline.write_to(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_saved_timeline_is_read_as_it_was() {
    let _alone = alone();
    let (timeline, _kept) = story();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.timeline");
    timeline.save(&path).unwrap();
    assert_eq!(Timeline::open(&path).unwrap(), timeline);
    let nowhere = timeline.save(folder.path().join("none/run.timeline")).unwrap_err();
    assert!(matches!(nowhere, DemoError::Io { .. }), "{nowhere}");
}

#[cfg(unix)]
#[test]
fn a_timeline_takes_the_place_of_files_alone() {
    let _alone = alone();
    let (timeline, _kept) = story();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    std::fs::create_dir(at("folder")).unwrap();
    for (name, why) in [("socket", "no regular file"), ("folder", "is a directory")] {
        let kind = std::fs::metadata(at(name)).unwrap().file_type();
        let refused = timeline.save(at(name)).unwrap_err().to_string();
        assert!(refused.contains(name) && refused.contains(why), "{refused}");
        assert_eq!(std::fs::metadata(at(name)).unwrap().file_type(), kind);
    }
    drop(socket);
    std::fs::write(at("file"), "").unwrap();
    std::os::unix::fs::symlink("file", at("link")).unwrap();
    timeline.save(at("link")).unwrap();
    assert!(at("link").is_symlink());
    assert_eq!(Timeline::open(at("file")).unwrap(), timeline);
    // To what is not there yet, by another one.
    std::os::unix::fs::symlink("folder/new", at("further")).unwrap();
    std::os::unix::fs::symlink("further", at("first")).unwrap();
    timeline.save(at("first")).unwrap();
    assert!(at("first").is_symlink() && at("further").is_symlink());
    assert_eq!(Timeline::open(at("folder/new")).unwrap(), timeline);
    std::os::unix::fs::symlink("round", at("round")).unwrap();
    assert!(matches!(timeline.save(at("round")), Err(DemoError::Io { .. })) && at("round").is_symlink());
}

#[cfg(unix)]
#[test]
fn a_timeline_that_takes_the_place_of_another_keeps_its_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let _alone = alone();
    let (timeline, _kept) = story();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.timeline");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for kept in [0o600, 0o666, 0o440] {
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(kept)).unwrap();
        timeline.save(&path).unwrap();
        assert_eq!(format!("{:o}", mode(&path)), format!("{kept:o}"));
        std::fs::remove_file(&path).unwrap();
    }
}

/// The test in a process of its own, whose steps strace tells, and whose first or second sync it fails.
#[cfg(target_os = "linux")]
#[test]
fn a_timeline_is_synced_then_renamed_then_its_directory_synced() {
    const MARK: &str = "DEMOCRATISING_TEST_TIMELINE";
    if let Some(path) = std::env::var_os(MARK) {
        let _alone = alone();
        let saved = story().0.save(path);
        return println!("saved: {}", saved.map_or_else(|error| error.to_string(), |()| "yes".into()));
    }
    let folder = tempfile::tempdir().unwrap();
    let (path, log) = (folder.path().join("run.timeline"), tempfile::NamedTempFile::new().unwrap());
    let save = |options: &[&str]| {
        std::fs::write(&path, "old").unwrap();
        let child = std::process::Command::new("strace")
            .args(["-f", "-y", "-qq", "-o", log.path().to_str().unwrap()])
            .args(["-e", "trace=fsync,rename,renameat,renameat2"])
            .args(options)
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "a_timeline_is_synced_then_renamed_then_its_directory_synced"])
            .env(MARK, &path)
            .output()
            .unwrap_or_else(|error| panic!("cannot run strace, which this test needs; install it: {error}"));
        let said = String::from_utf8_lossy(&child.stdout).into_owned();
        assert!(child.status.success() && said.contains("1 passed"), "{said}");
        let is_old = std::fs::read(&path).unwrap() == b"old";
        (said.lines().find_map(|line| Some(line.split_once("saved: ")?.1.to_owned())).unwrap(), is_old)
    };
    assert_eq!(save(&[]), ("yes".into(), false));
    let directory = format!("<{}>", folder.path().to_str().unwrap());
    let log = std::fs::read_to_string(log.path()).unwrap();
    let steps: Vec<_> = log
        .lines()
        .map(|line| match line {
            line if line.contains("rename") => "rename",
            line if line.contains("fsync") && line.contains(&directory) => "sync directory",
            _ => "sync file",
        })
        .collect();
    assert_eq!(steps, ["sync file", "rename", "sync directory"], "{log}");

    let (said, is_old) = save(&["-e", "inject=fsync:error=EIO:when=1"]);
    assert!(said.starts_with("cannot sync ") && said.contains("run.timeline") && is_old, "{said}");
    let (said, is_old) = save(&["-e", "inject=fsync:error=EIO:when=2"]);
    assert!(said.contains("is in place, but its directory could not be synced") && !is_old, "{said}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn a_damaged_timeline_is_refused_with_the_line() {
    let _alone = alone();
    let (timeline, _kept) = story();
    let whole = text(&timeline);
    for cut in 0..whole.len() - 1 {
        if whole.is_char_boundary(cut) {
            assert!(Timeline::read_from(&whole.as_bytes()[..cut]).is_err(), "cut at {cut}");
        }
    }
    let line = whole.lines().position(|line| line.starts_with("allocate ")).unwrap();
    for (from, to) in [
        ("allocate ", "allocates "),
        (" pool ", " pond "),
        (" pool ", "  "),
        (" -\n", " 0\n"),
        (" -\n", " - -\n"),
    ] {
        let broken = whole.replacen(from, to, 1);
        let why = Timeline::read_from(broken.as_bytes()).unwrap_err().to_string();
        assert!(why.contains(" line "), "{from:?}: {why}");
    }
    let missing = whole
        .lines()
        .enumerate()
        .filter(|(i, _)| *i != line)
        .map(|(_, line)| format!("{line}\n"))
        .collect::<String>();
    let why = Timeline::read_from(missing.as_bytes()).unwrap_err().to_string();
    assert!(why.contains("events stand before it"), "{why}");
    let other = Timeline::read_from(&b"\x80\x02}q\0."[..]).unwrap_err().to_string();
    assert!(other.contains("timeline"), "{other}");
}

/// A timeline of these lines, which a file could hold.
fn made_of(lines: &str) -> democratising::Result<Timeline> {
    let head = "democratising timeline 1\nname \"a\"\nthread \"t\"\n";
    let events = lines.lines().filter(|line| !line.starts_with("reserved ") && !line.starts_with("before "));
    Timeline::read_from(format!("{head}{lines}end {}\n", events.count()).as_bytes())
}

#[test]
fn a_block_that_cannot_be_where_it_is_said_to_be_is_refused_with_the_line() {
    for block in
        ["pool ffffffffffffffff 1 1", "heap ffffffffffffffff 10 10", "cuda:0 10 1 18446744073709551600"]
    {
        for (line, time) in [("before", 0), ("allocate", 1), ("free", 1)] {
            let why = made_of(&format!("{line} {time} {block} 0 0 0 -\n")).unwrap_err().to_string();
            assert!(why.contains(" line 4") && why.contains("can be at address"), "{why}");
        }
    }
}

/// In a process of its own, which would take all memory if it counted every frame.
#[cfg(unix)]
#[test]
fn a_timeline_of_impossible_sizes_is_exported_in_little_memory_and_time() {
    const INSIDE: &str = "DEMOCRATISING_TEST_IMPOSSIBLE";
    if std::env::var_os(INSIDE).is_none() {
        let test = "a_timeline_of_impossible_sizes_is_exported_in_little_memory_and_time";
        let output = std::process::Command::new("sh")
            .args(["-c", "ulimit -v 4000000; ulimit -t 120; exec \"$0\" --exact \"$1\" --nocapture"])
            .arg(std::env::current_exe().unwrap())
            .arg(test)
            .env(INSIDE, "yes")
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
        return;
    }
    let (half, all) = (u64::MAX / 2, u64::MAX);
    let mut lines = format!("reserved pool {all}\nbefore 0 heap 10 {half} {half} 0 0 0 -\n");
    for place in ["pool", "heap", "cuda:0"] {
        lines +=
            &format!("reserve 0 {place} 0 {all} {all} 0 0 0 -\nreserve 0 {place} 0 {all} {all} 0 0 0 -\n");
        lines += &format!("allocate 0 {place} fffffffffffffffe 1 1 0 0 0 -\n");
        for address in 0..1200 {
            lines += &format!("allocate 0 {place} {address:x} {half} {half} 0 0 0 -\n");
        }
    }
    for place in ["pool", "heap", "cuda:0"] {
        for address in 0..1200 {
            lines += &format!("free {all} {place} {address:x} {half} {half} 0 0 0 -\n");
        }
        lines +=
            &format!("reserve {all} {place} 0 0 0 0 0 0 -\nallocate {all} {place} 5 {half} {half} 0 0 0 -\n");
    }
    let timeline = made_of(&lines).unwrap();
    for write in [Timeline::write_pytorch, Timeline::write_dhat, Timeline::write_chrome] {
        let mut out: Vec<u8> = Vec::new();
        write(&timeline, &mut out).unwrap();
        assert!(out.len() < 20 << 20, "{} bytes", out.len());
    }
}

/// The rules of the trace event format, as far as they are used.
#[test]
fn the_chrome_trace_follows_the_rules_of_its_format() {
    let _alone = alone();
    let (timeline, _kept) = story();
    let mut bytes = Vec::new();
    timeline.write_chrome(&mut bytes).unwrap();
    let trace: Value = serde_json::from_slice(&bytes).unwrap();
    let mut open: HashMap<(String, u64), &Value> = HashMap::new();
    let (mut last, mut slices, mut reserved) = (0.0, 0, 0);
    for event in trace["traceEvents"].as_array().unwrap() {
        let pid = event["pid"].as_u64().unwrap();
        assert!(event["name"].is_string() && event["args"].is_object(), "{event}");
        let phase = event["ph"].as_str().unwrap();
        if phase == "M" {
            continue;
        }
        let at = event["ts"].as_f64().unwrap();
        assert!(at >= last, "{event} is before {last}");
        last = at;
        match phase {
            "b" => {
                assert_eq!(event["cat"], "block");
                assert!(open.insert((event["id"].as_str().unwrap().into(), pid), event).is_none(), "{event}");
                slices += 1;
            }
            "e" => {
                let began = open.remove(&(event["id"].as_str().unwrap().into(), pid)).unwrap();
                assert_eq!((&began["name"], &began["cat"]), (&event["name"], &event["cat"]));
            }
            "C" => {
                let values = event["args"].as_object().unwrap();
                assert!(values.values().all(Value::is_u64), "{event}");
                reserved = reserved.max(event["args"]["reserved"].as_u64().unwrap_or(0));
            }
            "i" => assert!(["g", "p"].contains(&event["s"].as_str().unwrap())),
            other => panic!("{other}: {event}"),
        }
    }
    assert!(open.is_empty(), "{open:?}");
    assert_eq!(slices, 8);
    assert!(reserved >= 8 << 20, "{reserved}");
}

#[test]
fn the_dhat_file_has_what_its_viewer_demands_and_sums_that_agree() {
    let _alone = alone();
    let (timeline, _kept) = story();
    let mut bytes = Vec::new();
    timeline.write_dhat(&mut bytes).unwrap();
    let dhat: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(
        (&dhat["dhatFileVersion"], &dhat["bklt"], &dhat["bkacc"]),
        (&2.into(), &true.into(), &false.into())
    );
    for field in ["mode", "verb", "cmd", "tu", "Mtu"] {
        assert!(dhat[field].is_string(), "{field}");
    }
    let frames = dhat["ftbl"].as_array().unwrap();
    assert_eq!(frames[0], "[root]");
    let points = dhat["pps"].as_array().unwrap();
    let sum = |field: &str| points.iter().map(|point| point[field].as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum("tb"), (3 << 20) + 4000 + 3 * ((5 << 20) + (100 << 10)));
    assert_eq!((sum("tbk"), sum("eb"), sum("ebk")), (8, 3 << 20, 1));
    assert_eq!(sum("gb"), (3 << 20) + 4000 + (5 << 20) + (100 << 10));
    assert!(sum("tl") > 0 && dhat["tg"].as_u64().unwrap() <= dhat["te"].as_u64().unwrap());
    for point in points {
        let number = |field: &str| point[field].as_u64().unwrap();
        assert!(number("mb") >= number("gb") && number("mb") >= number("eb") && number("tb") >= number("mb"));
        let stack: Vec<&str> = point["fs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|at| frames[at.as_u64().unwrap() as usize].as_str().unwrap())
            .collect();
        assert!(stack[0].starts_with("memory: ") && stack[1].starts_with("scope: "), "{stack:?}");
    }
}

#[cfg(feature = "cli")]
#[test]
fn the_snapshot_is_replayed_by_this_program_with_the_same_bytes() {
    use std::process::Command;
    let _alone = alone();
    let (timeline, _kept) = story();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.pickle");
    timeline.write_pytorch(&mut std::fs::File::create(&path).unwrap()).unwrap();
    let replay = Command::new(env!("CARGO_BIN_EXE_democratising"))
        .args(["replay", "--json"])
        .arg(&path)
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&replay.stdout), String::from_utf8_lossy(&replay.stderr));
    assert!(replay.status.success(), "{out}{err}");
    let traces: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [pool, heap] = &traces[..] else { panic!("{out}") };
    assert_eq!(
        (&pool["peak_requested_bytes"], &pool["live_at_end_bytes"], &pool["events"]),
        (&((8 << 20) + (100 << 10)).into(), &(3 << 20).into(), &13.into())
    );
    let reserved = pool["run_reserved_bytes"].as_u64().unwrap();
    let recorded = timeline
        .events()
        .iter()
        .filter(|event| event.action == Action::Reserve)
        .map(|event| event.bytes)
        .max()
        .unwrap();
    assert!(reserved >= (8 << 20) + (100 << 10) && reserved <= recorded, "{reserved} of {recorded}");
    assert_eq!((&heap["peak_requested_bytes"], &heap["run_reserved_bytes"]), (&4000.into(), &4000.into()));
}

#[cfg(unix)]
#[test]
fn the_child_of_a_fork_goes_on_by_itself() {
    let _alone = alone();
    timeline::start(Options::new()).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                drop(zeros(1 << 16));
            }
        });
        for _ in 0..50 {
            let ended = fork::in_child(|| {
                drop(Scope::new("child").run(|| zeros(1 << 20)));
                timeline::stop().is_ok_and(|timeline| named(&timeline, "child").count() == 1)
            });
            assert_eq!(ended, fork::RIGHT);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let timeline = timeline::stop().unwrap();
    assert_eq!(named(&timeline, "child").count(), 0);
}

#[cfg(feature = "backtrace")]
#[test]
fn stacks_name_the_callers() {
    #[inline(never)]
    fn a_function_with_a_telling_name() -> Tensor {
        std::hint::black_box(zeros(1 << 20))
    }
    let _alone = alone();
    timeline::start(Options::new().stacks(40)).unwrap();
    let _tensor = a_function_with_a_telling_name();
    let timeline = timeline::stop().unwrap();
    let taken = timeline.events().iter().find(|event| event.action == Action::Allocate).unwrap();
    let stack = timeline.stack(taken.stack);
    assert!(
        stack.iter().any(|frame| frame.function.contains("a_function_with_a_telling_name")
            && frame.file.ends_with("timeline.rs")),
        "{stack:?}"
    );
    assert!(
        stack.iter().take(2).all(|frame| !frame.function.contains("democratising::timeline::")),
        "{stack:?}"
    );
    assert_eq!(Timeline::read_from(text(&timeline).as_bytes()).unwrap(), timeline);
}

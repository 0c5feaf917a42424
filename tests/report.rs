//! The program `democratising report`: its summary, its drawing, and its page in a real browser.

#![cfg(feature = "cli")]

use democratising::Tensor;
use democratising::pool::budget::scope::Scope;
use democratising::timeline::{self, Action, Options, Place, Timeline};
use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output};

const RESNET: &str = "tests/data/resnet50_train.trace.gz";

fn report(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_democratising"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).arg("report").args(arguments).output().unwrap()
}

fn said(output: &Output) -> (Option<i32>, String) {
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.code(), String::from_utf8(all).unwrap())
}

/// Some steps, with a holder whose name wants to be a part of the page, recorded once for all tests of the process.
fn recording(folder: &Path) -> (String, Timeline) {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _alone = ALONE.lock().unwrap();
    timeline::start(Options::new()).unwrap();
    let weights = Scope::new("</script><b>weights").run(|| Tensor::zeros(&[3 << 18]).unwrap());
    let adopted = Tensor::new(&[1000], vec![1.0f32; 1000]).unwrap();
    for step in 0..20 {
        timeline::mark(&format!("step {step}"));
        let rows = 1 + step % 7;
        let all: Vec<Tensor> = Scope::new("activations")
            .run(|| (1..30).map(|layer| Tensor::zeros(&[rows, layer * 1500]).unwrap()).collect());
        drop(Scope::new("gradients").run(|| Tensor::zeros(&[5 << 18]).unwrap()));
        drop(all);
    }
    drop((weights, adopted));
    let timeline = timeline::stop().unwrap();
    let path = folder.join("run.timeline");
    timeline.save(&path).unwrap();
    (path.to_str().unwrap().to_owned(), timeline)
}

#[test]
fn a_recording_is_summed_up_in_a_few_lines() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = recording(folder.path());
    let (code, text) = said(&report(&[&path]));
    assert_eq!(code, Some(0), "{text}");
    for wanted in [
        "run.timeline, pool (pool, as recorded)",
        "run.timeline, heap",
        "activations",
        "</script><b>weights",
        "live at the end 0 B",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}

#[test]
fn a_trace_is_summed_up_with_the_numbers_of_its_replay() {
    let (code, text) = said(&report(&[RESNET]));
    assert_eq!(code, Some(0), "{text}");
    for wanted in [
        "peak requested 5,495.2 MiB",
        "peak reserved  5,524.0 MiB, 99.5 %",
        "blocks from 64 MiB",
        "live at the end 0 B",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}

#[test]
fn what_cannot_be_read_or_written_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.timeline");
    std::fs::write(&broken, "democratising timeline 1\nbegan 5\nallocate\nend 0\n").unwrap();
    let broken = broken.to_str().unwrap();
    let (page, trace) = (folder.path().join("page.html"), folder.path().join("a.trace"));
    std::fs::write(&trace, "a 0 8\n").unwrap();
    let (page, trace) = (page.to_str().unwrap(), trace.to_str().unwrap());
    for (arguments, wanted) in [
        (&[broken][..], "line 3"),
        (&["no/such/file"][..], "cannot be opened"),
        (&[RESNET, "--html", "no/such/folder/page.html"][..], "cannot be written"),
        #[cfg(unix)]
        (&[RESNET, "--svg", "/dev/null"][..], "no regular file"),
        (&[trace, "--html", trace][..], "is read"),
        (&[trace, "--svg", trace][..], "is read"),
        (&[trace, "--html", page, "--svg", page][..], "twice"),
    ] {
        let (code, text) = said(&report(arguments));
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(wanted) && text.trim_end().lines().count() == 1, "{wanted}: {text}");
    }
    assert_eq!(std::fs::read_to_string(trace).unwrap(), "a 0 8\n");
}

#[cfg(target_os = "linux")]
#[test]
fn a_page_in_shared_memory_is_written_again() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let (page, trace) = (folder.path().join("page.html"), folder.path().join("a.trace"));
    std::fs::write(&trace, "a 0 8\n").unwrap();
    for _ in 0..2 {
        let (code, text) = said(&report(&[trace.to_str().unwrap(), "--html", page.to_str().unwrap()]));
        assert_eq!(code, Some(0), "{text}");
    }
}

#[test]
fn sums_that_cannot_be_counted_end_at_the_largest_number() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.timeline");
    let (half, all) = (u64::MAX / 2, u64::MAX);
    let mut lines = format!("reserve 1 pool 0 5 {all} 0 0 0 -\n").repeat(2);
    for address in 1..5 {
        lines += &format!("allocate 1 pool {address} {half} {half} 0 0 0 -\n");
    }
    lines += &format!("free 1 pool 2 {half} {half} 0 0 0 -\n");
    let text = format!("democratising timeline 1\nname \"a\"\nthread \"t\"\n{lines}end 7\n");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap();
    let (svg, html) = (folder.path().join("a.svg"), folder.path().join("a.html"));
    for arguments in
        [&[path][..], &[path, "--svg", svg.to_str().unwrap()], &[path, "--html", html.to_str().unwrap()]]
    {
        let (code, text) = said(&report(arguments));
        assert_eq!(code, Some(0), "{text}");
    }
}

#[test]
fn the_drawing_is_well_formed_and_names_the_peak() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = recording(folder.path());
    let out = folder.path().join("memory.svg");
    assert_eq!(said(&report(&[&path, "--svg", out.to_str().unwrap()])), (Some(0), String::new()));
    let text = std::fs::read_to_string(out).unwrap();
    let drawing = roxmltree::Document::parse(&text).unwrap();
    assert!(drawing.descendants().any(|node| node.text() == Some("run.timeline, pool")));
}

/// What the browser makes of a page at an instant; `None` where there is no browser, which CI does not allow.
fn dump(page: &Path, instant: &str) -> Option<String> {
    let home = tempfile::tempdir().unwrap();
    let mut command = chromium(home.path())?;
    let address = format!("file://{}#{instant}", page.display());
    let output = command.args(["--virtual-time-budget=5000", "--dump-dom", &address]).output().unwrap();
    let dom = String::from_utf8(output.stdout).unwrap();
    assert!(
        dom.contains("data-ready=\"yes\"") && !dom.contains("data-error"),
        "{instant}: {}",
        &dom[..dom.len().min(2000)]
    );
    Some(dom)
}

fn chromium(home: &Path) -> Option<Command> {
    let found =
        Command::new("chromium").arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        assert!(std::env::var_os("CI").is_none(), "chromium is missing; install Debian's package chromium");
        eprintln!("NOT TESTED: the page in a browser; install chromium");
        return None;
    }
    let mut command = Command::new("chromium");
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
    ]);
    command.arg(format!("--user-data-dir={}", home.display()));
    Some(command)
}

/// A `data-` attribute of the element with an id.
fn data(dom: &str, id: &str, name: &str) -> u64 {
    let element = dom.split(&format!("id=\"{id}\"")).nth(1).and_then(|rest| rest.split('>').next());
    let value = element.and_then(|element| element.split(&format!("data-{name}=\"")).nth(1));
    let value = value.and_then(|rest| rest.split('"').next());
    value.unwrap_or_else(|| panic!("{id} has data-{name}")).parse().unwrap()
}

fn fact(dom: &str, name: &str) -> u64 {
    let rest = dom.split(&format!("<dt>{name}</dt>")).nth(1).unwrap_or_else(|| panic!("{name} is told"));
    rest.split("data-value=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap()
}

/// Live blocks after so many steps of a place, as the page counts steps: address to requested bytes, bytes of the block and name.
fn live(timeline: &Timeline, place: Place, steps: usize) -> HashMap<u64, (u64, u64, u32)> {
    let mut live = HashMap::new();
    let mut done = 0;
    for event in timeline.before().iter().chain(timeline.events()).filter(|event| event.place == place) {
        if !matches!(event.action, Action::Allocate | Action::Free | Action::Reserve | Action::OutOfMemory)
            || done == steps
        {
            continue;
        }
        done += 1;
        match event.action {
            Action::Allocate => drop(live.insert(event.address, (event.bytes, event.more, event.name))),
            Action::Free => drop(live.remove(&event.address)),
            _ => {}
        }
    }
    live
}

#[test]
fn the_page_shows_every_live_block_once_at_any_instant_and_sums_that_agree() {
    let folder = tempfile::tempdir().unwrap();
    let (path, timeline) = recording(folder.path());
    let page = folder.path().join("page.html");
    assert_eq!(said(&report(&[&path, "--html", page.to_str().unwrap()])), (Some(0), String::new()));
    let text = std::fs::read_to_string(&page).unwrap();
    assert!(!text.contains("<b>weights") && !text.contains("http"), "it asks nobody, and runs no name");
    for (place, number, steps) in [
        (Place::Pool, 0, 1),
        (Place::Pool, 0, 60),
        (Place::Pool, 0, 555),
        (Place::Pool, 0, 10_000),
        (Place::Heap, 1, 1),
    ] {
        let Some(dom) = dump(&page, &format!("m={number}&t={steps}")) else { return };
        let live = live(&timeline, place, steps);
        let requested: u64 = live.values().map(|block| block.0).sum();
        let held: u64 = live.values().map(|block| block.1).sum();
        assert_eq!(fact(&dom, "Requested"), requested, "after {steps} steps");
        assert_eq!((fact(&dom, "In blocks"), fact(&dom, "Blocks")), (held, live.len() as u64));
        assert_eq!((data(&dom, "map", "spans"), data(&dom, "map", "bytes")), (live.len() as u64, held));
        assert_eq!(data(&dom, "map", "overlaps"), 0);
        let holders: u64 = dom
            .split("<tr data-bytes=\"")
            .skip(1)
            .map(|row| row.split('"').next().unwrap().parse::<u64>().unwrap())
            .sum();
        assert_eq!(holders, requested);
        assert!(!dom.contains("<b>weights"));
    }
}

/// A recording of blocks of one size in a place.
fn blocks(folder: &Path, place: &str, count: u64, bytes: u64) -> String {
    let mut text =
        String::from("democratising timeline 1\nbegan 1\ndropped 0\nname \"all\"\nthread \"main\"\n");
    for number in 0..count {
        text += &format!("allocate {number} {place} {:x} {bytes} {bytes} 0 0 0 -\n", number * bytes);
    }
    let path = folder.join(format!("{place}.timeline"));
    std::fs::write(&path, format!("{text}end {count}\n")).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_page_draws_blocks_of_any_size() {
    let folder = tempfile::tempdir().unwrap();
    for (place, count, bytes) in [("heap", 100, 64 << 30), ("pool", 3, 1 << 60)] {
        let recording = blocks(folder.path(), place, count, bytes);
        let page = folder.path().join("page.html");
        assert_eq!(said(&report(&[&recording, "--html", page.to_str().unwrap()])), (Some(0), String::new()));
        let Some(dom) = dump(&page, &format!("t={count}")) else { return };
        // The page counts in floating point.
        let requested = fact(&dom, "Requested") as f64;
        assert_eq!((data(&dom, "map", "spans"), requested), (count, (count * bytes) as f64));
    }
}

#[test]
fn the_drawing_of_memory_without_frames_tells_of_none() {
    let folder = tempfile::tempdir().unwrap();
    for (place, told) in [("heap", false), ("pool", true)] {
        let recording = blocks(folder.path(), place, 3, 1 << 20);
        let out = folder.path().join("memory.svg");
        assert_eq!(said(&report(&[&recording, "--svg", out.to_str().unwrap()])), (Some(0), String::new()));
        let text = std::fs::read_to_string(out).unwrap();
        assert!(text.contains("3.0 MiB requested"), "{text}");
        for word in ["reserved", "efficiency", "free inside committed frames", "creates"] {
            assert_eq!(text.contains(word), told, "{place}: {word}");
        }
    }
}

/// Valgrind's viewer with the data in it, as if a person had chosen the file.
#[test]
fn dhats_own_viewer_opens_the_export() {
    let folder = tempfile::tempdir().unwrap();
    let (_, timeline) = recording(folder.path());
    let viewers = ["/usr/libexec/valgrind", "/usr/lib/valgrind", "/usr/lib/x86_64-linux-gnu/valgrind"];
    let Some(viewer) = viewers.map(Path::new).into_iter().find(|path| path.join("dh_view.js").exists())
    else {
        assert!(std::env::var_os("CI").is_none(), "dh_view.js is missing; install Debian's package valgrind");
        eprintln!("NOT TESTED: DHAT's viewer; install valgrind");
        return;
    };
    let mut dhat = Vec::new();
    timeline.write_dhat(&mut dhat).unwrap();
    let data = String::from_utf8(dhat).unwrap().replace('<', "\\u003c");
    let script = std::fs::read_to_string(viewer.join("dh_view.js")).unwrap();
    let begin = format!(
        "setTimeout(() => {{ gData = {data}; buildTree(); displayTree(0, 0, 0); document.documentElement.dataset.ready = 'yes'; }}, 200);"
    );
    std::fs::write(folder.path().join("dh_view.js"), script + &begin).unwrap();
    for name in ["dh_view.html", "dh_view.css"] {
        std::fs::copy(viewer.join(name), folder.path().join(name)).unwrap();
    }
    let Some(dom) = dump(&folder.path().join("dh_view.html"), "") else { return };
    for wanted in ["memory: pool", "scope: activations", "t-gmax", "5,242,880 bytes"] {
        assert!(dom.contains(wanted), "{wanted} is shown");
    }
}

#[test]
fn the_page_of_a_trace_opens_at_its_peak_and_can_be_photographed_light_and_dark() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    assert_eq!(said(&report(&[RESNET, "--html", page.to_str().unwrap()])), (Some(0), String::new()));
    assert!(std::fs::metadata(&page).unwrap().len() < 1 << 20);
    let Some(dom) = dump(&page, "") else { return };
    let replay = Command::new(env!("CARGO_BIN_EXE_democratising"))
        .args(["replay", "--json", "--repeat", "1", RESNET])
        .output()
        .unwrap();
    let replay: serde_json::Value = serde_json::from_slice(&replay.stdout).unwrap();
    assert_eq!(fact(&dom, "Requested"), replay["peak_requested_bytes"].as_u64().unwrap());
    assert!(fact(&dom, "Reserved") >= fact(&dom, "In blocks"));
    let keep = std::env::var_os("DEMOCRATISING_SCREENSHOTS").map(std::path::PathBuf::from);
    for (name, width, dark) in [("light", 1280, false), ("dark", 1280, true), ("narrow", 400, false)] {
        let home = tempfile::tempdir().unwrap();
        let out = keep.as_deref().unwrap_or(folder.path()).join(format!("{name}.png"));
        let mut command = chromium(home.path()).unwrap();
        command.args(dark.then_some("--blink-settings=preferredColorScheme=0"));
        command.args(["--virtual-time-budget=5000", &format!("--window-size={width},1900")]);
        command.arg(format!("--screenshot={}", out.display())).arg(format!("file://{}", page.display()));
        assert!(command.output().unwrap().status.success());
        let picture = std::fs::read(&out).unwrap();
        assert!(picture.starts_with(b"\x89PNG") && picture.len() > 20_000, "{name}: {} bytes", picture.len());
    }
}

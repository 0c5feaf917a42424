//! The program `democratising replay`, run as a user runs it.

#![cfg(feature = "cli")]

#[path = "common/start.rs"]
mod start;

use flate2::{Compression, write::GzEncoder};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const MIB: f64 = 1048576.0;
const RESNET: &str = "tests/data/resnet50_train.trace.gz";
const BERT: &str = "tests/data/bert_serve_dynamic.trace.gz";
/// Ids 0 and 1, a phase, and a line that is none of ours; everything is freed.
const SMALL: &str = "# small\na 0 3000000\nm second\na 1 100\nf 0\nf 1\n";

fn replay(arguments: &[&str]) -> Output {
    start::output(&mut command(arguments)).expect("the program starts")
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_democratising"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).arg("replay").args(arguments);
    command
}

/// Runs with `text` on standard input.
fn piped(arguments: &[&str], text: &[u8]) -> Output {
    let mut command = command(arguments);
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = start::start(piped).expect("the program starts");
    // The program may stop reading at the first broken line.
    let _ = child.stdin.take().expect("standard input is a pipe").write_all(text);
    child.wait_with_output().expect("the program ends")
}

/// A directory with one file.
fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let path = directory.path().join(name);
    fs::write(&path, bytes).expect("a file for the test");
    (directory, path)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("output is UTF-8")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

/// The objects that a run with `--json` printed; it must have ended well and quietly.
fn objects(output: &Output) -> Vec<Value> {
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line is an object"))
        .collect()
}

fn object(arguments: &[&str]) -> Value {
    let mut all = objects(&replay(arguments));
    assert_eq!(all.len(), 1, "one trace, one line");
    all.remove(0)
}

fn number(object: &Value, key: &str) -> f64 {
    object[key].as_f64().unwrap_or_else(|| panic!("{key} is a number in {object}"))
}

/// Exit code 2, nothing on standard output, one line on standard error that begins so.
fn assert_refused(output: &Output, beginning: &str) {
    let message = text(&output.stderr);
    assert!(message.starts_with(beginning), "expected {beginning:?}, but it said {message:?}");
    assert_eq!(message.matches('\n').count(), 1, "one line: {message:?}");
    assert!(message.ends_with('\n'), "{message:?}");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(2), ""));
}

fn assert_trace_is_refused(trace: &[u8], place: &str, problem: &str) {
    let (_directory, path) = file("broken.trace", trace);
    let path = path.to_str().expect("a plain path");
    assert_refused(&replay(&[path]), &format!("democratising: {path}{place}: {problem}"));
    assert_refused(&replay(&["--json", path]), &format!("democratising: {path}{place}: {problem}"));
    assert_refused(&piped(&["-"], trace), &format!("democratising: standard input{place}: {problem}"));
}

#[test]
fn broken_lines_are_named_with_their_number_and_what_was_expected() {
    for line in ["a 1", "a", "a x 5", "a 1 -5", "a 1 2 3", "a 1 5.0", "a 1 99999999999999999999"] {
        let wanted = format!("broken line {line:?}; an allocation is `a ID BYTES`, in decimal numbers");
        assert_trace_is_refused(format!("a 0 8\nm phase\n{line}\nf 0\n").as_bytes(), ":3", &wanted);
    }
    for line in ["f", "f 1 2", "f one", "f -1"] {
        let wanted = format!("broken line {line:?}; a free is `f ID`, in decimal numbers");
        assert_trace_is_refused(format!("a 0 8\n{line}\n").as_bytes(), ":2", &wanted);
    }
    // Bytes that are no text are shown, not printed.
    assert_trace_is_refused(b"a \x1b[2J\xff 1\n", ":1", "broken line \"a \\u{1b}[2J\u{fffd} 1\";");
}

#[test]
fn an_id_that_is_used_twice_is_named_with_its_line() {
    assert_trace_is_refused(b"a 0 8\na 0 8\n", ":2", "id 0 is allocated again while it is live;");
    assert_trace_is_refused(b"a 0 8\nf 0\na 0 8\n", ":3", "id 0 is allocated again after its free;");
}

#[test]
fn a_free_of_an_unknown_or_freed_id_is_named_with_its_line() {
    assert_trace_is_refused(b"a 0 8\n\nf 1\n", ":3", "id 1 is freed, but no line before allocates it;");
    assert_trace_is_refused(
        b"f 18446744073709551615\n",
        ":1",
        "id 18446744073709551615 is freed, but no line",
    );
    assert_trace_is_refused(b"a 0 8\nf 0\nf 0\n", ":3", "id 0 is freed twice;");
}

#[test]
fn a_wild_id_is_refused_and_costs_no_memory() {
    assert_trace_is_refused(
        b"a 18446744073709551615 8\n",
        ":1",
        "id 18446744073709551615 behind 0 allocations;",
    );
    assert_trace_is_refused(b"a 0 1\na 4294967296 8\n", ":2", "id 4294967296 behind 1 allocations;");
}

#[test]
fn sizes_that_add_up_to_more_than_64_bits_are_refused() {
    assert_trace_is_refused(
        b"a 0 18446744073709551615\na 1 1\n",
        ":2",
        "id 1 brings the live bytes beyond 64 bits",
    );
}

#[test]
fn an_input_without_events_is_refused() {
    assert_trace_is_refused(b"", "", "it is empty; a trace has lines");
    assert_trace_is_refused(b"m one\nhello\n", "", "no event in 2 lines; a trace has lines");
    assert_trace_is_refused(&gzip(b""), "", "it is empty; a trace has lines");
}

#[test]
fn truncated_gzip_is_named_with_the_line_it_ends_in() {
    let whole = fs::read(RESNET).expect("the trace is shipped");
    assert_trace_is_refused(&whole[..whole.len() - 1], ":17215", "the gzip data ends too early;");
    assert_trace_is_refused(&whole[..5], ":1", "the gzip data ends too early;");
    let (_directory, path) = file("half.trace.gz", &whole[..whole.len() / 2]);
    let output = replay(&[path.to_str().expect("a plain path")]);
    let line =
        text(&output.stderr).rsplit_once(": the gzip data ends too early;").expect("says what is wrong").0;
    let line: u64 = line.rsplit_once(':').expect("has a line number").1.parse().expect("has a line number");
    assert!((1000..17_000).contains(&line), "half of the file is some thousand lines, not {line}");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn corrupt_gzip_is_refused() {
    let mut changed = gzip(SMALL.as_bytes());
    let checksum = changed.len() - 8;
    changed[checksum] ^= 1;
    assert_trace_is_refused(&changed, ":7", "the gzip data is corrupt (");
    let mut garbage = gzip(SMALL.as_bytes());
    garbage[10..].fill(0xff);
    assert_trace_is_refused(&garbage, ":1", "the gzip data is corrupt (");
}

#[test]
fn a_file_that_cannot_be_read_is_refused() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let missing = directory.path().join("missing.trace");
    let missing = missing.to_str().expect("a plain path");
    assert_refused(&replay(&[missing]), &format!("democratising: {missing}: cannot be opened: "));
    let path = directory.path().to_str().expect("a plain path");
    assert_refused(&replay(&[path]), &format!("democratising: {path}: cannot be "));
}

#[test]
fn options_that_cannot_be_are_refused_with_what_can() {
    for (option, value, wanted) in [
        ("--slack", "nan", "the slack is a share from 0 (tightest) to 1, as 0.03"),
        ("--slack", "-1", "the slack is a share from 0 (tightest) to 1, as 0.03"),
        ("--slack", "1.5", "the slack is a share from 0 (tightest) to 1, as 0.03"),
        ("--frame", "3", "a frame is a power of two of bytes from 64KiB to 1GiB, as 2MiB"),
        ("--frame", "0", "a frame is a power of two of bytes from 64KiB to 1GiB, as 2MiB"),
        ("--frame", "2MB", "write a whole number of bytes, as 2097152, 2M or 2MiB"),
        ("--limit", "0", "nothing could be allocated; leave the option out for no limit"),
        ("--limit", "-1", "write a whole number of bytes, as 2097152, 2M or 2MiB"),
        ("--repeat", "0", "0 is not in 1..=1000"),
        ("--space", "gpu", "[possible values: simulated, mapped, fixed, cuda]"),
    ] {
        let output = replay(&[option, value, RESNET]);
        let message = text(&output.stderr);
        assert!(message.contains(option) && message.contains(wanted), "{option} {value}: {message}");
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{option} {value}");
    }
    assert_eq!(replay(&[]).status.code(), Some(2), "a trace is needed");
    assert_refused(&piped(&["-", "-"], SMALL.as_bytes()), "democratising: -: standard input is named twice");
    let output = replay(&["--space", "mapped", "--frame", "4M", RESNET]);
    assert_refused(&output, "democratising: --frame: 4 MiB cannot be: mapped memory has frames of 2 MiB");
}

#[test]
fn every_spelling_of_a_frame_is_the_same_frame() {
    let run = |frame| {
        let mut object = object(&["--json", "--repeat", "1", "--frame", frame, RESNET]);
        object["ns_per_event"] = Value::Null;
        object
    };
    let wanted = run("4194304");
    assert_eq!(run("4M"), wanted);
    assert_eq!(run("4mib"), wanted);
    assert_ne!(run("2MiB"), wanted);
}

#[test]
fn json_has_exactly_the_documented_keys_in_order_with_their_types() {
    let output = replay(&["--json", "--repeat", "1", RESNET, BERT]);
    let keys = [
        ("trace", "string"),
        ("space", "string"),
        ("events", "count"),
        ("peak_requested_bytes", "count"),
        ("peak_reserved_bytes", "count"),
        ("efficiency", "number"),
        ("creates", "count"),
        ("steals", "count"),
        ("ns_per_event", if cfg!(unix) { "number" } else { "nothing" }),
        ("failures", "count"),
        ("live_at_end_bytes", "count"),
    ];
    let all = objects(&output);
    for (object, line) in all.iter().zip(text(&output.stdout).lines()) {
        let object = object.as_object().expect("an object");
        assert_eq!(object.len(), keys.len());
        let mut rest = line;
        for (key, kind) in keys {
            let value = &object[key];
            let fits = match kind {
                "string" => value.is_string(),
                "count" => value.is_u64(),
                "nothing" => value.is_null(),
                _ => value.is_f64(),
            };
            assert!(fits, "{key} is a {kind}, not {value}");
            rest = rest.split_once(&format!("\"{key}\":")).expect("the keys are in order").1;
        }
    }
    let names: Vec<&Value> = all.iter().map(|object| &object["trace"]).collect();
    assert_eq!(names, ["resnet50_train", "bert_serve_dynamic"]);
}

/// One run over both shipped traces.
fn shipped(arguments: &[&str]) -> Vec<Value> {
    let all = objects(&replay(&[&["--json", "--repeat", "1"], arguments, &[RESNET, BERT]].concat()));
    let known = [("resnet50_train", 17_198.0, 5_495.2), ("bert_serve_dynamic", 96_740.0, 1_569.5)];
    assert_eq!(all.len(), known.len());
    for (object, (name, events, peak_mib)) in all.iter().zip(known) {
        assert_eq!((&object["trace"], number(object, "events")), (&Value::from(name), events));
        assert_eq!(number(object, "live_at_end_bytes"), 0.0, "{object}");
        // Only Unix tells a thread's CPU time.
        assert!(!cfg!(unix) || number(object, "ns_per_event") > 0.0, "{object}");
        if number(object, "failures") == 0.0 {
            let requested_mib = number(object, "peak_requested_bytes") / MIB;
            assert!((requested_mib - peak_mib).abs() < 0.05, "{object}");
        }
        let efficiency = number(object, "peak_requested_bytes") / number(object, "peak_reserved_bytes");
        assert!((number(object, "efficiency") - efficiency).abs() < 1e-12 && efficiency <= 1.0, "{object}");
    }
    all
}

#[test]
fn little_more_is_reserved_than_requested_on_simulated_and_mapped_memory() {
    for space in ["simulated", "mapped"] {
        for (slack, bar) in [("0", 0.985), ("0.03", 0.955)] {
            for object in shipped(&["--space", space, "--slack", slack]) {
                assert_eq!(object["space"], space);
                assert!(number(&object, "efficiency") >= bar, "slack {slack}: {object}");
                assert_eq!(number(&object, "failures"), 0.0, "{object}");
                assert!(number(&object, "creates") > 700.0, "{object}");
            }
        }
    }
}

#[test]
fn slack_buys_fewer_steals_with_more_memory() {
    let (tight, slack) = (shipped(&["--slack", "0"]), shipped(&["--slack", "0.1"]));
    for (tight, slack) in tight.iter().zip(&slack) {
        assert!(number(tight, "steals") > number(slack, "steals"), "{tight} {slack}");
        assert!(
            number(tight, "peak_reserved_bytes") < number(slack, "peak_reserved_bytes"),
            "{tight} {slack}"
        );
    }
}

#[test]
fn a_fixed_range_of_an_eighth_more_than_the_demand_serves_every_request() {
    for object in shipped(&["--space", "fixed", "--index", "tree"]) {
        assert_eq!((number(&object, "failures"), number(&object, "creates")), (0.0, 0.0), "{object}");
        assert!(number(&object, "efficiency") > 8.0 / 9.0, "{object}");
    }
}

#[test]
fn the_fit_table_is_what_divides_a_fixed_range_and_refuses_one_request_in_a_thousand_at_most() {
    let fields = ["efficiency", "failures", "peak_reserved_bytes"];
    let (own, fit) = (shipped(&["--space", "fixed"]), shipped(&["--space", "fixed", "--index", "fit"]));
    for (own, fit) in own.iter().zip(&fit) {
        assert_eq!(fields.map(|field| number(own, field)), fields.map(|field| number(fit, field)));
        assert!(number(own, "failures") * 1000.0 < number(own, "events"), "{own}");
        assert!(number(own, "efficiency") > 0.87, "{own}");
    }
}

#[test]
fn either_index_reserves_little_more_than_requested_and_they_differ() {
    for space in ["simulated", "mapped"] {
        let with = |index| shipped(&["--space", space, "--slack", "0", "--index", index]);
        for (tree, fit) in with("tree").iter().zip(&with("fit")) {
            assert_ne!(number(tree, "steals"), number(fit, "steals"), "{tree} {fit}");
            for object in [tree, fit] {
                assert!(number(object, "efficiency") >= 0.985, "{object}");
                let lost = number(object, "failures") + number(object, "live_at_end_bytes");
                assert_eq!(lost, 0.0, "{object}");
            }
        }
    }
}

#[test]
fn under_a_limit_allocations_fail_and_no_more_than_the_limit_is_reserved() {
    for space in ["simulated", "mapped", "fixed"] {
        for object in shipped(&["--space", space, "--limit", "1GiB"]) {
            assert!(number(&object, "failures") > 0.0, "{object}");
            assert!(number(&object, "peak_reserved_bytes") <= 1024.0 * MIB, "{object}");
            assert!(number(&object, "peak_requested_bytes") > 900.0 * MIB, "{object}");
        }
    }
}

#[test]
fn sizes_of_nothing_and_of_everything_are_replayed() {
    let trace = b"a 0 0\na 1 18446744073709551614\na 2 1\nf 0\nf 1\nf 2\n";
    for space in ["simulated", "mapped", "fixed"] {
        let limit: &[&str] = if space == "fixed" { &["--limit", "1M"] } else { &[] };
        let all = objects(&piped(&[&["--json", "--space", space], limit, &["-"]].concat(), trace));
        assert_eq!(all[0]["trace"], "stdin");
        assert_eq!(
            (number(&all[0], "failures"), number(&all[0], "peak_requested_bytes")),
            (1.0, 1.0),
            "{}",
            all[0]
        );
    }
    let output = piped(&["--space", "fixed", "-"], trace);
    let message = text(&output.stderr);
    assert!(message.starts_with("democratising: cannot have a fixed range of "), "{message}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn what_is_never_freed_is_live_at_the_end() {
    let output = piped(&["--json", "-"], b"a 0 1000\na 1 300\nf 0\n");
    assert_eq!(number(&objects(&output)[0], "live_at_end_bytes"), 300.0);
}

#[test]
fn plain_text_and_gzip_are_told_apart_by_content() {
    let (_plain, plain) = file("misleading.trace.gz", SMALL.as_bytes());
    let (_packed, packed) = file("misleading.trace", &gzip(SMALL.as_bytes()));
    let run = |path: &Path| object(&["--json", path.to_str().expect("a plain path")]);
    let (plain, packed) = (run(&plain), run(&packed));
    assert_eq!((number(&plain, "events"), number(&packed, "events")), (4.0, 4.0));
    assert_eq!((&plain["trace"], &packed["trace"]), (&Value::from("misleading"), &Value::from("misleading")));
    assert_eq!(objects(&piped(&["--json", "-"], &gzip(SMALL.as_bytes())))[0]["events"], 4);
}

#[test]
fn a_person_reads_an_aligned_record_with_pytorch_beside_it_and_a_summary() {
    let output = replay(&["--repeat", "1", RESNET, BERT]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    let report = text(&output.stdout);
    for line in [
        "resnet50_train on simulated memory (frames of 2 MiB, slack 3 %)",
        "  events                        17,198",
        "  peak requested           5,495.2 MiB",
        "    PyTorch, default         8,402 MiB    65.4 %",
        "    PyTorch, expandable      5,568 MiB    98.7 %",
        "  failed allocations                 0",
        "  live at the end                  0 B",
        "    PyTorch, default         2,536 MiB    61.9 %",
    ] {
        assert!(report.lines().any(|found| found == line), "no line {line:?} in\n{report}");
    }
    let summary = report.lines().last().expect("there is output");
    assert!(summary.starts_with("2 traces: efficiency ") && summary.contains(" worst ("), "{summary}");
    assert!(summary.ends_with(" steals"), "{summary}");
}

#[test]
fn reports_before_a_broken_trace_are_printed_and_those_after_it_are_not() {
    let (_directory, path) = file("broken.trace", b"a 0 8\na 1\n");
    let path = path.to_str().expect("a plain path");
    let output = replay(&["--json", "--repeat", "1", RESNET, path, BERT]);
    assert_eq!(output.status.code(), Some(2));
    let lines: Vec<&str> = text(&output.stdout).lines().collect();
    assert_eq!(lines.len(), 1);
    assert!(lines[0].starts_with("{\"trace\":\"resnet50_train\""));
    assert!(text(&output.stderr).starts_with(&format!("democratising: {path}:2: broken line \"a 1\";")));
}

#[test]
fn a_drawing_is_well_formed_has_a_panel_for_each_trace_and_few_points() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    // Windows has no such names.
    let name = if cfg!(windows) { "odd & 'name'.trace" } else { "odd <&> \"name\".trace" };
    let (_odd, odd) = file(name, SMALL.replace("second", "1 < 2 & \u{7}").as_bytes());
    let svg = directory.path().join("memory.svg");
    let arguments = ["--repeat", "1", "--svg", svg.to_str().expect("a plain path"), RESNET, BERT];
    let output = replay(&[&arguments[..], &[odd.to_str().expect("a plain path")]].concat());
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    let drawing = fs::read_to_string(&svg).expect("the drawing is there");
    assert!(drawing.len() < 500_000, "{} bytes", drawing.len());
    let document = roxmltree::Document::parse(&drawing).expect("the drawing is XML");
    let texts: Vec<&str> =
        document.descendants().filter(|node| node.is_text()).filter_map(|node| node.text()).collect();
    for wanted in [
        "resnet50_train",
        "bert_serve_dynamic",
        name.trim_end_matches(".trace"),
        "GiB",
        "MiB",
        "16 phases, marked by vertical lines",
    ] {
        assert!(texts.contains(&wanted), "no text {wanted:?}");
    }
    for legend in ["reserved", "requested", "free inside committed frames", "events"] {
        assert_eq!(texts.iter().filter(|text| **text == legend).count(), 3, "{legend}");
    }
    assert!(texts.contains(&"1 < 2 & \u{fffd}"), "the phase is a tooltip");
    let curves: Vec<&str> = document
        .descendants()
        .filter(|node| node.attribute("stroke-linejoin").is_some())
        .filter_map(|node| node.attribute("d"))
        .collect();
    assert_eq!(curves.len(), 9, "three curves in each of three panels");
    for curve in curves {
        let points = curve.matches(['M', 'L']).count();
        assert!((5..=1210).contains(&points), "{points} points");
    }
    // Nothing stays beside it.
    assert_eq!(fs::read_dir(directory.path()).expect("the directory is there").count(), 1);
}

#[test]
fn a_drawing_is_there_whole_or_not_at_all() {
    let (directory, broken) = file("broken.trace", b"a 0 8\nf 1\n");
    let svg = directory.path().join("memory.svg");
    let (svg, broken) = (svg.to_str().expect("a plain path"), broken.to_str().expect("a plain path"));
    fs::write(svg, "what was there before").expect("a file for the test");
    assert_eq!(replay(&["--repeat", "1", "--svg", svg, RESNET, broken]).status.code(), Some(2));
    assert_eq!(fs::read_to_string(svg).expect("it is there"), "what was there before");
    assert_eq!(fs::read_dir(directory.path()).expect("the directory is there").count(), 2);
    assert_eq!(replay(&["--repeat", "1", "--svg", svg, RESNET]).status.code(), Some(0));
    assert!(fs::read_to_string(svg).expect("it is there").starts_with("<svg "));
}

#[test]
fn a_drawing_that_cannot_be_written_is_refused_before_the_replay() {
    let (directory, path) = file("a.trace", SMALL.as_bytes());
    let path = path.to_str().expect("a plain path");
    let long = "x".repeat(300);
    // Windows says of a name that it is too long when it is to be given.
    let more = if cfg!(windows) { &["NUL"][..] } else { &[&long, "/dev/null"] };
    for target in ["", "missing/memory.svg", "new.svg/"].iter().chain(more) {
        // An absolute path takes the directory's place.
        let target = directory.path().join(target);
        let target = target.to_str().expect("a plain path");
        assert_refused(&replay(&["--svg", target, path]), &format!("democratising: {target}: "));
    }
}

#[test]
fn a_drawing_does_not_take_the_place_of_a_trace() {
    let (directory, path) = file("a.trace", SMALL.as_bytes());
    let elsewhere = directory.path().join("../").join(directory.path().file_name().expect("it has a name"));
    for target in [path.clone(), elsewhere.join("a.trace")] {
        let (target, path) = (target.to_str().expect("a plain path"), path.to_str().expect("a plain path"));
        let beginning = format!("democratising: {target}: is read, and would be lost");
        assert_refused(&replay(&["--svg", target, RESNET, path]), &beginning);
    }
    assert_eq!(fs::read_to_string(&path).expect("it is there"), SMALL);
    // Two places that are not there are not the same.
    let output = replay(&["--svg", "no/such/memory.svg", "not/here/a.trace"]);
    assert_refused(&output, "democratising: no/such/memory.svg: the file cannot be written");
}

#[cfg(unix)]
#[test]
fn a_drawing_goes_through_a_link_and_can_be_read_by_others() {
    use std::os::unix::fs::PermissionsExt;
    let (directory, path) = file("a.trace", SMALL.as_bytes());
    let (real, link) = (directory.path().join("real.svg"), directory.path().join("link.svg"));
    fs::write(&real, "").expect("a file for the test");
    std::os::unix::fs::symlink(&real, &link).expect("a link for the test");
    let (link_text, path) = (link.to_str().expect("a plain path"), path.to_str().expect("a plain path"));
    assert_eq!(replay(&["--svg", link_text, path]).status.code(), Some(0));
    assert!(fs::symlink_metadata(&link).expect("it is there").is_symlink());
    assert!(fs::read_to_string(&real).expect("it is there").starts_with("<svg "));
    let dead = directory.path().join("dead.svg");
    std::os::unix::fs::symlink("nowhere.svg", &dead).expect("a link for the test");
    let dead_text = dead.to_str().expect("a plain path");
    let beginning = format!("democratising: {dead_text}: is a link that leads nowhere");
    assert_refused(&replay(&["--svg", dead_text, path]), &beginning);
    let plain = directory.path().join("plain");
    fs::write(&plain, "").expect("a file for the test");
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode();
    assert_eq!(mode(&real), mode(&plain), "as any program makes a file under this umask");
}

#[test]
fn a_reader_that_leaves_ends_the_program_quietly() {
    for json in [&["--json"][..], &[]] {
        let mut command = command(&[json, &["--repeat", "1", RESNET, RESNET, RESNET]].concat());
        let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = start::start(piped).expect("the program starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("the program ends");
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written_is_an_error_of_the_machine() {
    for arguments in [&["--repeat", "1", RESNET][..], &["--help"]] {
        let full = fs::File::options().write(true).open("/dev/full").expect("Linux has it");
        let output = command(arguments).stdout(full).output().expect("the program starts");
        assert!(text(&output.stderr).starts_with("democratising: cannot write to standard output: "));
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn help_shows_the_format_an_example_and_the_version() {
    let help = replay(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    for wanted in [
        "a ID BYTES",
        "democratising replay tests/data/resnet50_train.trace.gz",
        "--svg <FILE>",
        "Exit codes",
    ] {
        assert!(text(&help.stdout).contains(wanted), "no {wanted:?} in the help");
    }
    let mut asked = Command::new(env!("CARGO_BIN_EXE_democratising"));
    let version = start::output(asked.arg("--version")).expect("it starts");
    assert_eq!(text(&version.stdout), concat!("democratising ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn a_pickle_that_nests_without_end_is_refused() {
    let many = 100_000;
    let lists = [b"\x80\x02", &vec![b']'; many][..], &vec![b'a'; many - 1], b"."].concat();
    let tuples = [&b"\x80\x02N"[..], &vec![0x85; many], b"."].concat();
    for pickle in [lists, tuples] {
        assert_trace_is_refused(
            &pickle,
            "",
            "it is a pickle, but no memory snapshot of PyTorch's: what it holds nests",
        );
        let (_directory, path) = file("deep.pickle", &pickle);
        let mut asked = Command::new(env!("CARGO_BIN_EXE_democratising"));
        let report = start::output(asked.arg("report").arg(path)).unwrap();
        assert_eq!((report.status.code(), text(&report.stderr).lines().count()), (Some(2), 1));
    }
}

#[test]
fn a_memory_snapshot_of_pytorchs_is_replayed_beside_what_the_run_reserved() {
    let output = replay(&["tests/data/snapshot.pickle.gz"]);
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(shown.starts_with("snapshot on simulated memory"), "{shown}");
    assert!(shown.contains("\n    in your run              800.0 MiB    32.3 %\n"), "{shown}");
    let output = replay(&["--json", "tests/data/snapshot.pickle.gz"]);
    assert!(text(&output.stdout).contains("\"run_reserved_bytes\":838860800}"), "{}", text(&output.stdout));
}

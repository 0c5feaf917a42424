//! Repeating steps on a device: from the second or third on the driver is not called any more, and the CPU time of an event is that of the
//! pool alone.
#![cfg(all(feature = "cuda", target_os = "linux"))]

#[path = "softcuda/harness.rs"]
mod harness;

use democratising::cuda;
use flate2::read::GzDecoder;
use harness::{Mode, in_modes};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

const LARGE: Mode = Mode("40 GiB", &[("SOFTCUDA_MEM_MIB", "40960"), ("SOFTCUDA_DEVICES", "1")]);

enum Event {
    Take(usize, usize),
    Give(usize),
    Phase,
}

/// The traces of the project that are shared beside the checkout, or those in it.
fn trace(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let beside =
        ["../shared/traces", "tests/data"].map(|folder| root.join(folder).join(format!("{name}.trace.gz")));
    let found = beside.into_iter().find(|path| path.exists());
    let chosen = std::env::var_os("DEMOCRATISING_TRACES")
        .map(|folder| Path::new(&folder).join(format!("{name}.trace.gz")));
    chosen.filter(|path| path.exists()).or(found)
}

fn events(path: &Path) -> Vec<Event> {
    let file = BufReader::new(GzDecoder::new(std::fs::File::open(path).unwrap()));
    let mut events = Vec::new();
    for line in file.lines() {
        let line = line.unwrap();
        let mut words = line.split(' ');
        let number = |text: Option<&str>| text.unwrap().parse::<usize>().unwrap();
        match words.next() {
            Some("a") => {
                let id = number(words.next());
                events.push(Event::Take(id, number(words.next())));
            }
            Some("f") => events.push(Event::Give(number(words.next()))),
            Some("m") => events.push(Event::Phase),
            _ => {}
        }
    }
    events
}

/// Calls of the driver in each phase, and nanoseconds of CPU for an event without the driver's own.
fn play(events: &[Event], outside_ns: f64) -> (Vec<u64>, f64) {
    let ids = events.iter().filter(|event| matches!(event, Event::Take(..))).count();
    let mut live = vec![(0u64, 0usize); ids];
    let mut calls = vec![harness::calls()];
    let (began, busy) = (harness::cpu_ns(), harness::busy_ns());
    for event in events {
        match *event {
            Event::Take(id, bytes) => {
                // SAFETY: 1. The default stream lives as long as the device.
                let at = unsafe { cuda::raw::allocate(bytes, 0, 0) }.unwrap();
                live[id] = (at, bytes);
            }
            Event::Give(id) => {
                let (at, bytes) = live[id];
                // SAFETY: 1. As above. 2. Nobody works on the block.
                unsafe { cuda::raw::free(at, bytes, 0, 0) }.unwrap();
            }
            Event::Phase => calls.push(harness::calls()),
        }
    }
    let spent = (harness::cpu_ns() - began).saturating_sub(harness::busy_ns() - busy) as f64;
    calls.push(harness::calls());
    let calls: Vec<u64> = calls.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let outside = outside_ns * calls.iter().sum::<u64>() as f64;
    (calls, (spent - outside).max(0.0) / events.len() as f64)
}

#[test]
fn the_last_step_of_a_training_calls_the_driver_not_once() {
    in_modes("the_last_step_of_a_training_calls_the_driver_not_once", &[LARGE], || {
        for name in ["gpt2_train", "resnet50_train"] {
            let Some(path) = trace(name) else {
                assert!(name != "resnet50_train", "{name} is in tests/data");
                println!("# {name}: the trace is not on this machine");
                continue;
            };
            let events = events(&path);
            democratising::gc::collect().unwrap();
            let outside = harness::outside_ns();
            let (calls, ns) = play(&events, outside);
            // Behind the last mark everything is given back.
            println!(
                "# {name}: driver calls by phase {calls:?}, {ns:.0} ns of CPU per event without the driver's"
            );
            assert!(calls[..3].iter().sum::<u64>() > 100, "the first phase maps memory: {calls:?}");
            let (_, ns) = play(&events, outside);
            let (again, best) = play(&events, outside);
            println!("# {name}: a third time {again:?}, {:.0} ns", best.min(ns));
            assert_eq!(calls.last(), Some(&0), "{name}: {calls:?}");
        }
    });
}

#[test]
fn every_trace_costs_little_without_the_driver() {
    in_modes("every_trace_costs_little_without_the_driver", &[LARGE], || {
        let names = [
            "bert_serve_dynamic",
            "gpt2_train",
            "llama1b_sft_varlen_ckpt",
            "llama8b_generate",
            "resnet50_train",
            "unet_diffusion_buckets",
        ];
        let outside = harness::outside_ns();
        println!("# {outside:.0} ns of each call are the software driver's clocks");
        let mut sum = (0.0, 0.0, 0);
        for path in names.iter().filter_map(|name| trace(name)) {
            let events = events(&path);
            // From nothing, as a program begins; then with the memory that it left.
            let cold = (0..3).map(|_| {
                democratising::gc::collect().unwrap();
                play(&events, outside).1
            });
            let cold = cold.fold(f64::INFINITY, f64::min);
            let warm = (0..3).map(|_| play(&events, outside).1).fold(f64::INFINITY, f64::min);
            let name = path.file_name().unwrap().to_string_lossy();
            println!(
                "# {name}: from nothing {cold:.0} ns per event, with memory that is mapped {warm:.0} ns"
            );
            sum = (sum.0 + cold, sum.1 + warm, sum.2 + 1);
            let stats = cuda::MemoryPool::stats(0).unwrap();
            assert_eq!(stats.pool.in_use_bytes, 0, "everything of the trace came back");
        }
        assert!(sum.2 > 0);
        let traces = f64::from(sum.2);
        println!(
            "# mean from nothing {:.0} ns, with memory that is mapped {:.0} ns",
            sum.0 / traces,
            sum.1 / traces
        );
    });
}

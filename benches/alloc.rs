//! The process's heap beside the system's allocator, in one process: hits, batches, large blocks, growth, zeros.
//!
//! Neither is the program's global allocator here: both are called through `GlobalAlloc`, so that only what is measured differs.
//! `benches/compare` measures whole programs.

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_main, measurement::WallTime};
use democratising::Global;
use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 16).expect("a size that can be")
}

/// A block, or the end: what follows would measure nothing.
fn take(from: &impl GlobalAlloc, layout: Layout) -> *mut u8 {
    // SAFETY: 1. No layout here is empty.
    let at = unsafe { from.alloc(black_box(layout)) };
    assert!(!at.is_null(), "{layout:?}");
    at
}

/// One after the other: a magazine's uppermost block.
fn pairs(group: &mut BenchmarkGroup<WallTime>, name: &str, from: &impl GlobalAlloc) {
    for bytes in [16, 100, 1024, 16 << 10] {
        let layout = layout(bytes);
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("pair of {bytes} bytes/{name}"), |b| {
            b.iter(|| {
                let at = black_box(take(from, layout));
                // SAFETY: 1. The block is live, of this layout, and nobody uses it.
                unsafe { from.dealloc(at, black_box(layout)) };
            });
        });
    }
}

/// More at a time than a magazine holds, freed in the same order or the other way round.
fn batches(group: &mut BenchmarkGroup<WallTime>, name: &str, from: &impl GlobalAlloc) {
    const BLOCKS: usize = 500;
    let layout = layout(48);
    group.throughput(Throughput::Elements(BLOCKS as u64));
    let mut blocks = Vec::with_capacity(BLOCKS);
    for (order, backwards) in [("first in, first out", false), ("last in, first out", true)] {
        group.bench_function(format!("{BLOCKS} blocks of 48 bytes, {order}/{name}"), |b| {
            b.iter(|| {
                blocks.extend((0..BLOCKS).map(|_| take(from, layout)));
                if backwards {
                    blocks.reverse();
                }
                // SAFETY: 1. Each is live, of this layout, and freed once.
                blocks.drain(..).for_each(|at| unsafe { from.dealloc(at, layout) });
            });
        });
    }
}

/// A block that is written once and given back.
fn large(group: &mut BenchmarkGroup<WallTime>, name: &str, from: &impl GlobalAlloc) {
    for bytes in [64 << 10, 1 << 20, 16 << 20] {
        let layout = layout(bytes);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("{} KiB written/{name}", bytes >> 10), |b| {
            b.iter(|| {
                let at = take(from, layout);
                // SAFETY: 1. The block has that many bytes. 2. It is freed once.
                unsafe {
                    at.write_bytes(1, bytes);
                    from.dealloc(black_box(at), layout);
                }
            });
        });
    }
}

/// A vector that doubles from 64 bytes on, another block behind it at each step.
fn growth(group: &mut BenchmarkGroup<WallTime>, name: &str, from: &impl GlobalAlloc) {
    for most in [16 << 10, 4 << 20] {
        group.throughput(Throughput::Bytes(most as u64));
        group.bench_function(format!("64 bytes grow to {} KiB/{name}", most >> 10), |b| {
            b.iter(|| {
                let (mut held, mut between) = (layout(64), Vec::with_capacity(32));
                let mut at = take(from, held);
                while held.size() < most {
                    between.push((take(from, held), held));
                    let bytes = held.size() * 2;
                    // SAFETY: 1. The block is live with this layout. 2. Its new half is written within it.
                    at = unsafe { from.realloc(at, held, bytes) };
                    assert!(!at.is_null(), "{bytes} bytes");
                    // SAFETY: 1. As above.
                    unsafe { at.add(held.size()).write_bytes(1, held.size()) };
                    held = layout(bytes);
                }
                between.push((at, held));
                // SAFETY: 1. Each is live, of its layout, and freed once.
                between.into_iter().for_each(|(at, layout)| unsafe { from.dealloc(at, layout) });
            });
        });
    }
}

/// Zeros that are read once, and written, so that the next ones have to be made.
fn zeros(group: &mut BenchmarkGroup<WallTime>, name: &str, from: &impl GlobalAlloc) {
    for bytes in [1 << 10, 64 << 10, 1 << 20, 16 << 20] {
        let layout = layout(bytes);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("{} KiB zeroed, a byte a page written/{name}", bytes >> 10), |b| {
            b.iter(|| {
                // SAFETY: 1. The layout is not empty. 2. Every place lies in the block. 3. It is freed once.
                unsafe {
                    let at = from.alloc_zeroed(layout);
                    assert!(!at.is_null(), "{layout:?}");
                    for place in (0..bytes).step_by(4096) {
                        let byte = at.add(place);
                        byte.write(black_box(byte.read()) + 1);
                    }
                    from.dealloc(black_box(at), layout);
                }
            });
        });
    }
}

fn all(criterion: &mut Criterion, name: &str, from: &impl GlobalAlloc) {
    pairs(&mut criterion.benchmark_group("hits"), name, from);
    batches(&mut criterion.benchmark_group("batches"), name, from);
    large(&mut criterion.benchmark_group("large"), name, from);
    growth(&mut criterion.benchmark_group("growth"), name, from);
    zeros(&mut criterion.benchmark_group("zeros"), name, from);
}

criterion_main!(benches);

/// Everything this file measures.
fn benches() {
    use std::time::Duration;
    let short = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(200));
    let mut criterion = short.measurement_time(Duration::from_millis(600)).configure_from_args();
    all(&mut criterion, "democratising", &Global);
    all(&mut criterion, "system", &System);
    criterion.final_summary();
}

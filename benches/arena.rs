//! The arena and the pool at work: pairs, churn, and a recorded training run over simulated device memory.

use benches::{Event, trace};
use criterion::{BatchSize, Criterion, Throughput, criterion_main};
use democratising::arena::Unlimited;
use democratising::space::{Mapped, MappedTables, Simulated};
use democratising::{Arena, HostLock, Pool, PoolConfig};
use std::alloc::Layout;
use std::hint::black_box;

fn pool() -> Pool<Mapped, HostLock> {
    let space = Mapped::reserve(4 << 30).expect("4 GiB of addresses, or a quarter of that");
    Pool::new(space, MappedTables, PoolConfig::DEFAULT).expect("tables for it")
}

fn pairs(c: &mut Criterion) {
    let mut group = c.benchmark_group("allocate and free");
    for bytes in [16, 1024, 64 << 10, 4 << 20] {
        let layout = Layout::from_size_align(bytes, 64).unwrap();
        let pool = pool();
        // One more of the size stays live, so that neither a slab nor a frame comes and goes with every pair.
        let _held = pool.allocate(layout).unwrap();
        group.bench_function(format!("{bytes} bytes"), |b| {
            b.iter(|| {
                let block = pool.allocate(black_box(layout)).unwrap();
                // SAFETY: 1. Nobody uses the block.
                unsafe { pool.free(black_box(block.addr), layout) }.unwrap();
            });
        });
    }
}

fn churn(c: &mut Criterion) {
    let mut group = c.benchmark_group("churn");
    group.throughput(Throughput::Elements(1000));
    group.bench_function("1000 live blocks of 16 bytes to 1 MiB", |b| {
        let pool = pool();
        let mut state = 1u64;
        let mut draw = move |below: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        let mut layout = move || Layout::from_size_align(16 << draw(17), 16).unwrap();
        let mut live: Vec<_> =
            (0..1000).map(|_| layout()).map(|l| (pool.allocate(l).unwrap().addr, l)).collect();
        let mut at = 0;
        b.iter(|| {
            for _ in 0..1000 {
                at = (at * 5 + 1) % 1000;
                // SAFETY: 1. Nobody uses the block.
                unsafe { pool.free(live[at].0, live[at].1) }.unwrap();
                let next = layout();
                live[at] = (pool.allocate(next).unwrap().addr, next);
            }
        });
    });
}

fn replay(c: &mut Criterion) {
    let events = trace("resnet50_train");
    let mut group = c.benchmark_group("replay");
    group.throughput(Throughput::Elements(events.len() as u64));
    group.bench_function("resnet50_train, simulated device", |b| {
        let fresh = || Arena::new(Simulated::device(256 << 30, 2 << 20), MappedTables).unwrap();
        let mut live = vec![(0, Layout::new::<u8>()); events.len()];
        b.iter_batched(
            fresh,
            |mut arena| {
                for event in &events {
                    match *event {
                        Event::Allocate(id, bytes) => {
                            let layout = Layout::from_size_align(bytes, 1).unwrap();
                            live[id] = (arena.allocate(layout, &Unlimited).unwrap().addr, layout);
                        }
                        Event::Free(id) => arena.free(live[id].0, live[id].1, &Unlimited).unwrap(),
                    }
                }
                arena
            },
            BatchSize::LargeInput,
        );
    });
}

criterion_main!(measure);

/// Everything this file measures.
fn measure() {
    let mut criterion = Criterion::default().configure_from_args();
    pairs(&mut criterion);
    churn(&mut criterion);
    replay(&mut criterion);
    criterion.final_summary();
}

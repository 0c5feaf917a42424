//! A training's allocations on a device, on the software driver: this pool, the driver's own stream-ordered allocator through cudarc, and
//! the crate offset-allocator, which only counts in one range and never asks a driver.
//!
//! The software driver's own time for an allocation is an `mmap` and a `munmap`, some microseconds; a real one's is of that order too.
//! `cargo bench -p benches --features cuda --bench device`

#[path = "../tests/softcuda/harness.rs"]
mod harness;

use benches::{Event, blocks, trace};
use criterion::{BenchmarkId, Criterion, Throughput};
use democratising::cuda;
use std::process::Command;

/// Set in the child, which finds the software driver.
const CHILD: &str = "DEMOCRATISING_BENCH_ON_DRIVER";

fn this_pool(events: &[Event], live: &mut [(u64, usize)]) {
    for event in events {
        match *event {
            Event::Allocate(id, bytes) => {
                // SAFETY: 1. The default stream lives as long as the device.
                let at = unsafe { cuda::raw::allocate(bytes, 0, 0) }.unwrap();
                live[id] = (at, bytes);
            }
            Event::Free(id) => {
                let (at, bytes) = live[id];
                // SAFETY: 1. As above. 2. Nobody works on the block.
                unsafe { cuda::raw::free(at, bytes, 0, 0) }.unwrap();
            }
        }
    }
}

fn through_cudarc(events: &[Event], live: &mut [(u64, usize)], stream: &cudarc::driver::CudaStream) {
    use cudarc::driver::result::{free_async, malloc_async};
    for event in events {
        match *event {
            Event::Allocate(id, bytes) => {
                // SAFETY: 1. The stream lives, and the block is only counted.
                live[id].0 = unsafe { malloc_async(stream.cu_stream(), bytes) }.unwrap();
            }
            // SAFETY: 1. As above; it is freed once.
            Event::Free(id) => unsafe { free_async(live[id].0, stream.cu_stream()) }.unwrap(),
        }
    }
}

fn offsets(events: &[Event], live: &mut [Option<offset_allocator::Allocation>]) {
    // In units of 256 bytes, of 16 GiB.
    let mut allocator = offset_allocator::Allocator::with_max_allocs(64 << 20, 100_000u32);
    for event in events {
        match *event {
            Event::Allocate(id, bytes) => {
                live[id] = Some(allocator.allocate(bytes.div_ceil(256) as u32).unwrap())
            }
            Event::Free(id) => allocator.free(live[id].take().unwrap()),
        }
    }
}

fn measure(criterion: &mut Criterion) {
    for name in ["resnet50_train", "bert_serve_dynamic"] {
        let events = trace(name);
        let mut group = criterion.benchmark_group("device");
        group.throughput(Throughput::Elements(events.len() as u64)).sample_size(10);
        let mut live = vec![(0, 0); blocks(&events)];
        group.bench_function(BenchmarkId::new("this pool", name), |b| {
            b.iter(|| this_pool(&events, &mut live))
        });
        let context = cudarc::driver::CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        group.bench_function(BenchmarkId::new("cudarc's alloc and free", name), |b| {
            b.iter(|| through_cudarc(&events, &mut live, &stream));
        });
        let mut live: Vec<Option<offset_allocator::Allocation>> =
            (0..blocks(&events)).map(|_| None).collect();
        group.bench_function(BenchmarkId::new("offset-allocator", name), |b| {
            b.iter(|| offsets(&events, &mut live))
        });
        group.finish();
    }
}

fn main() {
    if std::env::var_os(CHILD).is_none() {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(std::env::args_os().skip(1))
            .env(CHILD, "1")
            .env("LD_LIBRARY_PATH", harness::folder())
            .env("SOFTCUDA_MEM_MIB", "40960")
            .status();
        std::process::exit(status.unwrap().code().unwrap_or(1));
    }
    let mut criterion = Criterion::default().configure_from_args();
    measure(&mut criterion);
    criterion.final_summary();
}

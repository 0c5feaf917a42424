//! What subscribers of `tracing` hear.
#![cfg(feature = "tracing")]

use democratising::pool::budget::scope::{Kind, Scope};
use democratising::{MemoryPool, Tensor, gc};
use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

/// Keeps each event as a line. It takes memory from the pool meanwhile, as a subscriber may.
struct Lines(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::DEBUG
    }
    fn event(&self, event: &Event<'_>) {
        drop(allocator_api2::vec::Vec::<u8, _>::with_capacity_in(4000, MemoryPool));
        let mut line = Line(format!("{} {}", event.metadata().target(), event.metadata().level()));
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[test]
fn frames_collections_and_refusals_are_heard_and_single_allocations_are_not() {
    let lines = Arc::default();
    let heard = tracing::subscriber::with_default(Lines(Arc::clone(&lines)), || {
        let big = Tensor::zeros(&[16 << 20]).unwrap();
        // Its slab may need a frame of its own.
        drop(Tensor::zeros(&[100]).unwrap());
        let count = || lines.lock().unwrap().len();
        let before = count();
        for _ in 0..1000 {
            drop(Tensor::zeros(&[100]).unwrap());
        }
        let after = count();
        assert_eq!(after, before);
        drop(big);
        gc::collect().unwrap();
        let small = Scope::new("small");
        small.set_limit(Kind::HostBytes, 100);
        assert!(small.run(|| Tensor::zeros(&[1000])).is_err());
        MemoryPool::disable().unwrap();
        lines.lock().unwrap().join("\n")
    });
    for wanted in [
        "place=pool reserved_bytes=67108864 created=32",
        "message=collected",
        "message=a charge was refused kind=\"host bytes\" scope=\"small\" asked=4000 left=100",
        "message=out of memory place=pool bytes=4000 scope=\"small\"",
    ] {
        assert!(heard.contains(wanted), "{wanted}: {heard}");
    }
    assert!(heard.lines().all(|line| line.starts_with("democratising DEBUG")), "{heard}");
    assert!(heard.contains("given_up=") && heard.contains("reserved_bytes=0"), "{heard}");
}

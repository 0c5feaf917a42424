//! A block that changes hands between two streams, under every interleaving: whoever takes it knows whom to wait for.
//!
//! A free enters its tick in the hand-over's table and then makes the block free; a taker finds the block and then asks the
//! table. Each is under a lock of its own, as in the device's pool.

use democratising::SpinLock;
use democratising::arena::Borrowed;
use democratising::device::handover::{Handover, Slot, Slots};
use democratising::sync::Lock;
use loom_tests::{Arc, model, thread};
use std::mem::MaybeUninit;

/// A table for four frames, whose memory is given away for good.
fn table() -> Handover<Borrowed<'static>> {
    let bytes = Box::leak(vec![MaybeUninit::uninit(); 160 << 10].into_boxed_slice());
    Handover::new(&mut Borrowed::new(bytes), 4).unwrap()
}

/// What frees and takes one block, in the frames 1 and 2.
trait Block: Send + Sync + 'static {
    fn new(table: Handover<Borrowed<'static>>) -> Self;
    /// Frees it, after work on that stream.
    fn free(&self, on: Slot);
    /// Takes it if it is free, and says for whom the taker has to wait.
    fn take(&self, by: Slot) -> Option<Slots>;
    /// The device has done what was queued on a stream, as far as it was asked.
    fn pass(&self, slot: Slot);
    /// Whether its memory may be moved now.
    fn at_rest(&self) -> bool;
}

struct Pool {
    table: Lock<SpinLock, Handover<Borrowed<'static>>>,
    free: Lock<SpinLock, bool>,
}

impl Block for Pool {
    fn new(table: Handover<Borrowed<'static>>) -> Self {
        Pool { table: Lock::new(table), free: Lock::new(false) }
    }
    fn free(&self, on: Slot) {
        self.table.lock().freed(Slots::one(on), 1..3);
        *self.free.lock() = true;
    }
    fn take(&self, by: Slot) -> Option<Slots> {
        if !core::mem::replace(&mut *self.free.lock(), false) {
            return None;
        }
        Some(self.table.lock().owed(by, 1..3))
    }
    fn pass(&self, slot: Slot) {
        // An event is recorded, waited for without the lock, and then told.
        let covered = {
            let mut table = self.table.lock();
            table.recorded(slot);
            table.covered(slot)
        };
        let mut table = self.table.lock();
        table.passed(slot, covered);
        table.forget(1..3);
    }
    fn at_rest(&self) -> bool {
        let free = self.free.lock();
        *free && self.table.lock().under_way(1..3).is_empty()
    }
}

fn with_two_streams<B: Block>() -> (Arc<B>, Slot, Slot) {
    let mut table = table();
    let (a, b) = (table.enter().unwrap(), table.enter().unwrap());
    (Arc::new(B::new(table)), a, b)
}

/// One stream frees while another takes: what is taken is waited for.
fn a_taker_waits_for_whoever_freed<B: Block>() {
    model(|| {
        let (block, a, b) = with_two_streams::<B>();
        let freer = {
            let block = block.clone();
            thread::spawn(move || block.free(a))
        };
        if let Some(owed) = block.take(b) {
            assert_eq!(owed, Slots::one(a), "the taker does not wait for the free");
        }
        freer.join().unwrap();
    });
}

/// Somebody learns that a stream has passed its frees while that stream frees again: the new free is still waited for.
fn a_free_behind_an_event_is_not_passed_with_it<B: Block>() {
    model(|| {
        let (block, a, b) = with_two_streams::<B>();
        block.free(a);
        let taken = block.take(b);
        assert_eq!(taken, Some(Slots::one(a)));
        let passer = {
            let block = block.clone();
            thread::spawn(move || block.pass(a))
        };
        block.free(b);
        passer.join().unwrap();
        assert!(!block.at_rest(), "memory is moved under b's work");
        assert_eq!(block.take(a), Some(Slots::one(b)), "b's free is forgotten");
    });
}

mod pool {
    use super::*;

    #[test]
    fn a_taker_waits_for_whoever_freed() {
        super::a_taker_waits_for_whoever_freed::<Pool>();
    }

    #[test]
    fn a_free_behind_an_event_is_not_passed_with_it() {
        super::a_free_behind_an_event_is_not_passed_with_it::<Pool>();
    }
}

/// What is wrong, and what a model says of it.
#[cfg(democratising_loom)]
mod planted {
    use super::*;

    /// Makes the block free before the table knows.
    struct FreesFirst(Pool);

    impl Block for FreesFirst {
        fn new(table: Handover<Borrowed<'static>>) -> Self {
            FreesFirst(Pool::new(table))
        }
        fn free(&self, on: Slot) {
            *self.0.free.lock() = true;
            self.0.table.lock().freed(Slots::one(on), 1..3);
        }
        fn take(&self, by: Slot) -> Option<Slots> {
            self.0.take(by)
        }
        fn pass(&self, slot: Slot) {
            self.0.pass(slot);
        }
        fn at_rest(&self) -> bool {
            self.0.at_rest()
        }
    }

    /// Takes what an event covers for everybody's frees, and wipes the frames.
    struct ForgetsAll(Pool);

    impl Block for ForgetsAll {
        fn new(table: Handover<Borrowed<'static>>) -> Self {
            ForgetsAll(Pool::new(table))
        }
        fn free(&self, on: Slot) {
            self.0.free(on);
        }
        fn take(&self, by: Slot) -> Option<Slots> {
            self.0.take(by)
        }
        fn pass(&self, _slot: Slot) {
            let mut table = self.0.table.lock();
            for slot in table.all_under_way().iter() {
                table.passed(slot, u64::MAX);
            }
        }
        fn at_rest(&self) -> bool {
            self.0.at_rest()
        }
    }

    #[test]
    #[should_panic(expected = "does not wait for the free")]
    fn a_block_that_is_free_before_the_table_knows_is_caught() {
        a_taker_waits_for_whoever_freed::<FreesFirst>();
    }

    #[test]
    #[should_panic(expected = "memory is moved under b's work")]
    fn an_event_that_is_taken_for_every_stream_is_caught() {
        a_free_behind_an_event_is_not_passed_with_it::<ForgetsAll>();
    }
}

//! Which process made a connection: the child of a fork has its parent's sockets, and must leave them alone.
//!
//! What the child sends or reads there would be mixed with what its parent does. Where it drops one, its runtime takes the socket out of
//! the list of those that the system watches, which both processes share: the parent would never hear of an answer again.

#![forbid(unsafe_code)]

use crate::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use crate::sync::forks::InChild;

/// How many forks are between this process and the program's first. Relaxed: it changes while there is one thread.
static FORKS: AtomicUsize = AtomicUsize::new(0);

static COUNT: InChild = InChild::new(|| {
    FORKS.fetch_add(1, Relaxed);
});

/// The process that something was made in, told apart from its children. To ask costs a load.
pub(super) struct Process(usize);

impl Process {
    /// This one.
    pub(super) fn this() -> Process {
        COUNT.watch();
        Process(FORKS.load(Relaxed))
    }

    /// Whether it is still that one.
    #[inline]
    pub(super) fn is_this(&self) -> bool {
        self.0 == FORKS.load(Relaxed)
    }
}

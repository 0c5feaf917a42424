//! The process's heap: caches per thread over the depots, the slabs and the spans of one pool of mapped memory.
//!
//! 1. A thread's **cache** holds, for every size class, a loaded magazine and one behind it. `allocate` pops, `free`
//!    pushes; nothing else happens on those paths, and no other thread ever touches the cache.
//! 2. A magazine that runs empty or full is exchanged: with the one behind it, then with the class's depot, then with the
//!    slabs, whose lock is taken once for as many blocks as a magazine holds.
//! 3. A block freed by another thread than took it goes into the freer's magazine. So remote frees need no atomics.
//! 4. Before a thread has a cache, and after it has given its cache up, it works on a shared empty one, which is both
//!    empty and full: "first use" and "magazine empty" are one branch.
//! 5. Larger blocks are spans of the pool, under its lock.
//! 6. Whoever gives a block back says its layout, or the address says its class: a table has a byte for every slab unit.
//! 7. What is given back wrongly is seen at the latest when its magazine is flushed to the slabs; with the feature `hardened`,
//!    at once.

pub mod fixed;

#[cfg(feature = "std")]
mod by_address;
#[cfg(feature = "std")]
mod cache;
#[cfg(feature = "std")]
mod decay;
#[cfg(feature = "std")]
mod dispatch;
#[cfg(feature = "std")]
mod errno;
#[cfg(feature = "std")]
mod hardened;
#[cfg(democratising_loom)]
pub mod marks;
#[cfg(all(feature = "std", not(democratising_loom)))]
mod marks;
mod misuse;
#[cfg(feature = "allocator-api2-04")]
mod newest;
#[cfg(feature = "std")]
mod numbers;
#[cfg(feature = "std")]
pub(crate) mod shared;
#[cfg(democratising_loom)]
pub mod stock;
#[cfg(all(feature = "std", not(democratising_loom)))]
mod stock;
#[cfg(feature = "std")]
mod thread;

#[cfg(feature = "cuda")]
pub(crate) use misuse::misused;
#[cfg(feature = "std")]
pub use misuse::on_misuse;
pub use misuse::{Misuse, OnMisuse};

/// The process's heap: a global allocator, and an allocator (`allocator_api2`) for collections and
/// [`TensorBuf`](crate::TensorBuf).
///
/// ```
/// # #[cfg(feature = "std")] {
/// use democratising::Global;
///
/// #[global_allocator]
/// static GLOBAL: Global = Global;
///
/// let mut squares = hashbrown::HashMap::with_capacity_in(100, Global);
/// squares.insert(7, vec![49]);
/// assert_eq!(squares[&7], [49]);
/// # }
/// ```
///
/// Misuse (a second free, a foreign pointer, a wrong size) ends the process with one line on standard error, or goes to
/// the hook of `heap::on_misuse`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Global;

#[cfg(feature = "std")]
impl Global {
    /// The heap in numbers. What threads hold in their caches counts as in use.
    pub fn stats() -> crate::pool::Stats {
        shared::stats()
    }
}

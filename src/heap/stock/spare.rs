//! Every cache there is, and those that no thread has, for the next thread that comes.
//!
//! 1. A cache is made once and lives for good. It is in one thread's hands, or spare, or on its way from one to the other in
//!    the hands of whoever took it out.
//! 2. No lock is held while a cache is emptied, which takes the pool's.

use crate::sync::{Lock, const_unless_loom};
use core::ptr::{NonNull, null_mut};
use lock_api::RawMutex;

/// What links caches, in each of them.
#[repr(C)]
pub struct Links<T> {
    /// The next spare one.
    spare: *mut T,
    /// The one that was made before.
    older: *mut T,
}

#[cfg(democratising_loom)]
impl<T> Links<T> {
    /// In no list.
    pub const NONE: Links<T> = Links { spare: null_mut(), older: null_mut() };
}

/// What can be linked.
///
/// # Safety
/// `links` gives a place in what `at` points to, which nobody else reads or writes.
pub unsafe trait Linked {
    /// The links of a cache.
    ///
    /// # Safety
    /// `at` points to a cache.
    unsafe fn links(at: NonNull<Self>) -> *mut Links<Self>
    where
        Self: Sized;
}

/// Every cache, and those that no thread has.
pub struct Caches<L: RawMutex, T>(Lock<L, Lists<T>>);

struct Lists<T> {
    spare: *mut T,
    spares: usize,
    newest: *mut T,
}

// SAFETY: 1. A cache in the list is nobody's; whoever takes it out under the lock has it alone.
unsafe impl<T> Send for Lists<T> {}

impl<T: Linked> Lists<T> {
    /// # Safety
    /// The cache lives for good, is in no hands but the caller's, and not in the list.
    unsafe fn put(&mut self, cache: NonNull<T>) {
        // SAFETY: 1. As the caller promises.
        unsafe { (*T::links(cache)).spare = self.spare };
        self.spare = cache.as_ptr();
        self.spares += 1;
    }

    fn take(&mut self) -> Option<NonNull<T>> {
        let cache = NonNull::new(self.spare)?;
        self.spares -= 1;
        // SAFETY: 1. A cache in the list lives for good, and is nobody's.
        self.spare = unsafe { (*T::links(cache)).spare };
        Some(cache)
    }
}

impl<L: RawMutex, T: Linked> Caches<L, T> {
    const_unless_loom! {
        /// None.
        pub const fn new() -> Caches<L, T> {
            Caches(Lock::new(Lists { spare: null_mut(), spares: 0, newest: null_mut() }))
        }
    }

    /// Enters a new cache.
    ///
    /// # Safety
    /// It lives for good, and was never entered before.
    pub unsafe fn enter(&self, cache: NonNull<T>) {
        let mut lists = self.0.lock();
        // SAFETY: 1. As the caller promises.
        unsafe { (*T::links(cache)).older = lists.newest };
        lists.newest = cache.as_ptr();
    }

    /// Every cache that was entered, newest first, whoever has it.
    pub fn all(&self) -> impl Iterator<Item = NonNull<T>> + '_ {
        let mut next = self.0.lock().newest;
        core::iter::from_fn(move || {
            let cache = NonNull::new(next)?;
            // SAFETY: 1. It lives for good. 2. Its link was written before it was entered, and never since.
            next = unsafe { (*T::links(cache)).older };
            Some(cache)
        })
    }

    /// A spare cache, with what is in it, which is the caller's alone.
    pub fn adopt(&self) -> Option<NonNull<T>> {
        self.0.lock().take()
    }

    /// Takes the cache of a thread that ends: as it is where fewer than `most_warm` are spare, else emptied.
    ///
    /// # Safety
    /// It was entered, and is in no hands but the caller's, who gives it up.
    pub unsafe fn abandon(&self, cache: NonNull<T>, most_warm: usize, empty: impl FnOnce(NonNull<T>)) {
        let mut lists = self.0.lock();
        if lists.spares >= most_warm {
            drop(lists);
            empty(cache);
            lists = self.0.lock();
        }
        // SAFETY: 1. As the caller promises.
        unsafe { lists.put(cache) }
    }

    /// Empties the spare caches. Each is out of the list meanwhile, and once in this thread's hands.
    pub fn empty_spare(&self, mut empty: impl FnMut(NonNull<T>)) {
        let mut emptied = Lists { spare: null_mut(), spares: 0, newest: null_mut() };
        while let Some(cache) = self.adopt() {
            empty(cache);
            // SAFETY: 1. It was in the list, and is ours since.
            unsafe { emptied.put(cache) }
        }
        let mut lists = self.0.lock();
        while let Some(cache) = emptied.take() {
            // SAFETY: 1. As above.
            unsafe { lists.put(cache) }
        }
    }

    /// Keeps the lock until [`let_go`](Self::let_go): for a fork.
    #[cfg(all(feature = "std", unix, not(democratising_loom)))]
    pub(in crate::heap) fn hold(&self) {
        self.0.hold();
    }

    /// Lets go what [`hold`](Self::hold) keeps.
    ///
    /// # Safety
    /// This thread, or the one that it is the fork of, called `hold`.
    #[cfg(all(feature = "std", unix, not(democratising_loom)))]
    pub(in crate::heap) unsafe fn let_go(&self) {
        // SAFETY: 1. As the caller promises; no guard outlives a call of this file.
        unsafe { self.0.let_go() }
    }

    /// Whether somebody holds the lock.
    #[cfg(all(test, feature = "std", unix, not(democratising_loom)))]
    pub(in crate::heap) fn is_held(&self) -> bool {
        self.0.is_held()
    }
}

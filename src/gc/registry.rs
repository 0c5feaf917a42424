//! Who is registered: a list that is replaced, never changed.
//!
//! A collection keeps the list it began with, so it needs no lock and no memory for one. Building a list and dropping one, and
//! with it perhaps a reclaimer, happens outside of the lock, so neither can come back to it. A fork finds the lock free
//! on both sides.

#![forbid(unsafe_code)]

use super::Reclaim;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use crate::sync::forks::ForkLock;
use std::{string::String, sync::Arc, vec::Vec};

/// A registered reclaimer. It stays registered until [`unregister`] is called with this.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ReclaimerId(usize);

/// One registered reclaimer.
#[derive(Clone)]
pub(super) struct Entry {
    id: ReclaimerId,
    priority: i32,
    pub(super) name: Arc<str>,
    pub(super) reclaimer: Arc<dyn Reclaim>,
}

impl Entry {
    pub(super) fn priority(&self) -> i32 {
        self.priority
    }
}

/// Sorted by priority; among equals in the order of registration.
pub(super) type Entries = Arc<Vec<Entry>>;

/// `None` before the first registration, since an `Arc` cannot be made in a constant.
struct Registered(Option<Entries>);

static ENTRIES: ForkLock<Registered> = ForkLock::new(Registered(None));

static NEXT_ID: AtomicUsize = AtomicUsize::new(1);

/// Asks `reclaimer` from now on when something runs short. `name` stands in reports.
///
/// Low priorities are asked first: give the lowest to what is cheapest to lose.
///
/// ```
/// use democratising::gc::{self, Deadline, Reclaim};
/// use std::sync::Mutex;
///
/// struct Thumbnails(Mutex<Vec<Vec<u8>>>);
///
/// impl Reclaim for Thumbnails {
///     fn reclaimable_bytes(&self) -> u64 {
///         self.0.lock().unwrap().iter().map(|image| image.len() as u64).sum()
///     }
///     fn reclaim(&self, _target_bytes: u64, _until: Deadline) -> u64 {
///         let images = std::mem::take(&mut *self.0.lock().unwrap());
///         images.iter().map(|image| image.len() as u64).sum()
///     }
/// }
///
/// gc::register("thumbnails", 10, Thumbnails(Mutex::new(vec![vec![0; 1000]])));
/// assert!(gc::collect()?.host_bytes >= 1000);
/// # Ok::<(), democratising::DemoError>(())
/// ```
pub fn register(name: impl Into<String>, priority: i32, reclaimer: impl Reclaim + 'static) -> ReclaimerId {
    let id = ReclaimerId(NEXT_ID.fetch_add(1, Relaxed));
    enter(Entry { id, priority, name: Arc::from(name.into()), reclaimer: Arc::new(reclaimer) });
    id
}

/// Behind its equals, if it is not there yet.
fn enter(entry: Entry) {
    replace(|entries| {
        if entries.iter().all(|other| other.id != entry.id) {
            let behind_its_equals = entries.partition_point(|other| other.priority <= entry.priority);
            entries.insert(behind_its_equals, entry.clone());
        }
    });
}

/// A reclaimer of the crate's own, which is registered when there is first something to ask it for, and stays. Nobody waits for who registers it at
/// that moment: a fork may not have that thread.
pub(crate) struct Standing {
    /// 0 before somebody chose it.
    id: AtomicUsize,
    is_registered: AtomicBool,
}

impl Standing {
    pub(crate) const fn new() -> Standing {
        Standing { id: AtomicUsize::new(0), is_registered: AtomicBool::new(false) }
    }

    /// Registered it is when this returns.
    pub(crate) fn register(&self, name: &'static str, priority: i32, reclaimer: impl Reclaim + 'static) {
        // Acquire and Release: who finds it registered finds it in the list.
        if self.is_registered.load(Acquire) {
            return;
        }
        let mine = NEXT_ID.fetch_add(1, Relaxed);
        // Relaxed: a number that all agree on, and nothing else.
        let id = self.id.compare_exchange(0, mine, Relaxed, Relaxed).map_or_else(|theirs| theirs, |_| mine);
        enter(Entry { id: ReclaimerId(id), priority, name: Arc::from(name), reclaimer: Arc::new(reclaimer) });
        self.is_registered.store(true, Release);
    }
}

/// Asks that reclaimer no more; `false` when it was not registered (any more).
///
/// A collection under way on another thread may still call it once. It is dropped when the last such one has ended.
pub fn unregister(id: ReclaimerId) -> bool {
    if !entries().is_some_and(|entries| entries.iter().any(|entry| entry.id == id)) {
        return false;
    }
    let mut found = false;
    replace(|entries| {
        let before = entries.len();
        entries.retain(|entry| entry.id != id);
        found = entries.len() < before;
    });
    found
}

/// The reclaimers at this moment.
pub(super) fn entries() -> Option<Entries> {
    ENTRIES.lock().0.clone()
}

/// Puts an edited copy in place of the list; edits again where another thread was faster.
fn replace(mut edit: impl FnMut(&mut Vec<Entry>)) {
    loop {
        let old = entries();
        let mut edited = old.as_deref().cloned().unwrap_or_default();
        edit(&mut edited);
        let edited = Arc::new(edited);
        let mut held = ENTRIES.lock();
        // `old` is still alive, so no other list can have its address.
        if held.0.as_ref().map(Arc::as_ptr) == old.as_ref().map(Arc::as_ptr) {
            held.0 = Some(edited);
            // The lock first: with `old` go the list and perhaps a reclaimer, whose drop is anybody's code.
            drop(held);
            drop(old);
            return;
        }
        drop(held);
        drop(edited);
    }
}

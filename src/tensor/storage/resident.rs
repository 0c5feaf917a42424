//! Mapped files that could leave the memory: what was looked at of them comes again from the disk.
//!
//! Asked when the process or the machine is to hold less, not when a pool has no room: a pool's memory is not the files'.

use super::file::SharedFile;
use crate::gc::{Deadline, Reclaim, Resource, Standing};
use crate::sync::forks::ForkLock;
use std::sync::{Arc, Weak};
use std::vec::Vec;

/// Behind what costs nothing to lose, before what has to be written first.
const PRIORITY: i32 = 1000;

/// Every mapped file that lives.
struct Mapped(Vec<Weak<SharedFile>>);

static FILES: ForkLock<Mapped> = ForkLock::new(Mapped(Vec::new()));

/// From now on collections ask for this file's pages too.
pub(super) fn remember(file: &Arc<SharedFile>) {
    static RESIDENT: Standing = Standing::new();
    RESIDENT.register("mapped files", PRIORITY, Resident);
    let mut held = FILES.lock();
    let files = &mut held.0;
    if files.len() == files.capacity() {
        files.retain(|file| file.strong_count() > 0);
    }
    files.push(Arc::downgrade(file));
}

fn files() -> Vec<Arc<SharedFile>> {
    // The last reference to one may be dropped by whoever has this list, not under the lock.
    FILES.lock().0.iter().filter_map(Weak::upgrade).collect()
}

/// Asks the kernel to let the pages of these bytes of a mapped file go; they come again from the file. `false` where it does not
/// (Linux before 5.4, a file that is not this user's).
#[cfg(target_os = "linux")]
pub(super) fn page_out(bytes: &[u8]) -> bool {
    // SAFETY: 1. It asks for a number, and changes nothing.
    let page_bytes = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    let from_page = bytes.as_ptr().addr() % page_bytes;
    let start = bytes.as_ptr().wrapping_sub(from_page).cast_mut().cast::<libc::c_void>();
    // SAFETY: 1. The pages are those of a mapping of a file, which the caller keeps. 2. Nothing that is read through them changes: what is
    // let go is read from the file again, and nobody writes to the mapping.
    unsafe { libc::madvise(start, bytes.len() + from_page, libc::MADV_PAGEOUT) == 0 }
}

struct Resident;

impl Reclaim for Resident {
    fn reclaimable_bytes(&self) -> u64 {
        files().iter().map(|file| file.looked_at_bytes()).sum()
    }

    fn reclaim(&self, target_bytes: u64, until: Deadline) -> u64 {
        let mut given = 0;
        for file in files() {
            if given >= target_bytes || until.has_passed() {
                break;
            }
            given += file.page_out(target_bytes - given);
        }
        given
    }

    fn resource(&self) -> Resource {
        Resource::MappedBytes
    }
}

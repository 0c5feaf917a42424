//! Tests of what is the process's: they run one at a time.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The turn of one test.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

//! That scopes are over, though another test's list of all of them may have one for a moment longer.

use democratising::pool::budget::scope::Scope;
use std::time::{Duration, Instant};

/// Waits, for 30 s at most, until no scope is what `is` says.
pub fn are_over(is: impl Fn(&Scope) -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(30);
    while Scope::all().iter().any(&is) {
        if Instant::now() > end {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

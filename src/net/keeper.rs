//! Keeps a pool in order while nobody asks it for anything: closes what is too old or idle too long, and has some ready.

#![forbid(unsafe_code)]

use super::clock::now_ms;
use super::manager::Manager;
use super::pool::Inner;
use super::shared::{Shared, count};
use crate::pool::budget::scope::Kind;
use core::time::Duration;
use std::sync::{Arc, Weak};

/// After a connect that failed, the next is tried so much later, and twice as much after each.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(10);

/// Until the pool is dropped or closed.
pub(super) async fn keep<M: Manager>(pool: Weak<Inner<M>>, shared: Arc<Shared<M>>) {
    let settings = &shared.settings;
    let times = [settings.idle_timeout, settings.max_lifetime];
    let least = times.into_iter().flatten().min().unwrap_or(Duration::from_secs(30));
    // Often enough that nothing is much later than it should be, and rarely enough that nobody notices.
    let turn = (least / 4).clamp(Duration::from_millis(5), Duration::from_secs(30));
    let mut pause = FIRST_PAUSE;
    loop {
        let awake = shared.awake.notified();
        let failures = failures(&shared);
        let short = {
            let Some(pool) = pool.upgrade().filter(|pool| !pool.idle.is_closed()) else { return };
            reap(&pool);
            fill(&pool)
        };
        let next = if short { pause.min(turn) } else { turn };
        let _ = tokio::time::timeout(next, awake).await;
        if short && self::failures(&shared) > failures {
            // Whatever is to be done meanwhile, but for an end.
            let ended = shared.ended.notified();
            if pool.upgrade().is_none_or(|pool| pool.idle.is_closed()) {
                return;
            }
            let _ = tokio::time::timeout(pause, ended).await;
            pause = (pause * 2).min(LAST_PAUSE);
        } else {
            pause = FIRST_PAUSE;
        }
    }
}

fn failures<M: Manager>(shared: &Shared<M>) -> usize {
    shared.counts.failures.load(crate::sync::atomic::Ordering::Relaxed)
}

fn reap<M: Manager>(pool: &Inner<M>) {
    let (now_ms, settings, counts) = (now_ms(), &pool.shared.settings, &pool.shared.counts);
    for _ in 0..pool.close_idle(0, |conn| now_ms >= conn.expires_ms) {
        count(&counts.expired);
    }
    if let Some(idle) = settings.idle_timeout {
        let long = |idle_since_ms: u64| u128::from(now_ms.saturating_sub(idle_since_ms)) >= idle.as_millis();
        for _ in 0..pool.close_idle(settings.min_idle, |conn| long(conn.idle_since_ms)) {
            count(&counts.unused);
        }
    }
}

/// Starts as many connects as are missing. Whether any was.
fn fill<M: Manager>(pool: &Inner<M>) -> bool {
    let (shared, settings) = (&pool.shared, &pool.shared.settings);
    let flights = shared.desk.lock().flights();
    let held = shared.scope.used(Kind::Connections) as usize;
    let room = settings.max_size.saturating_sub(held.max(pool.idle.status().size) + flights);
    let missing = settings.min_idle.saturating_sub(pool.idle_count() + flights).min(room);
    for _ in 0..missing {
        if !shared.desk.lock().depart() || shared.depart().is_err() {
            break;
        }
    }
    missing > 0
}

//! Callers who go away while they wait.

use crate::common::until;
use crate::scripted::{OPEN, Scripted, Through, scripted};
use democratising::Result;
use democratising::net::{ConnectionPool, PooledConnection};
use democratising::pool::budget::scope::Kind;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

#[tokio::test]
async fn a_connect_outlives_the_caller_who_asked_for_it_and_serves_the_next() {
    let script = Scripted::new(0);
    let pool = scripted(&script, 1);
    {
        let mut get = Box::pin(pool.get_async());
        assert!(get.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        until("the connect began", || script.under_way.load(SeqCst) == 1).await;
    } // the caller goes away
    assert_eq!(pool.stats().connecting, 1);
    script.gate.add_permits(1);
    until("it landed", || pool.stats().idle == 1).await;
    assert_eq!(pool.get_async().await.unwrap().0, 0, "without another connect");
    assert_eq!(pool.stats().connects, 1);

    // Still on its way when the next caller comes: it serves him.
    PooledConnection::discard(pool.get_async().await.unwrap());
    let mut get = Box::pin(pool.get_async());
    assert!(get.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(get);
    let next = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get_async().await.unwrap().0 }
    });
    tokio::task::yield_now().await;
    script.gate.add_permits(1);
    assert_eq!(next.await.unwrap(), 1);
    assert_eq!(pool.stats().connects, 2);
}

/// Polls a `get` so often and drops it; then everybody else must still be served, and everything be counted.
async fn cancelled_after(polls: usize, script: &Arc<Scripted>, pool: &ConnectionPool<Through>) -> bool {
    let mut get = Box::pin(pool.get_async());
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..polls {
        if let Poll::Ready(got) = get.as_mut().poll(&mut context) {
            drop(got.unwrap());
            return true;
        }
        // What it waits for goes one step further between two polls.
        tokio::task::yield_now().await;
    }
    drop(get);
    script.gate.add_permits(4);
    let mut all = Vec::new();
    for _ in 0..pool.stats().max_size {
        all.push(pool.get_async().await.expect("a place that the cancelled caller did not give back"));
    }
    assert_eq!(pool.scope().used(Kind::Connections), pool.stats().max_size as u64);
    assert!(script.most_alive.load(SeqCst) <= pool.stats().max_size);
    false
}

#[tokio::test]
async fn a_get_may_be_cancelled_at_every_await_and_nothing_is_lost() {
    for max in 1..=3 {
        // Begun with: nothing; an idle connection that is good; one that is bad; all in use by somebody who gives back.
        for begin in 0..4 {
            let mut ended = false;
            let mut polls = 0;
            while !ended {
                let script = Scripted::new(if begin == 0 { 0 } else { max });
                let pool = scripted(&script, max);
                if begin > 0 {
                    let mut held = Vec::new();
                    for _ in 0..max {
                        held.push(pool.get_async().await.unwrap());
                    }
                    if begin == 2 {
                        script.bad.lock().unwrap().extend(0..max);
                    }
                    if begin == 3 {
                        tokio::spawn(async move {
                            tokio::task::yield_now().await;
                            drop(held);
                        });
                    }
                }
                script.gate.add_permits(usize::from(polls > 2));
                ended = cancelled_after(polls, &script, &pool).await;
                polls += 1;
                assert!(polls < 100, "it never ends");
                pool.close().await;
                assert_eq!((pool.scope().used(Kind::Connections), script.alive.load(SeqCst)), (0, 0));
            }
            assert!(polls > 1 || begin == 1, "max {max}, begin {begin}: there was nothing to cancel");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_who_go_away_at_random_leave_every_place_free() {
    let script = Scripted::new(OPEN);
    let pool = scripted(&script, 3);
    let mut tasks = Vec::new();
    for seed in 1..=16u64 {
        let (pool, script) = (pool.clone(), Arc::clone(&script));
        tasks.push(tokio::spawn(async move {
            let mut draw = seed;
            for _ in 0..300 {
                draw ^= draw << 13;
                draw ^= draw >> 7;
                draw ^= draw << 17;
                let patience = Duration::from_micros(draw % 60);
                if let Ok(got) = tokio::time::timeout(patience, pool.get_async()).await {
                    let got = got.unwrap();
                    assert!(script.alive.load(SeqCst) <= 3);
                    match draw % 5 {
                        0 => PooledConnection::discard(got),
                        1 => tokio::task::yield_now().await,
                        _ => {}
                    }
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert!(script.most_alive.load(SeqCst) <= 3, "{} at once", script.most_alive.load(SeqCst));
    let all = [pool.get_async().await, pool.get_async().await, pool.get_async().await];
    assert!(all.iter().all(Result::is_ok));
    drop(all);
    pool.close().await;
    assert_eq!((pool.scope().used(Kind::Connections), script.alive.load(SeqCst)), (0, 0));
}

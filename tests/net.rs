//! The pool of connections: what a caller sees, one promise a test.
#![cfg(feature = "net")]

#[path = "net/common.rs"]
mod common;

use common::{echo_server, echo_thread, ping, until};
use democratising::net::{ConnectionPool, Manager, PooledConnection};
use democratising::pool::budget::scope::{Kind, Scope};
use democratising::{DemoError, Result, gc};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

#[tokio::test]
async fn the_newest_idle_connection_is_used_again() {
    let pool = ConnectionPool::new(echo_server().await.to_string(), 4).unwrap();
    let (mut first, mut second) = (pool.get_async().await.unwrap(), pool.get_async().await.unwrap());
    ping(&mut first).await.unwrap();
    ping(&mut second).await.unwrap();
    let (old, new) = (first.local_addr().unwrap(), second.local_addr().unwrap());
    drop(first);
    drop(second);
    assert_eq!(pool.get_async().await.unwrap().local_addr().unwrap(), new);
    let both = [pool.get_async().await.unwrap(), pool.get_async().await.unwrap()];
    assert_eq!(both.each_ref().map(|one| one.local_addr().unwrap()), [new, old]);
    let stats = pool.stats();
    assert_eq!((stats.connects, stats.served, stats.in_use, stats.idle), (2, 5, 2, 0));
    drop(both);
    assert_eq!((pool.stats().in_use, pool.stats().idle), (0, 2));
    assert_eq!(pool.scope().used(Kind::Connections), 2);
    pool.close().await;
    assert_eq!(pool.scope().used(Kind::Connections), 0);
}

#[tokio::test]
async fn settings_that_cannot_be_are_refused_by_name() {
    let refused = |built: Result<ConnectionPool>| match built.unwrap_err() {
        DemoError::InvalidConfig { name, .. } => name,
        other => panic!("{other}"),
    };
    assert_eq!(refused(ConnectionPool::new("a:1", 0)), "max_size");
    assert_eq!(refused(ConnectionPool::new("a:1", usize::MAX)), "max_size");
    assert_eq!(refused(ConnectionPool::new("", 1)), "address");
    assert_eq!(refused(ConnectionPool::builder("a:1").max_size(2).min_idle(3).build()), "min_idle");
    assert_eq!(refused(ConnectionPool::builder("a:1").max_connecting(0).build()), "max_connecting");
    assert!(ConnectionPool::new("server:port", 10).is_ok(), "looked up when it is connected to");
}

/// Connections that are numbers, made and checked as a test says.
struct Scripted {
    made: AtomicUsize,
    alive: Arc<AtomicUsize>,
    most_alive: AtomicUsize,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
    /// A connect waits for one of these.
    gate: Semaphore,
    failures: Mutex<Vec<&'static str>>,
    bad: Mutex<Vec<usize>>,
}

impl Scripted {
    fn new(gate: usize) -> Arc<Scripted> {
        Arc::new(Scripted {
            made: AtomicUsize::new(0),
            alive: Arc::default(),
            most_alive: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            most_under_way: AtomicUsize::new(0),
            gate: Semaphore::new(gate),
            failures: Mutex::default(),
            bad: Mutex::default(),
        })
    }
}

const OPEN: usize = 1 << 20;

/// Counted while it lives.
#[derive(Debug)]
struct Numbered(usize, Arc<AtomicUsize>);

impl Drop for Numbered {
    fn drop(&mut self) {
        self.1.fetch_sub(1, SeqCst);
    }
}

#[derive(Clone)]
struct Through(Arc<Scripted>);

impl Manager for Through {
    type Connection = Numbered;

    fn name(&self) -> &str {
        "script"
    }

    async fn connect(&self) -> Result<Numbered> {
        let this = &self.0;
        let now = this.under_way.fetch_add(1, SeqCst) + 1;
        this.most_under_way.fetch_max(now, SeqCst);
        this.gate.acquire().await.unwrap().forget();
        this.under_way.fetch_sub(1, SeqCst);
        let fails = this.failures.lock().unwrap().pop();
        if let Some(why) = fails {
            assert_ne!(why, "panic", "as the script says");
            return Err(DemoError::from(std::io::Error::other(why)));
        }
        let alive = this.alive.fetch_add(1, SeqCst) + 1;
        this.most_alive.fetch_max(alive, SeqCst);
        Ok(Numbered(this.made.fetch_add(1, SeqCst), Arc::clone(&this.alive)))
    }

    async fn check(&self, connection: &mut Numbered, _idle: Duration) -> Result<()> {
        tokio::task::yield_now().await;
        match self.0.bad.lock().unwrap().contains(&connection.0) {
            true => Err(DemoError::from(std::io::Error::other("bad"))),
            false => Ok(()),
        }
    }
}

fn scripted(script: &Arc<Scripted>, max: usize) -> ConnectionPool<Through> {
    let builder = ConnectionPool::with_manager(Through(Arc::clone(script))).max_size(max);
    builder.wait_timeout(Duration::from_secs(5)).check_after(Duration::ZERO).build().unwrap()
}

#[tokio::test]
async fn a_connect_error_reaches_the_caller_as_itself_and_at_once() {
    // A port that nobody listens on.
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let pool = ConnectionPool::new(nobody.to_string(), 1).unwrap();
    let began = Instant::now();
    let DemoError::Connection { peer, source, .. } = pool.get_async().await.unwrap_err() else { panic!() };
    assert_eq!(*peer, *nobody.to_string());
    let source = source.downcast_ref::<std::io::Error>().expect("the system's own error");
    assert_eq!(source.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(began.elapsed() < Duration::from_secs(2), "it was shown as a timeout");
    assert_eq!((pool.stats().failures, pool.scope().used(Kind::Connections)), (1, 0));

    let script = Scripted::new(OPEN);
    script.failures.lock().unwrap().push("the password is wrong");
    let pool = scripted(&script, 1);
    assert!(pool.get_async().await.unwrap_err().to_string().contains("the password is wrong"));
    assert_eq!(pool.get_async().await.unwrap().0, 0, "the next try is a new one");
}

#[tokio::test]
async fn a_connect_that_panics_is_an_error_and_its_place_comes_back() {
    let script = Scripted::new(OPEN);
    script.failures.lock().unwrap().push("panic");
    let pool = scripted(&script, 1);
    let error = pool.get_async().await.unwrap_err().to_string();
    assert!(error.contains("panicked"), "{error}");
    assert_eq!(pool.get_async().await.unwrap().0, 0);
}

#[tokio::test]
async fn a_timeout_says_what_it_waited_for_and_in_how_much_time() {
    let script = Scripted::new(1);
    let builder = ConnectionPool::with_manager(Through(Arc::clone(&script))).max_size(1);
    let pool = builder.wait_timeout(Duration::from_millis(30)).build().unwrap();
    let held = pool.get_async().await.unwrap();
    let DemoError::TimedOut { phase, waited, in_use, limit, .. } = pool.get_async().await.unwrap_err() else {
        panic!()
    };
    assert_eq!((phase, waited), ("waiting for a connection to", Duration::from_millis(30)));
    assert_eq!((in_use, limit), (1, 1));
    PooledConnection::discard(held);
    // The gate is shut now: a connect that goes on and on.
    let error = pool.get_async().await.unwrap_err();
    assert!(matches!(error, DemoError::TimedOut { phase: "connecting to", .. }), "{error}");
    assert_eq!(pool.stats().timeouts, 2);
}

#[tokio::test]
async fn the_deadline_is_one_for_everything_that_is_waited_for() {
    // Waiting for a permit takes 60 ms and connecting more than another 60: together they must not take more than 100.
    let script = Scripted::new(1);
    let builder = ConnectionPool::with_manager(Through(Arc::clone(&script))).max_size(1);
    let pool = builder.wait_timeout(Duration::from_millis(100)).build().unwrap();
    let held = pool.get_async().await.unwrap();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(60)).await;
        PooledConnection::discard(held);
    });
    let began = Instant::now();
    let error = pool.get_async().await.unwrap_err();
    assert!(matches!(error, DemoError::TimedOut { phase: "connecting to", .. }), "{error}");
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(95) && took < Duration::from_millis(150), "{took:?}");
}

#[tokio::test]
async fn who_asked_first_is_served_first() {
    let script = Scripted::new(OPEN);
    let pool = scripted(&script, 1);
    let held = pool.get_async().await.unwrap();
    let served = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for number in 0..10 {
        let (pool_of_task, served) = (pool.clone(), Arc::clone(&served));
        tasks.push(tokio::spawn(async move {
            let _one = pool_of_task.get_async().await.unwrap();
            served.lock().unwrap().push(number);
            tokio::task::yield_now().await;
        }));
        until("it waits", || pool.stats().waiting == number + 1).await;
    }
    drop(held);
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(*served.lock().unwrap(), (0..10).collect::<Vec<_>>());
    assert_eq!(script.made.load(SeqCst), 1);
}

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

#[tokio::test]
async fn no_more_connects_than_allowed_are_under_way_at_once() {
    let script = Scripted::new(OPEN);
    let builder = ConnectionPool::with_manager(Through(Arc::clone(&script))).max_size(20).max_connecting(3);
    let pool = builder.build().unwrap();
    let gets: Vec<_> = (0..20)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { pool.get_async().await.unwrap() })
        })
        .collect();
    let mut all = Vec::new();
    for get in gets {
        all.push(get.await.unwrap());
    }
    assert_eq!(all.len(), 20);
    assert!((1..=3).contains(&script.most_under_way.load(SeqCst)));
}

#[tokio::test]
async fn a_connection_that_its_peer_closed_or_left_an_answer_in_is_not_handed_out() {
    for how in ["closed", "an answer too late", "reset"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let builder = ConnectionPool::builder(listener.local_addr().unwrap().to_string()).max_size(1);
        let pool = builder.check_after(Duration::ZERO).build().unwrap();
        let connection = pool.get_async().await.unwrap();
        let first = connection.local_addr().unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        drop(connection);
        let again = pool.get_async().await.unwrap();
        assert_eq!(again.local_addr().unwrap(), first, "it is good so far");
        drop(again);
        if how == "reset" {
            socket.set_zero_linger().unwrap();
        }
        // Kept open, or closed right here.
        let _kept = (how == "an answer too late").then(|| {
            assert_eq!(socket.try_write(b"late").unwrap(), 4);
            socket
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        let next = pool.get_async().await.unwrap();
        assert_ne!(next.local_addr().unwrap(), first, "{how}");
        assert_eq!((pool.stats().closed_stale, pool.stats().connects), (1, 2), "{how}");
    }
}

#[tokio::test]
async fn idle_connections_are_closed_down_to_those_that_are_kept_ready() {
    let script = Scripted::new(OPEN);
    let builder = ConnectionPool::with_manager(Through(Arc::clone(&script))).max_size(8).min_idle(2);
    let pool = builder.idle_timeout(Duration::from_millis(40)).build().unwrap();
    until("two are ready", || pool.stats().idle == 2).await;
    let mut all = Vec::new();
    for _ in 0..6 {
        all.push(pool.get_async().await.unwrap());
    }
    drop(all);
    assert!(pool.stats().idle >= 6);
    until("back to two", || pool.stats().idle == 2).await;
    until("the ledger too", || pool.scope().used(Kind::Connections) == 2).await;
    assert!(pool.stats().closed_unused >= 4);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((pool.stats().idle, script.alive.load(SeqCst)), (2, 2), "and no less");
}

#[tokio::test]
async fn connections_kept_ready_are_tried_again_after_a_failure() {
    let script = Scripted::new(OPEN);
    script.failures.lock().unwrap().extend(["down", "down"]);
    let builder = ConnectionPool::with_manager(Through(Arc::clone(&script))).max_size(2).min_idle(1);
    let pool = builder.build().unwrap();
    until("one is ready in the end", || pool.stats().idle == 1).await;
    assert!(pool.stats().failures >= 2);
}

#[tokio::test]
async fn a_connection_is_closed_at_the_end_of_its_life_and_not_all_at_once() {
    let script = Scripted::new(OPEN);
    let builder = ConnectionPool::with_manager(Through(Arc::clone(&script))).max_size(20);
    let pool = builder.max_lifetime(Duration::from_millis(400)).build().unwrap();
    let mut all = Vec::new();
    for _ in 0..20 {
        all.push(pool.get_async().await.unwrap());
    }
    let began = Instant::now();
    drop(all);
    until("the first is gone", || script.alive.load(SeqCst) < 20).await;
    assert!(began.elapsed() >= Duration::from_millis(340), "a tenth earlier at most");
    until("all are gone", || script.alive.load(SeqCst) == 0).await;
    assert_eq!(pool.stats().closed_expired, 20);
    // One in use is not taken away; it goes when it comes back.
    let held = pool.get_async().await.unwrap();
    tokio::time::sleep(Duration::from_millis(450)).await;
    assert_eq!(script.alive.load(SeqCst), 1);
    let number = held.0;
    drop(held);
    assert_ne!(pool.get_async().await.unwrap().0, number);
}

#[tokio::test]
async fn close_tells_who_waits_and_waits_for_what_is_in_use() {
    let script = Scripted::new(OPEN);
    let pool = scripted(&script, 1);
    let held = pool.get_async().await.unwrap();
    let waiter = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get_async().await }
    });
    until("it waits", || pool.stats().waiting == 1).await;
    let mut closing = Box::pin(pool.close());
    assert!(closing.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending(), "one is in use");
    assert!(matches!(waiter.await.unwrap(), Err(DemoError::Closed { .. })));
    assert!(matches!(pool.get_async().await, Err(DemoError::Closed { .. })));
    drop(held);
    closing.await;
    assert_eq!((script.alive.load(SeqCst), pool.is_closed()), (0, true));
    pool.close().await;
}

#[tokio::test]
async fn a_connect_under_way_when_the_pool_is_closed_leaves_nothing() {
    let script = Scripted::new(0);
    let pool = scripted(&script, 1);
    let waiter = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get_async().await.map(drop) }
    });
    until("the connect began", || script.under_way.load(SeqCst) == 1).await;
    let closing = tokio::spawn({
        let pool = pool.clone();
        async move { pool.close().await }
    });
    assert!(matches!(waiter.await.unwrap(), Err(DemoError::Closed { .. })));
    script.gate.add_permits(1);
    closing.await.unwrap();
    assert_eq!((script.alive.load(SeqCst), pool.scope().used(Kind::Connections)), (0, 0));
}

#[tokio::test]
async fn a_connection_may_outlive_its_pool_and_be_taken_out_of_it() {
    let script = Scripted::new(OPEN);
    let pool = scripted(&script, 1);
    let scope = pool.scope().clone();
    let taken = PooledConnection::take(pool.get_async().await.unwrap());
    assert_eq!((scope.used(Kind::Connections), script.alive.load(SeqCst)), (0, 1));
    let second = pool.get_async().await.unwrap();
    drop(pool);
    assert_eq!(scope.used(Kind::Connections), 1);
    drop((second, taken));
    assert_eq!((scope.used(Kind::Connections), script.alive.load(SeqCst)), (0, 0));
}

#[tokio::test]
async fn idle_connections_are_given_up_for_others_when_a_scope_is_full() {
    let service = Scope::process().child("service");
    service.set_limit(Kind::Connections, 3);
    let (one, two) = (Scripted::new(OPEN), Scripted::new(OPEN));
    let (first, second) = service.run(|| (scripted(&one, 8), scripted(&two, 8)));
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(first.get_async().await.unwrap());
    }
    assert_eq!(service.used(Kind::Connections), 3);
    let error = second.get_async().await.unwrap_err().to_string();
    assert!(error.contains("connections of \"service\""), "{error}");
    drop(held);
    let got = second.get_async().await.expect("the first pool's idle ones can go");
    assert!(service.used(Kind::Connections) <= 3 && service.peak(Kind::Connections) == 3);
    drop(got);
    assert!(gc::collect().unwrap().connections >= 1);
    assert_eq!(service.used(Kind::Connections), 0);
}

#[test]
fn a_blocking_get_needs_no_runtime_at_all() {
    let pool = ConnectionPool::new(echo_thread().to_string(), 2).unwrap();
    for _ in 0..3 {
        let mut connection = pool.get().unwrap();
        connection.write_all(b"hello").unwrap();
        let mut answer = [0; 5];
        connection.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hello");
    }
    assert_eq!(pool.stats().connects, 1);
    let held = [pool.get().unwrap(), pool.get().unwrap()];
    let waiting = std::thread::spawn({
        let pool = pool.clone();
        move || pool.get().map(drop)
    });
    std::thread::sleep(Duration::from_millis(20));
    drop(held);
    waiting.join().unwrap().unwrap();
}

#[test]
fn a_blocking_get_ends_with_its_deadline() {
    let builder = ConnectionPool::builder(echo_thread().to_string()).max_size(1);
    let pool = builder.wait_timeout(Duration::from_millis(40)).build().unwrap();
    let _held = pool.get().unwrap();
    let began = Instant::now();
    assert!(matches!(pool.get(), Err(DemoError::TimedOut { .. })));
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(40) && took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_blocking_read_ends_with_its_timeout_and_the_connection_with_it() {
    let builder = ConnectionPool::builder(echo_thread().to_string()).max_size(1);
    let pool = builder.io_timeout(Duration::from_millis(30)).build().unwrap();
    let mut connection = pool.get().unwrap();
    let error = connection.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    drop(connection);
    assert_eq!(pool.stats().idle, 0, "an answer may still come: nobody else gets it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_blocking_get_in_a_runtime_of_threads_lets_the_other_tasks_go_on() {
    let script = Scripted::new(OPEN);
    let pool = scripted(&script, 1);
    let held = pool.get_async().await.unwrap();
    // In the queue of the very thread that blocks.
    tokio::spawn(async move { drop(held) });
    let task = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get().map(|got| got.0) }
    });
    assert_eq!(task.await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn a_blocking_get_on_the_only_thread_of_a_runtime_is_refused() {
    let script = Scripted::new(OPEN);
    let pool = scripted(&script, 1);
    let error = pool.get().unwrap_err();
    assert!(matches!(error, DemoError::WouldDeadlock { .. }), "{error}");
    assert!(error.to_string().contains("get_async"), "{error}");
    let spawned = tokio::spawn({
        let pool = pool.clone();
        async move { pool.get().map(drop) }
    });
    assert!(matches!(spawned.await.unwrap(), Err(DemoError::WouldDeadlock { .. })));
    // Its threads for blocking work may wait.
    let of_pool = pool.clone();
    let got = tokio::task::spawn_blocking(move || of_pool.get().map(|got| got.0));
    assert_eq!(got.await.unwrap().unwrap(), 0);
}

#[test]
fn connections_outlive_the_runtime_that_they_were_made_in() {
    let pool = ConnectionPool::new(echo_thread().to_string(), 1).unwrap();
    for _ in 0..3 {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let mut connection = pool.get_async().await.unwrap();
            ping(&mut connection).await.unwrap();
        });
    }
    let mut connection = pool.get().unwrap();
    connection.write_all(b"x").unwrap();
    connection.read_exact(&mut [0]).unwrap();
    assert_eq!(pool.stats().connects, 1);
}

#[test]
fn a_runtime_that_ends_with_a_connect_under_way_frees_its_place() {
    let script = Scripted::new(0);
    let pool = scripted(&script, 1);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let get = pool.get_async();
        assert!(tokio::time::timeout(Duration::from_millis(20), get).await.is_err());
    });
    drop(runtime);
    assert_eq!((pool.scope().used(Kind::Connections), pool.stats().connecting), (0, 0));
    script.gate.add_permits(1);
    assert_eq!(pool.get().unwrap().0, 0);
}

#[tokio::test]
async fn a_connection_of_a_panicking_task_is_closed() {
    let script = Scripted::new(OPEN);
    let pool = scripted(&script, 1);
    let task = tokio::spawn({
        let pool = pool.clone();
        async move {
            let _half_done = pool.get_async().await.unwrap();
            panic!("in the middle of a request");
        }
    });
    assert!(task.await.is_err());
    assert_eq!((pool.stats().idle, script.alive.load(SeqCst)), (0, 0));
    assert_eq!(pool.get_async().await.unwrap().0, 1);
}

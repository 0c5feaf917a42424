//! What a `get` gives and says: which connection, which error, in how much time, who first.

use crate::common::{echo_server, ping, until};
use crate::scripted::{OPEN, Scripted, Through, scripted};
use democratising::net::{ConnectionPool, PooledConnection};
use democratising::pool::budget::scope::Kind;
use democratising::{DemoError, Result};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

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
    let text = error.to_string();
    assert!(text.contains("0 of 1 ") && !text.contains("the maximum"), "there is room, and it says: {text}");
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

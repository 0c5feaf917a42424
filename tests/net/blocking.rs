//! A `get` that blocks, in and outside of runtimes, and connections that outlive one.

use crate::common::{echo_thread, ping};
#[cfg(unix)]
use crate::fork;
use crate::scripted::{OPEN, Scripted, scripted};
use democratising::DemoError;
use democratising::net::ConnectionPool;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

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

#[cfg(unix)]
#[test]
fn a_fork_has_a_network_thread_of_its_own() {
    let address = echo_thread().to_string();
    let echoes = |address: &str| -> Result<bool, DemoError> {
        let mut connection = ConnectionPool::new(address, 1)?.get()?;
        let mut answer = [0; 5];
        let done = connection.write_all(b"hello").and_then(|()| connection.read_exact(&mut answer));
        Ok(done.is_ok() && &answer == b"hello")
    };
    assert!(echoes(&address).unwrap(), "the parent has a network thread now");
    assert_eq!(fork::in_child(|| matches!(echoes(&address), Ok(true))), fork::RIGHT);
    assert!(echoes(&address).unwrap());
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

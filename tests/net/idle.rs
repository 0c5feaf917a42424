//! Connections that nobody uses: checked, kept ready, closed, given up.

use crate::common::until;
use crate::scripted::{OPEN, Scripted, Through, scripted};
use democratising::gc;
use democratising::net::ConnectionPool;
use democratising::pool::budget::scope::{Kind, Scope};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

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

/// The test in a process of its own, whose descriptors can be limited.
#[cfg(target_os = "linux")]
#[test]
fn out_of_descriptors_a_connect_takes_that_of_an_idle_connection() {
    const MARK: &str = "DEMOCRATISING_TEST_CONNECTS";
    if std::env::var_os(MARK).is_some() {
        return connects_without_descriptors();
    }
    let child = std::process::Command::new("sh")
        .args(["-c", "ulimit -n 64 && exec \"$0\" --exact idle::out_of_descriptors_a_connect_takes_that_of_an_idle_connection"])
        .arg(std::env::current_exe().unwrap())
        .env(MARK, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
}

#[cfg(target_os = "linux")]
fn connects_without_descriptors() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = || listener.local_addr().unwrap().to_string();
        let (idle, wanted) = (ConnectionPool::new(to(), 2).unwrap(), ConnectionPool::new(to(), 3).unwrap());
        drop([idle.get_async().await.unwrap(), idle.get_async().await.unwrap()]);
        let mut files = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            files.push(file);
        }
        let held = [wanted.get_async().await.unwrap(), wanted.get_async().await.unwrap()];
        assert_eq!((idle.stats().idle, idle.stats().closed_unused), (0, 2));
        let none_left = wanted.get_async().await.unwrap_err().to_string();
        assert!(none_left.contains("os error 24"), "{none_left}");
        drop((held, files));
    });
}

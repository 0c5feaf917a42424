//! How pools, connections and those who hold them end.

use crate::common::until;
use crate::scripted::{OPEN, Scripted, scripted};
use democratising::DemoError;
use democratising::net::PooledConnection;
use democratising::pool::budget::scope::Kind;
use std::sync::atomic::Ordering::SeqCst;
use std::task::{Context, Waker};
use std::time::Duration;

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

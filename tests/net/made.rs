//! New connections: where they are made, and what is asked of them.

use crate::common::{echo_thread, until};
use democratising::net::{ConnectionPool, Manager};
use democratising::{Result, resources};
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tokio::runtime::Builder;

/// Connections that take a moment, of a manager whose end is counted.
struct Slow(Arc<AtomicUsize>);

impl Manager for Slow {
    type Connection = ();

    fn name(&self) -> &str {
        "slow"
    }

    async fn connect(&self) -> Result<()> {
        tokio::time::sleep(Duration::from_millis(30)).await;
        Ok(())
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// A server that speaks first.
fn greeter() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut sockets = Vec::new();
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            socket.write_all(b"220 hello\r\n").unwrap();
            sockets.push(socket);
        }
    });
    address
}

#[test]
fn a_connect_goes_on_though_nobody_drives_the_runtime_of_its_caller() {
    let pool = ConnectionPool::with_manager(Slow(Arc::default())).build().unwrap();
    let left = Builder::new_current_thread().enable_all().build().unwrap();
    left.block_on(async {
        tokio::time::timeout(Duration::from_millis(5), pool.get_async()).await.unwrap_err();
    });
    let elsewhere = pool.clone();
    std::thread::spawn(move || drop(elsewhere.get().unwrap())).join().unwrap();
    assert_eq!(pool.stats().connects, 1, "the one that was left");
    let another = Builder::new_current_thread().enable_all().build().unwrap();
    another.block_on(pool.close());
}

#[test]
fn a_thread_that_entered_a_runtime_of_one_thread_gets_a_connection() {
    let address = echo_thread().to_string();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    let pool = ConnectionPool::new(address, 1).unwrap();
    let mut connection = pool.get().unwrap();
    connection.write_all(b"x").unwrap();
    let mut answer = [0];
    std::io::Read::read_exact(&mut connection, &mut answer).unwrap();
    assert_eq!(&answer, b"x");
}

#[test]
fn a_connection_that_was_just_made_is_not_checked_as_if_it_had_been_idle() {
    let builder = ConnectionPool::builder(greeter().to_string()).check_after(Duration::ZERO);
    let pool = builder.build().unwrap();
    drop(pool.get().unwrap());
    assert_eq!((pool.stats().connects, pool.stats().closed_stale), (1, 0));
}

#[test]
fn a_connection_that_is_over_as_soon_as_it_is_made_is_handed_out_once() {
    let pool = ConnectionPool::builder(greeter().to_string()).max_lifetime(Duration::from_micros(900));
    let pool = pool.build().unwrap();
    for made in 1..=3 {
        drop(pool.get().unwrap());
        assert_eq!(pool.stats().connects, made);
    }
}

#[tokio::test]
async fn a_greeting_in_a_connection_that_was_kept_ready_is_no_fault() {
    let builder = ConnectionPool::builder(greeter().to_string()).check_after(Duration::ZERO);
    let pool = builder.min_idle(2).build().unwrap();
    until("none is kept ready", || pool.stats().idle >= 2).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let both = (pool.get_async().await.unwrap(), pool.get_async().await.unwrap());
    assert_eq!(pool.stats().closed_stale, 0);
    both.0.readable().await.unwrap();
    both.1.readable().await.unwrap();
    // Of one that was used it is what is left of an answer.
    drop(both);
    drop(pool.get_async().await.unwrap());
    assert_ne!(pool.stats().closed_stale, 0);
}

#[test]
fn settings_that_mean_without_end_are_taken() {
    let builder = ConnectionPool::builder(greeter().to_string()).max_connecting(usize::MAX);
    let builder = builder.max_lifetime(Duration::MAX).idle_timeout(Duration::MAX);
    let pool = builder.wait_timeout(Duration::MAX).build().unwrap();
    drop(pool.get().unwrap());
    assert_eq!(pool.stats().connects, 1);
}

#[tokio::test]
async fn a_pool_that_was_dropped_holds_nothing_any_more() {
    let ended = Arc::<AtomicUsize>::default();
    let pool = ConnectionPool::with_manager(Slow(ended.clone())).build().unwrap();
    let name = pool.scope().name().to_string();
    drop(pool.get_async().await.unwrap());
    drop(pool);
    until("the manager lives on", || ended.load(SeqCst) == 1).await;
    let listed = |name: &str| resources().scopes.iter().any(|scope| scope.name == name);
    until("the scope lives on", || !listed(&name)).await;
}

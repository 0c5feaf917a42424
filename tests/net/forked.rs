//! A pool in the child of a fork.

use crate::common::{echo_thread, ping};
use crate::fork;
use democratising::DemoError;
use democratising::net::{ConnectionPool, PooledConnection};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// The client's end of the connection that the pool hands out, once an answer came through it.
fn served(pool: &ConnectionPool) -> Option<SocketAddr> {
    let mut connection = pool.get().ok()?;
    connection.write_all(b"ping").ok()?;
    connection.read_exact(&mut [0; 4]).ok()?;
    connection.local_addr().ok()
}

#[test]
fn a_child_is_refused_the_connections_of_its_parent_and_has_others_in_a_pool_of_its_own() {
    let address = echo_thread().to_string();
    let pool = ConnectionPool::new(&*address, 1).unwrap();
    let parents = served(&pool).unwrap();
    let ended = fork::in_child(|| {
        let Err(DemoError::Connection { action, source, .. }) = pool.get() else { return false };
        let is_told = action.contains("fork") && source.to_string().contains("another pool");
        let childs = served(&ConnectionPool::new(&*address, 1).unwrap());
        is_told && childs.is_some_and(|childs| childs != parents)
    });
    assert_eq!(ended, fork::RIGHT);
    assert_eq!(served(&pool), Some(parents), "the parent goes on with it");
}

/// Each answer comes so late that whoever waits for it has to be told.
async fn slow_echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut word = [0; 4];
                while socket.read_exact(&mut word).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                    socket.write_all(&word).await.unwrap();
                }
            });
        }
    });
    address
}

type GivesUp = Box<dyn FnMut(&mut Option<ConnectionPool>, PooledConnection)>;

fn end(connection: &PooledConnection) -> SocketAddr {
    connection.local_addr().unwrap()
}

#[test]
fn a_child_that_gives_up_what_it_has_of_a_pool_leaves_the_parent_its_answers() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let address = runtime.block_on(slow_echo()).to_string();
    let mut pool = Some(ConnectionPool::new(address, 2).unwrap());
    let get = |pool: &Option<ConnectionPool>| runtime.block_on(pool.as_ref().unwrap().get_async()).unwrap();
    // One is on loan and one idle at each fork.
    let mut lent = Some(get(&pool));
    let idle = end(&get(&pool));
    let mut ways: Vec<(&str, GivesUp)> = vec![
        ("collects", Box::new(|_, _| drop(democratising::gc::collect().unwrap()))),
        ("drops the pool", Box::new(|pool, _| drop(pool.take()))),
        ("closes the pool", Box::new(|pool, _| futures(pool.as_ref().unwrap().close()))),
        ("gives one back", Box::new(|_, lent| drop(lent))),
        ("discards one", Box::new(|_, lent| PooledConnection::discard(lent))),
    ];
    for (how, gives_up) in &mut ways {
        let ended = fork::in_child(|| {
            gives_up(&mut pool, lent.take().unwrap());
            pool.as_ref().is_none_or(|pool| pool.stats().idle == 0)
        });
        assert_eq!(ended, fork::RIGHT, "{how}");
        for mut connection in [lent.take().unwrap(), get(&pool)] {
            let answer = async { tokio::time::timeout(Duration::from_secs(5), ping(&mut connection)).await };
            assert!(
                matches!(runtime.block_on(answer), Ok(Ok(()))),
                "{how}: nobody tells the parent of answers"
            );
        }
        let first = get(&pool);
        let second = get(&pool);
        assert!([end(&first), end(&second)].contains(&idle), "{how}: the parent has it still");
        lent = Some(if end(&first) == idle { second } else { first });
    }
}

/// Runs what needs no runtime.
fn futures(work: impl Future<Output = ()>) {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(std::pin::pin!(work).poll(&mut context).is_ready());
}

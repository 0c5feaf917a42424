//! Network Resources: Connection Management, Resource Pools. Performance Optimization: Use resource pools.

use democratising::net::{ConnectionPool, PooledConnection, Server, Socket};
use democratising::{DemoError, Result};
use std::io::{Read, Write};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

// differs: the address is told, since a test takes a port that is free.
async fn handle_connections(bound: impl FnOnce(std::net::SocketAddr)) -> Result<()> {
    // TCP listener with automatic cleanup
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    bound(listener.local_addr()?);

    while let Ok((socket, _)) = listener.accept().await {
        tokio::spawn(async move { handle_client(socket).await });
    }

    Ok(())
}

// differs: `mut`, without which `split` cannot be called.
async fn handle_client(mut socket: TcpStream) -> Result<()> {
    let (reader, writer) = socket.split();

    // Process client request
    process_request(reader, writer).await?;

    Ok(())
} // socket closed automatically

/// One word, back in capitals.
async fn process_request(
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
) -> Result<()> {
    let mut word = [0; 5];
    reader.read_exact(&mut word).await?;
    writer.write_all(&word.to_ascii_uppercase()).await?;
    Ok(())
}

async fn asks_and_is_closed(address: std::net::SocketAddr) {
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"HELLO");
}

#[tokio::test]
async fn network_connection_management_over_plain_tokio() {
    let (tell, told) = tokio::sync::oneshot::channel();
    let serving = tokio::spawn(handle_connections(|address| tell.send(address).unwrap()));
    let address = told.await.unwrap();
    asks_and_is_closed(address).await;
    serving.abort();
    assert!(serving.await.unwrap_err().is_cancelled());
    assert!(TcpStream::connect(address).await.is_err(), "the listener is closed with its task");
}

#[tokio::test]
async fn network_connection_management_over_a_server() {
    async fn handle_client(socket: Socket) -> Result<()> {
        let (reader, writer) = tokio::io::split(socket);
        process_request(reader, writer).await
    }

    let server = Server::bind("127.0.0.1:0").await.unwrap().max_connections(1000);
    let (address, shutdown) = (server.local_addr().unwrap(), server.shutdown_handle());
    let serving = tokio::spawn(server.serve(handle_client));
    asks_and_is_closed(address).await;
    shutdown.shutdown();
    assert_eq!(serving.await.unwrap().unwrap().accepted, 1);
}

// ---- Network Resources: Resource Pools ----

mod resource_pools {
    use democratising::Result;
    use std::net::TcpStream;

    pub struct ConnectionPool {
        pub connections: Vec<TcpStream>,
        pub max_size: usize,
    }

    // differs: the guide leaves it open.
    pub struct PooledConnection<'a> {
        pub conn: Option<TcpStream>,
        pool: &'a mut ConnectionPool,
    }

    impl ConnectionPool {
        pub fn get_connection(&mut self) -> Result<PooledConnection<'_>> {
            if let Some(conn) = self.connections.pop() {
                Ok(PooledConnection { conn: Some(conn), pool: self })
            } else {
                let conn = TcpStream::connect("server:port")?;
                Ok(PooledConnection { conn: Some(conn), pool: self })
            }
        }
    }

    // differs: the lifetime.
    impl Drop for PooledConnection<'_> {
        fn drop(&mut self) {
            if let Some(conn) = self.conn.take() {
                self.pool.connections.push(conn);
            }
        }
    }
}

#[test]
fn network_resource_pools_written_by_hand() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let connection = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut pool = resource_pools::ConnectionPool { connections: vec![connection], max_size: 1 };
    for _ in 0..2 {
        let conn = pool.get_connection().unwrap();
        assert!(conn.conn.is_some());
    }
    assert_eq!(pool.connections.len(), pool.max_size, "it came back");
    pool.connections.clear();
    assert!(matches!(pool.get_connection(), Err(DemoError::Io { .. })), "`?` takes errors of sockets");
}

// ---- Performance Optimization: Use resource pools ----

// differs: the pool takes the address too, and the test's own.
fn use_connection_pool(address: &str) -> Result<ConnectionPool> {
    let pool = ConnectionPool::new(address, 10)?;

    for _ in 0..100 {
        let mut conn = pool.get()?;
        process(&mut conn)?;
    } // Connections returned to pool

    Ok(pool)
}

fn process(conn: &mut PooledConnection) -> Result<()> {
    conn.write_all(b"hello")?;
    let mut answer = [0; 5];
    conn.read_exact(&mut answer)?;
    assert_eq!(&answer, b"HELLO");
    Ok(())
}

#[test]
fn network_resource_pools() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(Server::bind("127.0.0.1:0")).unwrap();
    let (address, shutdown) = (server.local_addr().unwrap(), server.shutdown_handle());
    let serving = runtime.spawn(server.serve(|socket| async move {
        let (mut reader, mut writer) = tokio::io::split(socket);
        while process_request(&mut reader, &mut writer).await.is_ok() {}
        Ok(())
    }));
    let pool = use_connection_pool(&address.to_string()).unwrap();
    assert_eq!((pool.stats().served, pool.stats().connects), (100, 1));
    drop(pool);
    shutdown.shutdown();
    assert_eq!(runtime.block_on(serving).unwrap().unwrap().accepted, 1);
    assert!(matches!(ConnectionPool::new("server:port", 0), Err(DemoError::InvalidConfig { .. })));
}

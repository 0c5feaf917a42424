//! Servers on loopback, and waiting for what must come.
#![allow(dead_code, reason = "each test file uses some")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Answers each byte with the same byte, until the end.
pub async fn echo(mut socket: TcpStream) {
    let mut buffer = [0; 1024];
    while let Ok(bytes) = socket.read(&mut buffer).await {
        if bytes == 0 || socket.write_all(&buffer[..bytes]).await.is_err() {
            break;
        }
    }
}

/// A server of echoes in this runtime.
pub async fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(echo(socket));
        }
    });
    address
}

/// A server of echoes on a thread of its own, for as long as the process lives.
pub fn echo_thread() -> SocketAddr {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tell.send(echo_server().await).unwrap();
            std::future::pending::<()>().await
        })
    });
    told.recv().unwrap()
}

/// Sends a word and reads it back.
pub async fn ping(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"ping").await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"ping");
    Ok(())
}

/// Waits until something holds, and panics with `what` where it does not within ten seconds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

//! A pool against a server that closes, stalls, resets and refuses at random: 30 seconds in CI, 3 otherwise, or as many as
//! `DEMOCRATISING_SOAK_SECONDS` says.
#![cfg(all(feature = "net", unix))]

#[path = "net/common.rs"]
mod common;

#[path = "common/draw.rs"]
mod draw;

use common::{ping, until};
use democratising::net::{ConnectionPool, PooledConnection};
use democratising::pool::budget::scope::Kind;
use democratising::{DemoError, gc};
use draw::Draw;
use std::collections::HashMap;
use std::io::ErrorKind::WouldBlock;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

const MAX: usize = 8;
const MIN_IDLE: usize = 2;

fn seconds() -> u64 {
    match std::env::var("DEMOCRATISING_SOAK_SECONDS") {
        Ok(seconds) => seconds.parse().expect("DEMOCRATISING_SOAK_SECONDS is a number"),
        Err(_) if std::env::var_os("CI").is_some() => 30,
        Err(_) => 3,
    }
}

/// Whether the socket itself knows that its peer is gone: the runtime may not have heard of it yet.
fn is_dead(connection: &TcpStream) -> bool {
    let mut byte = [0u8; 1];
    let (fd, flags) = (connection.as_raw_fd(), libc::MSG_PEEK | libc::MSG_DONTWAIT);
    // SAFETY: 1. The descriptor is open as long as the connection is borrowed. 2. The buffer holds the one byte asked for.
    let read = unsafe { libc::recv(fd, byte.as_mut_ptr().cast(), 1, flags) };
    read == 0 || read < 0 && std::io::Error::last_os_error().kind() != WouldBlock
}

/// What the server does to its clients.
#[derive(Default)]
struct Faults {
    off: AtomicBool,
    closed: AtomicUsize,
    reset: AtomicUsize,
    stalled: AtomicUsize,
    refused: AtomicUsize,
    open: AtomicUsize,
    most_open: AtomicUsize,
    /// When the server had ended a connection, by the client's port.
    ended: Mutex<HashMap<u16, Instant>>,
}

/// How long an end may take through the loopback interface of a machine that is busy.
const ON_ITS_WAY: Duration = Duration::from_millis(5);

/// No connection is that old: the pool gives each 100 ms. An end so long ago was that of another one with the same port, which was
/// refused before the server had a look at it.
const ANOTHER: Duration = Duration::from_secs(1);

impl Faults {
    /// Ends a connection, and notes when that was done.
    fn end(&self, socket: TcpStream) {
        let port = socket.peer_addr().map(|peer| peer.port());
        drop(socket);
        self.ended.lock().unwrap().extend(port.map(|port| (port, Instant::now())));
    }
}

struct Counted(Arc<Faults>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, SeqCst);
    }
}

async fn misbehave(mut socket: TcpStream, faults: Arc<Faults>, seed: u64) {
    let open = faults.open.fetch_add(1, SeqCst) + 1;
    faults.most_open.fetch_max(open, SeqCst);
    let _counted = Counted(Arc::clone(&faults));
    // The port may have been another connection's before.
    faults.ended.lock().unwrap().remove(&socket.peer_addr().map_or(0, |peer| peer.port()));
    let mut draw = Draw(seed);
    let mut buffer = [0; 64];
    while let Ok(bytes @ 1..) = socket.read(&mut buffer).await {
        let fault = if faults.off.load(SeqCst) { 9 } else { draw.below(60) };
        match fault {
            0 => {
                faults.reset.fetch_add(1, SeqCst);
                let _ = socket.set_zero_linger();
                return faults.end(socket);
            }
            1 => {
                faults.stalled.fetch_add(1, SeqCst);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            _ => {}
        }
        if socket.write_all(&buffer[..bytes]).await.is_err() || fault == 2 {
            // Closed after an answer: the client sees nothing of it before it looks.
            faults.closed.fetch_add(usize::from(fault == 2), SeqCst);
            return faults.end(socket);
        }
    }
}

async fn listen(address: SocketAddr) -> TcpListener {
    loop {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        if socket.bind(address).is_ok()
            && let Ok(listener) = socket.listen(128)
        {
            return listener;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn serve(mut listener: TcpListener, faults: Arc<Faults>) {
    let address = listener.local_addr().unwrap();
    let mut draw = Draw(77);
    let mut refuses_at = Instant::now() + Duration::from_millis(300);
    loop {
        if let Ok(Ok((socket, _))) = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await
        {
            tokio::spawn(misbehave(socket, Arc::clone(&faults), draw.0));
            draw.below(2);
        }
        if Instant::now() >= refuses_at && !faults.off.load(SeqCst) {
            // Nobody listens for a moment: connects are refused.
            drop(listener);
            faults.refused.fetch_add(1, SeqCst);
            tokio::time::sleep(Duration::from_millis(30)).await;
            listener = listen(address).await;
            refuses_at = Instant::now() + Duration::from_millis(200 + draw.below(400));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_lives_through_a_server_that_misbehaves_in_every_way() {
    let end = Instant::now() + Duration::from_secs(seconds());
    let faults = Arc::new(Faults::default());
    let listener = listen("127.0.0.1:0".parse().unwrap()).await;
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, Arc::clone(&faults)));

    let builder = ConnectionPool::builder(address.to_string()).max_size(MAX).min_idle(MIN_IDLE);
    let builder =
        builder.wait_timeout(Duration::from_millis(500)).connect_timeout(Duration::from_millis(200));
    let builder = builder.idle_timeout(Duration::from_millis(200)).max_lifetime(Duration::from_millis(100));
    let pool = builder.check_after(Duration::ZERO).build().unwrap();

    let answered = Arc::new(AtomicU64::new(0));
    let refused = Arc::new(AtomicU64::new(0));
    let dead = Arc::new(AtomicU64::new(0));
    let mut clients = Vec::new();
    for seed in 1..=16u64 {
        let pool = pool.clone();
        let (answered, refused, dead) = (Arc::clone(&answered), Arc::clone(&refused), Arc::clone(&dead));
        let faults = Arc::clone(&faults);
        clients.push(tokio::spawn(async move {
            let mut draw = Draw(seed);
            while Instant::now() < end {
                assert!(pool.scope().used(Kind::Connections) <= MAX as u64);
                let patience = if draw.below(4) == 0 { draw.below(300) } else { 1_000_000 };
                let asked = Instant::now();
                let get = tokio::time::timeout(Duration::from_micros(patience), pool.get_async());
                let mut connection = match get.await {
                    Err(_) => continue,
                    Ok(Ok(connection)) => connection,
                    Ok(Err(error)) => {
                        let expected =
                            matches!(error, DemoError::Connection { .. } | DemoError::TimedOut { .. });
                        assert!(expected, "{error}");
                        refused.fetch_add(1, SeqCst);
                        // As a program that is refused would.
                        tokio::time::sleep(Duration::from_millis(2)).await;
                        continue;
                    }
                };
                // An end that lies in the socket now lay there when the pool looked, or came since: it lay there if it came before
                // the pool was asked.
                if is_dead(&connection) {
                    dead.fetch_add(1, SeqCst);
                    let port = connection.local_addr().unwrap().port();
                    let ended = faults.ended.lock().unwrap().get(&port).copied();
                    let early =
                        ended.is_some_and(|ended| ended + ON_ITS_WAY < asked && asked < ended + ANOTHER);
                    assert!(!early, "handed out {:?} after its end", asked - ended.unwrap());
                }
                match tokio::time::timeout(Duration::from_millis(60), ping(&mut connection)).await {
                    Ok(Ok(())) => {
                        answered.fetch_add(1, SeqCst);
                        drop(connection);
                        // Now and then long enough for connections to lie idle.
                        match draw.below(40) {
                            0 => tokio::time::sleep(Duration::from_millis(draw.below(150))).await,
                            1..14 => tokio::time::sleep(Duration::from_micros(draw.below(2000))).await,
                            _ => {}
                        }
                    }
                    _ => PooledConnection::discard(connection),
                }
            }
        }));
    }
    for client in clients {
        client.await.unwrap();
    }
    faults.off.store(true, SeqCst);
    let stats = pool.stats();
    let seen = |count: &AtomicUsize| count.load(SeqCst);
    println!(
        "{} answers, {} refused, {} dead at hand; server: {} closed, {} reset, {} stalled, {} times not there; {stats:?}",
        answered.load(SeqCst),
        refused.load(SeqCst),
        dead.load(SeqCst),
        seen(&faults.closed),
        seen(&faults.reset),
        seen(&faults.stalled),
        seen(&faults.refused)
    );
    assert!(answered.load(SeqCst) > 100 && stats.closed_stale > 0);
    let kinds = [&faults.closed, &faults.reset, &faults.stalled, &faults.refused];
    assert!(kinds.into_iter().all(|count| seen(count) > 0), "some fault never came: this shows too little");
    assert!(pool.scope().peak(Kind::Connections) <= MAX as u64);
    until("back to those that are kept ready", || {
        let stats = pool.stats();
        (stats.idle, stats.in_use, stats.connecting, stats.waiting) == (MIN_IDLE, 0, 0, 0)
    })
    .await;
    assert_eq!(pool.scope().used(Kind::Connections), MIN_IDLE as u64);
    gc::collect().unwrap();
    pool.close().await;
    assert_eq!(pool.scope().used(Kind::Connections), 0);
    until("the server sees no connection", || faults.open.load(SeqCst) == 0).await;
}

//! The server: its limits, what it does to clients that stall, and how it ends.
#![cfg(feature = "net")]

#[path = "net/common.rs"]
mod common;

use common::until;
use democratising::net::{ConnectionPool, Server, ShutdownHandle, Socket};
use democratising::pool::budget::scope::{Kind, Scope};
use democratising::{DemoError, Result};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

type Serving = JoinHandle<Result<democratising::net::Served>>;

async fn echo(mut socket: Socket) -> Result<()> {
    let mut buffer = [0; 1024];
    loop {
        let bytes = socket.read(&mut buffer).await?;
        if bytes == 0 {
            return Ok(());
        }
        socket.write_all(&buffer[..bytes]).await?;
    }
}

async fn bound() -> Server {
    Server::bind("127.0.0.1:0").await.unwrap()
}

fn start(server: Server) -> (SocketAddr, ShutdownHandle, Scope, Serving) {
    let (address, shutdown, scope) =
        (server.local_addr().unwrap(), server.shutdown_handle(), server.scope().clone());
    (address, shutdown, scope, tokio::spawn(server.serve(echo)))
}

async fn ping(client: &mut TcpStream) -> std::io::Result<()> {
    common::ping(client).await
}

/// Whether the other end closed it.
async fn is_closed(client: &mut TcpStream) -> bool {
    matches!(client.read(&mut [0; 1]).await, Ok(0) | Err(_))
}

#[tokio::test]
async fn a_server_serves_until_it_is_shut_down_and_holds_nothing_then() {
    let (address, shutdown, scope, serving) = start(bound().await);
    let mut client = TcpStream::connect(address).await.unwrap();
    ping(&mut client).await.unwrap();
    assert_eq!(scope.used(Kind::Listeners), 1);
    drop(client);
    shutdown.shutdown();
    let served = serving.await.unwrap().unwrap();
    assert_eq!((served.accepted, served.failed, served.panicked, served.aborted), (1, 0, 0, 0));
    assert!(scope.end().is_nothing());
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_server_at_any_free_port_is_in_the_ledger_by_the_port_that_it_got() {
    for asked in ["127.0.0.1:0", "localhost:00"] {
        let server = Server::bind(asked).await.unwrap();
        let (host, port) = (asked.split(':').next().unwrap(), server.local_addr().unwrap().port());
        assert_ne!(port, 0);
        assert_eq!(server.scope().name(), format!("server at {host}:{port}"));
    }
    // A port that was asked for stays with the name that it was asked by.
    let free = Server::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    if let Ok(server) = Server::bind(format!("localhost:{free}")).await {
        assert_eq!(server.scope().name(), format!("server at localhost:{free}"));
    }
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let server = bound().await;
    let address = server.local_addr().unwrap().to_string();
    let DemoError::Connection { peer, source, .. } = Server::bind(address.clone()).await.unwrap_err() else {
        panic!()
    };
    assert_eq!(*peer, *address);
    let source = source.downcast_ref::<std::io::Error>().unwrap();
    assert_eq!(source.kind(), std::io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn an_address_that_is_none_is_told_with_what_one_looks_like() {
    for address in ["localhost", "127.0.0.1:99999", "127.0.0.1"] {
        let bound = Server::bind(address).await.unwrap_err();
        let connected = ConnectionPool::new(address, 1).unwrap().get_async().await.unwrap_err();
        for told in [bound.to_string(), connected.to_string()] {
            assert!(told.contains(address) && told.contains("a port: example.org:443"), "{told}");
        }
    }
}

#[tokio::test]
async fn no_more_connections_than_the_limit_are_taken_and_the_next_waits() {
    let (address, shutdown, scope, serving) = start(bound().await.max_connections(2));
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(TcpStream::connect(address).await.unwrap());
    }
    ping(&mut clients[0]).await.unwrap();
    ping(&mut clients[1]).await.unwrap();
    let third = tokio::time::timeout(Duration::from_millis(50), ping(&mut clients[2])).await;
    assert!(third.is_err(), "the third waits in the system's queue");
    assert!(scope.peak(Kind::Connections) <= 2);
    drop(clients.remove(0));
    // Its word was sent already; the answer comes now.
    let mut answer = [0; 4];
    clients[1].read_exact(&mut answer).await.unwrap();
    drop(clients);
    shutdown.shutdown();
    assert_eq!(serving.await.unwrap().unwrap().accepted, 3);
}

#[tokio::test]
async fn a_client_that_sends_a_byte_now_and_then_is_cut_off() {
    let server = bound().await.max_connections(1).read_timeout(Duration::from_millis(100));
    let address = server.local_addr().unwrap();
    let shutdown = server.shutdown_handle();
    // A request of 100 bytes, which never comes to its end.
    let serving = tokio::spawn(server.serve(|mut socket| async move {
        let mut request = [0; 100];
        socket.read_exact(&mut request).await?;
        Ok(())
    }));
    let mut slow = TcpStream::connect(address).await.unwrap();
    let began = Instant::now();
    let mut silent_too = false;
    while began.elapsed() < Duration::from_secs(5) {
        if slow.write_all(b"x").await.is_err() {
            silent_too = true;
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(silent_too && began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    // One that says nothing at all holds the only place no longer.
    let mut silent = TcpStream::connect(address).await.unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(2), is_closed(&mut silent)).await;
    assert_eq!(closed, Ok(true));
    shutdown.shutdown();
    assert_eq!(serving.await.unwrap().unwrap().failed, 2);
}

#[tokio::test]
async fn a_connection_without_a_word_is_closed_after_the_idle_timeout_and_one_that_talks_is_not() {
    let server = bound().await.idle_timeout(Duration::from_millis(80));
    let (address, shutdown, _, serving) = start(server);
    let mut client = TcpStream::connect(address).await.unwrap();
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(240) {
        ping(&mut client).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let silent_since = Instant::now();
    assert!(is_closed(&mut client).await);
    let took = silent_since.elapsed();
    assert!(took >= Duration::from_millis(40) && took < Duration::from_secs(2), "{took:?}");
    shutdown.shutdown();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_handler_that_panics_ends_its_own_connection_alone() {
    let server = bound().await.max_connections(1);
    let (address, shutdown, scope) =
        (server.local_addr().unwrap(), server.shutdown_handle(), server.scope().clone());
    let number = AtomicUsize::new(0);
    let serving = tokio::spawn(server.serve(move |socket| {
        let number = number.fetch_add(1, SeqCst);
        // Before there is a future, within it, and not at all.
        assert_ne!(number, 0, "as the test wants it");
        async move {
            assert_ne!(number, 1, "as the test wants it");
            echo(socket).await
        }
    }));
    for _ in 0..2 {
        let mut client = TcpStream::connect(address).await.unwrap();
        assert!(is_closed(&mut client).await);
    }
    let mut client = TcpStream::connect(address).await.unwrap();
    ping(&mut client).await.unwrap();
    drop(client);
    shutdown.shutdown();
    let served = serving.await.unwrap().unwrap();
    assert_eq!((served.accepted, served.panicked), (3, 2));
    assert!(scope.end().is_nothing());
}

/// What panics when it is dropped.
struct Thrown;

impl Drop for Thrown {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "as the test wants it");
    }
}

#[tokio::test]
async fn a_handler_that_throws_what_panics_when_dropped_ends_its_own_connection_alone() {
    let server = bound().await;
    let (address, shutdown) = (server.local_addr().unwrap(), server.shutdown_handle());
    let number = AtomicUsize::new(0);
    let serving = tokio::spawn(server.serve(move |socket| {
        let number = number.fetch_add(1, SeqCst);
        if number == 0 {
            std::panic::panic_any(Thrown);
        }
        async move {
            if number == 1 {
                std::panic::panic_any(Thrown);
            }
            echo(socket).await
        }
    }));
    for _ in 0..2 {
        let mut client = TcpStream::connect(address).await.unwrap();
        assert!(is_closed(&mut client).await);
    }
    let mut client = TcpStream::connect(address).await.expect("the server is there still");
    ping(&mut client).await.unwrap();
    drop(client);
    shutdown.shutdown();
    assert_eq!(serving.await.unwrap().unwrap().panicked, 2);
}

#[tokio::test]
async fn both_halves_of_a_split_socket_hear_of_the_idle_timeout_in_tasks_of_their_own() {
    let server = bound().await.idle_timeout(Duration::from_millis(80));
    let (address, shutdown) = (server.local_addr().unwrap(), server.shutdown_handle());
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let serving = tokio::spawn(server.serve(move |socket| {
        let tell = tell.clone();
        async move {
            let (mut read, mut write) = tokio::io::split(socket);
            let tell_read = tell.clone();
            let reads = tokio::spawn(async move {
                let ended = read.read(&mut [0; 1]).await;
                tell_read.send(("read", ended.unwrap_err().kind())).unwrap();
            });
            // The reader waits before the writer does, and so has set its timer first.
            tokio::time::sleep(Duration::from_millis(20)).await;
            // More than the system holds for a peer that reads nothing.
            let ended = write.write_all(&vec![0; 64 << 20]).await;
            tell.send(("write", ended.unwrap_err().kind())).unwrap();
            reads.await.unwrap();
            Ok(())
        }
    }));
    let client = TcpStream::connect(address).await.unwrap();
    let mut halves = Vec::new();
    for _ in 0..2 {
        let told = tokio::time::timeout(Duration::from_secs(5), told.recv()).await;
        halves.push(told.expect("a half waits for ever").unwrap());
    }
    halves.sort_unstable();
    assert_eq!(halves, [("read", std::io::ErrorKind::TimedOut), ("write", std::io::ErrorKind::TimedOut)]);
    drop(client);
    shutdown.shutdown();
    serving.await.unwrap().unwrap();
}

/// The test in a process of its own, whose second accept the kernel fails as it does for a connection that its network lost.
#[cfg(target_os = "linux")]
#[test]
fn a_network_error_of_one_peer_does_not_end_the_server() {
    if std::env::var_os(MARK).is_some() {
        return accepts_four(0);
    }
    for error in [
        "EPROTO",
        "ENOPROTOOPT",
        "EHOSTDOWN",
        "ENONET",
        "EHOSTUNREACH",
        "EOPNOTSUPP",
        "ENETUNREACH",
        "ENETDOWN",
        "ETIMEDOUT",
    ] {
        refused_once(error, "a_network_error_of_one_peer_does_not_end_the_server");
    }
}

/// The same, as a firewall, a security module or a driver refuses. What is refused may still wait in the system's queue.
#[cfg(target_os = "linux")]
#[test]
fn a_server_that_the_system_does_not_let_accept_pauses_and_goes_on() {
    if std::env::var_os(MARK).is_some() {
        return accepts_four(1);
    }
    for error in ["EPERM", "EACCES", "ENOSR", "EIO"] {
        refused_once(error, "a_server_that_the_system_does_not_let_accept_pauses_and_goes_on");
    }
}

/// The same, as the kernel answers for a descriptor that is no listening socket.
#[cfg(target_os = "linux")]
#[test]
fn a_server_whose_socket_is_none_any_more_ends_with_the_address_and_the_reason() {
    if std::env::var_os(MARK).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(async {
            let server = bound().await;
            let connect = || std::net::TcpStream::connect(server.local_addr().unwrap()).unwrap();
            let _clients = [connect(), connect()];
            let address = server.local_addr().unwrap();
            // The handler of the first is told that this is the end.
            let server = server.drain_timeout(Duration::from_secs(600));
            let serving = tokio::spawn(server.serve(|socket: Socket| async move {
                socket.shutting_down().await;
                Ok(())
            }));
            let ended =
                tokio::time::timeout(Duration::from_secs(60), serving).await.expect("it goes on for ever");
            let ended = ended.unwrap().unwrap_err().to_string();
            assert!(ended.starts_with(&format!("cannot accept at {address}: ")), "{ended}");
        });
    }
    for error in ["EBADF", "EINVAL", "ENOTSOCK"] {
        refused_once(error, "a_server_whose_socket_is_none_any_more_ends_with_the_address_and_the_reason");
    }
}

/// Set in the process of a test whose second accept fails.
#[cfg(target_os = "linux")]
const MARK: &str = "DEMOCRATISING_TEST_ACCEPT";

#[cfg(target_os = "linux")]
fn refused_once(error: &str, test: &str) {
    let inject = format!("inject=accept4:error={error}:when=2");
    let child = std::process::Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=accept4", "-e", &inject])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env(MARK, "1")
        .output()
        .unwrap_or_else(|error| panic!("cannot run strace, which this test needs; install it: {error}"));
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{error}: {said}");
}

#[cfg(target_os = "linux")]
fn accepts_four(pauses: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (address, shutdown, _, serving) = start(bound().await);
        for _ in 0..4 {
            let mut client = TcpStream::connect(address).await.expect("it listens still");
            ping(&mut client).await.unwrap();
        }
        shutdown.shutdown();
        let served = serving.await.unwrap().unwrap();
        assert_eq!((served.accepted, served.pauses), (4, pauses));
    });
}

#[tokio::test]
async fn requests_that_are_under_way_are_answered_after_a_shutdown() {
    let server = bound().await.drain_timeout(Duration::from_secs(5));
    let (address, shutdown) = (server.local_addr().unwrap(), server.shutdown_handle());
    let serving = tokio::spawn(server.serve(|mut socket| async move {
        let mut request = [0; 4];
        socket.read_exact(&mut request).await?;
        tokio::time::sleep(Duration::from_millis(80)).await;
        assert!(socket.is_shutting_down());
        socket.write_all(&request).await?;
        Ok(())
    }));
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"ping").await.unwrap();
        clients.push(client);
    }
    tokio::time::sleep(Duration::from_millis(30)).await;
    shutdown.shutdown();
    for client in &mut clients {
        let mut answer = [0; 4];
        client.read_exact(&mut answer).await.unwrap();
    }
    let served = serving.await.unwrap().unwrap();
    assert_eq!((served.accepted, served.aborted, served.panicked), (10, 0, 0));
}

#[tokio::test]
async fn handlers_whose_peers_say_nothing_hear_of_a_shutdown() {
    let server = bound().await.drain_timeout(Duration::from_secs(600));
    let (address, shutdown) = (server.local_addr().unwrap(), server.shutdown_handle());
    let mut serving = tokio::spawn(server.serve(|mut socket: Socket| async move {
        let mut byte = [0];
        loop {
            let ends = socket.shutting_down();
            tokio::select! {
                read = socket.read_exact(&mut byte) => read?,
                () = ends => return Ok(()),
            };
            socket.write_all(&byte).await?;
        }
    }));
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"?").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'?');
        clients.push(client);
    }
    let mut told = std::pin::pin!(shutdown.wait());
    assert!(futures_are_pending(&mut told).await);
    shutdown.shutdown();
    told.await;
    shutdown.wait().await;
    let served =
        tokio::time::timeout(Duration::from_secs(60), &mut serving).await.expect("they wait for a word");
    let served = served.unwrap().unwrap();
    assert_eq!((served.accepted, served.failed, served.aborted), (20, 0, 0));
    for client in &mut clients {
        assert!(is_closed(client).await);
    }
}

async fn futures_are_pending(future: &mut (impl Future<Output = ()> + Unpin)) -> bool {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(context).is_pending())
    })
    .await
}

/// Nobody takes them, so where the queue were shorter those behind its end would not be answered at all.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn hundreds_may_wait_to_be_taken() {
    let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let most: usize = most.trim().parse().unwrap();
    assert!(most > 129, "the system lets only {most} wait: this test shows nothing");
    let server = bound().await;
    let mut waiting = Vec::new();
    for number in 0..most.min(400) {
        let connect =
            tokio::time::timeout(Duration::from_secs(60), TcpStream::connect(server.local_addr().unwrap()));
        waiting.push(connect.await.unwrap_or_else(|_| panic!("number {number} is not answered")).unwrap());
    }
}

#[tokio::test]
async fn handlers_that_go_on_and_on_are_ended_at_the_drain_deadline() {
    let (address, shutdown, scope, serving) = start(bound().await.drain_timeout(Duration::from_millis(50)));
    let mut client = TcpStream::connect(address).await.unwrap();
    ping(&mut client).await.unwrap();
    let began = Instant::now();
    shutdown.shutdown();
    let served = serving.await.unwrap().unwrap();
    assert!(began.elapsed() >= Duration::from_millis(50) && began.elapsed() < Duration::from_secs(2));
    assert_eq!(served.aborted, 1);
    assert!(is_closed(&mut client).await);
    assert!(scope.end().is_nothing());
}

#[tokio::test]
async fn everything_is_closed_when_the_server_is_dropped() {
    let (address, _shutdown, scope, serving) = start(bound().await);
    let mut client = TcpStream::connect(address).await.unwrap();
    ping(&mut client).await.unwrap();
    serving.abort();
    assert!(serving.await.unwrap_err().is_cancelled());
    assert!(is_closed(&mut client).await);
    until("the ledger is empty", || Kind::ALL.iter().all(|&kind| scope.used(kind) == 0)).await;
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_connections_come_and_go_and_the_limit_holds() {
    let (address, shutdown, scope, serving) = start(bound().await.max_connections(50));
    let left = Arc::new(AtomicIsize::new(10_000));
    let mut clients = Vec::new();
    for _ in 0..100 {
        let left = Arc::clone(&left);
        clients.push(tokio::spawn(async move {
            while left.fetch_sub(1, SeqCst) > 0 {
                let mut client = TcpStream::connect(address).await.unwrap();
                ping(&mut client).await.unwrap();
                // Reset, so that ten thousand ports are not kept for a minute.
                client.set_zero_linger().unwrap();
            }
        }));
    }
    for client in clients {
        client.await.unwrap();
    }
    shutdown.shutdown();
    let served = serving.await.unwrap().unwrap();
    assert_eq!((served.accepted, served.panicked, served.aborted), (10_000, 0, 0));
    let peak = scope.peak(Kind::Connections);
    assert!((2..=50).contains(&peak), "{peak} at once");
    assert!(scope.end().is_nothing());
}

/// The test in a process of its own, whose descriptors can be limited.
#[cfg(target_os = "linux")]
#[test]
fn out_of_descriptors_the_server_pauses_and_goes_on() {
    const MARK: &str = "DEMOCRATISING_TEST_DESCRIPTORS";
    if std::env::var_os(MARK).is_some() {
        return with_few_descriptors();
    }
    let own = std::env::current_exe().unwrap();
    let child = std::process::Command::new("sh")
        .args(["-c", "ulimit -n 64 && exec \"$0\" --exact out_of_descriptors_the_server_pauses_and_goes_on"])
        .arg(own)
        .env(MARK, "1")
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    assert!(String::from_utf8_lossy(&child.stdout).contains("1 passed"), "it ran nothing");
}

#[cfg(target_os = "linux")]
fn with_few_descriptors() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (address, shutdown, _, serving) = start(bound().await.max_connections(1000));
        // Each of these takes two descriptors of this process: its own and the server's.
        let mut clients = Vec::new();
        while let Ok(client) = TcpStream::connect(address).await {
            clients.push(client);
            tokio::task::yield_now().await;
            assert!(clients.len() < 64);
        }
        // None is left: the server cannot accept those that still wait in the system's queue.
        tokio::time::sleep(Duration::from_millis(60)).await;
        drop(clients);
        tokio::time::sleep(Duration::from_millis(60)).await;
        let mut client = TcpStream::connect(address).await.expect("descriptors are there again");
        tokio::time::timeout(Duration::from_secs(5), ping(&mut client)).await.unwrap().unwrap();
        drop(client);
        shutdown.shutdown();
        let served = serving.await.unwrap().expect("out of descriptors is no reason to end");
        assert!(served.pauses > 0, "descriptors never ran out: this test shows nothing");
    });
}

#[tokio::test]
async fn a_server_to_whom_nobody_comes_takes_nothing_from_others() {
    let around = Scope::new("around");
    around.set_limit(Kind::Connections, 1);
    let (server, scope) = around
        .wrap(async {
            let server = bound().await;
            let scope = server.scope().clone();
            (server, scope)
        })
        .await;
    let (address, shutdown, _, serving) = start(server);
    let elsewhere = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = elsewhere.local_addr().unwrap().to_string();
    let pool = around.wrap(async { ConnectionPool::new(to, 1).unwrap() }).await;
    // However long nobody comes.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let connection = pool.get_async().await.unwrap();
    assert_eq!((scope.used(Kind::Connections), around.used(Kind::Connections)), (0, 1));
    // Whoever comes now waits, until there is a place.
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"x").await.unwrap();
    drop(connection);
    let mut answer = [0];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!((&answer, scope.used(Kind::Connections)), (b"x", 1));
    shutdown.shutdown();
    drop(client);
    serving.await.unwrap().unwrap();
}

//! Connection pools side by side: CPU of a checkout and return, and echoes over loopback. And what a charge costs a tensor.
//!
//! `cargo bench -p benches --bench net`, or with `-- charges` the latter alone. Every figure is the least of the rounds; the rounds of all pools are interleaved.

use democratising::net::{ConnectionPool, Manager};
use democratising::pool::budget::scope::{self, Kind, Scope};
use democratising::timeline;
use std::convert::Infallible;
use std::hint::black_box;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CHECKOUTS: u64 = 200_000;
const ECHOES: u64 = 5_000;
const ROUNDS: usize = 7;
/// How many charges are held at once where they are to add up.
const GROWING: usize = 20_000;

/// CPU time of this process so far, system calls included, ns.
fn cpu_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: 1. `now` is a valid place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Connections that cost nothing.
struct Nothing;

impl Manager for Nothing {
    type Connection = u64;
    fn name(&self) -> &str {
        "nothing"
    }
    async fn connect(&self) -> democratising::Result<u64> {
        Ok(7)
    }
}

struct Dead;

impl deadpool::managed::Manager for Dead {
    type Type = u64;
    type Error = Infallible;
    async fn create(&self) -> Result<u64, Infallible> {
        Ok(7)
    }
    async fn recycle(
        &self,
        _: &mut u64,
        _: &deadpool::managed::Metrics,
    ) -> deadpool::managed::RecycleResult<Infallible> {
        Ok(())
    }
}

struct B;

impl bb8::ManageConnection for B {
    type Connection = u64;
    type Error = Infallible;
    async fn connect(&self) -> Result<u64, Infallible> {
        Ok(7)
    }
    async fn is_valid(&self, _: &mut u64) -> Result<(), Infallible> {
        Ok(())
    }
    fn has_broken(&self, _: &mut u64) -> bool {
        false
    }
}

struct R;

impl r2d2::ManageConnection for R {
    type Connection = u64;
    type Error = Infallible;
    fn connect(&self) -> Result<u64, Infallible> {
        Ok(7)
    }
    fn is_valid(&self, _: &mut u64) -> Result<(), Infallible> {
        Ok(())
    }
    fn has_broken(&self, _: &mut u64) -> bool {
        false
    }
}

/// deadpool over TCP, for echoes.
struct DeadTcp(String);

impl deadpool::managed::Manager for DeadTcp {
    type Type = TcpStream;
    type Error = std::io::Error;
    async fn create(&self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect(&*self.0).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
    async fn recycle(
        &self,
        _: &mut TcpStream,
        _: &deadpool::managed::Metrics,
    ) -> deadpool::managed::RecycleResult<std::io::Error> {
        Ok(())
    }
}

async fn echo(stream: &mut TcpStream) {
    stream.write_all(b"ping").await.unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.unwrap();
}

async fn server() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            socket.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                let mut buffer = [0; 64];
                while let Ok(bytes @ 1..) = socket.read(&mut buffer).await {
                    socket.write_all(&buffer[..bytes]).await.unwrap();
                }
            });
        }
    });
    address
}

/// Runs `work` so often and keeps the least CPU time for one.
macro_rules! least {
    ($best:expr, $times:expr, $work:expr) => {{
        let began = cpu_ns();
        for _ in 0..$times {
            $work;
        }
        let ns = (cpu_ns() - began) as f64 / $times as f64;
        $best = f64::min($best, ns);
    }};
}

fn main() {
    if std::env::args().any(|argument| argument == "charges") {
        return charges();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let ours = ConnectionPool::with_manager(Nothing).max_size(8).build().unwrap();
        let dead = deadpool::managed::Pool::<Dead>::builder(Dead).max_size(8).build().unwrap();
        let bb8 = bb8::Pool::builder().max_size(8).build(B).await.unwrap();
        let r2d2 = r2d2::Pool::builder().max_size(8).build(R).unwrap();
        let address = server().await;
        let ours_tcp = ConnectionPool::new(address.clone(), 8).unwrap();
        let dead_tcp =
            deadpool::managed::Pool::<DeadTcp>::builder(DeadTcp(address)).max_size(8).build().unwrap();
        // r2d2 opens its connections in the background.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut best = [f64::INFINITY; 6];
        for _ in 0..ROUNDS {
            least!(best[0], CHECKOUTS, black_box(*ours.get_async().await.unwrap()));
            least!(best[1], CHECKOUTS, black_box(**dead.get().await.as_ref().unwrap()));
            least!(best[2], CHECKOUTS, black_box(*bb8.get().await.unwrap()));
            least!(best[3], CHECKOUTS, black_box(*r2d2.get().unwrap()));
            least!(best[4], ECHOES, echo(&mut ours_tcp.get_async().await.unwrap()).await);
            least!(best[5], ECHOES, echo(&mut dead_tcp.get().await.unwrap()).await);
        }
        let [ours, dead, bb8, r2d2, ours_echo, dead_echo] = best;
        println!(
            "checkout and return, CPU ns: ours {ours:.0}, deadpool {dead:.0}, bb8 {bb8:.0}, r2d2 {r2d2:.0}"
        );
        println!("  ours / deadpool: {:.2} (asked: at most 1.3)", ours / dead);
        println!("echo over a pooled connection, CPU ns: ours {ours_echo:.0}, deadpool {dead_echo:.0}");
        println!("  ours / deadpool: {:.2}", ours_echo / dead_echo);
    });

    charges();
}

/// What a charge costs where it is paid by credit, as a rule, and where nothing was held before.
fn charges() {
    let mut scopes = vec![Scope::process()];
    for depth in 1..=4 {
        scopes.push(scopes[depth - 1].child("one more"));
    }
    let charge = || scope::charge(Kind::HostBytes, black_box(4096)).unwrap();
    let mut best = [f64::INFINITY; 5];
    let mut growing = [f64::INFINITY; 5];
    let mut kept = Vec::with_capacity(GROWING);
    let mut tensors = [f64::INFINITY; 2];
    // Two that want the same room in turn: each calls back what the other has as credit.
    let full = Scope::new("full");
    full.set_limit(Kind::HostBytes, 6000);
    let (left, right) = (full.child("left"), full.child("right"));
    let mut called_back = f64::INFINITY;
    for _ in 0..ROUNDS {
        for (depth, scope) in scopes.iter().enumerate() {
            let entered = scope.enter();
            least!(best[depth], CHECKOUTS * 5, drop(black_box(charge())));
            drop(entered);
            // Scopes of their own, one in the other: every charge is more than any of them held before.
            let mut fresh = Scope::new("fresh");
            for _ in 1..depth {
                fresh = fresh.child("within");
            }
            let entered = fresh.enter();
            let began = cpu_ns();
            for _ in 0..GROWING {
                kept.push(charge());
            }
            kept.clear();
            growing[depth] = growing[depth].min((cpu_ns() - began) as f64 / GROWING as f64);
            drop(entered);
        }
        least!(called_back, CHECKOUTS, {
            drop(black_box(left.charge(Kind::HostBytes, black_box(4096)).unwrap()));
            drop(black_box(right.charge(Kind::HostBytes, black_box(4096)).unwrap()));
        });
        least!(tensors[0], CHECKOUTS, drop(black_box(democratising::Tensor::zeros(&[256]).unwrap())));
        timeline::start(timeline::Options::new()).unwrap();
        least!(tensors[1], CHECKOUTS, drop(black_box(democratising::Tensor::zeros(&[256]).unwrap())));
        timeline::stop().unwrap();
    }
    let [process, one, two, three, four] = best;
    println!(
        "a charge and its release, CPU ns: in the process {process:.1}; one scope deep {one:.1}, two {two:.1}, three {three:.1}, four {four:.1} (asked: at most 20)"
    );
    let [_, one, two, three, four] = growing;
    println!(
        "  where each is more than the scopes ever held: one deep {one:.1}, two {two:.1}, three {three:.1}, four {four:.1}"
    );
    println!("  where another scope's credit is called back each time: {:.1}", called_back / 2.0);
    println!(
        "  on two threads at once, each: in scopes of their own {:.1}, in one {:.1}",
        two_threads([&scopes[1].child("mine"), &scopes[1].child("yours")]),
        two_threads([&scopes[2]; 2])
    );
    println!("a tensor of 1 KiB made and dropped, charge and release included, CPU ns: {:.0}", tensors[0]);
    println!("  the same while the timeline records both: {:.0}", tensors[1]);
}

/// CPU ns of a charge and its release while another thread does the same, two scopes deep.
fn two_threads(scopes: [&Scope; 2]) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        least!(best, 1, {
            std::thread::scope(|threads| {
                for scope in scopes {
                    threads.spawn(move || {
                        for _ in 0..CHECKOUTS * 5 {
                            drop(black_box(scope.charge(Kind::HostBytes, black_box(4096)).unwrap()));
                        }
                    });
                }
            });
        });
    }
    best / (CHECKOUTS * 10) as f64
}

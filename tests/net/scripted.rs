//! Connections that are numbers, made and checked as a test says.

use democratising::net::{ConnectionPool, Manager};
use democratising::{DemoError, Result};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Connections that are numbers, made and checked as a test says.
pub struct Scripted {
    pub made: AtomicUsize,
    pub alive: Arc<AtomicUsize>,
    pub most_alive: AtomicUsize,
    pub under_way: AtomicUsize,
    pub most_under_way: AtomicUsize,
    /// A connect waits for one of these.
    pub gate: Semaphore,
    pub failures: Mutex<Vec<&'static str>>,
    pub bad: Mutex<Vec<usize>>,
}

impl Scripted {
    pub fn new(gate: usize) -> Arc<Scripted> {
        Arc::new(Scripted {
            made: AtomicUsize::new(0),
            alive: Arc::default(),
            most_alive: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            most_under_way: AtomicUsize::new(0),
            gate: Semaphore::new(gate),
            failures: Mutex::default(),
            bad: Mutex::default(),
        })
    }
}

pub const OPEN: usize = 1 << 20;

/// Counted while it lives.
#[derive(Debug)]
pub struct Numbered(pub usize, Arc<AtomicUsize>);

impl Drop for Numbered {
    fn drop(&mut self) {
        self.1.fetch_sub(1, SeqCst);
    }
}

#[derive(Clone)]
pub struct Through(pub Arc<Scripted>);

impl Manager for Through {
    type Connection = Numbered;

    fn name(&self) -> &str {
        "script"
    }

    async fn connect(&self) -> Result<Numbered> {
        let this = &self.0;
        let now = this.under_way.fetch_add(1, SeqCst) + 1;
        this.most_under_way.fetch_max(now, SeqCst);
        this.gate.acquire().await.unwrap().forget();
        this.under_way.fetch_sub(1, SeqCst);
        let fails = this.failures.lock().unwrap().pop();
        if let Some(why) = fails {
            assert_ne!(why, "panic", "as the script says");
            return Err(DemoError::from(std::io::Error::other(why)));
        }
        let alive = this.alive.fetch_add(1, SeqCst) + 1;
        this.most_alive.fetch_max(alive, SeqCst);
        Ok(Numbered(this.made.fetch_add(1, SeqCst), Arc::clone(&this.alive)))
    }

    async fn check(&self, connection: &mut Numbered, _idle: Duration) -> Result<()> {
        tokio::task::yield_now().await;
        match self.0.bad.lock().unwrap().contains(&connection.0) {
            true => Err(DemoError::from(std::io::Error::other("bad"))),
            false => Ok(()),
        }
    }
}

pub fn scripted(script: &Arc<Scripted>, max: usize) -> ConnectionPool<Through> {
    let builder = ConnectionPool::with_manager(Through(Arc::clone(script))).max_size(max);
    builder.wait_timeout(Duration::from_secs(5)).check_after(Duration::ZERO).build().unwrap()
}

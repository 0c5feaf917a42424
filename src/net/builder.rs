//! The settings of a pool.

#![forbid(unsafe_code)]

use super::manager::{Manager, Tcp};
use super::pool::ConnectionPool;
use crate::error::{DemoError, Result};
use core::time::Duration;
use std::string::{String, ToString};

#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) max_size: usize,
    pub(super) min_idle: usize,
    pub(super) max_connecting: usize,
    pub(super) wait_timeout: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) check_timeout: Duration,
    pub(super) check_after: Duration,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) max_lifetime: Option<Duration>,
}

/// Settings to choose for a [`ConnectionPool`].
#[derive(Clone, Debug)]
#[must_use = "build() makes the pool"]
pub struct ConnectionPoolBuilder<M: Manager = Tcp> {
    manager: M,
    settings: Settings,
}

impl<M: Manager> ConnectionPoolBuilder<M> {
    pub(super) fn new(manager: M) -> Self {
        let settings = Settings {
            max_size: 10,
            min_idle: 0,
            max_connecting: 8,
            wait_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            check_timeout: Duration::from_secs(1),
            check_after: Duration::from_millis(20),
            idle_timeout: Some(Duration::from_secs(600)),
            max_lifetime: Some(Duration::from_secs(1800)),
        };
        ConnectionPoolBuilder { manager, settings }
    }

    /// Never more connections than this, those on their way included. 10 unless said.
    pub fn max_size(mut self, connections: usize) -> Self {
        self.settings.max_size = connections;
        self
    }

    /// So many are kept ready, as far as the maximum lets it. None unless said.
    pub fn min_idle(mut self, connections: usize) -> Self {
        self.settings.min_idle = connections;
        self
    }

    /// At most so many connects are under way at once. 8 unless said.
    pub fn max_connecting(mut self, connects: usize) -> Self {
        self.settings.max_connecting = connects;
        self
    }

    /// How long [`get`](ConnectionPool::get) may take in all, whatever it waits for. 30 s unless said.
    pub fn wait_timeout(mut self, time: Duration) -> Self {
        self.settings.wait_timeout = time;
        self
    }

    /// How long one connect may take. 10 s unless said. A caller waits for it no longer than
    /// [`wait_timeout`](Self::wait_timeout) lets him; the connect goes on for others.
    pub fn connect_timeout(mut self, time: Duration) -> Self {
        self.settings.connect_timeout = time;
        self
    }

    /// How long one check of an idle connection may take before it counts as dead. 1 s unless said.
    pub fn check_timeout(mut self, time: Duration) -> Self {
        self.settings.check_timeout = time;
        self
    }

    /// Connections that were idle so long are checked before they are used again. 20 ms unless said; zero checks always.
    pub fn check_after(mut self, time: Duration) -> Self {
        self.settings.check_after = time;
        self
    }

    /// Connections that were idle so long are closed, down to [`min_idle`](Self::min_idle). `None`: never. 10 min unless said.
    pub fn idle_timeout(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.settings.idle_timeout = time.into();
        self
    }

    /// Connections of this age are closed when nobody uses them; each up to a tenth earlier, by chance. `None`: never. 30 min
    /// unless said.
    pub fn max_lifetime(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.settings.max_lifetime = time.into();
        self
    }

    /// Makes the pool. No connection is made for it, unless some are to be kept ready.
    ///
    /// # Errors
    /// [`DemoError::InvalidConfig`] when a setting cannot be, [`DemoError::Io`] where there is no thread to keep it.
    pub fn build(self) -> Result<ConnectionPool<M>> {
        let invalid = |name, value: String, problem| Err(DemoError::InvalidConfig { name, value, problem });
        let Settings { max_size, min_idle, max_connecting, .. } = self.settings;
        // What tokio's semaphore can count.
        if !(1..=1 << 24).contains(&max_size) {
            return invalid("max_size", max_size.to_string(), "it is a number from 1 to 16777216");
        }
        if min_idle > max_size {
            return invalid("min_idle", min_idle.to_string(), "it is more than max_size");
        }
        if max_connecting == 0 {
            return invalid("max_connecting", "0".into(), "without connects there are no connections");
        }
        if self.manager.name().is_empty() {
            return invalid("address", String::new(), "it is a name or number and a port: example.org:443");
        }
        ConnectionPool::make(self.manager, self.settings)
    }
}

impl ConnectionPoolBuilder<Tcp> {
    /// Whether small writes go out at once (`TCP_NODELAY`). They do unless said.
    pub fn nodelay(mut self, at_once: bool) -> Self {
        self.manager.nodelay = at_once;
        self
    }

    /// How long a blocking read or write of a connection may wait ([`std::io::Read`], [`std::io::Write`]). Without end unless said.
    pub fn io_timeout(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.manager.io_timeout = time.into();
        self
    }
}

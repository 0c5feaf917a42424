//! What is counted.

#![forbid(unsafe_code)]

use core::fmt;

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Kind {
    /// Bytes of the machine's own memory: tensors.
    HostBytes,
    /// Bytes of a device's memory.
    DeviceBytes,
    /// Bytes of files that are mapped. They are the system's to keep in memory or not.
    MappedBytes,
    /// Open files that are counted: temp files and directories, checkpoints being written.
    Files,
    /// Connections, those in a pool's store too.
    Connections,
    /// Sockets that others connect to.
    Listeners,
}

impl Kind {
    /// All of them, in the order that reports have.
    pub const ALL: [Kind; 6] = [
        Kind::HostBytes,
        Kind::DeviceBytes,
        Kind::MappedBytes,
        Kind::Files,
        Kind::Connections,
        Kind::Listeners,
    ];

    /// In words: "host bytes".
    pub const fn name(self) -> &'static str {
        match self {
            Kind::HostBytes => "host bytes",
            Kind::DeviceBytes => "device bytes",
            Kind::MappedBytes => "mapped bytes",
            Kind::Files => "files",
            Kind::Connections => "connections",
            Kind::Listeners => "listeners",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

pub(super) const KINDS: usize = Kind::ALL.len();

impl Kind {
    /// Whether charges are many and of any size, so that credit pays. Of the others there are few, by the piece.
    pub(super) const fn has_credit(self) -> bool {
        matches!(self, Kind::HostBytes | Kind::DeviceBytes | Kind::MappedBytes)
    }
}

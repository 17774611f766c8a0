//! What a confined process is for.

use serde::{Deserialize, Serialize};

/// What happens if the kernel does not offer every layer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Apply what the kernel offers, and report what is missing
    #[default]
    Auto,
    /// Fail if any layer cannot be applied
    Strict,
    /// Apply nothing; for debugging
    None,
}

/// What a process does, from which follows what it may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Profile {
    /// Serves disks: reads and writes the files that it has open, and talks to its keeper.
    Serve,
    /// The same, to clients that connect to a socket which it has open.
    ServeSockets,
    /// Parses the bytes of a guest: reads the files that it has open, within limits.
    Parse(Limits),
    /// Fetches an image from another machine: makes connections, and writes to the files that it has
    /// open.
    Fetch(Limits),
}

/// Limits of a process; `None` leaves the inherited limit. See setrlimit(2).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// Address space in bytes.
    pub memory: Option<u64>,
    /// CPU time in seconds.
    pub cpu: Option<u64>,
    /// Length in bytes up to which files may be written.
    pub file_len: Option<u64>,
}

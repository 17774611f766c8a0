//! Exporting disks by NBD: clients of a socket read and write `disk.raw` and its partitions.
//!
//! ```text
//! client ◀──▶ handshake ──▶ connection ──▶ execute ──▶ export, disk
//!                               └──▶ pool (requests that wait for storage)
//! ```
//!
//! `protocol` and `options` turn bytes into messages and back, and do no I/O. The protocol is
//! doc/proto.md of NetworkBlockDevice/nbd; docs/nbd.md says what of it is served.

mod address;
mod connection;
mod execute;
mod exports;
mod handshake;
mod input;
mod listen;
mod options;
mod pace;
mod pool;
mod protocol;
mod serve;
mod socket;
mod state;
mod target;
mod tls;
mod transport;

pub use address::{Encryption, NbdAddress};
pub use listen::NbdListener;
pub use serve::{NbdExport, NbdStopper, PrivateServer, converse};
pub use tls::TlsConfig;

//! The processes of a mount: one that keeps it, and one that serves its disks.
//!
//! ```text
//! mount, run, adapt ──▶ keeper ──▶ server      confined; holds descriptors only
//!                            └───▶ parsers     confined; one for each plan of the boot area
//! ```
//!
//! `mount`, `run` and `adapt` start `synthdisk internal mount DIR`, the keeper, with a [`Channel`]
//! as its standard input. They send a [`MountRequest`] and get a [`MountReply`]: a [`MountReport`]
//! once the disks can be used, or the error. Options and results cross as typed values, so no
//! command parses what another prints, and secrets such as a password hash are in no command line.
//! The keeper starts `synthdisk internal serve` in the same way.

mod channel;
mod editing;
mod front;
mod keeper;
mod log;
mod parsers;
mod report;
mod request;
mod server;
mod text;
mod wire;

pub use channel::Channel;
pub use editing::{Partly, adapt, why_not_edited};
pub use front::Cleanup;
pub use keeper::keep;
pub use report::{BootReport, EditReport, MountReport, PartitionReport, ReportedDisk};
pub use request::{Background, ExportRequest, MountReply, MountRequest, NbdRequest, SOCKET};
pub use server::serve;

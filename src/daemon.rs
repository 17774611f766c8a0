//! The process that serves a mount, seen from the commands that start one.
//!
//! `mount`, `run` and `adapt` start `synthdisk internal mount DIR` with a [`Channel`] as its
//! standard input. They send a [`MountRequest`] and get a [`MountReply`]: a [`MountReport`] once the
//! disks can be used, or the error. Options and results cross as typed values, so no command parses
//! what another prints, and secrets such as a password hash are in no command line.

mod channel;
mod report;
mod request;
mod text;

pub use channel::Channel;
pub use report::{BootReport, EditReport, MountReport, PartitionReport, ReportedDisk, adapt};
pub use request::{Background, MountReply, MountRequest};

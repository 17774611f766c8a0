//! Looking into a guest, in a process of its own.
//!
//! Everything that planning wants to know of a guest's filesystems, boot menus and initrds is asked
//! of an `Examiner`. It sends questions to a process that has one socket and nothing
//! else: through it come the questions and the bytes of the partitions, through it go the answers,
//! which are small, typed and checked here. All of one plan is one process and one
//! [`Budget`](crate::fs::Budget). Its death, for whatever reason, is an error of the plan.
//!
//! The kernel and the initrds of the plan are read through such a process later, when the guest
//! boots; one that has ended meanwhile is replaced.

mod answer;
mod boot;
mod check;
mod examiner;
mod extra_initrd;
mod files;
mod guest_file;
mod guests;
mod initrds;
mod question;
mod remote_fs;
mod start;
mod wire;

pub use answer::answer_questions;
pub(super) use examiner::Examiner;
pub(super) use guest_file::ThroughFile;
pub(super) use question::{
    BootQuestion, EditorQuestion, EditsQuestion, FileOrigin, FoundBoot, FoundFile,
    HostBootQuestion, HostFile, Place, SourceId,
};
pub(super) use remote_fs::RemoteFs;
pub use start::{Start, examine_with};

//! Machines for QEMU: describing one, its command line, and which accelerator works.
//!
//! Owns the description of a machine and everything that is written in QEMU's language. Calls no other
//! room. Starting the guest is the caller's task.

pub mod accel;
pub mod aio;
pub mod command;
pub mod machine;
mod probe_code;
mod shell;

pub use accel::{Accel, Probe, find_qemu, probe};
pub use aio::{allowed_by_kernel, probe_aio};
pub use command::{Launch, Serial};
pub use machine::{
    Aio, Board, Cache, Clock, DiskBus, Drive, DriveKind, Firmware, Graphics, Lifecycle, Machine,
    Nic, NicBackend, NicModel,
};
pub use shell::quote;

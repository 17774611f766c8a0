//! Machines for QEMU: their description, their command line, which accelerator works, and commands
//! for a machine that runs.
//!
//! This room owns the machine description and everything written in QEMU's syntax. Starting the
//! guest is the caller's task.

pub mod accel;
pub mod aio;
pub mod command;
mod firmware;
pub mod machine;
mod probe_code;
mod qmp;
mod shell;

pub use accel::{Accel, Probe, find_qemu, probe};
pub use aio::{allowed_by_kernel, probe_aio};
pub use command::{Launch, Serial};
pub use firmware::FirmwareKind;
pub use machine::{
    Aio, Board, Cache, Clock, DiskBus, Drive, DriveKind, Firmware, FlashFile, Graphics, Lifecycle,
    Machine, Nic, NicBackend, NicModel, OnFull,
};
pub use qmp::{Event, Qmp};
pub use shell::quote;

//! QEMU command lines: building one, and finding out which accelerator works.
//!
//! Owns everything that is spelled in QEMU's language. Calls no other room; disks, MAC addresses
//! and console choices come in as plain values. Starting the guest is the caller's business.

pub mod accel;
pub mod command;
mod probe_code;
mod shell;

pub use accel::{Accel, Probe, find_qemu, probe};
pub use command::{
    Aio, Cache, DiskBus, DriveKind, DriveSpec, MachineKind, MachineSpec, Nic, NicBackend, NicModel,
    Serial,
};
pub use shell::quote;

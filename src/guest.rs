//! Facts about a guest, from reading its root filesystem.
//!
//! This room owns four things: the guest's distribution, init and tools ([`about`]), the kernel
//! drivers that it has ([`drivers`]), the boot entry that starts ([`select`]), and the kernel
//! command line for KVM ([`cmdline`]).

pub mod about;
pub mod cmdline;
pub mod drivers;
pub mod mounts;
pub mod select;

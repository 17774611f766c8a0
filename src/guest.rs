//! Looking inside a guest's filesystem, reading only.
//!
//! This room owns what an image starts with ([`probe`](mod@probe)), reading files out of a root
//! filesystem ([`fs`], [`open`](mod@open), [`ext4`], [`xfs`], [`btrfs`]), the guest's boot entries ([`bootconfig`], [`select`]) and the
//! kernel command line that suits KVM ([`cmdline`]). Everything it reads comes from an untrusted
//! guest: sizes, counts and depths are bounded, and no input may panic or hang it. It may be called
//! by `plan` and `adapt`; it calls nobody but the reader that it is given.

pub mod about;
pub mod bootconfig;
pub mod btrfs;
pub mod cmdline;
pub mod device;
pub mod drivers;
pub mod ext4;
pub mod fs;
mod guard;
pub mod initrd;
mod metered;
pub mod open;
pub mod probe;
pub mod select;
pub mod tree;
pub mod usage;
pub mod version;
pub mod xfs;

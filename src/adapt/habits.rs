//! What of the guest's own configuration only the kernel's command line can answer.

use super::steps::{network, resume};
use crate::fs::GuestFs;

/// Habits of a guest from its time under Xen.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Habits {
    /// Its network configuration names `eth0` or `enX0`.
    pub old_names: bool,
    /// The device from which its initrd was told to resume, when that was made.
    pub resume: Option<String>,
}

/// The habits of the guest with this root filesystem.
pub fn habits(root: &dyn GuestFs) -> Habits {
    Habits { old_names: network::old_interface_names(root), resume: resume::configured(root) }
}

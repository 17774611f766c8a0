//! Settings from a guest's time under Xen that only the kernel's command line can override.

use super::steps::{network, resume};
use crate::fs::GuestFs;

/// Settings of the guest that its command line on KVM must override.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LegacySettings {
    /// Whether its network configuration names `eth0` or `enX0`.
    pub old_interface_names: bool,
    /// The device from which its initrd was configured to resume when it was built.
    pub resume_device: Option<String>,
}

impl LegacySettings {
    /// The settings of the guest with this root filesystem.
    pub fn of(root: &dyn GuestFs) -> Self {
        Self {
            old_interface_names: network::old_interface_names(root),
            resume_device: resume::configured(root),
        }
    }
}

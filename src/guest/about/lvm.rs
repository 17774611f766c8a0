//! Settings of LVM that depend on the machine.

use super::text;
use crate::fs::GuestFs;
use crate::lvm::rejecting_settings;

/// The names that a guest's second partition has on a virtio disk, whose serial number is `xvda`.
const NAMES: [&str; 2] = ["/dev/vda2", "/dev/disk/by-id/virtio-xvda-part2"];

/// Filters in `/etc/lvm/lvm.conf` that reject a partition of a virtio disk.
pub fn lvm_filters(root: &dyn GuestFs) -> Vec<&'static str> {
    let conf = text(root, "/etc/lvm/lvm.conf").unwrap_or_default();
    rejecting_settings(&conf, &NAMES)
}

#[cfg(test)]
mod tests {
    use super::lvm_filters;
    use crate::fs::MemFs;

    #[test]
    fn filters_for_xen() {
        assert!(lvm_filters(&MemFs::new()).is_empty());
        let conf = "devices {\n filter = [ \"a|^/dev/xvd|\", \"r|.*|\" ]\n}\n";
        assert_eq!(lvm_filters(&MemFs::new().file("/etc/lvm/lvm.conf", conf)), ["filter"]);
    }
}

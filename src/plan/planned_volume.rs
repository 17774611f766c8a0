//! A logical volume that is ready to be served.

use super::planned_disk::{PartitionReader, PlannedDisk};
use crate::lvm::{VolumeBytes, VolumeMap, mapper_name};

/// A logical volume that is ready to be served.
#[derive(Clone, Debug)]
pub struct PlannedVolume {
    /// Name of its file in a mount: `vg-root.raw`.
    pub file: String,
    /// Name of its group.
    pub group: String,
    /// Its name.
    pub name: String,
    /// Where its bytes lie in `parts`.
    pub map: VolumeMap,
    /// The partitions that hold the physical volumes: index of the disk, and number.
    pub parts: Vec<(usize, u32)>,
    /// Whether writes to it are refused.
    pub read_only: bool,
}

impl PlannedVolume {
    /// Its bytes, through the overlays of `disks`; `None` if they are other disks.
    pub fn bytes(&self, disks: &[PlannedDisk]) -> Option<VolumeBytes<PartitionReader>> {
        let part = |(disk, number): &(usize, u32)| disks.get(*disk)?.partition(*number);
        let parts = self.parts.iter().map(part).collect::<Option<_>>()?;
        Some(VolumeBytes::new(self.map.clone(), parts))
    }
}

/// File name in a mount of a logical volume: its name in `/dev/mapper`, unless that is a disk's.
pub(super) fn volume_file_name(group: &str, name: &str) -> String {
    let mapper = mapper_name(group, name);
    let is_taken = ["disk-", "cdrom-"].iter().any(|prefix| mapper.starts_with(prefix));
    // No volume is called like that: a name has one hyphen that is not doubled.
    if is_taken { format!("lv-{mapper}.raw") } else { format!("{mapper}.raw") }
}

#[cfg(test)]
mod tests {
    use super::volume_file_name;

    #[test]
    fn no_volume_takes_the_name_of_a_disk() {
        assert_eq!(volume_file_name("vg", "root"), "vg-root.raw");
        assert_eq!(volume_file_name("disk", "b"), "lv-disk-b.raw");
        assert_eq!(volume_file_name("disk-b", "part1"), "lv-disk--b-part1.raw");
        assert_eq!(volume_file_name("cdrom", "c"), "lv-cdrom-c.raw");
    }
}

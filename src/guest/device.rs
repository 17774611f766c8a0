//! Names of disks and partitions that depend on the machine: `/dev/xvda1`, `sdb`, `hda2`, `vda`.

/// A disk or partition as Xen's, SCSI's, IDE's or virtio's driver names it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MachineDevice<'a> {
    /// Letters of the disk: `a` for `xvda1`.
    pub disk: &'a str,
    /// Number of the partition; `None` for the whole disk.
    pub partition: Option<u32>,
}

impl<'a> MachineDevice<'a> {
    /// Parse `name`, with or without `/dev/` in front. `None` for what means the same on every
    /// machine, or nothing.
    pub fn parse(name: &'a str) -> Option<Self> {
        let device = name.strip_prefix("/dev/").unwrap_or(name);
        let rest = ["xvd", "sd", "hd", "vd"].iter().find_map(|p| device.strip_prefix(p))?;
        let disk = rest.trim_end_matches(|c: char| c.is_ascii_digit());
        // Four letters are more disks than any of the drivers can have.
        if !(1..=4).contains(&disk.len()) || !disk.bytes().all(|b| b.is_ascii_lowercase()) {
            return None;
        }
        let partition = match &rest[disk.len()..] {
            "" => None,
            digits => Some(digits.parse().ok().filter(|n| *n > 0)?),
        };
        Some(Self { disk, partition })
    }

    /// Number of the partition on the new disk: a disk without one held a bare filesystem under Xen,
    /// which is partition 1 now.
    pub fn number(self) -> u32 {
        self.partition.unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, disk, partition) in [
            ("/dev/xvda2", "a", Some(2)),
            ("/dev/sdb", "b", None),
            ("hdaa12", "aa", Some(12)),
            ("/dev/xvdab12", "ab", Some(12)),
            ("vda", "a", None),
        ] {
            assert_eq!(MachineDevice::parse(name), Some(MachineDevice { disk, partition }));
        }
        for other in [
            "proc",
            "UUID=x",
            "/dev/mapper/sda",
            "/dev/xvd1",
            "/dev/sdA1",
            "/dev/disk/x",
            "/dev/md0",
            "/dev/nvme0n1p1",
            "/dev/sda0",
            "/dev/sda99999999999",
            "/dev/sdaaaaa",
        ] {
            assert_eq!(MachineDevice::parse(other), None, "{other}");
        }
    }
}

//! Names that tell a guest's partitions apart.
//!
//! A snapshot of a disk that is attached to its own guest, as backups do, has the UUIDs and labels of
//! the original. A guest that looks for one of them finds either. So partitions are called by a UUID
//! only if no other has it, else by their identifier in the partition table, which is generated; two
//! images of whole disks may have the same there too, and are told apart by their serial numbers.

use super::types::PartitionNames;
use std::collections::BTreeMap;

/// A name for partition `p`, which no other of `all` has.
pub(super) fn spec(all: &[PartitionNames], p: &PartitionNames) -> String {
    match (&p.uuid, &p.volume) {
        (Some(uuid), _) if has_own_uuid(all, p) => format!("UUID={uuid}"),
        (_, Some(volume)) => volume.device(),
        _ => table_spec(all, p),
    }
}

/// As [`spec`], for a kernel without an initrd, which finds no UUIDs.
pub(super) fn early_spec(all: &[PartitionNames], p: &PartitionNames) -> String {
    match &p.volume {
        Some(volume) => volume.device(),
        None if has_own_partuuid(all, p) => format!("PARTUUID={}", p.partuuid),
        None => kernel_device(all, p).unwrap_or_else(|| format!("PARTUUID={}", p.partuuid)),
    }
}

/// The device that the kernel calls `p` if it is a virtio disk; `None` for a logical volume. The
/// firmware's disk is first among `all`, and the others follow in the order in which they are plugged
/// in.
pub(super) fn kernel_device(all: &[PartitionNames], p: &PartitionNames) -> Option<String> {
    let letter = char::from(b'a' + disk_index(all, p)?);
    Some(format!("/dev/vd{letter}{}", p.number))
}

/// The index of the disk of `p`, from 0 to 25; `None` for a logical volume.
pub(super) fn disk_index(all: &[PartitionNames], p: &PartitionNames) -> Option<u8> {
    if p.volume.is_some() {
        return None;
    }
    let mut disks: Vec<&str> = all.iter().map(|other| other.disk.as_str()).collect();
    disks.dedup();
    let index = disks.iter().position(|disk| *disk == p.disk)?;
    u8::try_from(index).ok().filter(|index| *index < 26)
}

/// A name from the partition table, or from the machine.
fn table_spec(all: &[PartitionNames], p: &PartitionNames) -> String {
    match has_own_partuuid(all, p) {
        true => format!("PARTUUID={}", p.partuuid),
        // udev's name for a virtio disk with this serial number.
        false => format!("/dev/disk/by-id/virtio-{}-part{}", p.vdev, p.number),
    }
}

fn same(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// Whether no other partition has the UUID of `p`, or had it before.
pub(super) fn has_own_uuid(all: &[PartitionNames], p: &PartitionNames) -> bool {
    p.uuid.as_ref().is_some_and(|uuid| count(all, |other| has_uuid(other, uuid)) <= 1)
}

fn has_own_partuuid(all: &[PartitionNames], p: &PartitionNames) -> bool {
    count(all, |other| same(&other.partuuid, &p.partuuid)) <= 1
}

fn has_uuid(p: &PartitionNames, uuid: &str) -> bool {
    p.uuid.as_ref().is_some_and(|own| same(own, uuid))
}

fn count(all: &[PartitionNames], is: impl Fn(&PartitionNames) -> bool) -> usize {
    all.iter().filter(|p| is(p)).count()
}

/// What the user should know of UUIDs and labels that several partitions have.
pub(super) fn notes(all: &[PartitionNames]) -> Vec<String> {
    let shown = |p: &PartitionNames| match &p.volume {
        Some(volume) => volume.device(),
        None => format!("{}{}", p.vdev, p.number),
    };
    let mut by_name: BTreeMap<String, Vec<&PartitionNames>> = BTreeMap::new();
    for p in all {
        if let Some(uuid) = p.uuid.as_ref().filter(|_| !has_own_uuid(all, p)) {
            by_name.entry(format!("the UUID {}", uuid.to_ascii_lowercase())).or_default().push(p);
        } else if let Some(label) = &p.label {
            by_name.entry(format!("the label {label}")).or_default().push(p);
        }
    }
    let several = by_name.into_iter().filter(|(_, partitions)| partitions.len() > 1);
    let note = |(name, partitions): (String, Vec<&PartitionNames>)| {
        let list: Vec<String> = partitions.iter().map(|p| shown(p)).collect();
        let list = list.join(" and ");
        format!("{list} have {name}; the guest gets names that tell them apart")
    };
    several.map(note).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::PartitionKind;

    fn part(vdev: &str, number: u32, uuid: &str, partuuid: &str) -> PartitionNames {
        PartitionNames {
            disk: vdev[3..].into(),
            vdev: vdev.into(),
            number,
            kind: PartitionKind::Linux,
            uuid: Some(uuid.into()),
            former: Vec::new(),
            label: None,
            partuuid: partuuid.into(),
            read_only: false,
            volume: None,
        }
    }

    #[test]
    fn a_name_is_used_if_nothing_else_has_it() {
        let all = [
            part("xvda", 1, "A", "1-1"),
            part("xvda", 2, "b", "1-2"),
            part("xvdb", 1, "a", "1-1"),
            part("xvdc", 1, "B", "2-1"),
            part("xvdc", 2, "c", "2-2"),
        ];
        let specs: Vec<_> = all.iter().map(|p| spec(&all, p)).collect();
        let virtio = "/dev/disk/by-id/virtio-xvd";
        let (a, b) = (format!("{virtio}a-part1"), format!("{virtio}b-part1"));
        assert_eq!(specs, [&*a, "PARTUUID=1-2", &b, "PARTUUID=2-1", "UUID=c"]);
        let early: Vec<_> = all.iter().map(|p| early_spec(&all, p)).collect();
        let device = ["/dev/vda1", "PARTUUID=1-2", "/dev/vdb1", "PARTUUID=2-1", "PARTUUID=2-2"];
        assert_eq!(early, device);
        let said = notes(&all);
        assert_eq!(said.len(), 2);
        assert!(said[0].starts_with("xvda1 and xvdb1 have the UUID a;"), "{said:?}");
        assert_eq!(notes(&all[4..]), [""; 0]);
    }
}

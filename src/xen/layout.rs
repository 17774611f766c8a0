//! Groups disk specs into disks: which specs are partitions of one disk.

use std::collections::BTreeMap;

use super::disk::DiskSpec;
use super::lexer::error_at;
use crate::device_name::{DeviceName, Family, disk_letters};
use crate::{ErrorKind, Result};

/// A disk that the guest sees.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GuestDisk<'a> {
    /// The disk's number: 0 for `xvda`.
    pub disk: u32,
    /// Its device family.
    pub family: Family,
    /// What it consists of.
    pub content: GuestDiskContent<'a>,
}

/// What a [`GuestDisk`] consists of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum GuestDiskContent<'a> {
    /// One image, `xvda`: a whole disk, a bare filesystem or swap area, or a cdrom.
    Whole(&'a DiskSpec),
    /// Partition images, `xvda1`, `xvda5`, in ascending order of their numbers (from 1).
    Partitions(Vec<(u32, &'a DiskSpec)>),
}

impl GuestDisk<'_> {
    /// The guest's name for the disk under Xen: `xvda`.
    pub fn name(&self) -> String {
        DeviceName { disk: self.disk, family: self.family, partition: 0 }.disk_name()
    }

    /// The specs that it consists of.
    pub fn specs(&self) -> impl Iterator<Item = &DiskSpec> {
        let (whole, parts) = match &self.content {
            GuestDiskContent::Whole(spec) => (Some(*spec), &[][..]),
            GuestDiskContent::Partitions(parts) => (None, &parts[..]),
        };
        whole.into_iter().chain(parts.iter().map(|(_, spec)| *spec))
    }

    /// The disk's letters only: `a` for `xvda` and `hda`.
    pub fn letters(&self) -> String {
        disk_letters(self.disk)
    }

    /// Whether it is a cdrom drive.
    pub fn is_cdrom(&self) -> bool {
        matches!(self.content, GuestDiskContent::Whole(spec) if spec.cdrom)
    }
}

/// Groups specs by disk, ordered by number; see [`super::DomainConfig::layout`].
pub(super) fn group(specs: &[DiskSpec]) -> Result<Vec<GuestDisk<'_>>> {
    let mut disks: BTreeMap<(u32, Family), BTreeMap<u32, &DiskSpec>> = BTreeMap::new();
    for spec in specs {
        let DeviceName { disk, family, partition } = spec.vdev;
        let parts = disks.entry((disk, family)).or_default();
        if let Some(other) = parts.insert(partition, spec) {
            let what = format!(
                "{} is the same device as on line {}; name each once",
                spec.vdev, other.line
            );
            return Err(error_at(ErrorKind::Invalid, spec.line, what));
        }
        if spec.cdrom && partition > 0 {
            let what =
                format!("{} is a partition, which a cdrom can't be; name a whole disk", spec.vdev);
            return Err(error_at(ErrorKind::Invalid, spec.line, what));
        }
    }
    let mut out: Vec<GuestDisk<'_>> = Vec::with_capacity(disks.len());
    for ((disk, family), mut parts) in disks {
        let content = match parts.remove(&0) {
            Some(whole) => {
                if let Some(part) = parts.values().next() {
                    let what = format!(
                        "{} is a partition of {}, which line {} names as a whole disk; name either \
                         the disk or its partitions",
                        part.vdev, whole.vdev, whole.line
                    );
                    return Err(error_at(ErrorKind::Invalid, part.line, what));
                }
                GuestDiskContent::Whole(whole)
            }
            None => GuestDiskContent::Partitions(parts.into_iter().collect()),
        };
        let new = GuestDisk { disk, family, content };
        // xvda and a cdrom hda can coexist; two disks with the same letter can't.
        if let Some(last) = out.iter().rfind(|d| d.disk == disk && !d.is_cdrom()) {
            if !new.is_cdrom() {
                let what = format!(
                    "{} and {} are the same disk by two names; use one of them",
                    last.name(),
                    new.name()
                );
                return Err(error_at(ErrorKind::Invalid, first_line(&new), what));
            }
        }
        out.push(new);
    }
    Ok(out)
}

fn first_line(disk: &GuestDisk<'_>) -> u32 {
    match &disk.content {
        GuestDiskContent::Whole(spec) => spec.line,
        GuestDiskContent::Partitions(parts) => {
            parts.iter().map(|(_, spec)| spec.line).min().unwrap_or_default()
        }
    }
}

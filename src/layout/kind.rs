//! Partition types: one row per type, for all tables and reports.

use super::SECTOR;
use serde::{Deserialize, Serialize};
use uuid::{Uuid, uuid};

/// What a partition holds, as far as it determines the type in the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PartitionKind {
    /// A Linux filesystem.
    Linux,
    /// A Linux swap area.
    Swap,
    /// Code of a BIOS boot loader, without a filesystem; only in a GPT.
    BiosBoot,
    /// The FAT filesystem from which UEFI firmware starts a loader.
    EfiSystem,
    /// A physical volume of LVM.
    Lvm,
}

/// Properties of a partition type.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PartitionType {
    /// The name shown to a user.
    pub name: &'static str,
    /// Type byte in an MBR; `None` for a type that only a GPT has.
    pub mbr: Option<u8>,
    /// Type GUID in a GPT.
    pub guid: Uuid,
    /// Who creates the content.
    pub content: PartitionContent,
}

/// The kind of content that a partition has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PartitionContent {
    /// A filesystem of the guest; it may be the root filesystem.
    Filesystem,
    /// A swap area.
    Swap,
    /// Written by a loader.
    Loader,
    /// Parts of volumes, which hold filesystems.
    Volumes,
}

impl PartitionKind {
    /// All kinds.
    pub const ALL: [Self; 5] =
        [Self::Linux, Self::Swap, Self::BiosBoot, Self::EfiSystem, Self::Lvm];

    /// The properties of this kind. Sources: sfdisk(8) `--list-types`, the UEFI specification
    /// (chapter 5) and the Discoverable Partitions Specification.
    pub fn properties(self) -> PartitionType {
        let row = |name, mbr, guid, content| PartitionType { name, mbr, guid, content };
        match self {
            Self::Linux => row(
                "linux",
                Some(0x83),
                uuid!("0fc63daf-8483-4772-8e79-3d69d8477de4"),
                PartitionContent::Filesystem,
            ),
            Self::Swap => row(
                "swap",
                Some(0x82),
                uuid!("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"),
                PartitionContent::Swap,
            ),
            Self::BiosBoot => row(
                "bios boot",
                None,
                uuid!("21686148-6449-6e6f-744e-656564454649"),
                PartitionContent::Loader,
            ),
            Self::EfiSystem => row(
                "efi system",
                Some(0xef),
                uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b"),
                PartitionContent::Loader,
            ),
            Self::Lvm => row(
                "lvm",
                Some(0x8e),
                uuid!("e6d6d379-f507-44c2-a23c-238f2a3df928"),
                PartitionContent::Volumes,
            ),
        }
    }

    /// The name shown to a user.
    pub fn name(self) -> &'static str {
        self.properties().name
    }

    /// Whether the partition may hold a root filesystem.
    pub fn may_hold_root(self) -> bool {
        self.properties().content == PartitionContent::Filesystem
    }

    /// Whether the partition is a swap area.
    pub fn is_swap(self) -> bool {
        self.properties().content == PartitionContent::Swap
    }

    /// Whether the partition holds parts of volumes.
    pub fn holds_volumes(self) -> bool {
        self.properties().content == PartitionContent::Volumes
    }

    /// Whether a loader writes the content of the partition.
    pub fn is_loaders(self) -> bool {
        self.properties().content == PartitionContent::Loader
    }
}

/// Kind of partition table.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TableKind {
    /// Master boot record: four partitions, 2 TiB.
    #[default]
    Mbr,
    /// GUID partition table: 128 partitions, no size limit that matters.
    Gpt,
}

/// Sectors that the 32-bit fields of an MBR can address: 2 TiB less one sector.
pub const MBR_MAX_SECTORS: u64 = u32::MAX as u64;
/// Number of partitions in an MBR without extended partitions.
pub(super) const MBR_NUMBERS: u32 = 4;
/// Length in bytes of a GPT's header and entries, which are stored after the MBR and again at the
/// end of the disk.
pub const GPT_LEN: u64 = 33 * SECTOR;
/// Number of partitions in a GPT of this length.
pub const GPT_NUMBERS: u32 = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_kinds_share_a_type() {
        for (i, a) in PartitionKind::ALL.iter().enumerate() {
            for b in &PartitionKind::ALL[i + 1..] {
                let (a, b) = (a.properties(), b.properties());
                assert!(
                    a.guid != b.guid && a.name != b.name && (a.mbr != b.mbr || a.mbr.is_none())
                );
            }
        }
    }

    #[test]
    fn the_types_are_those_of_sfdisk() {
        let list = |label: &str| {
            let output = std::process::Command::new("sfdisk")
                .args(["--list-types", "--label", label])
                .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
                .output()
                .expect("sfdisk cannot be started; install util-linux and fdisk");
            String::from_utf8_lossy(&output.stdout).to_lowercase()
        };
        let (dos, gpt) = (list("dos"), list("gpt"));
        for (kind, name) in [
            (PartitionKind::Linux, "linux"),
            (PartitionKind::Swap, "linux swap"),
            (PartitionKind::BiosBoot, "bios boot"),
            (PartitionKind::EfiSystem, "efi"),
            (PartitionKind::Lvm, "linux lvm"),
        ] {
            let row = kind.properties();
            let line = |list: &str, id: &str| {
                let found =
                    list.lines().find_map(|l| Some(l.trim().strip_prefix(id)?.trim().to_owned()));
                found.unwrap_or_else(|| panic!("sfdisk does not list {id}"))
            };
            let found = line(&gpt, &row.guid.to_string());
            assert!(found.starts_with(name), "{found}");
            if let Some(mbr) = row.mbr {
                let found = line(&dos, &format!("{mbr:x} "));
                assert!(found.starts_with(name), "{found}");
            }
        }
    }
}

//! Detects the content of an image from its first bytes.
//!
//! Sources: the superblock layouts in util-linux `libblkid/src/superblocks`, and the image format
//! headers in QEMU `block/`.

use super::md::{self, MdMember};
use crate::layout::TableKind;
use std::fmt::Write;

/// How many bytes of an image [`probe`] needs; fewer if the image is shorter.
pub const HEAD_LEN: usize = 128 << 10;

/// Which of the three ext filesystems.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ExtKind {
    /// No journal, no ext4 features.
    Ext2,
    /// A journal, no ext4 features.
    Ext3,
    /// Extents or another feature that ext3 lacks.
    Ext4,
}

/// The detected content of an image. UUID bytes are in printed order, left to right.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ImageContent {
    /// ext2, ext3 or ext4.
    Ext {
        /// Which of them.
        kind: ExtKind,
        /// Filesystem UUID.
        uuid: [u8; 16],
        /// Volume label.
        label: String,
        /// Whether the journal must be replayed: the guest was not shut down cleanly.
        needs_recovery: bool,
        /// Size of the filesystem in bytes.
        size: u64,
    },
    /// XFS.
    Xfs {
        /// Filesystem UUID.
        uuid: [u8; 16],
        /// Volume label.
        label: String,
    },
    /// Btrfs.
    Btrfs {
        /// Filesystem UUID.
        uuid: [u8; 16],
        /// Volume label.
        label: String,
    },
    /// A Linux swap area.
    Swap {
        /// UUID, all zero in old areas.
        uuid: [u8; 16],
        /// Label.
        label: String,
        /// 0 for the old `SWAP-SPACE`, 1 for `SWAPSPACE2`.
        version: u32,
        /// Number of the last usable page.
        last_page: u32,
        /// Bytes per page: 4096 to 65536.
        page_size: u32,
    },
    /// A disk with a partition table, not a partition.
    WholeDisk(TableKind),
    /// A QEMU image.
    Qcow2,
    /// A VHD (Virtual PC, Xen `vhd`) with its header at the start: dynamic or differencing.
    Vhd,
    /// A VHDX (Hyper-V).
    Vhdx,
    /// A VMDK (VMware): sparse extent or descriptor.
    Vmdk,
    /// gzip.
    Gzip,
    /// xz.
    Xz,
    /// Zstandard.
    Zstd,
    /// bzip2.
    Bzip2,
    /// A CD image.
    Iso9660,
    /// A LUKS encrypted volume.
    Luks,
    /// An LVM2 physical volume.
    Lvm2Pv,
    /// A member of a software RAID (md) whose data does not begin with its first byte.
    MdMember(MdMember),
    /// Squashfs.
    Squashfs,
    /// ReiserFS.
    Reiserfs,
    /// JFS.
    Jfs,
    /// Only zeros in the bytes that were inspected.
    Empty,
    /// None of the above.
    Unknown,
}

impl ImageContent {
    /// A description in a few words, for use after "is" or "holds".
    pub fn describe(&self) -> &'static str {
        match self {
            Self::Ext { kind: ExtKind::Ext2, .. } => "an ext2 filesystem",
            Self::Ext { kind: ExtKind::Ext3, .. } => "an ext3 filesystem",
            Self::Ext { kind: ExtKind::Ext4, .. } => "an ext4 filesystem",
            Self::Xfs { .. } => "an XFS filesystem",
            Self::Btrfs { .. } => "a Btrfs filesystem",
            Self::Swap { .. } => "a swap area",
            Self::WholeDisk(TableKind::Mbr) => "a whole disk with an MBR partition table",
            Self::WholeDisk(TableKind::Gpt) => "a whole disk with a GPT partition table",
            Self::Qcow2 => "a qcow2 image",
            Self::Vhd => "a VHD image",
            Self::Vhdx => "a VHDX image",
            Self::Vmdk => "a VMDK image",
            Self::Gzip => "gzip-compressed data",
            Self::Xz => "xz-compressed data",
            Self::Zstd => "zstd-compressed data",
            Self::Bzip2 => "bzip2-compressed data",
            Self::Iso9660 => "a CD image (ISO 9660)",
            Self::Luks => "a LUKS encrypted volume",
            Self::Lvm2Pv => "an LVM2 physical volume",
            Self::MdMember(_) => "a member of a software RAID (md)",
            Self::Squashfs => "a Squashfs filesystem",
            Self::Reiserfs => "a ReiserFS filesystem",
            Self::Jfs => "a JFS filesystem",
            Self::Empty => "nothing but zeros",
            Self::Unknown => "nothing that is known",
        }
    }

    /// A one-word name, the same as `blkid` uses where it has one.
    pub fn short_name(&self) -> &'static str {
        match self {
            Self::Ext { kind: ExtKind::Ext2, .. } => "ext2",
            Self::Ext { kind: ExtKind::Ext3, .. } => "ext3",
            Self::Ext { kind: ExtKind::Ext4, .. } => "ext4",
            Self::Xfs { .. } => "xfs",
            Self::Btrfs { .. } => "btrfs",
            Self::Swap { .. } => "swap",
            Self::WholeDisk(TableKind::Mbr) => "mbr-disk",
            Self::WholeDisk(TableKind::Gpt) => "gpt-disk",
            Self::Qcow2 => "qcow2",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
            Self::Vmdk => "vmdk",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Iso9660 => "iso9660",
            Self::Luks => "crypto_LUKS",
            Self::Lvm2Pv => "LVM2_member",
            Self::MdMember(_) => "linux_raid_member",
            Self::Squashfs => "squashfs",
            Self::Reiserfs => "reiserfs",
            Self::Jfs => "jfs",
            Self::Empty => "empty",
            Self::Unknown => "unknown",
        }
    }

    /// Volume label, if not empty.
    pub fn label(&self) -> Option<&str> {
        match self {
            Self::Ext { label, .. }
            | Self::Xfs { label, .. }
            | Self::Btrfs { label, .. }
            | Self::Swap { label, .. } => Some(label.as_str()).filter(|label| !label.is_empty()),
            _ => None,
        }
    }

    /// The UUID of a filesystem or swap area, unless it is all zero.
    pub fn uuid(&self) -> Option<[u8; 16]> {
        match self {
            Self::Ext { uuid, .. }
            | Self::Xfs { uuid, .. }
            | Self::Btrfs { uuid, .. }
            | Self::Swap { uuid, .. } => Some(*uuid).filter(|u| *u != [0; 16]),
            _ => None,
        }
    }
}

/// A UUID in lower-case text form, as in `root=UUID=` and fstab(5).
pub fn uuid_text(uuid: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (i, byte) in uuid.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Detects the content of an image from its first bytes (`head`, ideally [`HEAD_LEN`] of them) and
/// its total `size` in bytes. Never fails: unrecognised content is [`ImageContent::Unknown`].
pub fn probe(head: &[u8], size: u64) -> ImageContent {
    let head = Head(head);
    // Image formats come first: their magic is at byte 0, and the wrapped content may follow
    // verbatim.
    let wrapper = [
        (0, &b"QFI\xfb"[..], ImageContent::Qcow2),
        (0, b"conectix", ImageContent::Vhd),
        (0, b"vhdxfile", ImageContent::Vhdx),
        (0, b"KDMV", ImageContent::Vmdk),
        (0, b"COWD", ImageContent::Vmdk),
        (0, b"# Disk DescriptorFile", ImageContent::Vmdk),
        (0, b"\x1f\x8b\x08", ImageContent::Gzip),
        (0, b"\xfd7zXZ\0", ImageContent::Xz),
        (0, b"\x28\xb5\x2f\xfd", ImageContent::Zstd),
        (0, b"BZh", ImageContent::Bzip2),
        (0, b"LUKS\xba\xbe", ImageContent::Luks),
        (0, b"hsqs", ImageContent::Squashfs),
        (0, b"sqsh", ImageContent::Squashfs),
    ];
    for (at, magic, content) in wrapper {
        if head.has(at, magic) {
            return content;
        }
    }
    if let Some(member) = md::member(head.0, &[], size) {
        return ImageContent::MdMember(member);
    }
    if let Some(content) = head.ext().or_else(|| head.xfs()).or_else(|| head.btrfs()) {
        return content;
    }
    if let Some(content) = head.swap() {
        return content;
    }
    if (0..4).any(|s| head.has(s * 512, b"LABELONE") && head.has(s * 512 + 24, b"LVM2 001")) {
        return ImageContent::Lvm2Pv;
    }
    if [8192, 65536].iter().any(|at| {
        head.has(at + 52, b"ReIsErFs")
            || head.has(at + 52, b"ReIsEr2Fs")
            || head.has(at + 52, b"ReIsEr3Fs")
    }) {
        return ImageContent::Reiserfs;
    }
    if head.has(32768, b"JFS1") {
        return ImageContent::Jfs;
    }
    if head.has(32769, b"CD001") {
        return ImageContent::Iso9660;
    }
    if let Some(table) = head.table(size) {
        return ImageContent::WholeDisk(table);
    }
    if head.0.iter().all(|b| *b == 0) { ImageContent::Empty } else { ImageContent::Unknown }
}

/// Bytes that may end anywhere; beyond the end they read as zero.
struct Head<'a>(&'a [u8]);

impl Head<'_> {
    fn has(&self, at: usize, magic: &[u8]) -> bool {
        self.0.get(at..at + magic.len()) == Some(magic)
    }

    fn u32(&self, at: usize) -> u32 {
        self.0.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn uuid(&self, at: usize) -> [u8; 16] {
        let mut uuid = [0; 16];
        if let Some(bytes) = self.0.get(at..at + 16) {
            uuid.copy_from_slice(bytes);
        }
        uuid
    }

    fn label(&self, at: usize, len: usize) -> String {
        let bytes = self.0.get(at..at + len).unwrap_or_default();
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }

    fn ext(&self) -> Option<ImageContent> {
        const SB: usize = 1024;
        /// The incompatible features that ext3 supports: filetype, recover. And the read-only
        /// compatible ones: sparse_super, large_file, btree_dir.
        const EXT3_INCOMPAT: u32 = 0x2 | 0x4 | 0x10;
        const EXT3_RO_COMPAT: u32 = 0x1 | 0x2 | 0x4;
        if !self.has(SB + 0x38, b"\x53\xef") || self.u32(SB + 0x18) > 6 {
            return None;
        }
        let (compat, incompat, ro) =
            (self.u32(SB + 0x5c), self.u32(SB + 0x60), self.u32(SB + 0x64));
        if incompat & 0x8 != 0 {
            return None; // a journal device, not a filesystem
        }
        let kind = if incompat & !EXT3_INCOMPAT != 0 || ro & !EXT3_RO_COMPAT != 0 {
            ExtKind::Ext4
        } else if compat & 0x4 != 0 {
            ExtKind::Ext3
        } else {
            ExtKind::Ext2
        };
        let high = if incompat & 0x80 != 0 { self.u32(SB + 0x150) } else { 0 };
        let blocks = u64::from(self.u32(SB + 0x4)) | u64::from(high) << 32;
        Some(ImageContent::Ext {
            kind,
            uuid: self.uuid(SB + 0x68),
            label: self.label(SB + 0x78, 16),
            needs_recovery: incompat & 0x4 != 0,
            size: blocks.saturating_mul(1024 << self.u32(SB + 0x18)),
        })
    }

    fn xfs(&self) -> Option<ImageContent> {
        self.has(0, b"XFSB")
            .then(|| ImageContent::Xfs { uuid: self.uuid(32), label: self.label(108, 12) })
    }

    fn btrfs(&self) -> Option<ImageContent> {
        const SB: usize = 64 << 10;
        self.has(SB + 0x40, b"_BHRfS_M").then(|| ImageContent::Btrfs {
            uuid: self.uuid(SB + 0x20),
            label: self.label(SB + 0x12b, 256),
        })
    }

    fn swap(&self) -> Option<ImageContent> {
        for page_size in [4096usize, 8192, 16384, 32768, 65536] {
            let version = if self.has(page_size - 10, b"SWAPSPACE2") {
                1
            } else if self.has(page_size - 10, b"SWAP-SPACE") {
                0
            } else {
                continue;
            };
            let new = version == 1;
            return Some(ImageContent::Swap {
                uuid: if new { self.uuid(1036) } else { [0; 16] },
                label: if new { self.label(1052, 16) } else { String::new() },
                version,
                last_page: if new { self.u32(1028) } else { 0 },
                page_size: page_size as u32,
            });
        }
        None
    }

    /// A partition table with at least one plausible entry. The signature 55 AA alone proves
    /// nothing: boot sectors of filesystems (FAT, NTFS, GRUB in a partition) end with it too.
    fn table(&self, size: u64) -> Option<TableKind> {
        if !self.has(510, b"\x55\xaa") {
            return None;
        }
        if self.has(512, b"EFI PART") {
            return Some(TableKind::Gpt);
        }
        let fat = self.has(54, b"FAT") || self.has(82, b"FAT32") || self.has(3, b"NTFS    ");
        if fat {
            return None;
        }
        let sectors = size / 512;
        let mut used = 0;
        for entry in 0..4 {
            let at = 446 + entry * 16;
            let (active, kind) = (self.u32(at) & 0xff, self.u32(at + 4) & 0xff);
            let (start, count) = (u64::from(self.u32(at + 8)), u64::from(self.u32(at + 12)));
            if active & 0x7f != 0 {
                return None;
            }
            if kind == 0 {
                continue;
            }
            // A table may describe more than a truncated image contains, but no partition starts
            // beyond its end.
            if start == 0 || count == 0 || start >= sectors {
                return None;
            }
            used += 1;
        }
        (used > 0).then_some(TableKind::Mbr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(parts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut head = vec![0; HEAD_LEN];
        for (at, bytes) in parts {
            head[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        head
    }

    #[test]
    fn magics() {
        let entry = [0x80, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 1, 0];
        let bad = [0x42, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 1, 0];
        let sig = (510, &b"\x55\xaa"[..]);
        for (parts, want) in [
            (vec![], ImageContent::Empty),
            (vec![(5, &b"x"[..])], ImageContent::Unknown),
            (vec![sig], ImageContent::Unknown),
            (vec![sig, (446, &entry[..])], ImageContent::WholeDisk(TableKind::Mbr)),
            (vec![sig, (446, &entry[..]), (462, &bad[..])], ImageContent::Unknown),
            (vec![sig, (446, &entry[..]), (54, &b"FAT16   "[..])], ImageContent::Unknown),
            (
                vec![sig, (446, &entry[..]), (512, &b"EFI PART"[..])],
                ImageContent::WholeDisk(TableKind::Gpt),
            ),
            (vec![(0, &b"QFI\xfb"[..])], ImageContent::Qcow2),
            (vec![(0, &b"conectix"[..])], ImageContent::Vhd),
            (vec![(0, &b"\x1f\x8b\x08"[..])], ImageContent::Gzip),
            (vec![(32769, &b"CD001"[..])], ImageContent::Iso9660),
            (vec![(512, &b"LABELONE"[..]), (536, &b"LVM2 001"[..])], ImageContent::Lvm2Pv),
            (vec![(65536 + 52, &b"ReIsEr2Fs"[..])], ImageContent::Reiserfs),
            (
                vec![(4086, &b"SWAPSPACE2"[..]), (1028, &[9, 0, 0, 0][..]), (1052, &b"sw"[..])],
                ImageContent::Swap {
                    uuid: [0; 16],
                    label: "sw".into(),
                    version: 1,
                    last_page: 9,
                    page_size: 4096,
                },
            ),
        ] {
            assert_eq!(probe(&image(&parts), 1 << 30), want);
        }
        // An ext filesystem takes precedence over a boot sector that contains a table.
        let ext = image(&[sig, (446, &entry), (1024 + 0x38, b"\x53\xef"), (1024 + 4, &[9])]);
        let ImageContent::Ext { kind, size, .. } = probe(&ext, 1 << 30) else { panic!() };
        assert_eq!((kind, size), (ExtKind::Ext2, 9 * 1024));
        // Truncation at any offset must not panic.
        for len in 0..2048 {
            probe(&ext[..len], len as u64);
        }
    }

    #[test]
    fn uuid_is_printed_as_blkid_does() {
        let uuid: [u8; 16] = std::array::from_fn(|i| i as u8 * 17);
        assert_eq!(uuid_text(&uuid), "00112233-4455-6677-8899-aabbccddeeff");
    }
}

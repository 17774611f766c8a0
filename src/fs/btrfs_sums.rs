//! Btrfs whose metadata have checksums of another kind than CRC-32C: xxHash64, SHA-256, BLAKE2.
//!
//! `lambutter` knows CRC-32C only. So the superblock is shown as if it said so, and it and the nodes of
//! the trees with the checksum that belongs to them then. The original checksums are not verified: what
//! is damaged is found, if at all, by what it says.
//!
//! Source: Linux `include/uapi/linux/btrfs_tree.h`.

use crate::bytes::ReadAt;
use crate::crc::CASTAGNOLI;
use crate::{Error, Result};

/// Where the superblock starts, and its length, in bytes.
const SUPERBLOCK: u64 = 64 << 10;
const SUPERBLOCK_LEN: usize = 4096;
const MAGIC: &[u8] = b"_BHRfS_M";
/// Offsets in the superblock: the filesystem's UUID, which nodes have at the same place, the magic, the
/// features, the kind of checksum, and the UUID of nodes if that is another one.
const FSID: usize = 0x20;
const MAGIC_AT: usize = 0x40;
const INCOMPAT: usize = 0xbc;
const CSUM_TYPE: usize = 0xc4;
const METADATA_UUID: usize = 0x23b;
/// The feature that nodes have a UUID of their own (bit 10).
const HAS_METADATA_UUID: u8 = 0x4;
/// xxHash64, SHA-256 and BLAKE2b are 1 to 3.
const KNOWN: std::ops::RangeInclusive<u8> = 1..=3;
/// Bytes that a checksum takes, whatever its kind.
const SUM_LEN: usize = 32;

/// Rewrites the checksums of one filesystem.
#[derive(Clone, Debug)]
pub(super) struct Checksums {
    /// The UUID in its nodes.
    uuid: [u8; 16],
}

impl Checksums {
    /// For the filesystem in `reader`; `None` if it has CRC-32C or is none.
    ///
    /// # Errors
    /// Errors from reading it.
    pub(super) fn of(reader: &dyn ReadAt) -> Result<Option<Self>> {
        let mut raw = [0; SUPERBLOCK_LEN];
        if reader.len() < SUPERBLOCK + SUPERBLOCK_LEN as u64 {
            return Ok(None);
        }
        let failed = |e| Error::io("cannot read the guest's superblock", e);
        reader.read_at(&mut raw, SUPERBLOCK).map_err(failed)?;
        if raw[MAGIC_AT..MAGIC_AT + 8] != *MAGIC || !KNOWN.contains(&raw[CSUM_TYPE]) {
            return Ok(None);
        }
        let at = match raw[INCOMPAT + 1] & HAS_METADATA_UUID != 0 {
            true => METADATA_UUID,
            false => FSID,
        };
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&raw[at..at + 16]);
        Ok(Some(Self { uuid }))
    }

    /// Gives `block` the checksum that is expected, if it is a superblock or a node.
    pub(super) fn rewrite(&self, block: &mut [u8]) {
        if block.len() < SUPERBLOCK_LEN || !block.len().is_power_of_two() {
            return;
        }
        if block.len() == SUPERBLOCK_LEN && block[MAGIC_AT..MAGIC_AT + 8] == *MAGIC {
            block[CSUM_TYPE..CSUM_TYPE + 2].fill(0);
        } else if block[FSID..FSID + 16] != self.uuid {
            return;
        }
        let sum = !CASTAGNOLI.update(!0, &block[SUM_LEN..]);
        block[..SUM_LEN].fill(0);
        block[..4].copy_from_slice(&sum.to_le_bytes());
    }
}

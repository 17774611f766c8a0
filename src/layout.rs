//! Pure computation: the positions of partitions, and the bytes of the partition table and the swap
//! area.
//!
//! Takes numbers and returns numbers or bytes. It opens no file and calls no other room, so its
//! tests can compare it with `sfdisk` and `mkswap`.

mod cidata;
mod efi_system;
mod geometry;
mod gpt;
mod ids;
mod kind;
mod mbr;
mod size;
mod swap;

pub use cidata::{SEED_FILE_MAX, Seed};
pub use efi_system::{EFI_SYSTEM_LEN, Run, efi_system};
pub use geometry::{Layout, LayoutSpec, PartitionSpec, Placed};
pub use gpt::{Gpt, crc32};
pub use ids::Ids;
pub use kind::{
    GPT_LEN, GPT_NUMBERS, MBR_MAX_SECTORS, PartitionContent, PartitionKind, PartitionType,
    TableKind,
};
pub use mbr::{BOOTSTRAP_LEN, check_code, mbr_sector, parse_disk_id};
pub use size::{format_size, parse_size};
pub use swap::{SWAP_MIN_LEN, SWAP_PAGE, SwapHeader};

/// Bytes per sector. Xen's block protocol, the MBR and every disk here use this unit.
pub const SECTOR: u64 = 512;

/// `value` rounded up to a multiple of `unit` (any unit, not only powers of two).
///
/// Returns `None` on overflow or if `unit` is 0.
pub fn round_up(value: u64, unit: u64) -> Option<u64> {
    value.checked_next_multiple_of(unit)
}

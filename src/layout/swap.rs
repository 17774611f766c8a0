//! The header of a Linux swap area (`SWAPSPACE2`), as written by `mkswap`.
//!
//! Source: `union swap_header` in the kernel's `include/linux/swap.h`.

use uuid::Uuid;

/// Bytes per page of the generated swap areas: the page size of x86.
pub const SWAP_PAGE: u64 = 4096;

/// Minimum length in bytes of a swap area that `mkswap` and the kernel accept: 10 pages.
pub const SWAP_MIN_LEN: u64 = 10 * SWAP_PAGE;

/// The fields of the first page of a swap area.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SwapHeader {
    /// Length of the area in bytes; an incomplete last page is unused.
    pub len: u64,
    /// UUID by which `blkid`, `swapon -U` and fstab identify it.
    pub uuid: Uuid,
    /// Label, at most 16 bytes; longer ones are truncated.
    pub label: String,
}

impl SwapHeader {
    /// The first page of the area. The rest may hold anything; here it is zeros.
    pub fn encode(&self) -> [u8; SWAP_PAGE as usize] {
        let mut page = [0; SWAP_PAGE as usize];
        let last_page = u32::try_from((self.len / SWAP_PAGE).saturating_sub(1)).unwrap_or(u32::MAX);
        page[1024..1028].copy_from_slice(&1u32.to_le_bytes());
        page[1028..1032].copy_from_slice(&last_page.to_le_bytes());
        page[1036..1052].copy_from_slice(self.uuid.as_bytes());
        let label = &self.label.as_bytes()[..self.label.len().min(16)];
        page[1052..1052 + label.len()].copy_from_slice(label);
        page[4086..].copy_from_slice(b"SWAPSPACE2");
        page
    }
}

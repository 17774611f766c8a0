//! The header of a Linux swap area (`SWAPSPACE2`), as `mkswap` writes it.
//!
//! Source: `union swap_header` in the kernel's `include/linux/swap.h`.

use uuid::Uuid;

/// Bytes per page of the swap areas made here: that of x86.
pub const SWAP_PAGE: u64 = 4096;

/// Minimum length in bytes of a swap area that `mkswap` and the kernel accept: 10 pages.
pub const SWAP_MIN_LEN: u64 = 10 * SWAP_PAGE;

/// What the first page of a swap area says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SwapHeader {
    /// Length of the area in bytes; the odd rest of a page is left unused.
    pub len: u64,
    /// UUID that `blkid`, `swapon -U` and fstab name it by.
    pub uuid: Uuid,
    /// Label, at most 16 bytes; longer ones are cut.
    pub label: String,
}

impl SwapHeader {
    /// The first page of the area; all that follows may hold anything, here zeros.
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

//! The firmware that starts a loader.

use serde::{Deserialize, Serialize};

/// The kinds of firmware that a disk boots under.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum FirmwareSet {
    /// A PC's BIOS, such as SeaBIOS
    #[default]
    Bios,
    /// 64-bit UEFI, such as OVMF; the disk has a GPT and an EFI system partition
    Uefi,
    /// Either of them, with the same bytes
    Both,
}

impl FirmwareSet {
    /// Whether a BIOS is one of them.
    pub fn has_bios(self) -> bool {
        self != Self::Uefi
    }

    /// Whether UEFI is one of them.
    pub fn has_uefi(self) -> bool {
        self != Self::Bios
    }

    /// Whether disks for both sets have the same layout, so that an overlay serves either.
    pub fn same_layout(self, other: Self) -> bool {
        self.has_uefi() == other.has_uefi()
    }
}

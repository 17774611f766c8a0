//! Placing GRUB's boot image and core image on a disk, as grub-bios-setup does.
//!
//! Sources: GRUB's `grub-core/boot/i386/pc/boot.S` and `diskboot.S`, `include/grub/i386/pc/boot.h`,
//! `util/setup.c`. Positions are in bytes of the image, values are little-endian.

use crate::layout::{BOOTSTRAP_LEN, SECTOR};
use crate::{Error, ErrorKind, Result};

/// Largest core image in bytes: it is loaded below 0x78000.
pub(super) const CORE_MAX: u64 = 0x7_0000;

/// boot.img: first sector of the core image (u64).
const KERNEL_SECTOR: usize = 0x5c;
/// boot.img: the drive that the core image is on (u8).
const BOOT_DRIVE: usize = 0x64;
/// The drive that the BIOS booted from.
const BIOS_DRIVE: u8 = 0xff;
/// boot.img: a jump over code that replaces the drive number of some BIOSes. GRUB disables the jump
/// on hard disks.
const DRIVE_CHECK: usize = 0x66;
const NOP: u8 = 0x90;
/// Start of the first entry of the block list, in the core image's first sector: first sector
/// (u64), number of sectors (u16), segment (u16). Entries precede each other; one of length 0 ends
/// the list.
const FIRST_BLOCKS: usize = SECTOR as usize - 12;

fn foreign(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("the host's GRUB is not understood: {what}"))
}

/// The code of `boot_image` (boot.img) for an MBR, made to load a core image from sector `lba`.
/// What follows the code in boot.img is for floppy disks and would overwrite the partition table.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for a boot image without this structure.
pub fn boot_code(boot_image: &[u8], lba: u64) -> Result<[u8; BOOTSTRAP_LEN]> {
    let is_boot_image = boot_image.len() == SECTOR as usize
        && boot_image[BOOT_DRIVE] == BIOS_DRIVE
        && boot_image[510..] == [0x55, 0xaa]
        && boot_image[KERNEL_SECTOR..][..8] == 1u64.to_le_bytes();
    let code = boot_image.first_chunk().filter(|_| is_boot_image);
    let mut code: [u8; BOOTSTRAP_LEN] = *code.ok_or_else(|| foreign("unknown boot.img"))?;
    code[KERNEL_SECTOR..][..8].copy_from_slice(&lba.to_le_bytes());
    code[DRIVE_CHECK..][..2].fill(NOP);
    Ok(code)
}

/// The first sector of the core image that the boot code `code` loads; `None` if it is not GRUB's.
pub(super) fn core_sector(code: &[u8]) -> Option<u64> {
    let is_grub = code.get(DRIVE_CHECK..DRIVE_CHECK + 2)? == [NOP, NOP]
        && code.get(BOOT_DRIVE) == Some(&BIOS_DRIVE);
    let sector = code.get(KERNEL_SECTOR..)?.first_chunk()?;
    is_grub.then(|| u64::from_le_bytes(*sector))
}

/// `core` as it must be to start at sector `lba`: its first sector loads the others, which follow.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for a core image whose block list is not that of grub-mkimage.
pub fn core_at(mut core: Vec<u8>, lba: u64) -> Result<Vec<u8>> {
    let unknown = || foreign("unknown block list in the core image");
    let rest = (core.len() as u64).div_ceil(SECTOR).checked_sub(1).ok_or_else(unknown)?;
    let entry = core.get_mut(FIRST_BLOCKS - 12..SECTOR as usize).ok_or_else(unknown)?;
    let (end, first) = entry.split_at_mut(12);
    let (start, len) = first.split_at_mut(8);
    let listed = u64::from(u16::from_le_bytes([len[0], len[1]]));
    if *start != 2u64.to_le_bytes() || listed != rest || end.iter().any(|b| *b != 0) {
        return Err(unknown());
    }
    start.copy_from_slice(&(lba + 1).to_le_bytes());
    Ok(core)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot_image() -> Vec<u8> {
        let mut image = vec![0xeb; 512];
        image[KERNEL_SECTOR..][..8].copy_from_slice(&1u64.to_le_bytes());
        image[BOOT_DRIVE] = BIOS_DRIVE;
        image[510..].copy_from_slice(&[0x55, 0xaa]);
        image
    }

    fn core_image(sectors: u16) -> Vec<u8> {
        let mut core = vec![0xcc; usize::from(sectors) * 512 + 100];
        core[FIRST_BLOCKS - 12..512].fill(0);
        core[FIRST_BLOCKS] = 2;
        core[FIRST_BLOCKS + 8..][..2].copy_from_slice(&sectors.to_le_bytes());
        core
    }

    #[test]
    fn boot_code_is_changed_in_two_places() {
        let image = boot_image();
        let code = boot_code(&image, 0x1_2345_6789).unwrap();
        let changed: Vec<usize> = (0..BOOTSTRAP_LEN).filter(|i| code[*i] != image[*i]).collect();
        assert_eq!(changed, [0x5c, 0x5d, 0x5e, 0x5f, 0x60, 0x66, 0x67]);
        assert_eq!(code[0x5c..0x64], [0x89, 0x67, 0x45, 0x23, 1, 0, 0, 0]);
        assert_eq!(code[0x66..0x68], [0x90, 0x90]);
        assert_eq!(core_sector(&code), Some(0x1_2345_6789));
        assert_eq!((core_sector(&image), core_sector(&code[..0x60])), (None, None));
    }

    #[test]
    fn the_block_list_follows_the_core_image() {
        let core = core_at(core_image(7), 2048).unwrap();
        assert_eq!(core[FIRST_BLOCKS..512], [1, 8, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0]);
    }

    #[test]
    fn other_programs_are_refused() {
        let kind = |done: Result<()>| done.unwrap_err().kind();
        for (at, byte) in [(BOOT_DRIVE, 0x80), (KERNEL_SECTOR, 2), (511, 0)] {
            let mut image = boot_image();
            image[at] = byte;
            assert_eq!(kind(boot_code(&image, 1).map(|_| ())), ErrorKind::Unsupported);
        }
        assert!(boot_code(&[], 1).is_err());
        for (at, byte) in [(FIRST_BLOCKS, 3), (FIRST_BLOCKS + 8, 8), (FIRST_BLOCKS - 1, 1)] {
            let mut core = core_image(7);
            core[at] = byte;
            assert_eq!(kind(core_at(core, 1).map(|_| ())), ErrorKind::Unsupported);
        }
        for len in [0, 100, 511] {
            assert!(core_at(vec![0; len], 1).is_err());
        }
    }
}

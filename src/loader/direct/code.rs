//! The direct loader's machine code and the disk positions that it reads.
//!
//! Positions count from the loader's [origin](crate::loader::Space::origin). The code is assembled
//! for origin 0; for another one, two numbers in it are changed.
//!
//! The code is assembled from `loader.S` by `scripts/assemble-loader` and committed, so that
//! building needs no assembler; a test assembles it again and compares.

/// Size in bytes of the sectors that all LBAs in this room count.
pub const SECTOR: u64 = 512;

/// First sector of stage 2 (8 sectors). It follows the entries of a GPT, which end with sector 33.
pub const STAGE2_LBA: u64 = 40;
/// Length of stage 2 in bytes.
pub const STAGE2_BYTES: usize = 4096;
/// Sector of the parameter block. This block, and everything else that may change while the disk is
/// in use, starts 64 KiB or more after the MBR: once a guest has edited its partition table, a
/// copy-on-write overlay stores the whole cluster around sector 0.
pub const PARAMS_LBA: u64 = 128;
/// First sector of the command line (8 sectors, NUL terminated).
pub const CMDLINE_LBA: u64 = 129;
/// Longest command line in bytes, without its NUL. The kernel's limit may be lower:
/// [`SetupHeader::cmdline_size`](crate::loader::linux::SetupHeader::cmdline_size).
pub const CMDLINE_MAX: usize = 4095;
/// First sector of the kernel: a multiple of 64 KiB, so that the file in the guest and the disk
/// have the same page alignment.
pub const KERNEL_LBA: u64 = 256;
/// Longest kernel file in bytes that the loader accepts.
pub const KERNEL_MAX: u64 = 256 << 20;
/// Longest initrd in bytes that the loader accepts; usually the machine's memory is the lower
/// limit.
pub const INITRD_MAX: u64 = 3 << 30;

/// The memory at 0x7c00..0x9000 while the loader runs.
const IMAGE: &[u8; 5120] = include_bytes!("loader.bin");
const STAGE2_AT: usize = 0x400;

/// Stage 1: the MBR's bootstrap area, 440 bytes. The disk signature and the partition table follow.
pub const STAGE1: &[u8; 440] = match IMAGE.first_chunk() {
    Some(code) => code,
    None => unreachable!(),
};

/// Stage 2: the sectors from [`STAGE2_LBA`] on.
pub const STAGE2: &[u8; STAGE2_BYTES] = match IMAGE.split_at(STAGE2_AT).1.first_chunk() {
    Some(code) => code,
    None => unreachable!(),
};

/// Position in [`STAGE1`] of the sector from which it loads stage 2 (u64).
const STAGE2_LBA_AT: usize = 0xe4;
/// Position in [`STAGE2`] of the sector of the parameter block (u64).
const PARAMS_LBA_AT: usize = STAGE2_BYTES - 12;

/// Stage 1 of a loader whose origin is the sector `origin`.
pub(super) fn stage1(origin: u64) -> [u8; STAGE1.len()] {
    shifted(*STAGE1, STAGE2_LBA_AT, origin.saturating_add(STAGE2_LBA))
}

/// Stage 2 of a loader whose origin is the sector `origin`.
pub(super) fn stage2(origin: u64) -> [u8; STAGE2_BYTES] {
    shifted(*STAGE2, PARAMS_LBA_AT, origin.saturating_add(PARAMS_LBA))
}

fn shifted<const N: usize>(mut code: [u8; N], at: usize, lba: u64) -> [u8; N] {
    code[at..at + 8].copy_from_slice(&lba.to_le_bytes());
    code
}

/// Whether `code` begins with stage 1, whatever its origin.
pub(super) fn is_stage1(code: &[u8]) -> bool {
    let stage1 = code.first_chunk::<{ STAGE1.len() }>();
    stage1.is_some_and(|code| shifted(*code, STAGE2_LBA_AT, STAGE2_LBA) == *STAGE1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stages_are_where_the_source_puts_them() {
        assert_eq!(STAGE1[0], 0xfa, "cli");
        assert_eq!(&STAGE2[STAGE2_BYTES - 4..], b"SDG2");
        assert_eq!(STAGE2_AT + STAGE2_BYTES, IMAGE.len());
    }

    #[test]
    fn an_origin_changes_two_numbers() {
        assert_eq!((stage1(0), stage2(0)), (*STAGE1, *STAGE2));
        let differs = |a: &[u8], b: &[u8]| -> Vec<usize> {
            (0..a.len()).filter(|i| a[*i] != b[*i]).collect()
        };
        let origin = 0x1234_5678_9abc_de00;
        let changed = differs(&stage1(origin), STAGE1);
        assert_eq!(changed, (STAGE2_LBA_AT + 1..STAGE2_LBA_AT + 8).collect::<Vec<_>>());
        assert_eq!(stage1(origin)[STAGE2_LBA_AT..][..8], (origin + STAGE2_LBA).to_le_bytes());
        let changed = differs(&stage2(origin), STAGE2);
        assert_eq!(changed, (PARAMS_LBA_AT + 1..PARAMS_LBA_AT + 8).collect::<Vec<_>>());
        assert!(is_stage1(STAGE1) && is_stage1(&stage1(origin)));
        let mut other = stage1(origin);
        other[0] = 0;
        assert!(!is_stage1(&other) && !is_stage1(&STAGE1[..439]) && !is_stage1(&[0; 512]));
    }

    #[test]
    fn nothing_lies_in_the_partition_table() {
        assert!(IMAGE[STAGE1.len()..STAGE2_AT].iter().all(|&b| b == 0));
    }

    #[test]
    fn the_places_on_the_disk_do_not_overlap() {
        const { assert!(STAGE2_LBA + STAGE2_BYTES as u64 / SECTOR <= PARAMS_LBA) };
        const { assert!(PARAMS_LBA + 1 == CMDLINE_LBA) };
        const { assert!(CMDLINE_LBA + (CMDLINE_MAX as u64 + 1).div_ceil(SECTOR) <= KERNEL_LBA) };
    }
}

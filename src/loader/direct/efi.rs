//! The direct loader's program for UEFI.
//!
//! It is compiled from `efi/loader.c` by `scripts/build-efi-loader` and committed, so that building
//! needs no particular compiler; a test compiles it again and compares. It reads the same parameter
//! block and the same files as the program for a BIOS. `docs/uefi.md` describes it.

/// An EFI application for x86-64 (PE32+), unsigned.
pub const EFI_PROGRAM: &[u8] = include_bytes!("efi/loader.efi");

#[cfg(test)]
mod tests {
    use super::super::{CMDLINE_MAX, INITRD_MAX, KERNEL_MAX, MESSAGE_MAX, PARAMS_LBA};
    use super::EFI_PROGRAM;

    #[test]
    fn it_is_an_efi_application_without_relocations() {
        let u16_at = |at: usize| u16::from_le_bytes([EFI_PROGRAM[at], EFI_PROGRAM[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        assert_eq!(&EFI_PROGRAM[..2], b"MZ");
        let pe = u32_at(0x3c) as usize;
        assert_eq!(&EFI_PROGRAM[pe..pe + 4], b"PE\0\0");
        let optional = pe + 24;
        assert_eq!((u16_at(pe + 4), u16_at(optional)), (0x8664, 0x20b), "x86-64, PE32+");
        assert_eq!(u16_at(optional + 68), 10, "an EFI application");
        assert_eq!(u32_at(optional + 56) as usize, EFI_PROGRAM.len(), "the image's size");
        let entry = u32_at(optional + 16) as usize;
        assert!((4096..EFI_PROGRAM.len()).contains(&entry));
        let directories = optional + 112;
        assert_eq!(u32_at(directories - 4), 6);
        assert!(EFI_PROGRAM[directories..directories + 48].iter().all(|b| *b == 0));
    }

    /// The values of `#define NAME VALUE` in the source.
    fn defined(name: &str) -> u64 {
        let source = include_str!("efi/loader.c");
        let found = source.lines().find_map(|line| {
            let (key, value) = line.strip_prefix("#define ")?.split_once(' ')?;
            (key == name).then(|| value.trim().trim_end_matches("ul"))
        });
        let text = found.unwrap_or_else(|| panic!("loader.c does not define {name}"));
        let number = match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => text.parse(),
        };
        number.unwrap()
    }

    #[test]
    fn it_has_the_same_limits_and_places() {
        for (name, value) in [
            ("PARAMS_LBA", PARAMS_LBA),
            ("MESSAGE_MAX", MESSAGE_MAX as u64),
            ("CMDLINE_MAX", CMDLINE_MAX as u64),
            ("KERNEL_MAX", KERNEL_MAX),
            ("INITRD_MAX", INITRD_MAX),
        ] {
            assert_eq!(defined(name), value, "{name}");
        }
    }
}

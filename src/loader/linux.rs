//! Detects a kernel file's type and parses the header of a bzImage.
//!
//! Source: the Linux/x86 boot protocol (kernel: `Documentation/arch/x86/boot.rst`). The header is
//! at offset 0x1f1 of the file; which of its fields exist depends on the protocol version.

use crate::{Error, ErrorKind, Result};

/// Number of bytes at the start of a kernel file that this module needs: the longest real-mode
/// part, which may contain the version text anywhere.
pub const HEAD_BYTES: usize = 33 * 1024;

/// End of the last fixed header field that is read (`init_size`).
const HEADER_END: usize = 0x264;
/// The longest real-mode part, in sectors, that the direct loader has space for.
const REAL_SECTORS_MAX: u32 = 64;
const VERSION_MAX: usize = 256;

/// The setup header of a bzImage. Fields that the kernel's protocol version does not have are set
/// to the protocol's defaults.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SetupHeader {
    /// Boot protocol version, major in the high byte: 0x020f is 2.15.
    pub version: u16,
    /// Length of the real-mode part in 512-byte sectors, boot sector included.
    pub real_sectors: u32,
    /// Bit 0: the protected-mode part is loaded at 1 MiB.
    pub loadflags: u8,
    /// Highest address, in bytes, that the last byte of the initrd may have.
    pub initrd_addr_max: u32,
    /// Longest command line in bytes, without its NUL.
    pub cmdline_size: u32,
    /// Preferred load address of the kernel in bytes; 0 before protocol 2.10.
    pub pref_address: u64,
    /// Memory in bytes that the kernel needs from its start address on, until it can read the
    /// memory map itself; 0 before protocol 2.10.
    pub init_size: u32,
    /// How UEFI firmware can start it.
    pub efi_stub: EfiStub,
    /// For example `6.1.0-9-amd64 (builder@host) #1 SMP ...`. `None` if the kernel has none, or if
    /// the given bytes end before it.
    pub kernel_version: Option<String>,
}

impl SetupHeader {
    /// Parses the header from the first bytes of a kernel file ([`HEAD_BYTES`] are always enough).
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if this is not a Linux kernel image or is truncated;
    /// [`ErrorKind::Unsupported`] if the direct loader cannot start it: boot protocol before 2.02,
    /// a zImage (loaded low), or a real-mode part of more than 32 KiB.
    pub fn parse(head: &[u8]) -> Result<Self> {
        let corrupt = |what: &str| Error::new(ErrorKind::Corrupt, what);
        let unsupported = |what: String| Error::new(ErrorKind::Unsupported, what);
        if head.get(0x202..0x206) != Some(b"HdrS") {
            return Err(corrupt("not a Linux kernel image (no HdrS magic)"));
        }
        let Some(fixed) = head.first_chunk::<HEADER_END>() else {
            return Err(corrupt("the Linux kernel image is truncated within its header"));
        };
        let u32_at = |at: usize| {
            u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]])
        };
        let u16_at = |at: usize| u16::from_le_bytes([fixed[at], fixed[at + 1]]);

        let version = u16_at(0x206);
        if version < 0x0202 {
            return Err(unsupported(format!(
                "the kernel is too old: boot protocol {}.{:02}, and 2.02 is needed",
                version >> 8,
                version & 0xff
            )));
        }
        let loadflags = fixed[0x211];
        if loadflags & 1 == 0 {
            return Err(unsupported("the kernel is a zImage; a bzImage is needed".into()));
        }
        let setup_sects = match fixed[0x1f1] {
            0 => 4,
            n => u32::from(n),
        };
        let real_sectors = setup_sects + 1;
        if real_sectors > REAL_SECTORS_MAX {
            return Err(unsupported(format!(
                "the kernel's real-mode part has {real_sectors} sectors; the loader has room for \
                 {REAL_SECTORS_MAX}"
            )));
        }
        let since =
            |added: u16, value: u32, before: u32| if version >= added { value } else { before };
        let pref_address = match version >= 0x020a {
            true => u64::from(u32_at(0x258)) | u64::from(u32_at(0x25c)) << 32,
            false => 0,
        };
        Ok(Self {
            version,
            real_sectors,
            loadflags,
            initrd_addr_max: since(0x0203, u32_at(0x22c), 0x37ff_ffff),
            cmdline_size: since(0x0206, u32_at(0x238), 255),
            pref_address,
            init_size: since(0x020a, u32_at(0x260), 0),
            efi_stub: EfiStub::of(head, version, u16_at(0x236)),
            kernel_version: version_text(head, u16_at(0x20e), real_sectors),
        })
    }

    /// The kernel's release, as `uname -r` prints it: the first word of the version text. The rest
    /// says who built it and when.
    pub fn release(&self) -> Option<&str> {
        self.kernel_version.as_deref()?.split(' ').next()
    }
}

/// How UEFI firmware can start a kernel and its initrd.
///
/// Sources: kernel `Documentation/arch/x86/boot.rst` (the EFI handover protocol, from boot protocol
/// 2.12 on with a flag for 64-bit firmware) and `include/linux/pe.h` (the version of the stub: from
/// 1.0 on, it takes the initrd by LoadFile2; Linux 5.8 for x86).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EfiStub {
    /// Not at all: there is no EFI stub, or one without any way to pass an initrd.
    Missing,
    /// The kernel is for 32-bit processors.
    Only32Bit,
    /// By the EFI handover protocol.
    Handover,
    /// As an EFI application that asks for its initrd by the protocol LoadFile2.
    LoadFile2,
}

impl EfiStub {
    fn of(head: &[u8], version: u16, xloadflags: u16) -> Self {
        Self::in_pe_header(head, version, xloadflags).unwrap_or(Self::Missing)
    }

    fn in_pe_header(head: &[u8], version: u16, xloadflags: u16) -> Option<Self> {
        const HANDOVER_64: u16 = 1 << 3;
        let bytes = |at: usize, len: usize| head.get(at..at.checked_add(len)?);
        let u16_at = |at: usize| Some(u16::from_le_bytes(*bytes(at, 2)?.first_chunk()?));
        let start = u32::from_le_bytes(*bytes(0x3c, 4)?.first_chunk()?);
        let pe = usize::try_from(start).ok()?;
        if !head.starts_with(b"MZ") || bytes(pe, 4)? != b"PE\0\0" {
            return None;
        }
        let (machine, stub_version) = (u16_at(pe + 4)?, u16_at(pe + 68)?);
        Some(match machine {
            0x014c => Self::Only32Bit,
            0x8664 if stub_version > 0 => Self::LoadFile2,
            0x8664 if version >= 0x020c && xloadflags & HANDOVER_64 != 0 => Self::Handover,
            _ => Self::Missing,
        })
    }

    /// Refuses a kernel that the direct loader cannot start on UEFI.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`].
    pub fn check(self) -> Result<()> {
        let why = match self {
            Self::Handover | Self::LoadFile2 => return Ok(()),
            Self::Missing => {
                "it has no EFI stub that takes an initrd (CONFIG_EFI_STUB, Linux 3.8 or newer); use \
                 --firmware bios, or --bootloader grub"
            }
            Self::Only32Bit => {
                "it is a 32-bit kernel, which 64-bit UEFI firmware cannot start; use --firmware bios"
            }
        };
        Err(Error::new(ErrorKind::Unsupported, why))
    }
}

/// The NUL-terminated text at `pointer` + 0x200, as printable ASCII.
fn version_text(head: &[u8], pointer: u16, real_sectors: u32) -> Option<String> {
    let at = usize::from(pointer) + 0x200;
    if pointer == 0 || at >= real_sectors as usize * 512 {
        return None;
    }
    let text = head.get(at..)?;
    let text = &text[..text.len().min(VERSION_MAX)];
    let end = text.iter().position(|&b| b == 0)?;
    let text = &text[..end];
    let printable = !text.is_empty() && text.iter().all(|b| matches!(b, b' '..=b'~'));
    printable.then(|| text.iter().copied().map(char::from).collect())
}

/// The type of a kernel file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KernelKind {
    /// A kernel for PC firmware and boot loaders, including the direct loader.
    BzImage(SetupHeader),
    /// A plain ELF file: an old kernel for Xen PV only.
    Elf,
    /// A gzip file, most likely of an ELF file: an old kernel for Xen PV only.
    Gzip,
    /// Another type.
    Unknown,
}

impl KernelKind {
    /// Detects the type from the first bytes of the file ([`HEAD_BYTES`] are enough).
    ///
    /// # Errors
    /// Those of [`SetupHeader::parse`] if it has the magic of a Linux kernel image but cannot be
    /// booted or is damaged.
    pub fn detect(head: &[u8]) -> Result<Self> {
        if head.get(0x202..0x206) == Some(b"HdrS") {
            return SetupHeader::parse(head).map(Self::BzImage);
        }
        Ok(match head {
            [0x7f, b'E', b'L', b'F', ..] => Self::Elf,
            [0x1f, 0x8b, ..] => Self::Gzip,
            _ => Self::Unknown,
        })
    }

    /// The header of a bootable kernel.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a kernel that only Xen PV can start, [`ErrorKind::Corrupt`]
    /// for a file that is not a kernel.
    pub fn bootable(self) -> Result<SetupHeader> {
        match self {
            Self::BzImage(header) => Ok(header),
            Self::Elf | Self::Gzip => Err(Error::new(
                ErrorKind::Unsupported,
                "the kernel supports Xen paravirtualisation only and cannot start on KVM; give \
                 another one with --kernel and --initrd",
            )),
            Self::Unknown => Err(Error::new(
                ErrorKind::Corrupt,
                "not a Linux kernel; give another one with --kernel and --initrd",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A minimal head of a bzImage.
    fn head(version: u16) -> Vec<u8> {
        let mut head = vec![0; 0x1400];
        head[0x1f1] = 9;
        head[0x202..0x206].copy_from_slice(b"HdrS");
        head[0x206..0x208].copy_from_slice(&version.to_le_bytes());
        head[0x20e..0x210].copy_from_slice(&0x1000u16.to_le_bytes());
        head[0x211] = 1;
        head[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
        head[0x238..0x23c].copy_from_slice(&2047u32.to_le_bytes());
        head[0x258..0x260].copy_from_slice(&0x1_0100_0000u64.to_le_bytes());
        head[0x260..0x264].copy_from_slice(&0x0250_0000u32.to_le_bytes());
        head[0x1200..0x1206].copy_from_slice(b"6.1.0\0");
        head
    }

    #[test]
    fn fields_exist_from_their_version_on() {
        //  version, initrd_addr_max, cmdline_size, pref_address, init_size
        let table = [
            (0x0202, 0x37ff_ffff, 255, 0, 0),
            (0x0203, 0x7fff_ffff, 255, 0, 0),
            (0x0206, 0x7fff_ffff, 2047, 0, 0),
            (0x0209, 0x7fff_ffff, 2047, 0, 0),
            (0x020a, 0x7fff_ffff, 2047, 0x1_0100_0000, 0x0250_0000),
            (0x020f, 0x7fff_ffff, 2047, 0x1_0100_0000, 0x0250_0000),
        ];
        for (version, initrd_addr_max, cmdline_size, pref_address, init_size) in table {
            let want = SetupHeader {
                version,
                real_sectors: 10,
                loadflags: 1,
                initrd_addr_max,
                cmdline_size,
                pref_address,
                init_size,
                efi_stub: EfiStub::Missing,
                kernel_version: Some("6.1.0".into()),
            };
            assert_eq!(SetupHeader::parse(&head(version)).unwrap(), want, "{version:#06x}");
        }
    }

    #[test]
    fn efi_stubs() {
        let stub = |machine: u16, stub_version: u8, version: u16, xloadflags: u8| {
            let mut head = head(version);
            head[..2].copy_from_slice(b"MZ");
            head[0x3c] = 0x82;
            head[0x82..0x86].copy_from_slice(b"PE\0\0");
            head[0x86..0x88].copy_from_slice(&machine.to_le_bytes());
            head[0x82 + 68] = stub_version;
            head[0x236] = xloadflags;
            head
        };
        let of = |head: &[u8]| SetupHeader::parse(head).unwrap().efi_stub;
        for (machine, stub_version, version, flags, want) in [
            (0x8664, 1, 0x020f, 0, EfiStub::LoadFile2),
            (0x8664, 3, 0x020f, 0x2b, EfiStub::LoadFile2),
            (0x8664, 0, 0x020c, 0x08, EfiStub::Handover),
            (0x8664, 0, 0x020c, 0x07, EfiStub::Missing),
            (0x8664, 0, 0x020b, 0x08, EfiStub::Missing),
            (0x014c, 1, 0x020f, 0x04, EfiStub::Only32Bit),
            (0xaa64, 1, 0x020f, 0x08, EfiStub::Missing),
        ] {
            let found = of(&stub(machine, stub_version, version, flags));
            assert_eq!(found, want, "{machine:x} {stub_version} {version:x} {flags:x}");
            let starts = matches!(want, EfiStub::LoadFile2 | EfiStub::Handover);
            assert_eq!(found.check().is_ok(), starts);
        }
        let good = stub(0x8664, 1, 0x020f, 0);
        for (at, byte) in [(0, b'X'), (0x3c, 0x83), (0x3f, 0xff), (0x83, b'p')] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(of(&bad), EfiStub::Missing, "at {at}");
        }
    }

    #[test]
    fn setup_sects_of_zero_means_four() {
        let mut head = head(0x020f);
        head[0x1f1] = 0;
        let header = SetupHeader::parse(&head).unwrap();
        assert_eq!(header.real_sectors, 5);
        assert_eq!(header.kernel_version, None, "points past the real-mode part");
    }

    #[test]
    fn kernels_that_the_loader_cannot_start() {
        let with = |at: usize, byte: u8| {
            let mut head = head(0x020f);
            head[at] = byte;
            SetupHeader::parse(&head).unwrap_err().kind()
        };
        let table = [
            ("protocol 1.15", 0x207, 1, ErrorKind::Unsupported),
            ("protocol 2.01", 0x206, 1, ErrorKind::Unsupported),
            ("loaded low", 0x211, 0, ErrorKind::Unsupported),
            ("long real-mode part", 0x1f1, 64, ErrorKind::Unsupported),
            ("no magic", 0x203, b'D', ErrorKind::Corrupt),
        ];
        for (name, at, byte, kind) in table {
            assert_eq!(with(at, byte), kind, "{name}");
        }
        let head = head(0x020f);
        for len in [0, 0x1f1, 0x205, 0x206, HEADER_END - 1] {
            let error = SetupHeader::parse(&head[..len]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{len} bytes");
        }
        assert!(SetupHeader::parse(&head[..HEADER_END]).is_ok());
    }

    #[test]
    fn version_text_is_optional_and_checked() {
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut head = head(0x020f);
            change(&mut head);
            SetupHeader::parse(&head).unwrap().kernel_version
        };
        assert_eq!(with(&|h| h[0x20e..0x210].fill(0)), None);
        assert_eq!(with(&|h| h[0x20e..0x210].fill(0xff)), None);
        assert_eq!(with(&|h| h[0x1202] = 0x1b), None);
        assert_eq!(with(&|h| h[0x1200] = 0), None);
        assert_eq!(with(&|h| h.truncate(0x1203)), None);
        assert_eq!(with(&|h| h[0x1206..0x1210].fill(b'x')).as_deref(), Some("6.1.0"));
    }

    #[test]
    fn kinds() {
        let table: [(&[u8], KernelKind); 5] = [
            (b"\x7fELF\x02\x01", KernelKind::Elf),
            (b"\x1f\x8b\x08\x00", KernelKind::Gzip),
            (b"", KernelKind::Unknown),
            (b"\x7fEL", KernelKind::Unknown),
            (&[0; 4096], KernelKind::Unknown),
        ];
        for (head, kind) in table {
            assert_eq!(KernelKind::detect(head).unwrap(), kind);
            let want = match kind {
                KernelKind::Unknown => ErrorKind::Corrupt,
                _ => ErrorKind::Unsupported,
            };
            assert_eq!(kind.bootable().unwrap_err().kind(), want);
        }
        // An EFI stub makes a bzImage start with MZ; a bzImage that starts like gzip is still
        // detected.
        let mut odd = head(0x020f);
        odd[..2].copy_from_slice(b"\x1f\x8b");
        assert!(KernelKind::detect(&odd).unwrap().bootable().is_ok());
        assert!(KernelKind::detect(&head(0x0201)).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            len in 0usize..0x1400,
            noise in proptest::collection::vec((0usize..0x1400, any::<u8>()), 0..64),
        ) {
            let mut head = head(0x020f);
            for (at, byte) in noise {
                head[at] = byte;
            }
            head.truncate(len);
            let _ = KernelKind::detect(&head);
        }
    }
}

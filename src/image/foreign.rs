//! Detects other image formats in a file that is opened as raw.
//!
//! The guest controls the first bytes of its raw image, so the detected format is never used to
//! open it: the image is refused, and the user names the format. Sources: QEMU
//! docs/interop/qcow2.rst and the `probe` functions in QEMU's block/; Microsoft's "Virtual Hard
//! Disk Image Format Specification".

/// Number of bytes of an image that are examined.
pub(super) const HEAD_LEN: usize = 512;

/// The name of an unsupported format, its signature and where it lies, and QEMU's name.
struct Signature {
    at: usize,
    bytes: &'static [u8],
    shown: &'static str,
    qemu_name: &'static str,
}

const fn mark(
    at: usize,
    bytes: &'static [u8],
    shown: &'static str,
    qemu_name: &'static str,
) -> Signature {
    Signature { at, bytes, shown, qemu_name }
}

static SIGNATURES: &[Signature] = &[
    // Version 1 is a different format from versions 2 and 3.
    mark(0, b"QFI\xfb\0\0\0\x01", "qcow", "qcow"),
    mark(0, b"QFI\xfb", "qcow2", "qcow2"),
    mark(0, b"QED\0", "QED", "qed"),
    mark(0, b"conectix", "VHD", "vpc"),
    mark(0, b"vhdxfile", "VHDX", "vhdx"),
    mark(0, b"KDMV", "VMDK", "vmdk"),
    mark(0, b"COWD", "VMDK", "vmdk"),
    mark(0, b"# Disk DescriptorFile", "VMDK", "vmdk"),
    mark(64, &[0x7f, 0x10, 0xda, 0xbe], "VDI", "vdi"),
    mark(0, b"WithoutFreeSpace", "Parallels", "parallels"),
    mark(0, b"WithouFreSpacExt", "Parallels", "parallels"),
];

/// A format that an image appears to have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Found {
    /// Its name in messages.
    pub(super) shown: &'static str,
    /// QEMU's name for it.
    pub(super) qemu_name: &'static str,
}

/// The format that an image starting with `head` appears to have.
pub(super) fn look(head: &[u8]) -> Option<Found> {
    let has = |s: &&Signature| head.get(s.at..).is_some_and(|rest| rest.starts_with(s.bytes));
    let found = SIGNATURES.iter().find(has)?;
    Some(Found { shown: found.shown, qemu_name: found.qemu_name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_their_marks() {
        let with = |at: usize, bytes: &[u8]| {
            let mut head = vec![0; HEAD_LEN];
            head[at..at + bytes.len()].copy_from_slice(bytes);
            look(&head).map(|found| found.qemu_name)
        };
        for s in SIGNATURES {
            assert_eq!(with(s.at, s.bytes), Some(s.qemu_name));
            assert_eq!(with(s.at + 1, s.bytes), None);
        }
        assert_eq!(with(0, b"QFI\xfb\0\0\0\x03"), Some("qcow2"));
        assert_eq!(with(0, b""), None);
        // Shorter than any signature.
        assert_eq!(look(b"QF"), None);
    }
}

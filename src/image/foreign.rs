//! Detects other image formats in a file that is opened as raw.
//!
//! The guest controls the first bytes of its raw image, so the detected format is never used to
//! open it: the image is refused, and the user names the format. Sources: QEMU
//! docs/interop/qcow2.rst and the `probe` functions in QEMU's block/; Microsoft's "Virtual Hard
//! Disk Image Format Specification".

use super::driver::Format;
use super::opening::Opening;
use crate::{Error, ErrorKind, Result};

/// Number of bytes of an image that are examined.
const HEAD_LEN: usize = 512;

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
struct Found {
    /// Its name in messages.
    shown: &'static str,
    /// QEMU's name for it.
    qemu_name: &'static str,
}

/// The format that an image starting with `head` appears to have.
fn look(head: &[u8]) -> Option<Found> {
    let has = |s: &&Signature| head.get(s.at..).is_some_and(|rest| rest.starts_with(s.bytes));
    let found = SIGNATURES.iter().find(has)?;
    Some(Found { shown: found.shown, qemu_name: found.qemu_name })
}

/// Refuse a raw image that starts like another format.
pub(super) fn refuse_foreign(opening: &Opening) -> Result<()> {
    let shown = opening.path.display();
    let mut head = vec![0; opening.len.min(HEAD_LEN as u64) as usize];
    let failed = |e| Error::io(format!("cannot read {shown}"), e);
    opening.file.read_exact_at(&mut head, 0).map_err(failed)?;
    let Some(found) = look(&head) else { return Ok(()) };
    let advice = match Format::by_name(found.qemu_name) {
        Some(format) => {
            let name = format.name();
            // xl knows no others.
            let config = match name {
                "qcow2" | "vhd" => format!("; format={name} in a domU config"),
                _ => String::new(),
            };
            format!(
                "if that is its format, say so (--image-format {name}{config}) or have its name end in \
                 .{name}"
            )
        }
        None => format!(
            "{} is a format that is not read yet; convert it (qemu-img convert -f {} -O raw {shown} \
             root.img)",
            found.shown, found.qemu_name
        ),
    };
    Err(Error::new(
        ErrorKind::Unsupported,
        format!(
            "{shown} would be read as raw, but begins like a {} image: {advice}; --image-format raw \
             shows its bytes as they are",
            found.shown
        ),
    ))
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

//! qcow2 images with their backing chains, read in place.
//!
//! Nothing of a table is kept: a window of the disk is looked up when it is first read, so the cost
//! of opening does not depend on the disk's length. Internal snapshots are not looked at.
//!
//! Source: QEMU docs/interop/qcow2.rst.

mod backing;
pub(super) mod header;
mod layer;

use super::driver::{Driver, FoundLayer};
use crate::{Error, ErrorKind, Result};
use header::{EXTENDED_L2, FEATURE_NAME_LEN, FEATURE_NAMES, Header};
use layer::Qcow2Layer;

pub(super) static FORMAT: Driver = Driver {
    name: "qcow2",
    qemu_name: "qcow2",
    shown: "qcow2",
    extensions: &["qcow2"],
    layer: Some(|opening, _| {
        let header = Header::read_with(opening.len, |head| opening.file.read_exact_at(head, 0))?;
        check_features(&header)?;
        let backing = backing::of(&header)?;
        Ok(FoundLayer { backing, ..FoundLayer::alone(Qcow2Layer::open(opening, &header)?) })
    }),
};

/// Incompatible features: the image was not closed cleanly (only refcounts can be wrong then), data
/// is in another file, clusters are not compressed with deflate.
const DIRTY: u64 = 1;
const EXTERNAL_DATA: u64 = 4;
const COMPRESSION: u64 = 8;

/// Refuse files that use unsupported features.
fn check_features(header: &Header) -> Result<()> {
    let refuse = |what: &str| Err(Error::new(ErrorKind::Unsupported, what));
    if header.encrypted {
        return refuse("it is encrypted; decrypt it first (qemu-img convert)");
    }
    if header.incompatible & EXTERNAL_DATA != 0 {
        return refuse(
            "its data is in another file (external data file); write it out whole first (qemu-img \
             convert -O qcow2)",
        );
    }
    let unknown = header.incompatible & !(DIRTY | COMPRESSION | EXTENDED_L2);
    if unknown != 0 {
        let bit = unknown.trailing_zeros();
        let name = feature_name(header, bit).map_or_else(String::new, |name| format!(", '{name}'"));
        return refuse(&format!(
            "it uses an incompatible feature that is not supported (bit {bit}{name}); write it out \
             without it (qemu-img convert -O qcow2)"
        ));
    }
    if header.compression > 1 {
        return refuse(&format!(
            "its clusters are compressed in an unknown way (type {}); write it out without \
             compression (qemu-img convert -O qcow2)",
            header.compression
        ));
    }
    Ok(())
}

/// The file's own name for the incompatible feature `bit`.
fn feature_name(header: &Header, bit: u32) -> Option<String> {
    let names = header.extension(FEATURE_NAMES)?.chunks_exact(FEATURE_NAME_LEN);
    let entry = names.into_iter().find(|entry| entry[0] == 0 && u32::from(entry[1]) == bit)?;
    let name = entry[2..].split(|b| *b == 0).next().unwrap_or_default();
    Some(String::from_utf8_lossy(name).escape_debug().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsupported_features_are_refused_by_name() {
        for (at, byte, word) in [
            (35, 1, "encrypted"),
            (79, 4, "external data file"),
            (79, 32, "bit 5"),
            (72, 128, "bit 63"),
        ] {
            let mut head = header::tests::valid();
            head[at] = byte;
            let e = check_features(&Header::parse(&head).unwrap()).unwrap_err();
            assert!(e.kind() == ErrorKind::Unsupported && e.to_string().contains(word), "{e}");
        }
        let mut named = header::tests::valid();
        named[104..112].copy_from_slice(&[0x68, 0x03, 0xf8, 0x57, 0, 0, 0, 48]);
        named[112..114].copy_from_slice(&[0, 5]);
        named[114..119].copy_from_slice(b"shiny");
        named[79] = 32;
        let e = check_features(&Header::parse(&named).unwrap()).unwrap_err();
        assert!(e.to_string().contains("bit 5, 'shiny'"), "{e}");
        for (at, byte) in [(79, 1), (79, 16)] {
            let mut fine = header::tests::valid();
            fine[at] = byte;
            check_features(&Header::parse(&fine).unwrap()).unwrap();
        }
    }
}

//! The header of a qcow2 file, as far as an overlay needs it: geometry, and a header extension in
//! which the overlay remembers what it belongs to.
//!
//! Source: QEMU docs/interop/qcow2.rst, "Header" and "Header extensions". Programs that do not
//! know an extension keep it, so the file stays ours through `qemu-img rebase` and the like.

use crate::{Error, ErrorKind, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Type of our header extension: "SYND".
const EXTENSION: u32 = 0x5359_4e44;
const MAGIC: u32 = 0x5146_49fb;
/// Least length of a version 3 header.
const HEADER_MIN: usize = 104;
/// Header and extensions must end within the first cluster; clusters are at most 2 MiB.
const FIRST_CLUSTER_MAX: u64 = 2 << 20;

/// Geometry of a qcow2 file. Offsets in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Geometry {
    pub(super) cluster_bits: u32,
    /// Length of the disk in bytes.
    pub(super) disk_len: u64,
    pub(super) l1_offset: u64,
    pub(super) l1_entries: u32,
    pub(super) refcount_offset: u64,
    pub(super) refcount_clusters: u32,
    /// Bits per refcount, as a power of two.
    pub(super) refcount_order: u32,
}

/// Our extension, and where the list of extensions ends.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) geometry: Geometry,
    /// What [`write_metadata`] stored, if anything.
    pub(super) metadata: Option<Vec<u8>>,
    /// Offset of the end marker.
    end_marker: usize,
}

fn corrupt(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, what)
}

/// Read and check the header of `file`.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for what is no qcow2 file of version 3 or uses features that an
/// overlay of ours never has; [`ErrorKind::Corrupt`] for one that contradicts itself.
pub(super) fn read(file: &File) -> Result<Header> {
    let len = file.metadata().map_err(|e| Error::io("cannot stat the overlay", e))?.len();
    let mut head = vec![0; len.min(FIRST_CLUSTER_MAX) as usize];
    file.read_exact_at(&mut head, 0).map_err(|e| Error::io("cannot read the overlay", e))?;
    parse(&head)
}

fn parse(head: &[u8]) -> Result<Header> {
    let u32_at = |at: usize| -> Result<u32> {
        let bytes = head.get(at..at + 4).ok_or_else(|| corrupt("its header is cut short"))?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    let u64_at = |at| Ok((u64::from(u32_at(at)?) << 32) | u64::from(u32_at(at + 4)?));
    if head.len() < 8 || u32_at(0)? != MAGIC {
        return Err(Error::new(ErrorKind::Unsupported, "it is not a qcow2 file"));
    }
    if u32_at(4)? != 3 {
        return Err(Error::new(ErrorKind::Unsupported, "it is a qcow2 file of an old version"));
    }
    if u64_at(8)? != 0 {
        return Err(Error::new(ErrorKind::Unsupported, "it has a backing file of its own"));
    }
    // Bit 0 (dirty) and bit 1 (corrupt) are states, the rest are formats we never write.
    let incompatible = u64_at(72)?;
    if incompatible & 2 != 0 {
        return Err(corrupt("it is marked corrupt; `qemu-img check -r all` may mend it"));
    }
    if incompatible != 0 || u32_at(32)? != 0 || u32_at(60)? != 0 {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "it uses encryption, snapshots or other features that an overlay cannot have",
        ));
    }
    let geometry = Geometry {
        cluster_bits: u32_at(20)?,
        disk_len: u64_at(24)?,
        l1_entries: u32_at(36)?,
        l1_offset: u64_at(40)?,
        refcount_offset: u64_at(48)?,
        refcount_clusters: u32_at(56)?,
        refcount_order: u32_at(96)?,
    };
    if !(9..=21).contains(&geometry.cluster_bits) || geometry.refcount_order > 6 {
        return Err(corrupt("its cluster size or refcount width cannot be"));
    }
    let first_cluster = (1usize << geometry.cluster_bits).min(head.len());
    let mut at = u32_at(100)? as usize;
    if at < HEADER_MIN {
        return Err(corrupt("its header is too short"));
    }
    let mut metadata = None;
    loop {
        if at + 8 > first_cluster {
            return Err(corrupt("its header extensions have no end"));
        }
        let (kind, len) = (u32_at(at)?, u32_at(at + 4)? as usize);
        if kind == 0 {
            return Ok(Header { geometry, metadata, end_marker: at });
        }
        let data = head[..first_cluster]
            .get(at + 8..(at + 8).saturating_add(len))
            .ok_or_else(|| corrupt("a header extension is cut short"))?;
        if kind == EXTENSION {
            metadata = Some(data.to_vec());
        }
        at += 8 + len.next_multiple_of(8);
    }
}

/// Append `metadata` as our extension to the header of a new qcow2 file.
///
/// # Errors
/// [`ErrorKind::TooLarge`] when it does not fit the first cluster, and those of reading and
/// writing.
pub(super) fn write_metadata(file: &File, metadata: &[u8]) -> Result<()> {
    let header = read(file)?;
    let mut extension = Vec::with_capacity(metadata.len() + 24);
    extension.extend(EXTENSION.to_be_bytes());
    extension.extend((metadata.len() as u32).to_be_bytes());
    extension.extend(metadata);
    extension.resize(extension.len().next_multiple_of(8) + 8, 0);
    if header.end_marker + extension.len() > 1 << header.geometry.cluster_bits {
        return Err(Error::new(ErrorKind::TooLarge, "its header has no room for the layout"));
    }
    file.write_all_at(&extension, header.end_marker as u64)
        .map_err(|e| Error::io("cannot write the header", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> Vec<u8> {
        let mut head = vec![0; 65536];
        head[..4].copy_from_slice(&MAGIC.to_be_bytes());
        head[7] = 3;
        head[23] = 16;
        head[99] = 4;
        head[103] = 104;
        head
    }

    #[test]
    fn headers() {
        assert!(parse(&valid()).unwrap().metadata.is_none());
        let spoil = |at: usize, byte: u8| {
            let mut head = valid();
            head[at] = byte;
            parse(&head).unwrap_err().kind()
        };
        assert_eq!(spoil(0, 0), ErrorKind::Unsupported);
        assert_eq!(spoil(7, 2), ErrorKind::Unsupported);
        assert_eq!(spoil(15, 1), ErrorKind::Unsupported);
        assert_eq!(spoil(79, 2), ErrorKind::Corrupt);
        assert_eq!(spoil(79, 16), ErrorKind::Unsupported);
        assert_eq!(spoil(23, 60), ErrorKind::Corrupt);
        assert_eq!(spoil(103, 1), ErrorKind::Corrupt);
        assert_eq!(spoil(101, 255), ErrorKind::Corrupt);
        for len in [0, 3, 50, 105] {
            assert!(parse(&valid()[..len]).is_err());
        }
        // An endless chain of empty extensions stops at the cluster's end.
        let mut chain = valid();
        for at in (104..65536).step_by(8) {
            chain[at] = 1;
        }
        assert_eq!(parse(&chain).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn metadata_survives() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&valid(), 0).unwrap();
        write_metadata(&file, b"remember me").unwrap();
        assert_eq!(read(&file).unwrap().metadata.as_deref(), Some(&b"remember me"[..]));
        assert!(write_metadata(&file, &[0; 65536]).is_err());
    }
}

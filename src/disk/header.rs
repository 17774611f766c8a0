//! Requirements on the header of an overlay's qcow2 file, and the header extension in which the
//! overlay records which images it belongs to. A second one is for its seal (see `seal`).
//!
//! Programs that do not know an extension preserve it, so the file remains an overlay after
//! `qemu-img rebase` and similar commands. A checksum covers the extension's content and the header
//! fields that decide where on the disk a cluster appears: a damaged header must not yield a disk
//! that looks correct.

use super::seal;
use super::storage::Storage;
use crate::image::Qcow2Header;
use crate::{Error, ErrorKind, Result};
use sha2::{Digest, Sha256};

/// Type of our header extension: "SYND". It contains a checksum followed by the metadata.
const EXTENSION: u32 = 0x5359_4e44;
/// Header and extensions end within the first cluster; clusters are at most 2 MiB.
const FIRST_CLUSTER_MAX: u64 = 2 << 20;
/// Bytes of a checksum (SHA-256).
const CHECKSUM_LEN: usize = 32;

/// Read and check the header of the overlay in `storage`, and what [`write_metadata`] stored in it.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for a file that is not qcow2 version 3, that uses features which an
/// overlay never uses, or that synthdisk did not create; [`ErrorKind::Corrupt`] for an inconsistent
/// file.
pub(super) fn read(storage: &impl Storage) -> Result<(Qcow2Header, Vec<u8>)> {
    let header = read_header(storage)?;
    check_features(&header)?;
    let content = header
        .extension(EXTENSION)
        .ok_or_else(|| Error::new(ErrorKind::Unsupported, "it was not made by synthdisk"))?;
    match content.split_at_checked(CHECKSUM_LEN) {
        Some((sum, metadata)) if sum == checksum(&header, metadata) => {
            let metadata = metadata.to_vec();
            Ok((header, metadata))
        }
        _ => Err(Error::new(ErrorKind::Corrupt, "its header does not match its checksum")),
    }
}

/// Read and check the header of the qcow2 file in `storage`.
///
/// # Errors
/// As `Qcow2Header::read`.
pub(super) fn read_header(storage: &impl Storage) -> Result<Qcow2Header> {
    let failed = |e| Error::io("cannot read the header", e);
    let mut head = vec![0; storage.len().map_err(failed)?.min(FIRST_CLUSTER_MAX) as usize];
    storage.read_exact_at(&mut head, 0).map_err(failed)?;
    Qcow2Header::parse(&head)
}

fn check_features(header: &Qcow2Header) -> Result<()> {
    let refuse = |what: &str| Err(Error::new(ErrorKind::Unsupported, what));
    if header.version != 3 {
        return refuse("it is a qcow2 file of an old version");
    }
    if header.has_backing {
        return refuse("it has a backing file of its own");
    }
    if header.incompatible != 0 || header.encrypted || header.snapshots != 0 {
        return refuse(
            "it uses encryption, snapshots or other features that an overlay cannot have",
        );
    }
    Ok(())
}

/// The checksum of the metadata and of the header fields that never change in an overlay.
fn checksum(header: &Qcow2Header, metadata: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut sum = Sha256::new();
    sum.update(header.cluster_bits.to_be_bytes());
    sum.update(header.disk_len.to_be_bytes());
    sum.update(header.l1_entries.to_be_bytes());
    sum.update(header.l1_offset.to_be_bytes());
    sum.update(header.refcount_order.to_be_bytes());
    sum.update(metadata);
    sum.finalize().into()
}

/// Append `metadata` as our extension to the header of a new qcow2 file.
///
/// # Errors
/// [`ErrorKind::TooLarge`] when it does not fit in the first cluster; read and write errors.
pub(super) fn write_metadata(storage: &impl Storage, metadata: &[u8]) -> Result<()> {
    let header = read_header(storage)?;
    let mut extension = Vec::with_capacity(metadata.len() + CHECKSUM_LEN + seal::DIGEST_LEN + 32);
    extension.extend(EXTENSION.to_be_bytes());
    extension.extend(((CHECKSUM_LEN + metadata.len()) as u32).to_be_bytes());
    extension.extend(checksum(&header, metadata));
    extension.extend(metadata);
    extension.resize(extension.len().next_multiple_of(8), 0);
    extension.extend(seal::EXTENSION.to_be_bytes());
    extension.extend((seal::DIGEST_LEN as u32).to_be_bytes());
    // The digest, and the end of the extensions.
    extension.resize(extension.len() + seal::DIGEST_LEN + 8, 0);
    if header.end_marker as u64 + extension.len() as u64 > header.cluster_size() {
        return Err(Error::new(ErrorKind::TooLarge, "its header has no room for the layout"));
    }
    storage
        .write_all_at(&extension, header.end_marker as u64)
        .map_err(|e| Error::io("cannot write the header", e))
}

//! Detects damage to an overlay's tables that happened while it was not in use.
//!
//! qcow2 has no checksums: a flipped bit of a table can be a valid entry that shows other content.
//! So an overlay that is closed properly is sealed: a header extension stores a digest of all tables,
//! and a bit among the autoclear features says that it is valid. Programs that do not know such a
//! bit clear it when they write to the file, so QEMU can be used on an overlay. The seal is broken
//! before a table is written; after a crash there is none, and only the structure is checked.
//!
//! Source: QEMU docs/interop/qcow2.rst, "Header", autoclear features.

use super::storage::Storage;
use crate::image::Qcow2Header;
use crate::{Error, ErrorKind, Result};
use sha2::{Digest, Sha256};
use std::io;
use std::ops::Range;

/// Type of the header extension: "SYNS". It contains the digest.
pub(super) const EXTENSION: u32 = 0x5359_4e53;
/// Bytes of a digest (SHA-256).
pub(super) const DIGEST_LEN: usize = 32;
/// Where the autoclear features are in the header, and our bit in them.
pub(super) const AUTOCLEAR: Range<u64> = 88..96;
const SEALED: u64 = 1 << 63;
/// Bits 9 to 55 of a table entry: an offset in the file.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Tables are read in pieces of this many bytes.
const PIECE: u64 = 64 << 10;

/// Check the seal of the overlay in `storage`, whose structure was checked; returns whether it has
/// one.
///
/// # Errors
/// [`ErrorKind::Corrupt`] when the tables are not those that were sealed; [`ErrorKind::Io`].
pub(super) fn verify(storage: &dyn Storage, header: &Qcow2Header) -> Result<bool> {
    let sealed = header.extension(EXTENSION).filter(|_| header.autoclear & SEALED != 0);
    match sealed {
        Some(stored) if stored != digest(storage, header)? => {
            Err(Error::new(ErrorKind::Corrupt, "its tables do not match their checksum"))
        }
        sealed => Ok(sealed.is_some()),
    }
}

/// Break the seal, before a table is written; this must be durable before the table is.
///
/// # Errors
/// Errors of the storage.
pub(super) fn break_seal(storage: &dyn Storage) -> io::Result<()> {
    let clear = [0; (AUTOCLEAR.end - AUTOCLEAR.start) as usize];
    storage.write_all_at(&clear, AUTOCLEAR.start)
}

/// Seal the overlay in `storage`, whose header is `header` and which is not written to any more.
///
/// # Errors
/// Errors of the storage.
pub(super) fn seal(storage: &dyn Storage, header: &Qcow2Header) -> Result<()> {
    // Another program may have put its own extension after ours.
    let Some((EXTENSION, DIGEST_LEN)) = header.extensions.last().map(|(k, data)| (*k, data.len()))
    else {
        return Ok(());
    };
    let digest = digest(storage, header)?;
    let sealed = storage
        .write_all_at(&digest, (header.end_marker - DIGEST_LEN) as u64)
        .and_then(|()| storage.sync())
        .and_then(|()| storage.write_all_at(&SEALED.to_be_bytes(), AUTOCLEAR.start))
        .and_then(|()| storage.sync());
    sealed.map_err(|e| Error::io("cannot write the header", e))
}

/// The digest of all tables, and of the header fields that say where they are.
fn digest(storage: &dyn Storage, header: &Qcow2Header) -> Result<[u8; DIGEST_LEN]> {
    let len = storage.len().map_err(|e| Error::io("cannot stat it", e))?;
    let mut tables = Tables { storage, len, sum: Sha256::new() };
    tables.sum.update(header.l1_offset.to_be_bytes());
    tables.sum.update(header.refcount_offset.to_be_bytes());
    tables.sum.update(header.refcount_clusters.to_be_bytes());
    let cluster = header.cluster_size();
    tables.add_tree(header.l1_offset, u64::from(header.l1_entries) * 8, cluster)?;
    tables.add_tree(header.refcount_offset, header.refcount_table_len(), cluster)?;
    Ok(tables.sum.finalize().into())
}

struct Tables<'a> {
    storage: &'a dyn Storage,
    len: u64,
    sum: Sha256,
}

impl Tables<'_> {
    /// Add a table of `len` bytes at `offset`, and each cluster that its entries point to.
    fn add_tree(&mut self, offset: u64, len: u64, cluster: u64) -> Result<()> {
        let mut done = 0;
        while done < len {
            let bytes = self.add(offset + done, (len - done).min(PIECE))?;
            for entry in bytes.chunks_exact(8) {
                let entry = entry.iter().fold(0, |n, byte| (n << 8) | u64::from(*byte));
                let start = entry & OFFSET_MASK;
                let mut within = if start == 0 { cluster } else { 0 };
                while within < cluster {
                    within += self.add(start + within, (cluster - within).min(PIECE))?.len() as u64;
                }
            }
            done += bytes.len() as u64;
        }
        Ok(())
    }

    /// Add `len` bytes at `offset`, zeros past the end of the file; returns them.
    fn add(&mut self, offset: u64, len: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len as usize];
        let stored = self.len.saturating_sub(offset).min(len) as usize;
        self.storage
            .read_exact_at(&mut bytes[..stored], offset)
            .map_err(|e| Error::io("cannot read a table", e))?;
        self.sum.update(&bytes);
        Ok(bytes)
    }
}

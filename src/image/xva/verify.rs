//! Comparing the blocks of an XVA with their checksums.
//!
//! Source: xapi, `ocaml/xapi/stream_vdi.ml`: each block is followed by a file with its SHA-1
//! (`.checksum`) or XXH64 (`.xxhash`) in hexadecimal digits.

use super::index::block_of;
use super::tar::{Entry, Walk};
use crate::image::opening::Opening;
use crate::{Error, ErrorKind, Result};

/// Longest block that is compared, in bytes. xapi writes blocks of 1 MiB.
const MAX_BLOCK: u64 = 64 << 20;
/// Longest checksum, in bytes.
const MAX_SUM: u64 = 256;

/// Compare all blocks; returns how many have a checksum.
///
/// # Errors
/// Errors of the file; `Corrupt`, naming the block, if one is not what its checksum says.
pub(super) fn verify(archive: &Opening) -> Result<u64> {
    let mut walk = Walk::new(archive);
    let (mut block, mut compared): (Option<Entry>, u64) = (None, 0);
    while let Some(entry) = walk.next()? {
        if block_of(&entry.name).is_some() {
            block = Some(entry);
            continue;
        }
        let Some(of) = block.take() else { continue };
        let Some(kind) = entry.name.strip_prefix(&of.name) else { continue };
        let read = |entry: &Entry, limit: u64| {
            if entry.len > limit {
                let name = entry.name.escape_debug();
                let what = format!("{name} is too long to be compared (limit {limit} bytes)");
                return Err(Error::new(ErrorKind::TooLarge, what));
            }
            let mut bytes = vec![0; entry.len as usize];
            let failed = |e| Error::io(format!("cannot read {}", entry.name.escape_debug()), e);
            archive.file.read_exact_at(&mut bytes, entry.at).map_err(failed)?;
            Ok(bytes)
        };
        let found = match kind {
            ".checksum" => sha1_smol::Sha1::from(read(&of, MAX_BLOCK)?).digest().to_string(),
            ".xxhash" => {
                format!("{:016x}", twox_hash::XxHash64::oneshot(0, &read(&of, MAX_BLOCK)?))
            }
            _ => continue,
        };
        let recorded = read(&entry, MAX_SUM)?;
        if !recorded.trim_ascii().eq_ignore_ascii_case(found.as_bytes()) {
            let what = format!(
                "{} is damaged: its checksum is {found}, not {}",
                of.name.escape_debug(),
                String::from_utf8_lossy(&recorded).escape_debug()
            );
            return Err(Error::new(ErrorKind::Corrupt, what));
        }
        compared += 1;
    }
    Ok(compared)
}

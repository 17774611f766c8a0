//! Walking a tar archive: the name, place and length of each file.
//!
//! Source: POSIX.1-2017 pax, "ustar Interchange Format"; lengths of 8 GiB and more as GNU tar writes
//! them.

use crate::image::opening::Opening;
use crate::{Error, ErrorKind, Result};

/// Bytes of a header, to which files are padded.
const BLOCK: u64 = 512;
/// Maximum number of entries that are walked over: enough for 8 TiB of disks.
const MAX_ENTRIES: u64 = 16 << 20;
/// How much is read at once. A block of a disk is followed by its checksum and the next header.
const AHEAD: usize = 2048;

/// A regular file in the archive. Offsets and lengths in bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Entry {
    pub(super) name: String,
    /// Where its bytes begin.
    pub(super) at: u64,
    pub(super) len: u64,
}

/// The files of an archive, in order.
pub(super) struct Walk<'a> {
    archive: &'a Opening,
    /// Offset of the next header.
    at: u64,
    entries: u64,
    ahead: Vec<u8>,
    ahead_at: u64,
    /// Whether the end marker was reached.
    ended: bool,
}

impl<'a> Walk<'a> {
    pub(super) fn new(archive: &'a Opening) -> Self {
        Self { archive, at: 0, entries: 0, ahead: Vec::new(), ahead_at: 0, ended: false }
    }

    /// Whether the archive has an end marker, so that nothing after its last file is missing. Only
    /// known once all entries were walked over.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// The next file; `None` at the end of the archive.
    ///
    /// # Errors
    /// Errors of the file; `Corrupt` for a damaged header and for an archive that ends within a file;
    /// `TooLarge` for one with too many files.
    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        while !self.ended && self.at < self.archive.len {
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                let what = format!("it has more than {MAX_ENTRIES} files");
                return Err(Error::new(ErrorKind::TooLarge, what));
            }
            let (header, start) = (self.header()?, self.at);
            if header.iter().all(|b| *b == 0) {
                self.ended = true;
                break;
            }
            let entry = parse(&header, start + BLOCK).ok_or_else(|| {
                let what =
                    format!("at byte {start}, where a tar header belongs, is something else");
                Error::new(ErrorKind::Corrupt, what)
            })?;
            let end = entry.at.checked_add(entry.len).filter(|end| *end <= self.archive.len);
            let Some(end) = end else {
                let what = format!(
                    "the file ends at {} bytes, in the middle of {}; it was cut short",
                    self.archive.len,
                    entry.name.escape_debug()
                );
                return Err(Error::new(ErrorKind::Corrupt, what));
            };
            // Within the file's length, or less than a block beyond it.
            self.at = end.next_multiple_of(BLOCK);
            if matches!(header[156], 0 | b'0') {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    fn header(&mut self) -> Result<[u8; BLOCK as usize]> {
        let held = self.ahead_at..self.ahead_at + self.ahead.len() as u64;
        if !(held.contains(&self.at) && held.contains(&(self.at + BLOCK - 1))) {
            let len = (self.archive.len - self.at).min(AHEAD as u64);
            if len < BLOCK {
                let what =
                    format!("the file ends at {} bytes, within a tar header", self.archive.len);
                return Err(Error::new(ErrorKind::Corrupt, what));
            }
            self.ahead.resize(len as usize, 0);
            let read = self.archive.file.read_exact_at(&mut self.ahead, self.at);
            read.map_err(|e| Error::io("cannot read its tar headers", e))?;
            self.ahead_at = self.at;
        }
        let from = (self.at - self.ahead_at) as usize;
        let mut header = [0; BLOCK as usize];
        header.copy_from_slice(&self.ahead[from..from + BLOCK as usize]);
        Ok(header)
    }
}

/// The entry of `header`, whose file begins at `at`; `None` if it is no header.
fn parse(header: &[u8; BLOCK as usize], at: u64) -> Option<Entry> {
    // The checksum is that of the header with spaces in place of the checksum.
    let sum = |bytes: &[u8]| bytes.iter().map(|b| u64::from(*b)).sum::<u64>();
    let expected = sum(&header[..148]) + 8 * u64::from(b' ') + sum(&header[156..]);
    if number(&header[148..156])? != expected {
        return None;
    }
    let text = |field: &[u8]| {
        let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
        String::from_utf8_lossy(&field[..end]).into_owned()
    };
    let mut name = text(&header[..100]);
    // GNU's own headers use the field for something else.
    if &header[257..263] == b"ustar\0" && header[345] != 0 {
        name = format!("{}/{name}", text(&header[345..500]));
    }
    let name = name.strip_prefix("./").map(str::to_owned).unwrap_or(name);
    Some(Entry { name, at, len: number(&header[124..136])? })
}

/// A number in octal digits, or as GNU tar stores large ones: bytes with the first bit set.
fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let number = |n: u64, byte: &u8| n.checked_mul(256)?.checked_add(u64::from(*byte));
        return rest.iter().try_fold(0, number).filter(|_| *first == 0x80);
    }
    let text = std::str::from_utf8(field).ok()?;
    let digits = text.trim_matches(|c| c == ' ' || c == '\0');
    u64::from_str_radix(if digits.is_empty() { "0" } else { digits }, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_both_notations() {
        let large = |last: &[u8]| [&[0x80, 0, 0, 0][..], last].concat();
        for (field, expected) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"     12 ", Some(0o12)),
            (b"\0\0\0\0", Some(0)),
            (b"12x", None),
            (b"", None),
            (&large(&[0, 0, 0, 2, 0, 0, 0, 0]), Some(8 << 30)),
            (&[0x80, 0, 0, 0, 0, 0, 1, 0], Some(256)),
            (&[0x81, 0, 0, 0, 0, 0, 0, 0], None),
            (&[0xff; 12], None),
            (&[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0], None),
        ] {
            assert_eq!(number(field), expected, "{field:?}");
        }
    }
}

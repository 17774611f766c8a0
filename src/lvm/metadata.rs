//! Metadata areas: a header with the place of the current text in a circular buffer.

use super::crc::crc;
use super::label::{Area, u32_at, u64_at};
use crate::bytes::ReadAt;
use crate::{Error, ErrorKind, Result};

/// Bytes of the header of an area; the buffer follows.
pub(super) const HEADER: u64 = 512;
/// `FMTT_MAGIC`.
pub(super) const MAGIC: &[u8; 16] = b"\x20LVM2\x20x[5A%r0N*>";
/// Longest text that is read, in bytes. A volume takes about 600.
const MAX_TEXT: u64 = 4 << 20;
/// A text that LVM does not use (`RAW_LOCN_IGNORED`).
const IGNORED: u32 = 1;

/// The current text of the metadata in `area`; `None` if there is none.
///
/// # Errors
/// [`ErrorKind::Corrupt`] for an area outside of `bytes`, a wrong checksum and a place outside of
/// the area; [`ErrorKind::TooLarge`] for a text of more than 4 MiB; errors from reading.
pub(super) fn read_text(bytes: &dyn ReadAt, area: Area) -> Result<Option<String>> {
    let damaged = |what: &str| Error::new(ErrorKind::Corrupt, what);
    let outside = || damaged("its metadata area lies beyond its end");
    let unread = |e| Error::io("cannot read its metadata", e);
    let fits = |len: u64| area.offset.checked_add(len).is_some_and(|end| end <= bytes.len());
    if !fits(HEADER) {
        return Err(outside());
    }
    let mut header = [0; HEADER as usize];
    bytes.read_at(&mut header, area.offset).map_err(unread)?;
    if crc(&header[4..]) != u32_at(&header, 0) || &header[4..20] != MAGIC {
        return Err(damaged("the header of its metadata area is damaged"));
    }
    if u32_at(&header, 20) != 1 || u64_at(&header, 24) != area.offset {
        return Err(damaged("the header of its metadata area has an unknown version or place"));
    }
    let area_len = u64_at(&header, 32);
    if area_len <= HEADER || !fits(area_len) {
        return Err(outside());
    }
    let (start, len) = (u64_at(&header, 40), u64_at(&header, 48));
    let (sum, flags) = (u32_at(&header, 56), u32_at(&header, 60));
    if start == 0 || flags & IGNORED != 0 {
        return Ok(None);
    }
    if start < HEADER || start >= area_len || len == 0 || len > area_len - HEADER {
        return Err(damaged("its metadata area is damaged"));
    }
    if len > MAX_TEXT {
        return Err(Error::new(ErrorKind::TooLarge, "its metadata has more than 4 MiB"));
    }
    // At most MAX_TEXT. The buffer wraps after its end.
    let mut text = vec![0; len as usize];
    let first = len.min(area_len - start) as usize;
    let (before, after) = text.split_at_mut(first);
    bytes.read_at(before, area.offset + start).map_err(unread)?;
    bytes.read_at(after, area.offset + HEADER).map_err(unread)?;
    if crc(&text) != sum {
        return Err(damaged("the checksum of its metadata is wrong"));
    }
    let end = text.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    text.truncate(end);
    let text = String::from_utf8(text);
    text.map(Some).map_err(|_| damaged("its metadata is not text"))
}

#[cfg(test)]
mod tests {
    use super::super::label::read_label;
    use super::super::testing::{AREA, Pv};
    use super::*;

    fn read(bytes: &Vec<u8>) -> Result<Option<String>> {
        read_text(bytes, read_label(bytes).unwrap().metadata[0])
    }

    #[test]
    fn texts_wrap() {
        let text: String = (0..3000).map(|i| char::from(b'a' + (i % 26) as u8)).collect();
        for at in [512, 1024, 4096 + 512, AREA.len - 512, AREA.len - 1] {
            let bytes = Pv::new('a', 64 << 10).text_at(&text, at).bytes();
            assert_eq!(read(&bytes).unwrap().as_deref(), Some(&text[..]), "{at}");
        }
        assert_eq!(read(&Pv::new('a', 64 << 10).bytes()).unwrap(), None);
    }

    #[test]
    fn damage_is_found() {
        let bytes = Pv::new('a', 64 << 10).text_at("text", 512).bytes();
        let area = AREA.offset as usize;
        let problem = |change: &dyn Fn(&mut [u8])| {
            let mut bytes = bytes.clone();
            change(&mut bytes[area..]);
            read(&bytes).unwrap_err().to_string()
        };
        /// Changes the header and corrects its checksum.
        fn set(area: &mut [u8], at: usize, value: u64) {
            area[at..at + 8].copy_from_slice(&value.to_le_bytes());
            let sum = crc(&area[4..512]);
            area[..4].copy_from_slice(&sum.to_le_bytes());
        }
        assert_eq!(problem(&|a| a[8] ^= 1), "the header of its metadata area is damaged");
        assert_eq!(problem(&|a| a[512] ^= 1), "the checksum of its metadata is wrong");
        for (at, value) in [
            (40, 1),
            (40, 511),
            (40, AREA.len),
            (40, u64::MAX),
            (48, 0),
            (48, AREA.len),
            (48, u64::MAX),
        ] {
            assert_eq!(problem(&|a| set(a, at, value)), "its metadata area is damaged");
        }
        for value in [0, 512, 64 << 10, u64::MAX] {
            assert_eq!(problem(&|a| set(a, 32, value)), "its metadata area lies beyond its end");
        }
        let e = read_text(&bytes, Area { offset: u64::MAX - 5, len: 9 }).unwrap_err();
        assert_eq!(e.to_string(), "its metadata area lies beyond its end");
        let large = Pv::new('a', 8 << 20).with_area(Area { offset: 4096, len: 6 << 20 });
        let bytes = large.text_at(&"x".repeat((4 << 20) + 1), 512).bytes();
        assert_eq!(read(&bytes).unwrap_err().kind(), ErrorKind::TooLarge);
    }
}

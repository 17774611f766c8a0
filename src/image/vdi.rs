//! VDI images of VirtualBox: dynamic and fixed, read in place.
//!
//! Source: VirtualBox, `src/VBox/Storage/VDICore.h`; QEMU, `block/vdi.c`. All numbers are
//! little-endian.

use super::driver::{Driver, FoundLayer};
use super::layer::{Layer, Place, Put, damaged};
use super::opening::Opening;
use super::stored_file::StoredFile;
use crate::{Error, ErrorKind, Result};
use std::io;

pub(super) static FORMAT: Driver = Driver {
    name: "vdi",
    qemu_name: "vdi",
    shown: "VDI",
    extensions: &["vdi"],
    layer: Some(|opening, _| Ok(FoundLayer::alone(VdiLayer::open(opening)?))),
};

/// Length of the header that is read, in bytes.
const HEADER_LEN: usize = 512;
/// Where the signature is, and what it is.
const SIGNATURE_AT: usize = 64;
const SIGNATURE: u32 = 0xbeda_107f;
/// The only version of the format that is in use.
const VERSION_1_1: u32 = 0x1_0001;
/// Smallest and largest block, in bytes. VirtualBox writes blocks of 1 MiB.
const BLOCK_SIZES: std::ops::RangeInclusive<u32> = 4 << 10..=64 << 20;
/// A map entry of a block that was never written, and one of a block that was discarded.
const UNUSED: u32 = u32::MAX;
const DISCARDED: u32 = u32::MAX - 1;
/// How much of the map is compared with the file's length when an image is opened, in bytes, and how
/// much of it is read at once.
const CHECKED: u64 = 16 << 20;
const PIECE: u64 = 64 << 10;

/// The header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Header {
    /// Length of the disk in bytes.
    len: u64,
    /// Length of a block in bytes.
    block_size: u32,
    blocks: u32,
    /// Where the map and the first block are in the file.
    map_offset: u32,
    data_offset: u32,
}

impl Header {
    fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self> {
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let unsupported = |what: String| Err(Error::new(ErrorKind::Unsupported, what));
        if u32_at(SIGNATURE_AT) != SIGNATURE {
            return Err(corrupt("it is not a VDI file"));
        }
        if u32_at(68) != VERSION_1_1 {
            let version = u32_at(68);
            return unsupported(format!(
                "it is VDI of version {}.{}; 1.1 is read",
                version >> 16,
                version & 0xffff
            ));
        }
        match u32_at(76) {
            1 | 2 => {}
            4 => {
                return unsupported(
                    "it is a differencing image, which does not say where its parent is; write it out \
                     whole first (VBoxManage clonemedium)"
                        .into(),
                );
            }
            other => return unsupported(format!("it is a VDI of type {other}; 1 and 2 are read")),
        }
        let header = Self {
            len: u64::from(u32_at(368)) | u64::from(u32_at(372)) << 32,
            block_size: u32_at(376),
            blocks: u32_at(384),
            map_offset: u32_at(340),
            data_offset: u32_at(344),
        };
        if u32_at(380) != 0 {
            return unsupported("its blocks have extra data, which is not supported".into());
        }
        if !BLOCK_SIZES.contains(&header.block_size) || !header.block_size.is_power_of_two() {
            return Err(corrupt("invalid block size"));
        }
        if header.len.div_ceil(header.block_size.into()) > u64::from(header.blocks) {
            return Err(corrupt("its block map is too small for the disk's length"));
        }
        Ok(header)
    }
}

fn corrupt(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, what)
}

/// A VDI file.
#[derive(Debug)]
struct VdiLayer {
    file: [StoredFile; 1],
    header: Header,
}

impl VdiLayer {
    fn open(opening: Opening) -> Result<Self> {
        let file = StoredFile::from(opening);
        let bytes = file.array(0).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => corrupt("the file ends within its header"),
            _ => Error::io("cannot read its header", e),
        })?;
        let layer = Self { header: Header::parse(&bytes)?, file: [file] };
        layer.check_map()?;
        Ok(layer)
    }

    /// Refuse a file that was cut short.
    fn check_map(&self) -> Result<()> {
        let (header, file_len) = (&self.header, self.file[0].len());
        let block_size = u64::from(header.block_size);
        let count = header.len.div_ceil(block_size);
        if u64::from(header.map_offset) + count * 4 > file_len {
            return Err(corrupt(format!(
                "the file ends at {file_len} bytes, before the end of its block map; it was cut short"
            )));
        }
        let mut first = 0;
        while first < count.min(CHECKED / 4) {
            let n = (count - first).min(PIECE / 4);
            let map = self.entries(first, n).map_err(|e| Error::io("cannot read its map", e))?;
            for (number, entry) in (first..).zip(map) {
                let Some(at) = self.place(entry) else { continue };
                if at + block_size.min(header.len - number * block_size) > file_len {
                    return Err(corrupt(format!(
                        "the file ends at {file_len} bytes, and block {number} is at {at}; it was cut \
                         short"
                    )));
                }
            }
            first += n;
        }
        Ok(())
    }

    /// `n` entries of the map from `first` on.
    fn entries(&self, first: u64, n: u64) -> io::Result<impl Iterator<Item = u32> + use<>> {
        let mut bytes = vec![0; n as usize * 4];
        self.file[0].read(&mut bytes, u64::from(self.header.map_offset) + first * 4)?;
        let entries: Vec<u32> =
            bytes.chunks_exact(4).map(|e| u32::from_le_bytes([e[0], e[1], e[2], e[3]])).collect();
        Ok(entries.into_iter())
    }

    /// Where the block of `entry` is in the file.
    fn place(&self, entry: u32) -> Option<u64> {
        let stored = !matches!(entry, UNUSED | DISCARDED);
        let offset = u64::from(entry) * u64::from(self.header.block_size);
        stored.then(|| u64::from(self.header.data_offset) + offset)
    }
}

impl Layer for VdiLayer {
    fn len(&self) -> u64 {
        self.header.len
    }

    fn locate(&self, start: u64, end: u64, put: &mut Put<'_>) -> io::Result<()> {
        let block_size = u64::from(self.header.block_size);
        let (first, last) = (start / block_size, end.div_ceil(block_size));
        for (number, entry) in (first..).zip(self.entries(first, last - first)?) {
            let block = number * block_size;
            let (from, to) = (start.max(block), end.min(block + block_size));
            let place = match self.place(entry) {
                None => Place::Zeros,
                Some(at) if at + (to - block) > self.file[0].len() => {
                    return Err(damaged(format!("block {number} lies past the end of the file")));
                }
                Some(at) => Place::Stored { file: 0, offset: at + (from - block) },
            };
            put(from, to, place);
        }
        Ok(())
    }

    fn files(&self) -> &[StoredFile] {
        &self.file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        for (at, value) in [
            (64, SIGNATURE),
            (68, VERSION_1_1),
            (76, 1),
            (340, 512),
            (344, 1024),
            (368, 3 << 20),
            (376, 1 << 20),
            (384, 3),
        ] {
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert_eq!(Header::parse(&valid()).unwrap().len, 3 << 20);
        for (at, value, word) in [
            (64, 0, "not a VDI file"),
            (68, 1, "version 0.1"),
            (76, 4, "differencing"),
            (76, 3, "type 3"),
            (380, 512, "extra data"),
            (376, 3 << 20, "block size"),
            (376, 0, "block size"),
            (376, 1 << 31, "block size"),
            (384, 2, "too small"),
            (372, u32::MAX, "too small"),
        ] {
            let mut bytes = valid();
            bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
            let e = Header::parse(&bytes).unwrap_err();
            assert!(e.to_string().contains(word), "{e}");
        }
    }
}

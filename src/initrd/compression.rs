//! The compression formats that Linux supports for an initrd.
//!
//! Sources: Linux `lib/decompress.c` (the first two bytes decide) and `lib/decompress_unlz4.c`.

use std::io::{self, BufRead, Read};

use serde::Serialize;

use super::input::Input;

/// Maximum memory of the LZMA decoder in KiB: initrds need 64 MiB at most (`xz -9`).
const LZMA_MEMORY_KIB: u32 = 160 << 10;
/// Maximum unpacked size of a block in LZ4's legacy format (`lz4 -l`, and the kernel).
const LZ4_BLOCK: usize = 8 << 20;
/// The legacy format's magic number, little endian.
const LZ4_MAGIC: u32 = 0x184c_2102;

/// The header of an empty Zstandard frame (RFC 8878).
const EMPTY_ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd, 0x20, 0];

/// How a part of an initrd is compressed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not compressed.
    None,
    /// RFC 1952.
    Gzip,
    /// bzip2.
    Bzip2,
    /// The format of the old `lzma` command.
    Lzma,
    /// xz.
    Xz,
    /// lzop, which is not supported here.
    Lzo,
    /// LZ4's legacy frames, the only ones that Linux reads.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// The format of data that starts with `head`; `None` if Linux has no decompressor for it.
    pub fn detect(head: &[u8]) -> Option<Self> {
        Some(match head.get(..2)? {
            [0x1f, 0x8b | 0x9e] => Self::Gzip,
            b"BZ" => Self::Bzip2,
            [0x5d, 0] => Self::Lzma,
            [0xfd, b'7'] => Self::Xz,
            [0x89, b'L'] => Self::Lzo,
            [0x02, 0x21] => Self::Lz4,
            [0x28, 0xb5] => Self::Zstd,
            _ => return None,
        })
    }

    /// Its name, as used by the command line tools.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "uncompressed",
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Lzma => "lzma",
            Self::Xz => "xz",
            Self::Lzo => "lzo",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// Unpacks one compressed member from the current position of the input. Afterwards the input is at
/// the first byte after the member.
pub(super) enum Decoder<'i, 'a> {
    Plain(&'i mut Input<'a>),
    Gzip(Box<flate2::bufread::GzDecoder<&'i mut Input<'a>>>),
    Bzip2(bzip2::bufread::BzDecoder<&'i mut Input<'a>>),
    Lzma(Box<lzma_rust2::LzmaReader<&'i mut Input<'a>>>),
    Xz(Box<lzma_rust2::XzReader<&'i mut Input<'a>>>),
    Lz4(Lz4Legacy<&'i mut Input<'a>>),
    Zstd(Box<Zstd<'i, 'a>>),
}

type Zstd<'i, 'a> =
    ruzstd::decoding::StreamingDecoder<&'i mut Input<'a>, ruzstd::decoding::FrameDecoder>;

impl<'i, 'a> Decoder<'i, 'a> {
    /// Starts to unpack the member at the current position of `input`.
    ///
    /// # Errors
    /// For a header that is invalid, needs too much memory, or has an unsupported format.
    pub(super) fn new(compression: Compression, input: &'i mut Input<'a>) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::Plain(input),
            Compression::Gzip => Self::Gzip(Box::new(flate2::bufread::GzDecoder::new(input))),
            Compression::Bzip2 => Self::Bzip2(bzip2::bufread::BzDecoder::new(input)),
            Compression::Lzma => Self::Lzma(Box::new(lzma_rust2::LzmaReader::new_mem_limit(
                input,
                LZMA_MEMORY_KIB,
                None,
            )?)),
            Compression::Xz => Self::Xz(Box::new(lzma_rust2::XzReader::new_mem_limit(
                input,
                false,
                LZMA_MEMORY_KIB,
            ))),
            Compression::Zstd => {
                let mut decoder = ruzstd::decoding::FrameDecoder::new();
                // The decoder refuses windows of more than 100 MiB (the kernel's limit is 128 MiB),
                // but does not check the first frame.
                decoder.init(EMPTY_ZSTD).map_err(io::Error::other)?;
                let decoder = Zstd::new_with_decoder(input, decoder).map_err(io::Error::other)?;
                Self::Zstd(Box::new(decoder))
            }
            Compression::Lz4 => Self::Lz4(Lz4Legacy::new(input)),
            Compression::Lzo => {
                return Err(io::Error::new(io::ErrorKind::Unsupported, "lzo is not read"));
            }
        })
    }

    /// Returns the input bytes that were read beyond the member's end.
    pub(super) fn finish(self) {
        if let Self::Lzma(reader) = self {
            let (input, unused) = reader.into_parts();
            input.seek(input.position().saturating_sub(unused.len() as u64));
        }
    }
}

impl Read for Decoder<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(d) => d.read(buf),
            Self::Gzip(d) => d.read(buf),
            Self::Bzip2(d) => d.read(buf),
            Self::Lzma(d) => d.read(buf),
            Self::Xz(d) => d.read(buf),
            Self::Lz4(d) => d.read(buf),
            Self::Zstd(d) => d.read(buf),
        }
    }
}

/// LZ4's legacy format: the magic number, then blocks, each preceded by its length. It ends at the
/// end of the file, at a length of zero, or at an invalid length.
pub(super) struct Lz4Legacy<R> {
    input: R,
    packed: Vec<u8>,
    /// As long as the largest block. It is not cleared for each block: there may be millions of
    /// blocks of a few bytes.
    unpacked: Vec<u8>,
    at: usize,
    /// First byte of `unpacked` after the current block.
    end: usize,
    started: bool,
    ended: bool,
}

impl<R: BufRead> Lz4Legacy<R> {
    pub(super) fn new(input: R) -> Self {
        let (packed, unpacked) = (Vec::new(), Vec::new());
        Self { input, packed, unpacked, at: 0, end: 0, started: false, ended: false }
    }

    /// The next four bytes; `None` at the end of the input.
    fn number(&mut self) -> io::Result<Option<u32>> {
        let mut bytes = [0; 4];
        let mut done = 0;
        while done < 4 {
            match self.input.read(&mut bytes[done..])? {
                0 if done == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => done += n,
            }
        }
        Ok(Some(u32::from_le_bytes(bytes)))
    }

    fn next_block(&mut self) -> io::Result<bool> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        if !self.started {
            self.started = true;
            if self.number()? != Some(LZ4_MAGIC) {
                return Err(invalid("no legacy lz4 frame"));
            }
        }
        let len = loop {
            match self.number()? {
                // Zeros after the last block are padding.
                None | Some(0) => return Ok(false),
                // Another frame may follow.
                Some(LZ4_MAGIC) => {}
                Some(len) => break len as usize,
            }
        };
        // The worst case of the format, LZ4_COMPRESSBOUND in lz4.
        if len > LZ4_BLOCK + LZ4_BLOCK / 255 + 16 {
            return Err(invalid("a block of lz4 that is too long"));
        }
        self.packed.resize(len, 0);
        self.input.read_exact(&mut self.packed)?;
        self.unpacked.resize(LZ4_BLOCK, 0);
        let n = lz4_flex::block::decompress_into(&self.packed, &mut self.unpacked)
            .map_err(io::Error::other)?;
        (self.at, self.end) = (0, n);
        Ok(true)
    }
}

impl<R: BufRead> Read for Lz4Legacy<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.end && !self.ended {
            self.ended = !self.next_block()?;
        }
        let n = buf.len().min(self.end - self.at);
        buf[..n].copy_from_slice(&self.unpacked[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

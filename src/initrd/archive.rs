//! cpio archives in newc format, as Linux reads them from an initrd.
//!
//! Source: Linux `init/initramfs.c` and Documentation/driver-api/early-userspace/buffer-format.rst.

use std::io::{self, BufRead, Read};
use std::time::Instant;

use super::compression::Decoder;
use super::entry::InitrdEntry;
use super::input::Input;
use super::limits;
use super::listing::Listing;
use crate::fs::{Budget, Cost};

/// Length of a header in bytes: a magic number, then 13 numbers of 8 hex digits each.
const HEADER: usize = 110;
/// Longest name, and longest symlink target, in bytes (Linux: `PATH_MAX`).
const PATH_MAX: u64 = 4096;
/// Name of the last entry of an archive.
const TRAILER: &[u8] = b"TRAILER!!!";
/// Bits of the mode that give an entry's type, and their values.
const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

/// A stream of bytes that can skip forward.
pub(super) trait Stream: BufRead {
    /// Skips `n` bytes.
    fn skip(&mut self, n: u64) -> io::Result<()>;
}

impl Stream for Input<'_> {
    fn skip(&mut self, n: u64) -> io::Result<()> {
        if n > self.left() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.seek(self.position() + n);
        Ok(())
    }
}

/// A member that is being unpacked, within the limits.
pub(super) struct Unpacked<'i, 'a, 'b> {
    pub(super) decoder: Decoder<'i, 'a>,
    buffer: Vec<u8>,
    at: usize,
    /// Charged for the unpacked bytes.
    budget: &'b Budget,
    deadline: Instant,
}

impl<'i, 'a, 'b> Unpacked<'i, 'a, 'b> {
    pub(super) fn new(decoder: Decoder<'i, 'a>, budget: &'b Budget, deadline: Instant) -> Self {
        Self { decoder, buffer: Vec::new(), at: 0, budget, deadline }
    }
}

impl BufRead for Unpacked<'_, '_, '_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.buffer.len() {
            self.at = 0;
            self.buffer.resize(limits::CHUNK, 0);
            let n = self.decoder.read(&mut self.buffer);
            self.buffer.truncate(*n.as_ref().unwrap_or(&0));
            let n = n? as u64;
            // The caller's error names the initrd.
            self.budget.charge(Cost::UnpackedBytes, n).map_err(io::Error::other)?;
            if Instant::now() > self.deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(&self.buffer[self.at..])
    }

    fn consume(&mut self, n: usize) {
        self.at = (self.at + n).min(self.buffer.len());
    }
}

impl Read for Unpacked<'_, '_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let there = self.fill_buf()?;
        let n = there.len().min(buf.len());
        buf[..n].copy_from_slice(&there[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl Stream for Unpacked<'_, '_, '_> {
    fn skip(&mut self, mut n: u64) -> io::Result<()> {
        while n > 0 {
            let there = self.fill_buf()?.len() as u64;
            if there == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let step = there.min(n);
            self.consume(step as usize);
            n -= step;
        }
        Ok(())
    }
}

/// Why reading an archive stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum End {
    /// At its trailer.
    Trailer,
    /// Where the bytes ended.
    Bytes,
    /// Everything that was wanted has been seen.
    Enough,
}

/// Reads the archives of a compressed member, with zeros between them, up to its end.
///
/// # Errors
/// What is wrong with the archive, or an exceeded limit.
pub(super) fn members(stream: &mut impl Stream, out: &mut Listing<'_>) -> io::Result<End> {
    let mut offset = 0_u64;
    loop {
        let there = stream.fill_buf()?;
        match there.first() {
            None => return Ok(End::Bytes),
            Some(0) => {
                let zeros = there.iter().take_while(|b| **b == 0).count();
                stream.consume(zeros);
                offset += zeros as u64;
            }
            Some(b'0') if offset.is_multiple_of(4) => {
                let (end, len) = archive(stream, out)?;
                if end != End::Trailer {
                    return Ok(end);
                }
                offset += len;
            }
            Some(_) => return Err(invalid("junk in a compressed archive")),
        }
    }
}

/// Reads one archive, which starts at a multiple of 4. Returns how it ended and how many bytes it
/// occupied.
///
/// # Errors
/// What is wrong with the archive, or an exceeded limit.
pub(super) fn archive(stream: &mut impl Stream, out: &mut Listing<'_>) -> io::Result<(End, u64)> {
    let mut offset = 0;
    loop {
        if stream.fill_buf()?.is_empty() {
            // Linux does not require a trailer.
            return Ok((End::Bytes, offset));
        }
        let mut header = [0; HEADER];
        stream.read_exact(&mut header)?;
        let header = Header::parse(&header)?;
        let name_end = offset + HEADER as u64 + header.name_len;
        let body = name_end.next_multiple_of(4);
        let next = (body + header.len).next_multiple_of(4);
        if header.name_len == 0 || header.name_len > PATH_MAX {
            stream.skip(next - offset - HEADER as u64)?;
            offset = next;
            continue;
        }
        let mut name = vec![0; header.name_len as usize];
        stream.read_exact(&mut name)?;
        // The length includes a NUL.
        name.pop();
        if name == TRAILER {
            return Ok((End::Trailer, name_end));
        }
        stream.skip(body - name_end)?;
        let (entry, read) = entry(stream, &header, &name, out)?;
        if out.add(&name, entry)? {
            return Ok((End::Enough, body + read));
        }
        // The padding of the last body may be missing.
        let padding = next - body - header.len;
        stream.skip(header.len - read)?;
        for _ in 0..padding {
            if stream.fill_buf()?.is_empty() {
                return Ok((End::Bytes, next));
            }
            stream.consume(1);
        }
        offset = next;
    }
}

/// The type of an entry, and how much of its body was read to determine it.
fn entry(
    stream: &mut impl Stream,
    header: &Header,
    name: &[u8],
    out: &mut Listing<'_>,
) -> io::Result<(InitrdEntry, u64)> {
    let mut body = || {
        let mut bytes = vec![0; header.len as usize];
        stream.read_exact(&mut bytes).map(|()| bytes)
    };
    Ok(match header.mode & S_IFMT {
        S_IFDIR => (InitrdEntry::Dir, 0),
        S_IFLNK if header.len <= PATH_MAX => {
            let target = String::from_utf8_lossy(&body()?).into_owned();
            (InitrdEntry::Symlink(target), header.len)
        }
        S_IFREG if out.keeps(name, header.len) => {
            let bytes = body()?;
            out.keep(name, bytes);
            (InitrdEntry::File(header.len), header.len)
        }
        S_IFREG => (InitrdEntry::File(header.len), 0),
        _ => (InitrdEntry::Other, 0),
    })
}

/// The header fields that are needed here.
struct Header {
    mode: u32,
    /// Length of the body in bytes.
    len: u64,
    /// Length of the name in bytes, including its NUL.
    name_len: u64,
}

impl Header {
    fn parse(bytes: &[u8; HEADER]) -> io::Result<Self> {
        match &bytes[..6] {
            b"070701" | b"070702" => {}
            b"070707" => return Err(invalid("a cpio archive in the old format")),
            _ => return Err(invalid("no cpio archive where one should be")),
        }
        let number = |i: usize| {
            let digits = &bytes[6 + 8 * i..14 + 8 * i];
            std::str::from_utf8(digits)
                .ok()
                .filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))
                .and_then(|d| u32::from_str_radix(d, 16).ok())
                .ok_or_else(|| invalid("a broken header in a cpio archive"))
        };
        Ok(Self { mode: number(1)?, len: number(6)?.into(), name_len: number(11)?.into() })
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

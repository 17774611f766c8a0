//! A buffered, seekable reader of an initrd's bytes.

use std::io::{self, BufRead, Read};

use crate::Error;
use crate::fs::{Budget, Cost, GuestFile};

/// Bytes per read from the guest.
const CHUNK: usize = 256 << 10;

/// Reads a guest's file from start to end.
pub(super) struct Input<'a> {
    file: &'a mut dyn GuestFile,
    len: u64,
    buffer: Vec<u8>,
    /// File offset of the start of the buffer.
    start: u64,
    /// Number of buffer bytes already consumed.
    at: usize,
    /// The error from reading the guest, which a decoder would hide in its own error.
    failed: Option<Error>,
    budget: &'a Budget,
}

impl<'a> Input<'a> {
    pub(super) fn new(file: &'a mut dyn GuestFile, budget: &'a Budget) -> Self {
        let len = file.len();
        Self { file, len, buffer: Vec::new(), start: 0, at: 0, failed: None, budget }
    }

    /// Offset in bytes of the next byte to read.
    pub(super) fn position(&self) -> u64 {
        self.start + self.at as u64
    }

    /// Number of bytes of the file that were not yet read.
    pub(super) fn left(&self) -> u64 {
        self.len.saturating_sub(self.position())
    }

    /// Continues reading at `position`.
    pub(super) fn seek(&mut self, position: u64) {
        match position.checked_sub(self.start) {
            Some(at) if at <= self.buffer.len() as u64 => self.at = at as usize,
            _ => {
                self.start = position;
                self.at = 0;
                self.buffer.clear();
            }
        }
    }

    /// The next bytes: at least two, unless the file ends first.
    pub(super) fn peek(&mut self) -> io::Result<&[u8]> {
        if self.buffer.len() - self.at < 2 {
            let position = self.position();
            self.start = position;
            self.at = 0;
            self.buffer.clear();
        }
        self.fill_buf()
    }

    /// The error from reading the guest, if there was one.
    pub(super) fn take_error(&mut self) -> Option<Error> {
        self.failed.take()
    }
}

impl BufRead for Input<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.buffer.len() && self.left() > 0 {
            self.start = self.position();
            self.at = 0;
            // Zeros between archives, and blocks that unpack to nothing, cost only these bytes.
            let chunk = self.left().min(CHUNK as u64);
            if let Err(e) = self.budget.charge(Cost::UnpackedBytes, chunk) {
                self.buffer.clear();
                return Err(io::Error::other(e));
            }
            self.buffer.resize(CHUNK.min(usize::try_from(self.left()).unwrap_or(CHUNK)), 0);
            let mut done = 0;
            while done < self.buffer.len() {
                let offset = self.start + done as u64;
                match self.file.read_at(&mut self.buffer[done..], offset) {
                    Ok(0) => break,
                    Ok(n) => done += n,
                    Err(e) => {
                        let seen = io::Error::other(e.to_string());
                        self.failed = Some(e);
                        self.buffer.clear();
                        return Err(seen);
                    }
                }
            }
            self.buffer.truncate(done);
        }
        Ok(&self.buffer[self.at..])
    }

    fn consume(&mut self, n: usize) {
        self.at = (self.at + n).min(self.buffer.len());
    }
}

impl Read for Input<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let there = self.fill_buf()?;
        let n = there.len().min(buf.len());
        buf[..n].copy_from_slice(&there[..n]);
        self.consume(n);
        Ok(n)
    }
}

//! What a connection reads and writes: a file of the export set, or the status as text.

use super::protocol::{NbdError, Request, Style, command, flag, transmission};
use super::state::ServerState;
use crate::bytes::{Extent, ReadAt};
use crate::disk::Chunk;
use crate::export::ExportedFile;
use std::io;
use std::sync::Arc;

/// A target of requests. Offsets and lengths in bytes.
#[derive(Debug)]
pub(super) struct Target {
    /// Its name, which the client may not have used.
    pub name: String,
    content: Content,
    read_only: bool,
    /// Of its server.
    state: Arc<ServerState>,
}

#[derive(Debug)]
enum Content {
    File(ExportedFile),
    Text(Vec<u8>),
}

/// What is written to a range that is to be zeros and may not be a hole.
static ZEROS: [u8; 256 << 10] = [0; 256 << 10];

impl Target {
    pub fn of_file(file: ExportedFile, read_only: bool, state: &Arc<ServerState>) -> Self {
        let read_only = read_only || file.is_read_only();
        let state = Arc::clone(state);
        Self { name: file.name.clone(), content: Content::File(file), read_only, state }
    }

    pub fn of_text(name: &str, text: Vec<u8>) -> Self {
        let state = Arc::default();
        Self { name: name.to_owned(), content: Content::Text(text), read_only: true, state }
    }

    pub fn len(&self) -> u64 {
        match &self.content {
            Content::File(file) => file.len,
            Content::Text(text) => text.len() as u64,
        }
    }

    /// The transmission flags.
    pub fn flags(&self, style: Style) -> u16 {
        use transmission::*;
        // A flush of any connection flushes the disk, so it covers what all of them have written.
        let mut flags = HAS_FLAGS | FLUSH | FUA | MULTI_CONN;
        flags |= if self.read_only { READ_ONLY } else { TRIM | WRITE_ZEROES | FAST_ZERO };
        if style == Style::Simple { flags } else { flags | DF }
    }

    /// Whether the request can be tried.
    ///
    /// # Errors
    /// What the client did wrong.
    pub fn check(&self, request: &Request) -> Result<(), NbdError> {
        let writes = match request.command {
            command::READ | command::BLOCK_STATUS => false,
            // It has no range.
            command::FLUSH => return Ok(()),
            command::WRITE | command::TRIM | command::WRITE_ZEROES => true,
            _ => return Err(NbdError::Invalid),
        };
        if writes && self.read_only {
            return Err(NbdError::NotPermitted);
        }
        match request.offset.checked_add(request.len) {
            Some(end) if end <= self.len() => Ok(()),
            _ if writes && request.command != command::TRIM => Err(NbdError::NoSpace),
            _ => Err(NbdError::Invalid),
        }
    }

    /// Fill `buf` from `offset`.
    ///
    /// # Errors
    /// Errors of the image and the overlay.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match &self.content {
            Content::File(file) => file.read_at(buf, offset),
            Content::Text(text) => text.read_at(buf, offset),
        }
    }

    /// As [`ExportedFile::read`].
    ///
    /// # Errors
    /// Errors of the image and the overlay.
    pub fn read<'a>(
        &self,
        offset: u64,
        len: usize,
        buffer: &'a mut Vec<u8>,
    ) -> io::Result<Chunk<'a>> {
        match &self.content {
            Content::File(file) => file.read(offset, len as u64, buffer),
            Content::Text(text) => {
                buffer.resize(len, 0);
                text.read_at(buffer, offset)?;
                Ok(Chunk::Buffer(buffer))
            }
        }
    }

    /// Write `data` at `offset`.
    ///
    /// # Errors
    /// Errors of the overlay; `EROFS` for what is read-only; `StorageFull` beyond the server's limit.
    pub fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        match &self.content {
            Content::File(file) => {
                let counted = self.state.count_write(offset, data.len() as u64);
                self.state.note(counted.and_then(|()| file.write_at(data, offset)))
            }
            Content::Text(_) => Err(io::Error::from_raw_os_error(libc::EROFS)),
        }
    }

    /// Discard the range of a trim, or zero that of a write of zeros.
    ///
    /// # Errors
    /// As [`Target::write_at`].
    pub fn zero(&self, request: &Request) -> io::Result<()> {
        let Content::File(file) = &self.content else {
            return Err(io::Error::from_raw_os_error(libc::EROFS));
        };
        let Request { offset, len, .. } = *request;
        if request.command == command::TRIM || !request.has(flag::NO_HOLE) {
            let counted = self.state.count_hole();
            return self.state.note(counted.and_then(|()| file.zero(offset, len)));
        }
        let mut done = 0;
        while done < len {
            if self.state.is_ending() {
                return Err(io::Error::from_raw_os_error(libc::ESHUTDOWN));
            }
            let n = (len - done).min(ZEROS.len() as u64);
            self.write_at(&ZEROS[..n as usize], offset + done)?;
            done += n;
        }
        Ok(())
    }

    /// Bring all acknowledged writes to stable storage.
    ///
    /// # Errors
    /// Errors of the overlay.
    pub fn flush(&self) -> io::Result<()> {
        match &self.content {
            Content::File(file) => self.state.note(file.flush()),
            Content::Text(_) => Ok(()),
        }
    }

    /// The data or the hole at `offset`, up to `end` at most.
    ///
    /// # Errors
    /// Errors of the image and the overlay.
    pub fn extent_within(&self, offset: u64, end: u64) -> io::Result<Extent> {
        match &self.content {
            Content::File(file) => file.extent_within(offset, end),
            Content::Text(_) => Ok(Extent { data: true, end }),
        }
    }
}

//! The files that the examining side has open for the planner.

use super::question::{MAX_OPEN, OpenedFile};
use super::wire::MAX_FRAME;
use crate::fs::{GuestFile, GuestFs, Stat};
use crate::layout::Ids;
use crate::loader::linux::HEAD_BYTES;
use crate::{Error, ErrorKind, Result};

/// Bytes at the start of a file that its identity includes: with a kernel, those that say what it
/// is.
const IDENTITY_BYTES: u64 = HEAD_BYTES as u64;

enum OpenFile<'a> {
    Guest(Box<dyn GuestFile + 'a>),
    Made(Vec<u8>),
}

/// Files by number.
pub(in crate::plan) struct OpenFiles<'a>(Vec<OpenFile<'a>>);

impl<'a> OpenFiles<'a> {
    pub(super) fn new() -> Self {
        Self(Vec::new())
    }

    fn add(&mut self, file: OpenFile<'a>) -> Result<u32> {
        if self.0.len() >= MAX_OPEN {
            return Err(Error::new(ErrorKind::TooLarge, "too many files of the guest are open"));
        }
        self.0.push(file);
        Ok(self.0.len() as u32 - 1)
    }

    /// Opens the regular file at `path`.
    ///
    /// # Errors
    /// Those of opening and reading it.
    pub(super) fn open(&mut self, fs: &'a dyn GuestFs, path: &str) -> Result<OpenedFile> {
        let mut file = fs.open(path)?;
        let len = file.len();
        let identity = identity(&fs.stat(path)?, &mut *file)?;
        Ok(OpenedFile { file: self.add(OpenFile::Guest(file))?, len, identity })
    }

    /// Keeps bytes that are not a file of the guest.
    ///
    /// # Errors
    /// `TooLarge` when too many files are open.
    pub(in crate::plan) fn made(&mut self, bytes: Vec<u8>) -> Result<u32> {
        self.add(OpenFile::Made(bytes))
    }

    /// Whether `file` is a file of the guest.
    pub(super) fn is_guests(&self, file: u32) -> bool {
        matches!(self.0.get(file as usize), Some(OpenFile::Guest(_)))
    }

    /// `len` bytes at `offset` of a file.
    ///
    /// # Errors
    /// `Corrupt` if the file is shorter; errors from reading it.
    pub(super) fn read(&mut self, file: u32, offset: u64, len: u32) -> Result<Vec<u8>> {
        let len = len as usize;
        if len > MAX_FRAME {
            return Err(Error::new(ErrorKind::TooLarge, "more bytes than fit into an answer"));
        }
        let unknown = || Error::new(ErrorKind::NotFound, "no such file is open");
        match self.0.get_mut(file as usize).ok_or_else(unknown)? {
            OpenFile::Guest(file) => read_exact(&mut **file, offset, len),
            OpenFile::Made(bytes) => {
                let start = usize::try_from(offset).ok();
                let range = start.and_then(|start| Some(start..start.checked_add(len)?));
                let there = range.and_then(|range| bytes.get(range));
                there.map(<[u8]>::to_vec).ok_or_else(too_short)
            }
        }
    }
}

/// Distinguishes this state of a file from others: its time, and its first bytes.
///
/// # Errors
/// Errors from reading it.
pub(in crate::plan) fn identity(stat: &Stat, file: &mut dyn GuestFile) -> Result<[u8; 16]> {
    let len = file.len().min(IDENTITY_BYTES) as usize;
    let head = read_exact(file, 0, len)?;
    let times = [stat.mtime_secs.to_le_bytes(), i64::from(stat.mtime_nanos).to_le_bytes()];
    let parts = [&times[0][..], &times[1], &stat.revision.to_le_bytes(), &head];
    Ok(*Ids::fingerprint(&parts).as_bytes())
}

/// `len` bytes at `offset`.
///
/// # Errors
/// `Corrupt` if the file is shorter; errors from reading it.
pub(in crate::plan) fn read_exact(
    file: &mut dyn GuestFile,
    offset: u64,
    len: usize,
) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut done = 0;
    while done < len {
        match file.read_at(&mut bytes[done..], offset + done as u64)? {
            0 => return Err(too_short()),
            n => done += n,
        }
    }
    Ok(bytes)
}

fn too_short() -> Error {
    Error::new(ErrorKind::Corrupt, "a file in the guest ends too early")
}

//! A file as it is after changes that are only in memory.

use crate::image::stored_file::StoredFile;
use std::fmt;
use std::io;

/// Length of a change's data, in bytes.
pub(super) const PAGE: usize = 4096;

/// A change. Offsets and lengths in bytes of the file.
pub(super) enum Change {
    Zeros { at: u64, len: u64 },
    Data { at: u64, bytes: Box<[u8; PAGE]> },
}

impl Change {
    /// First byte that it changes, and the first after it.
    fn range(&self) -> (u64, u64) {
        match self {
            Self::Zeros { at, len } => (*at, at.saturating_add(*len)),
            Self::Data { at, .. } => (*at, at.saturating_add(PAGE as u64)),
        }
    }
}

/// A file and changes to it, in the order in which they are to be made.
pub(super) struct Patched {
    file: [StoredFile; 1],
    changes: Vec<Change>,
}

impl fmt::Debug for Patched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Patched").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Patched {
    pub(super) fn new(file: StoredFile, changes: Vec<Change>) -> Self {
        Self { file: [file], changes }
    }

    /// The file, without the changes.
    pub(super) fn file(&self) -> &StoredFile {
        &self.file[0]
    }

    pub(super) fn files(&self) -> &[StoredFile] {
        &self.file
    }

    /// Fill `buf` from `offset` of the changed file. What only a change may have added to the end of
    /// the file is zero.
    ///
    /// # Errors
    /// Errors of the file; `UnexpectedEof` past its end.
    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file().read(buf, offset)?;
        let end = offset + buf.len() as u64;
        for change in &self.changes {
            let (from, to) = change.range();
            let (first, last) = (from.max(offset), to.min(end));
            if first >= last {
                continue;
            }
            let part = &mut buf[(first - offset) as usize..(last - offset) as usize];
            match change {
                Change::Zeros { .. } => part.fill(0),
                Change::Data { at, bytes } => {
                    part.copy_from_slice(&bytes[(first - at) as usize..(last - at) as usize]);
                }
            }
        }
        Ok(())
    }

    /// Whether a change concerns the bytes from `start` to `end`.
    pub(super) fn is_changed(&self, start: u64, end: u64) -> bool {
        self.changes.iter().map(Change::range).any(|(from, to)| from < end && start < to)
    }
}

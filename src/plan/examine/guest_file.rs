//! The guest's files as a loader reads them: through the process that examines the guest.

use super::examiner::Examiner;
use super::question::{FoundFile, FsQuestion, OpenedFile, SourceId};
use crate::bytes::ReadAt;
use crate::{Error, ErrorKind, Result};
use lru::LruCache;
use parking_lot::Mutex;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;

/// Bytes per read from the guest's file.
const BLOCK: u64 = 128 << 10;
/// Number of blocks kept: 1 MiB. A loader reads smaller pieces, one after the other.
const CACHED_BLOCKS: NonZeroUsize = NonZeroUsize::new(8).unwrap();

/// A file of the guest, as the source of a region.
pub(in crate::plan) struct ThroughFile {
    examiner: Examiner,
    source: SourceId,
    path: String,
    len: u64,
    identity: [u8; 16],
    /// The process in which it is open, and its number there.
    open: Mutex<Option<(u64, u32)>>,
    blocks: Mutex<LruCache<u64, Arc<Vec<u8>>>>,
}

impl ThroughFile {
    pub(in crate::plan) fn new(
        examiner: &Examiner,
        file: &FoundFile,
        source: SourceId,
        path: &str,
    ) -> Self {
        Self {
            examiner: examiner.clone(),
            source,
            path: path.to_owned(),
            len: file.len,
            identity: file.identity,
            open: Mutex::new(None),
            blocks: Mutex::new(LruCache::new(CACHED_BLOCKS)),
        }
    }

    fn block(&self, number: u64) -> io::Result<Arc<Vec<u8>>> {
        if let Some(block) = self.blocks.lock().get(&number) {
            return Ok(Arc::clone(block));
        }
        let offset = number * BLOCK;
        let len = BLOCK.min(self.len - offset) as u32;
        let block = Arc::new(self.read(offset, len).map_err(io::Error::other)?);
        self.blocks.lock().put(number, Arc::clone(&block));
        Ok(block)
    }

    fn read(&self, offset: u64, len: u32) -> Result<Vec<u8>> {
        let mut open = self.open.lock();
        // Once with a process that may have ended meanwhile, once with a new one.
        for _ in 0..2 {
            let (process, file) = match *open {
                Some(open) => open,
                None => *open.insert(self.open()?),
            };
            match self.examiner.read(process, file, offset, len)? {
                Some(bytes) => return Ok(bytes),
                None => *open = None,
            }
        }
        let what = format!("cannot read {} in the guest: what reads it ends early", self.path);
        Err(Error::new(ErrorKind::Io, what))
    }

    /// Opens the file, which must be the one that was planned.
    fn open(&self) -> Result<(u64, u32)> {
        let question = FsQuestion::Open(self.path.clone());
        let (opened, process): (OpenedFile, u64) = self.examiner.reopen(self.source, question)?;
        if (opened.len, opened.identity) != (self.len, self.identity) {
            let what = format!("{} in the guest has changed; read it again", self.path);
            return Err(Error::new(ErrorKind::Corrupt, what));
        }
        Ok((process, opened.file))
    }
}

impl ReadAt for ThroughFile {
    fn read_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            if offset >= self.len {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let block = self.block(offset / BLOCK)?;
            let within = (offset % BLOCK) as usize;
            let block = block.as_slice();
            let n = block.len().saturating_sub(within).min(buf.len());
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buf[..n].copy_from_slice(&block[within..within + n]);
            buf = &mut buf[n..];
            offset += n as u64;
        }
        Ok(())
    }

    fn len(&self) -> u64 {
        self.len
    }
}

//! A guest's filesystem whose metadata another process reads: only names, times and the contents of
//! files come here.

use super::check::{check_mount, clean};
use super::examiner::Examiner;
use super::question::{FsFacts, FsQuestion, OpenedFile, SourceId};
use crate::fs::{Budget, GuestFile, GuestFs, KernelMount, Node, Stat};
use crate::{Error, ErrorKind, Result};

/// Most bytes that are asked for at once.
const MAX_READ: usize = 1 << 20;

/// The filesystem in one partition of a plan.
pub(in crate::plan) struct RemoteFs {
    examiner: Examiner,
    source: SourceId,
    kernel_mount: Option<KernelMount>,
    caveat: Option<String>,
    budget: Budget,
}

impl RemoteFs {
    /// Opens the filesystem in `source`.
    ///
    /// # Errors
    /// Those of opening it; if the guest could not be examined.
    pub(in crate::plan) fn open(examiner: &Examiner, source: SourceId) -> Result<Self> {
        let facts: FsFacts = examiner.about_fs(source, FsQuestion::Facts)?;
        Ok(Self {
            examiner: examiner.clone(),
            source,
            kernel_mount: check_mount(facts.kernel_mount)?,
            caveat: facts.caveat.as_deref().map(clean),
            budget: Budget::new(),
        })
    }
}

impl GuestFs for RemoteFs {
    fn read(&self, path: &str, limit: usize) -> Result<Vec<u8>> {
        self.examiner.read_whole(self.source, path, limit)
    }

    fn node(&self, path: &str, searched: u64) -> Result<Node> {
        let question = FsQuestion::Node { path: path.to_owned(), searched };
        self.examiner.about_fs(self.source, question)
    }

    fn stat(&self, path: &str) -> Result<Stat> {
        self.examiner.about_fs(self.source, FsQuestion::Stat(path.to_owned()))
    }

    fn lstat(&self, path: &str) -> Result<Stat> {
        self.examiner.about_fs(self.source, FsQuestion::Lstat(path.to_owned()))
    }

    fn read_dir(&self, path: &str) -> Result<Vec<String>> {
        let names: Vec<String> =
            self.examiner.about_fs(self.source, FsQuestion::ReadDir(path.to_owned()))?;
        // A name with a slash would lead elsewhere when it is appended to a path.
        let is_name =
            |name: &String| !name.is_empty() && !name.contains(['/', '\0']) && name != "..";
        Ok(names.into_iter().filter(is_name).collect())
    }

    fn canonicalize(&self, path: &str) -> Result<String> {
        let question = FsQuestion::Canonicalize(path.to_owned());
        let path: String = self.examiner.about_fs(self.source, question)?;
        let canonical = path.starts_with('/') && !path.split('/').any(|part| part == "..");
        let wrong = || Error::new(ErrorKind::Corrupt, "a path in the guest that is not canonical");
        canonical.then_some(path).ok_or_else(wrong)
    }

    fn read_link(&self, path: &str) -> Result<String> {
        self.examiner.about_fs(self.source, FsQuestion::ReadLink(path.to_owned()))
    }

    fn budget(&self) -> &Budget {
        &self.budget
    }

    fn open(&self, path: &str) -> Result<Box<dyn GuestFile + '_>> {
        let question = FsQuestion::Open(path.to_owned());
        let opened: OpenedFile = self.examiner.about_fs(self.source, question)?;
        Ok(Box::new(RemoteFile { fs: self, opened, process: self.examiner.number() }))
    }

    fn kernel_mount(&self) -> Option<KernelMount> {
        self.kernel_mount.clone()
    }

    fn caveat(&self) -> Option<String> {
        self.caveat.clone()
    }
}

struct RemoteFile<'a> {
    fs: &'a RemoteFs,
    opened: OpenedFile,
    process: u64,
}

impl GuestFile for RemoteFile<'_> {
    fn len(&self) -> u64 {
        self.opened.len
    }

    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let left = self.opened.len.saturating_sub(offset);
        let total = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
        let mut offset = offset;
        for piece in buf[..total].chunks_mut(MAX_READ) {
            let (examiner, len) = (&self.fs.examiner, piece.len() as u32);
            let bytes = examiner.read(self.process, self.opened.file, offset, len)?;
            let ended = || Error::new(ErrorKind::Io, "what reads the guest's files has ended");
            piece.copy_from_slice(&bytes.ok_or_else(ended)?);
            offset += u64::from(len);
        }
        Ok(total)
    }
}

//! An in-memory [`GuestFs`], for tests of parsers and of boot entry selection.

use std::collections::BTreeMap;

use super::budget::{Budget, Cost};
use super::guest_fs::{FileKind, GuestFile, GuestFs, Node, Stat, not_a, resolve_to};
use crate::{Error, ErrorKind, Result};

enum Item {
    Dir,
    File(Vec<u8>),
    Symlink(String),
}

/// An in-memory filesystem. Adding a file adds its parent directories.
#[derive(Default)]
pub struct MemFs {
    items: BTreeMap<String, Item>,
    budget: Budget,
}

impl MemFs {
    /// An empty filesystem: only `/`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a regular file at an absolute path.
    #[must_use]
    pub fn file(mut self, path: &str, data: impl Into<Vec<u8>>) -> Self {
        self.add(path, Item::File(data.into()));
        self
    }

    /// Adds a symlink at an absolute path.
    #[must_use]
    pub fn symlink(mut self, path: &str, target: &str) -> Self {
        self.add(path, Item::Symlink(target.to_owned()));
        self
    }

    /// Removes the file or directory at an absolute path, if any.
    #[must_use]
    pub fn without(mut self, path: &str) -> Self {
        self.items.remove(path);
        self
    }

    fn add(&mut self, path: &str, item: Item) {
        for (at, _) in path.match_indices('/').skip(1) {
            self.items.entry(path[..at].to_owned()).or_insert(Item::Dir);
        }
        self.items.insert(path.to_owned(), item);
    }
}

struct MemFile<'a>(&'a [u8]);

impl GuestFile for MemFile<'_> {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        let n = buf.len().min(self.0.len() - start);
        buf[..n].copy_from_slice(&self.0[start..start + n]);
        Ok(n)
    }
}

impl GuestFs for MemFs {
    fn node(&self, path: &str, _searched: u64) -> Result<Node> {
        let stat = |kind, len: usize| Stat {
            kind,
            len: len as u64,
            mtime_secs: 0,
            mtime_nanos: 0,
            revision: 0,
        };
        if path == "/" {
            return Ok(Node { stat: stat(FileKind::Dir, 0), target: None });
        }
        match self.items.get(path) {
            None => Err(Error::new(ErrorKind::NotFound, format!("{path} does not exist"))),
            Some(Item::Dir) => Ok(Node { stat: stat(FileKind::Dir, 0), target: None }),
            Some(Item::File(d)) => Ok(Node { stat: stat(FileKind::File, d.len()), target: None }),
            Some(Item::Symlink(t)) => {
                Ok(Node { stat: stat(FileKind::Symlink, t.len()), target: Some(t.clone()) })
            }
        }
    }

    fn read_dir(&self, path: &str) -> Result<Vec<String>> {
        let (full, _) = resolve_to(self, path, FileKind::Dir)?;
        let prefix = if full == "/" { full } else { full + "/" };
        let names = self.items.keys().filter_map(|k| k.strip_prefix(&prefix));
        let names: Vec<_> = names.filter(|n| !n.contains('/')).map(str::to_owned).collect();
        self.budget.charge_for(path, Cost::Names, names.len() as u64)?;
        Ok(names)
    }

    fn budget(&self) -> &Budget {
        &self.budget
    }

    fn open(&self, path: &str) -> Result<Box<dyn GuestFile + '_>> {
        match self.items.get(&resolve_to(self, path, FileKind::File)?.0) {
            Some(Item::File(data)) => Ok(Box::new(MemFile(data))),
            _ => Err(not_a(path, "regular file")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_resolve_as_path_resolution_7_says() {
        let fs = MemFs::new()
            .file("/boot/vmlinuz-1", "k")
            .symlink("/vmlinuz", "boot/vmlinuz-1")
            .symlink("/boot/boot", ".")
            .symlink("/abs", "/boot/../boot/")
            .symlink("/up", "../../../../boot/vmlinuz-1")
            .symlink("/dangling", "nowhere")
            .symlink("/a", "b")
            .symlink("/b", "/a");
        for (path, want) in [
            ("/vmlinuz", Ok("/boot/vmlinuz-1")),
            ("//boot/./boot/boot/vmlinuz-1", Ok("/boot/vmlinuz-1")),
            ("/abs/vmlinuz-1", Ok("/boot/vmlinuz-1")),
            ("/up", Ok("/boot/vmlinuz-1")),
            ("/abs", Ok("/boot")),
            ("/", Ok("/")),
            ("/..", Ok("/")),
            ("/dangling", Err(ErrorKind::NotFound)),
            ("/vmlinuz/x", Err(ErrorKind::NotFound)),
            ("/vmlinuz/", Err(ErrorKind::NotFound)),
            ("/a", Err(ErrorKind::Invalid)),
            ("boot", Err(ErrorKind::Invalid)),
        ] {
            let got = fs.canonicalize(path);
            assert_eq!(got.as_deref().map_err(Error::kind), want, "{path}");
        }
        assert_eq!(fs.read_link("/boot/../vmlinuz").unwrap(), "boot/vmlinuz-1");
        assert_eq!(fs.read_link("/boot/vmlinuz-1").unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(fs.lstat("/a").unwrap().kind, FileKind::Symlink);
        assert_eq!(fs.read_dir("/boot").unwrap(), ["boot", "vmlinuz-1"]);
        assert_eq!(fs.read("/vmlinuz", 1).unwrap(), b"k");
        assert_eq!(fs.read("/vmlinuz", 0).unwrap_err().kind(), ErrorKind::TooLarge);
    }
}

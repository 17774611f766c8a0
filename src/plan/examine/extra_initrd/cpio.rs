//! Writes a cpio archive in newc format, deterministically.
//!
//! Source: kernel Documentation/driver-api/early-userspace/buffer-format.rst.

use crate::{Error, ErrorKind, Result};

/// A new archive.
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// A directory. A symlink of the same name in a later initrd replaces it, and it would replace
    /// one in an earlier initrd. Only names that no other initrd uses are safe.
    pub(super) fn dir(&mut self, path: &str) -> Result<()> {
        self.entry(path, 0o040_755, 2, &[])
    }

    /// A regular file, in an existing directory.
    pub(super) fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.entry(path, 0o100_000 | mode, 1, bytes)
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Result<Vec<u8>> {
        self.entries = 0;
        self.entry("TRAILER!!!", 0, 1, &[])?;
        Ok(self.bytes)
    }

    fn entry(&mut self, path: &str, mode: u32, links: u32, bytes: &[u8]) -> Result<()> {
        let too_large = || Error::new(ErrorKind::TooLarge, "a file too large for an initrd");
        let len = u32::try_from(bytes.len()).map_err(|_| too_large())?;
        let name_len = u32::try_from(path.len() + 1).map_err(|_| too_large())?;
        let inode = self.entries;
        self.entries += 1;
        // inode, mode, uid, gid, links, mtime, length, device, device number, name length, checksum
        let numbers = [inode, mode, 0, 0, links, 0, len, 0, 0, 0, 0, name_len, 0];
        self.bytes.extend(b"070701");
        for number in numbers {
            self.bytes.extend(format!("{number:08x}").into_bytes());
        }
        self.bytes.extend(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(bytes);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Budget;
    use crate::initrd::{Compression, Initrd, InitrdEntry, Whole};

    #[test]
    fn what_is_written_is_read() {
        let mut archive = Archive::default();
        archive.dir("d").unwrap();
        archive.file("d/one", 0o755, b"12345").unwrap();
        archive.file("d/none", 0o644, b"").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let found = Initrd::read(&mut Whole(bytes), &Budget::new()).unwrap();
        assert_eq!(found.problem, None);
        assert!(found.complete);
        let entries: Vec<_> = found.entries.into_iter().collect();
        let entry = |path: &str, entry| (path.to_owned(), entry);
        assert_eq!(
            entries,
            [
                entry("d", InitrdEntry::Dir),
                entry("d/none", InitrdEntry::File(0)),
                entry("d/one", InitrdEntry::File(5))
            ]
        );
        assert_eq!(found.segments[0].compression, Compression::None);
    }
}

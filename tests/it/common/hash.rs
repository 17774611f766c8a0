//! Proof that an image was not changed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use nix::unistd::{Whence, lseek64};
use sha2::{Digest, Sha256};

/// The SHA-256 of a file or block device, in hexadecimal.
pub fn sha256(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    let file = File::open(path).unwrap_or_else(|e| panic!("open {}: {e}", path.display()));
    sha256_of(&file)
}

/// The SHA-256 of what is left to read of an open file.
pub fn sha256_of(mut file: &File) -> String {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).unwrap_or_else(|e| panic!("read: {e}")) {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// What identifies the content of a file as the kernel last changed it: device, inode, length, and
/// the times of the last change of data and of status.
type Version = (u64, u64, u64, SystemTime, (i64, i64));

/// Digests of images that several tests use, so that each is read once.
static KNOWN: Mutex<BTreeMap<Version, String>> = Mutex::new(BTreeMap::new());

/// A file's state, to be compared later: the first promise is that an image stays untouched.
pub struct Untouched {
    path: PathBuf,
    digest: String,
    modified: SystemTime,
    len: u64,
}

impl Untouched {
    /// Remembers the state of `path` as it is now.
    pub fn remember(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_path_buf();
        let meta = fs::metadata(&path).unwrap_or_else(|e| panic!("stat {}: {e}", path.display()));
        let modified = meta.modified().expect("Linux has modification times");
        let changed = (meta.ctime(), meta.ctime_nsec());
        let version = (meta.dev(), meta.ino(), meta.len(), modified, changed);
        let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner).get(&version).cloned();
        // A block device's times say nothing about its bytes.
        let known = known.filter(|_| meta.is_file());
        let digest = known.unwrap_or_else(|| {
            let digest = digest(&path);
            KNOWN.lock().unwrap_or_else(PoisonError::into_inner).insert(version, digest.clone());
            digest
        });
        Self { digest, modified, len: meta.len(), path }
    }

    /// Panics if the file's bytes, length or modification time are not what they were. The bytes
    /// are always read: a time can be set back.
    pub fn check(&self) {
        let path = self.path.display();
        let meta = fs::metadata(&self.path).unwrap_or_else(|e| panic!("stat {path}: {e}"));
        assert_eq!(meta.len(), self.len, "the length of {path} changed");
        assert_eq!(digest(&self.path), self.digest, "the bytes of {path} changed");
        let modified = meta.modified().expect("Linux has modification times");
        assert_eq!(modified, self.modified, "the modification time of {path} changed");
    }
}

/// A digest of the blocks that are not all zeros and of their places: holes are not read, and a
/// hole that was filled with zeros is no difference.
fn digest(path: &Path) -> String {
    const BLOCK: usize = 64 << 10;
    let file = File::open(path).unwrap_or_else(|e| panic!("open {}: {e}", path.display()));
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BLOCK];
    let mut at = 0;
    loop {
        // A block device has no holes, and says so with an error.
        match lseek64(&file, at as i64, Whence::SeekData) {
            Ok(data) => at = data as u64 / BLOCK as u64 * BLOCK as u64,
            Err(nix::Error::ENXIO) => break,
            Err(_) => {}
        }
        let n = read_up_to(&file, &mut buffer, at);
        if n == 0 {
            break;
        }
        if buffer[..n].iter().any(|b| *b != 0) {
            hash.update(at.to_le_bytes());
            hash.update(&buffer[..n]);
        }
        at += BLOCK as u64;
    }
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// Fills `buffer` from `offset` on, as far as the file goes; gives how many bytes that were.
fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> usize {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) => panic!("read at {offset}: {e}"),
        }
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_and_a_filled_hole_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let file = File::create(&path).unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(b"root", 300_000).unwrap();
        let before = digest(&path);
        file.write_all_at(&[0; 4096], 700_000).unwrap();
        assert_eq!(digest(&path), before);
        file.write_all_at(b"r", 299_999).unwrap();
        assert_ne!(digest(&path), before);
        // The same bytes elsewhere are a change too.
        file.write_all_at(b"\0root", 299_999).unwrap();
        assert_eq!(digest(&path), before);
        file.write_all_at(&[0; 4], 300_000).unwrap();
        file.write_all_at(b"root", 300_000 + (64 << 10)).unwrap();
        assert_ne!(digest(&path), before);
    }

    #[test]
    #[should_panic(expected = "the bytes of")]
    fn a_write_whose_time_was_set_back_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        fs::write(&path, [1; 9000]).unwrap();
        let untouched = Untouched::remember(&path);
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[2], 5000).unwrap();
        file.set_modified(untouched.modified).unwrap();
        untouched.check();
    }
}

//! Proof that an image was not changed.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

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

/// A file's state, to be compared later: the first promise is that an image stays untouched.
pub struct Untouched {
    path: PathBuf,
    sha256: String,
    modified: SystemTime,
    len: u64,
}

impl Untouched {
    /// Remembers the state of `path` as it is now.
    pub fn remember(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_path_buf();
        let meta = fs::metadata(&path).unwrap_or_else(|e| panic!("stat {}: {e}", path.display()));
        Self {
            sha256: sha256(&path),
            modified: meta.modified().expect("Linux has modification times"),
            len: meta.len(),
            path,
        }
    }

    /// Panics if the file's bytes, length or modification time are not what they were.
    pub fn check(&self) {
        let path = self.path.display();
        let meta = fs::metadata(&self.path).unwrap_or_else(|e| panic!("stat {path}: {e}"));
        assert_eq!(meta.len(), self.len, "the length of {path} changed");
        assert_eq!(sha256(&self.path), self.sha256, "the bytes of {path} changed");
        let modified = meta.modified().expect("Linux has modification times");
        assert_eq!(modified, self.modified, "the modification time of {path} changed");
    }
}

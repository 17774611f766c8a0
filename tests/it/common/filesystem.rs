//! Filesystems in files, for tests that depend on the kind of filesystem. They need root.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::process::{command, have, is_root, run, skip};

/// A mounted filesystem, gone when dropped.
pub struct Filesystem {
    home: TempDir,
    mounted: bool,
}

impl Filesystem {
    /// A new filesystem of `kind` (`xfs`, `btrfs`, `ext4`) and `len` bytes; `None`, with a message
    /// on standard error, where this host cannot have one.
    pub fn new(kind: &str, len: u64) -> Option<Self> {
        let mkfs = format!("mkfs.{kind}");
        let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let loaded = || known.lines().any(|l| l.split_whitespace().last() == Some(kind));
        let module = || command("modprobe").arg(kind).output().is_ok_and(|o| o.status.success());
        let why = if !is_root() {
            "this needs root"
        } else if !have(&mkfs) {
            "mkfs is not installed"
        } else if !loaded() && !module() {
            "the kernel does not know it"
        } else {
            return Some(Self::make(&mkfs, kind, len));
        };
        skip(&format!("{kind}: {why}"));
        None
    }

    /// A filesystem in memory.
    pub fn tmpfs(len: u64) -> Option<Self> {
        if !is_root() {
            skip("tmpfs: this needs root");
            return None;
        }
        let mut this = Self::empty();
        let size = format!("size={len}");
        run("mount", &["-t", "tmpfs", "-o", &size, "none", &this.path("").to_string_lossy()]);
        this.mounted = true;
        Some(this)
    }

    fn empty() -> Self {
        let home = TempDir::with_prefix("synthdisk-fs-").expect("a temporary directory");
        std::fs::create_dir(home.path().join("mnt")).expect("mkdir in our own directory");
        Self { home, mounted: false }
    }

    fn make(mkfs: &str, kind: &str, len: u64) -> Self {
        let mut this = Self::empty();
        let image = this.home.path().join("image");
        let file = std::fs::File::create(&image).expect("a file in our own directory");
        file.set_len(len).expect("a sparse file");
        let quiet = if kind == "btrfs" || kind == "xfs" || kind == "ext4" { "-q" } else { "--" };
        let image = image.to_string_lossy();
        run(mkfs, &[quiet, &image]);
        run("mount", &["-t", kind, "-o", "loop", &image, &this.path("").to_string_lossy()]);
        this.mounted = true;
        this
    }

    /// A file in it; its root for an empty name.
    pub fn path(&self, name: &str) -> PathBuf {
        let root = self.home.path().join("mnt");
        if name.is_empty() { root } else { root.join(name) }
    }

    /// The bytes that are used in it, once all is on storage.
    pub fn used(&self) -> u64 {
        run("sync", &["-f".as_ref(), self.path("").as_os_str()]);
        used(&self.path(""))
    }
}

/// The bytes that are used in the filesystem of `path`.
fn used(path: &Path) -> u64 {
    let about = nix::sys::statvfs::statvfs(path).expect("it is mounted");
    (about.blocks() - about.blocks_free()) * about.fragment_size()
}

impl Drop for Filesystem {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily: a failed test may have left something open.
            let _ = command("umount").arg("-l").arg(self.path("")).output();
        }
    }
}

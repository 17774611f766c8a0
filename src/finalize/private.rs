//! A mount that only this process uses, and only for a while: for programs that want a file.

use super::sweep::Sweeper;
use super::unique::unique;
use crate::fuse::{FileSpec, Status, serve_during};
use crate::{Error, Result};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Show `files` in a new directory that only this user can enter, for as long as `work` takes.
/// Mount and directory are gone afterwards, also when this process is killed.
///
/// # Errors
/// Those of mounting, and those of `work`.
pub fn with_mount<T>(files: Vec<FileSpec>, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let dir = new_dir();
    let _sweeper = Sweeper::of_mount(&dir)?;
    DirBuilder::new()
        .mode(0o700)
        .create(&dir)
        .map_err(|e| Error::io(format!("cannot make the directory {}", dir.display()), e))?;
    let status = Status {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        images: Vec::new(),
        overlays: Vec::new(),
        read_only: false,
        disks: Vec::new(),
        bus: None,
        nic: None,
    };
    let mut result = None;
    serve_during(files, &status, "synthdisk finalize", &dir, || {
        result = Some(work(&dir)?);
        Ok(())
    })?;
    result.ok_or_else(|| Error::new(crate::ErrorKind::Io, "the private mount did no work"))
}

/// A name that nobody has, where short-lived things of this user belong.
fn new_dir() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let parent =
        runtime.filter(|dir| dir.is_absolute() && dir.is_dir()).unwrap_or_else(|| "/tmp".into());
    let parent = parent.canonicalize().unwrap_or(parent);
    parent.join(format!("synthdisk-finalize-{}-{:016x}", std::process::id(), unique()))
}

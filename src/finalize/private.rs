//! A mount that only this process uses, and only for a while: for programs that want a file.

use crate::fuse::{FileSpec, Status, serve_during};
use crate::process::{Sweeper, make_private_dir, private_dir_name};
use crate::{Error, Result};
use std::path::Path;

/// Show `files` in a new directory that only this user can enter, for as long as `work` takes.
/// Mount and directory are gone afterwards, also when this process is killed.
///
/// # Errors
/// Those of mounting, and those of `work`.
pub fn with_mount<T>(files: Vec<FileSpec>, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let dir = private_dir_name("finalize");
    let _sweeper = Sweeper::start(Some(&dir), None)?;
    make_private_dir(&dir)?;
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

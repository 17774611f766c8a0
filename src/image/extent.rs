//! The holes of files.

use crate::bytes::Extent;
use nix::unistd::{Whence, lseek64};
use std::fs::File;
use std::io;

/// The extent that contains `offset` of `file`, which is `len` bytes long. If the filesystem does
/// not report holes, or the file is a block device, everything is data.
///
/// # Errors
/// Errors of the system call.
pub fn extent_of(file: &File, len: u64, offset: u64) -> io::Result<Extent> {
    let seek = |whence| match lseek64(file, offset as i64, whence) {
        Ok(at) => Ok(Some((at as u64).min(len))),
        // ENXIO: no data (or no hole) up to the end of the file.
        Err(nix::Error::ENXIO) => Ok(None),
        // A block device or an old filesystem does not report holes: it is all data.
        Err(nix::Error::EINVAL | nix::Error::EOPNOTSUPP) => Err(None),
        Err(e) => Err(Some(io::Error::from(e))),
    };
    let all_data = Extent { data: true, end: len };
    let answer = match seek(Whence::SeekData) {
        Ok(None) => return Ok(Extent { data: false, end: len }),
        Ok(Some(at)) if at > offset => return Ok(Extent { data: false, end: at }),
        Ok(Some(_)) => seek(Whence::SeekHole),
        Err(e) => Err(e),
    };
    match answer {
        Ok(Some(hole)) => Ok(Extent { data: true, end: hole }),
        Ok(None) | Err(None) => Ok(all_data),
        Err(Some(e)) => Err(e),
    }
}

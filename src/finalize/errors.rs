//! Errors of reading, writing and waiting in this room.

use crate::layout::format_size;
use crate::process::Stop;
use crate::{Error, ErrorKind, Result};
use std::io;

/// The error of a raised `stop`.
pub(super) fn check_stop(stop: &Stop) -> Result<()> {
    if stop.signal().is_some() { Err(stop.error()) } else { Ok(()) }
}

pub(super) fn cannot_read(e: io::Error) -> Error {
    Error::io("cannot read the disk", e)
}

pub(super) fn cannot_write(name: &str, e: io::Error) -> Error {
    match e.raw_os_error() {
        Some(libc::ENOSPC) => {
            Error::new(ErrorKind::TooLarge, format!("there is no room left for {name}"))
        }
        Some(libc::EDQUOT) => {
            Error::new(ErrorKind::TooLarge, format!("your quota leaves no room for {name}"))
        }
        // From layers that do not keep the errno.
        None if e.kind() == io::ErrorKind::StorageFull => {
            Error::new(ErrorKind::TooLarge, format!("there is no room left for {name}"))
        }
        None if e.kind() == io::ErrorKind::QuotaExceeded => {
            Error::new(ErrorKind::TooLarge, format!("your quota leaves no room for {name}"))
        }
        _ => Error::io(format!("cannot write {name}"), e),
    }
}

/// The error when writing `names` may take `needed` bytes, but only `available` are left.
pub(super) fn no_room(names: &str, needed: u64, available: u64) -> Error {
    Error::new(
        ErrorKind::TooLarge,
        format!(
            "writing {names} needs up to {}, but only {} are left; free some space, choose another \
             directory, or try anyway with --force",
            format_size(needed),
            format_size(available)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_filesystem_and_a_full_quota_are_told_apart() {
        for (e, kind, text) in [
            (io::Error::from_raw_os_error(libc::ENOSPC), ErrorKind::TooLarge, "no room"),
            (io::Error::from_raw_os_error(libc::EDQUOT), ErrorKind::TooLarge, "your quota"),
            (io::ErrorKind::StorageFull.into(), ErrorKind::TooLarge, "no room"),
            (io::ErrorKind::QuotaExceeded.into(), ErrorKind::TooLarge, "your quota"),
            (io::Error::from_raw_os_error(libc::EIO), ErrorKind::Io, "cannot write x"),
        ] {
            let e = cannot_write("x", e);
            assert!(e.kind() == kind && e.to_string().contains(text), "{e}");
        }
    }
}

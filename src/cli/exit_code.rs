//! Exit codes: 0 done, 1 failed, 2 wrong usage.

use crate::{Error, ErrorKind};

/// The exit code for an error.
pub(super) fn of(error: &Error) -> u8 {
    if error.kind() == ErrorKind::Usage { 2 } else { 1 }
}

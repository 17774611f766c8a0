//! Exit codes: 0 done, 1 failed, 2 wrong usage; for test boots also 3, the host failed.

use crate::{Error, ErrorKind};

/// Which exit codes a command has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Codes {
    /// 0, 1 and 2.
    Usual,
    /// 3 as well, so that whoever started the command knows when to try again.
    TestBoots,
}

/// The exit code for an error.
pub(super) fn of(error: &Error, codes: Codes) -> u8 {
    match (error.kind(), codes) {
        (ErrorKind::Usage, _) => 2,
        (_, Codes::TestBoots) if error.is_of_host() => 3,
        _ => 1,
    }
}

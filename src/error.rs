//! The error type: a kind to match on, a message for the user, and the cause.

use std::error::Error as StdError;
use std::fmt;

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// The class of an error, as far as a caller may handle classes differently.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A system call failed; the cause says how.
    Io,
    /// The input is valid, but this program does not handle its kind.
    Unsupported,
    /// The input violates its own format.
    Corrupt,
    /// A file, disk, partition or program that was named or is needed does not exist.
    NotFound,
    /// Another program uses the resource.
    Busy,
    /// The request does not fit what it is applied to, such as an overlay of other images.
    Invalid,
    /// The command line is wrong by itself: exit code 2.
    Usage,
    /// The result does not fit: too little space, or a limit of a format.
    TooLarge,
    /// The host lacks something or refuses it, whatever the request: memory, KVM, a mount, a program.
    /// The same request may succeed later, or on another host.
    Host,
}

/// An error. `Display` gives one line without a final full stop: what failed, on what, why, and what
/// to do about it where that is known.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error without a deeper cause.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// An error caused by `source`, which is printed after the message and a colon.
    pub fn with_source(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self { kind, message: message.into(), source: Some(source.into()) }
    }

    /// An [`ErrorKind::Io`] error: `what` ("cannot read x") failed with `source`. Without `what`,
    /// the error reads as `source` does.
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::with_source(ErrorKind::Io, what, source)
    }

    /// The class of the error.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The same error, as one of the host.
    #[must_use]
    pub fn of_host(self) -> Self {
        Self { kind: ErrorKind::Host, ..self }
    }

    /// Whether the host is the cause, and not what was requested: its kind says so, or a system call
    /// failed for want of something that all programs share.
    pub fn is_of_host(&self) -> bool {
        let mut cause: Option<&(dyn StdError + 'static)> = Some(self);
        while let Some(error) = cause {
            let host = |e: &Error| e.kind == ErrorKind::Host;
            if error.downcast_ref::<Error>().is_some_and(host) {
                return true;
            }
            let io = error.downcast_ref::<std::io::Error>();
            if io.and_then(std::io::Error::raw_os_error).is_some_and(|e| SHARED.contains(&e)) {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

/// Errors of system calls that lack memory, space, processes or open files.
const SHARED: [i32; 6] =
    [libc::ENOMEM, libc::EAGAIN, libc::ENFILE, libc::EMFILE, libc::ENOSPC, libc::EDQUOT];

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            // The caller adds what failed.
            Some(source) if self.message.is_empty() => source.fmt(f),
            Some(source) => write!(f, "{}: {source}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_follows_the_message() {
        let cause = || std::io::Error::from_raw_os_error(libc::ENOENT);
        assert_eq!(Error::new(ErrorKind::Busy, "in use").to_string(), "in use");
        assert_eq!(
            Error::io("cannot read x", cause()).to_string(),
            format!("cannot read x: {}", cause())
        );
        assert_eq!(Error::io("", cause()).to_string(), cause().to_string());
        let full = || std::io::Error::from_raw_os_error(libc::ENOSPC);
        for (error, host) in [
            (Error::io("cannot read x", cause()), false),
            (Error::new(ErrorKind::Io, "it ended").of_host(), true),
            (Error::io("cannot write x", full()), true),
            (Error::with_source(ErrorKind::Invalid, "no", Error::io("", full())), true),
        ] {
            assert_eq!(error.is_of_host(), host, "{error}");
        }
        let wrapped = Error::with_source(ErrorKind::Busy, "cannot mount", Error::io("", cause()));
        assert_eq!(wrapped.to_string(), format!("cannot mount: {}", cause()));
    }
}

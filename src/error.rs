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
}

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
        let wrapped = Error::with_source(ErrorKind::Busy, "cannot mount", Error::io("", cause()));
        assert_eq!(wrapped.to_string(), format!("cannot mount: {}", cause()));
    }
}

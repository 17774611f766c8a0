//! The one error type: a matchable kind, a sentence for the user, and the cause.

use std::error::Error as StdError;
use std::fmt;

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, as far as a caller may want to act on it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A system call failed.
    Io,
    /// The input is sound but of a kind that is not handled.
    Unsupported,
    /// The input breaks its own format.
    Corrupt,
    /// Something that was looked for is not there.
    NotFound,
    /// The resource is used by somebody else.
    Busy,
    /// The request contradicts what it is applied to.
    Invalid,
    /// The request contradicts itself: the command was used wrongly.
    Usage,
    /// The result would not fit where it must go.
    TooLarge,
}

/// An error whose `Display` is one sentence that says what is wrong and, where possible, what to
/// do about it.
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

    /// An error caused by `source`, which is printed behind the message.
    pub fn with_source(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self { kind, message: message.into(), source: Some(source.into()) }
    }

    /// An [`ErrorKind::Io`] error: `what` was tried and `source` came back.
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::with_source(ErrorKind::Io, what, source)
    }

    /// The matchable kind.
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

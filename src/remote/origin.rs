//! Where the bytes of a remote image come from.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// What is known of an image before any of its bytes.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// Length in bytes.
    pub(super) len: u64,
    /// What distinguishes this content from a later one at the same place, if the server says.
    pub(super) version: Option<Version>,
}

/// What a server says about the content of a file.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) enum Version {
    /// An entity tag, with its quotes and `W/` if it is a weak one.
    Tag(String),
    /// A date in the server's notation.
    Date(String),
}

/// Longest image in bytes: 64 TiB. Memory for each image grows with its length.
const MOST_LEN: u64 = 64 << 40;
/// Longest entity tag or date in bytes.
pub(super) const MOST_VERSION: usize = 1 << 10;

impl Identity {
    /// Refuse what no image has.
    ///
    /// # Errors
    /// `Lasting`, with the reason.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let version = match &self.version {
            Some(Version::Tag(text) | Version::Date(text)) => text.len(),
            None => 0,
        };
        match () {
            () if self.len == 0 => Err(Failure::Lasting("it is empty".into())),
            () if self.len > MOST_LEN => Err(Failure::Lasting(format!(
                "its server says that it has {} bytes; at most {MOST_LEN} are read",
                self.len
            ))),
            () if version > MOST_VERSION => {
                Err(Failure::Lasting("its server sends too long a version".into()))
            }
            () => Ok(()),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Tag(text) | Self::Date(text)) = self;
        f.write_str(text)
    }
}

/// Why bytes were not fetched.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Failure {
    /// It may work when it is tried again: a connection that broke, a server that is busy.
    Passing(String),
    /// It was answered, and it will not get better: access is denied, the server has no ranges.
    Lasting(String),
    /// The image is another one now. Nothing of it may be read any more.
    Changed(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Passing(what) | Self::Lasting(what) | Self::Changed(what)) = self;
        f.write_str(what)
    }
}

/// A server on which an image lies.
pub(super) trait Origin: Send + Sync {
    /// Length and version of the image, now.
    ///
    /// # Errors
    /// When the server cannot be reached in `time`, does not have it, or cannot serve parts of it.
    fn identify(&self, time: Duration) -> Result<Identity, Failure>;

    /// Fill `buf` with the bytes at `offset` of the image that is `identity`, and no other.
    ///
    /// # Errors
    /// When that does not succeed in `time`.
    fn read(
        &self,
        buf: &mut [u8],
        offset: u64,
        identity: &Identity,
        time: Duration,
    ) -> Result<(), Failure>;
}

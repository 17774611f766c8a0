//! Where clients reach an NBD server, and how they write that.

use crate::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The address of an NBD server.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum NbdAddress {
    /// A Unix socket.
    Unix(PathBuf),
}

impl NbdAddress {
    /// The address that `text` names: the path of a Unix socket.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() || text.contains("://") {
            let what = format!("'{text}' is not the path of a socket");
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        Ok(Self::Unix(text.into()))
    }

    /// The URI of the export `name`, as nbdinfo, nbdcopy and QEMU take it.
    ///
    /// Source: doc/uri.md of NetworkBlockDevice/nbd.
    pub fn uri(&self, name: &str) -> String {
        match self {
            Self::Unix(path) => {
                let (name, path) = (escaped(name.as_bytes()), escaped_path(path));
                format!("nbd+unix:///{name}?socket={path}")
            }
        }
    }
}

fn escaped_path(path: &Path) -> String {
    escaped(path.as_os_str().as_bytes())
}

/// `bytes` in a URI: everything but letters, digits and some signs is written in hexadecimal.
fn escaped(bytes: &[u8]) -> String {
    let mut out = String::new();
    for byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(char::from(*byte));
            }
            // Writing to a String cannot fail.
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_name_the_socket_and_the_export() {
        let address = NbdAddress::parse("/run/web 1.sock").unwrap();
        assert_eq!(address.uri(""), "nbd+unix:///?socket=/run/web%201.sock");
        assert_eq!(address.uri("vg-a&b.raw"), "nbd+unix:///vg-a%26b.raw?socket=/run/web%201.sock");
        assert!(NbdAddress::parse("").is_err() && NbdAddress::parse("http://x").is_err());
    }
}

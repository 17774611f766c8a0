//! Where clients reach an NBD server, and how they write that.
//!
//! Source: doc/uri.md of NetworkBlockDevice/nbd.

use crate::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The port that IANA has assigned to NBD.
const PORT: u16 = 10809;

/// The address of an NBD server.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum NbdAddress {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP port.
    Tcp {
        /// A name or an address of this host.
        host: String,
        /// The port; 0 is any that is free.
        port: u16,
    },
}

/// Whether connections are encrypted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Encryption {
    /// By TLS, and clients need certificates.
    Tls,
    /// They are not.
    None,
}

impl NbdAddress {
    /// The address that `text` names: the path of a Unix socket, or `nbd://HOST[:PORT]`. The second
    /// value is what the text demands: `nbds://` is encrypted.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for anything else.
    pub fn parse(text: &str) -> Result<(Self, Encryption)> {
        let invalid = || {
            let what = format!(
                "'{text}' is neither the path of a socket nor nbd://HOST[:PORT] nor \
                 nbds://HOST[:PORT]"
            );
            Error::new(ErrorKind::Invalid, what)
        };
        let (place, encryption) = match text.split_once("://") {
            None if text.is_empty() => return Err(invalid()),
            None => return Ok((Self::Unix(text.into()), Encryption::None)),
            Some(("nbd", place)) => (place, Encryption::None),
            Some(("nbds", place)) => (place, Encryption::Tls),
            Some(_) => return Err(invalid()),
        };
        let place = place.strip_suffix('/').unwrap_or(place);
        let (host, port) = match place.strip_prefix('[') {
            // An IPv6 address.
            Some(rest) => rest.split_once(']').ok_or_else(invalid)?,
            None => place.split_at(place.find(':').unwrap_or(place.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| invalid())?,
            None if port.is_empty() => PORT,
            None => return Err(invalid()),
        };
        if host.is_empty() || host.contains(['/', '?', '@', ' ']) {
            return Err(invalid());
        }
        Ok((Self::Tcp { host: host.to_owned(), port }, encryption))
    }

    /// The URI of the export `name`, as nbdinfo, nbdcopy and QEMU take it.
    pub fn uri(&self, name: &str, encryption: Encryption) -> String {
        let s = if encryption == Encryption::Tls { "s" } else { "" };
        let name = escaped(name.as_bytes());
        match self {
            Self::Unix(path) => {
                let path = escaped(path.as_os_str().as_bytes());
                format!("nbd{s}+unix:///{name}?socket={path}")
            }
            Self::Tcp { host, port } => {
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                let port = if *port == PORT { String::new() } else { format!(":{port}") };
                format!("nbd{s}://{host}{port}/{name}")
            }
        }
    }
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
    fn addresses_and_uris() {
        for (text, name, expected) in [
            ("/run/web 1.sock", "", "nbd+unix:///?socket=/run/web%201.sock"),
            ("s", "vg-a&b.raw", "nbd+unix:///vg-a%26b.raw?socket=s"),
            ("nbd://localhost", "disk.raw", "nbd://localhost/disk.raw"),
            ("nbd://10.0.0.1:10809/", "", "nbd://10.0.0.1/"),
            ("nbds://[::1]:99", "part1.raw", "nbds://[::1]:99/part1.raw"),
            ("nbds://host:0", "", "nbds://host:0/"),
        ] {
            let (address, encryption) = NbdAddress::parse(text).unwrap();
            assert_eq!(address.uri(name, encryption), expected);
        }
        for wrong in [
            "",
            "http://x",
            "nbd://",
            "nbd://:10809",
            "nbd://x:",
            "nbd://x:70000",
            "nbd://[::1",
            "nbd://x/disk.raw",
            "nbd+unix:///?socket=/s",
            "nbd://[::1]x",
        ] {
            assert!(NbdAddress::parse(wrong).is_err(), "{wrong}");
        }
    }
}

//! Where a remote image is, and what of that may be shown.

use crate::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::path::{Path, PathBuf};

/// Longest URL, in bytes.
const MOST: usize = 8 << 10;

/// The protocol by which an image is read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Scheme {
    Http,
    Https,
    Nbd,
    Nbds,
    NbdUnix,
    NbdsUnix,
}

const SCHEMES: [(&str, Scheme); 6] = [
    ("http://", Scheme::Http),
    ("https://", Scheme::Https),
    ("nbd://", Scheme::Nbd),
    ("nbds://", Scheme::Nbds),
    ("nbd+unix://", Scheme::NbdUnix),
    ("nbds+unix://", Scheme::NbdsUnix),
];

/// The port of NBD servers.
const NBD_PORT: u16 = 10809;

impl Scheme {
    fn is_nbd(self) -> bool {
        matches!(self, Self::Nbd | Self::Nbds | Self::NbdUnix | Self::NbdsUnix)
    }

    fn is_local(self) -> bool {
        matches!(self, Self::NbdUnix | Self::NbdsUnix)
    }
}

/// Where an NBD server listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum NbdPlace {
    /// A host and a port.
    Tcp(String, u16),
    /// A socket.
    Unix(PathBuf),
}

/// What an NBD URL says. Source: the NBD project's doc/uri.md.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct NbdTarget {
    pub(super) place: NbdPlace,
    /// The host whose certificate is expected.
    pub(super) host: String,
    pub(super) export: String,
    pub(super) encrypted: bool,
    /// The directory with certificates.
    pub(super) certificates: Option<PathBuf>,
}

/// The URL of an image. It may contain secrets: a password, or a signature in its query. Only
/// [`RemoteUrl::name`], which is what `Display` and `Debug` show, is for messages.
#[derive(Clone, Eq, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RemoteUrl {
    pub(super) scheme: Scheme,
    /// User and password, decoded.
    pub(super) user: Option<(String, Option<String>)>,
    /// Host and port as written.
    pub(super) authority: String,
    /// From the first slash on, without the query; never empty.
    pub(super) path: String,
    pub(super) query: Option<String>,
}

impl RemoteUrl {
    /// The URL that `path` is; `None` if it does not begin like one, and is the name of a file.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for what begins like a URL and is none.
    pub fn of_path(path: &Path) -> Option<Result<Self>> {
        let bytes = path.as_os_str().as_encoded_bytes();
        SCHEMES.iter().find(|(prefix, _)| starts_with(bytes, prefix))?;
        let wrong = || Error::new(ErrorKind::Usage, "a URL has only ASCII characters");
        Some(path.to_str().ok_or_else(wrong).and_then(Self::parse))
    }

    /// Parses a URL.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`]; the message contains nothing of a password or query.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |what: &str| Error::new(ErrorKind::Usage, format!("not a usable URL: {what}"));
        let known = SCHEMES.iter().find(|(prefix, _)| starts_with(text.as_bytes(), prefix));
        let (prefix, scheme) = known.ok_or_else(|| {
            wrong("it must begin with http://, https://, nbd://, nbds:// or nbd+unix://")
        })?;
        if text.len() > MOST {
            return Err(wrong("it is too long"));
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(wrong(
                "it contains spaces or characters that are not ASCII; write them as %XX",
            ));
        }
        if text.contains('#') {
            return Err(wrong(
                "it has a fragment (#…), which no server sees; write %23 for the character",
            ));
        }
        let rest = &text[prefix.len()..];
        let (before, query) = match rest.split_once('?') {
            Some((before, query)) => (before, Some(query.to_owned())),
            None => (rest, None),
        };
        let slash = before.find('/').unwrap_or(before.len());
        let (authority, path) = before.split_at(slash);
        let (user, authority) = match authority.rsplit_once('@') {
            Some((user, authority)) => {
                (Some(credentials(user).ok_or_else(|| wrong("user or password"))?), authority)
            }
            None => (None, authority),
        };
        if scheme.is_nbd() && user.is_some() {
            return Err(wrong("NBD has no users; servers that ask who is there use certificates"));
        }
        let is_host = if scheme.is_local() { str::is_empty } else { is_authority };
        if !is_host(authority) {
            return Err(wrong("it names no host, or an invalid one"));
        }
        // An NBD server may have an export without a name.
        if path.len() < 2 && !scheme.is_nbd() {
            return Err(wrong("it names a server and no image"));
        }
        let (authority, path) = (authority.to_ascii_lowercase(), path.to_owned());
        let url = Self { scheme: *scheme, user, authority, path, query };
        if scheme.is_nbd() {
            url.nbd().map_err(|what| wrong(&what))?;
        }
        Ok(url)
    }

    /// The URL without secrets, for messages. Of a query, only what distinguishes it from others.
    pub fn name(&self) -> String {
        let base = self.base();
        match &self.query {
            None => base,
            // The path of a socket, and of certificates.
            Some(query) if self.scheme.is_nbd() => format!("{base}?{query}"),
            Some(query) => {
                let digest = Sha256::digest(query.as_bytes());
                let hex: String = digest.iter().take(4).map(|b| format!("{b:02x}")).collect();
                format!("{base}?…{hex}")
            }
        }
    }

    /// The path in the URL: its last part is the name of a file.
    pub fn file_path(&self) -> &Path {
        Path::new(&self.path)
    }

    /// Whether the connection is encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        self.scheme == Scheme::Https
    }

    /// Whether an NBD server has it.
    pub(super) fn is_nbd(&self) -> bool {
        self.scheme.is_nbd()
    }

    /// What an NBD URL says.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn nbd(&self) -> std::result::Result<NbdTarget, String> {
        if !self.is_nbd() {
            return Err("not a URL of NBD".into());
        }
        let (mut socket, mut certificates) = (None, None);
        let query = self.query.as_deref().unwrap_or_default();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let path = || decode(value).map(PathBuf::from).ok_or("a path in its query");
            match name {
                "socket" => socket = Some(path()?),
                "tls-certificates" => certificates = Some(path()?),
                other => return Err(format!("the parameter '{other}' is not supported")),
            }
        }
        let place = match (self.scheme.is_local(), socket) {
            (true, Some(socket)) => NbdPlace::Unix(socket),
            (false, None) => {
                let port = self.authority[self.host().len()..].trim_start_matches(':');
                let port = if port.is_empty() { Ok(NBD_PORT) } else { port.parse() };
                NbdPlace::Tcp(self.host().into(), port.map_err(|_| "an invalid port")?)
            }
            (true, None) => return Err("it names no socket (?socket=PATH)".into()),
            (false, Some(_)) => return Err("it names a host and a socket; use nbd+unix://".into()),
        };
        let host = if self.scheme.is_local() { "localhost" } else { self.host() }.to_owned();
        let export = decode(self.path.strip_prefix('/').unwrap_or_default());
        let export = export.ok_or("an invalid name of an export")?;
        let encrypted = matches!(self.scheme, Scheme::Nbds | Scheme::NbdsUnix);
        Ok(NbdTarget { place, host, export, encrypted, certificates })
    }

    /// The host, without its port.
    pub(super) fn host(&self) -> &str {
        let end = match self.authority.starts_with('[') {
            true => self.authority.find(']').map_or(self.authority.len(), |at| at + 1),
            false => self.authority.find(':').unwrap_or(self.authority.len()),
        };
        &self.authority[..end]
    }

    /// What is requested: everything but user and password.
    pub(super) fn target(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.base()),
            None => self.base(),
        }
    }

    fn base(&self) -> String {
        let prefix = SCHEMES.iter().find(|(_, scheme)| *scheme == self.scheme);
        format!("{}{}{}", prefix.map_or("", |(prefix, _)| prefix), self.authority, self.path)
    }
}

fn starts_with(bytes: &[u8], prefix: &str) -> bool {
    bytes.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix.as_bytes()))
}

/// Whether `text` is a host, perhaps with a port.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            ("x", rest)
        }
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let is_host = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let port = match port.strip_prefix(':') {
        Some(port) => {
            port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|n| n > 0)
        }
        None => port.is_empty(),
    };
    !host.is_empty() && host.chars().all(is_host) && port
}

/// `user` or `user:password`, decoded.
fn credentials(text: &str) -> Option<(String, Option<String>)> {
    Some(match text.split_once(':') {
        Some((user, password)) => (decode(user)?, Some(decode(password)?)),
        None => (decode(text)?, None),
    })
}

/// `text` with %XX decoded; `None` if that is not UTF-8 or contains control characters.
pub(super) fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |b: u8| char::from(b).to_digit(16);
                let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
                (high * 16 + low) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}

/// `text` with everything but letters, digits and `-._~` as %XX.
fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let part = |b: u8| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    text.bytes().map(part).collect()
}

impl fmt::Display for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl fmt::Debug for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteUrl({})", self.name())
    }
}

impl TryFrom<String> for RemoteUrl {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<RemoteUrl> for String {
    /// The whole URL, secrets included.
    fn from(url: RemoteUrl) -> Self {
        let target = url.target();
        let Some((user, password)) = &url.user else { return target };
        let password = password.as_ref().map(|p| format!(":{}", encode(p))).unwrap_or_default();
        let (scheme, rest) = target.split_once("://").unwrap_or_default();
        format!("{scheme}://{}{password}@{rest}", encode(user))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let text = "HTTPS://me:s3cr%40t@Images.example:8443/golden/web1.qcow2?X-Amz-Signature=abc";
        let url = RemoteUrl::parse(text).unwrap();
        assert_eq!(url.user, Some(("me".into(), Some("s3cr@t".into()))));
        assert_eq!((url.host(), url.is_encrypted()), ("images.example", true));
        for shown in [url.to_string(), format!("{url:?}"), url.name()] {
            assert!(shown.contains("https://images.example:8443/golden/web1.qcow2?…"), "{shown}");
            assert!(!shown.contains("s3cr") && !shown.contains("abc") && !shown.contains("me:"));
        }
        let sent = serde_json::to_string(&url).unwrap();
        assert_eq!(serde_json::from_str::<RemoteUrl>(&sent).unwrap(), url);
        assert_eq!(url.file_path().extension().unwrap(), "qcow2");
        let other = RemoteUrl::parse("https://images.example:8443/golden/web1.qcow2?v=2").unwrap();
        assert_ne!(other.name(), url.name());
    }

    #[test]
    fn nbd() {
        let target = |text: &str| {
            let wrong = |what| Error::new(ErrorKind::Usage, what);
            RemoteUrl::parse(text).and_then(|url| url.nbd().map_err(wrong))
        };
        let tcp = target("nbds://Host.example/my%20disk?tls-certificates=/etc/pki").unwrap();
        assert_eq!(tcp.place, NbdPlace::Tcp("host.example".into(), 10809));
        assert_eq!((tcp.export.as_str(), tcp.encrypted), ("my disk", true));
        assert_eq!(tcp.certificates, Some("/etc/pki".into()));
        let local = target("nbd+unix:///?socket=/run/x%3Fy").unwrap();
        assert_eq!((local.place, local.export.as_str()), (NbdPlace::Unix("/run/x?y".into()), ""));
        assert_eq!(target("nbd://[::1]:99").unwrap().place, NbdPlace::Tcp("[::1]".into(), 99));
        for bad in [
            "nbd+unix:///x",
            "nbd+unix://host/x?socket=/y",
            "nbd://host/x?socket=/y",
            "nbd://",
            "nbd://u@h/x",
            "nbd://h/x?tls-psk-file=/x",
            "nbd://h/%zz",
        ] {
            assert!(target(bad).is_err(), "{bad}");
        }
        let name = "nbd+unix:///x?socket=/run/s";
        assert_eq!(RemoteUrl::parse(name).unwrap().name(), name);
    }

    #[test]
    fn what_is_no_url() {
        assert!(RemoteUrl::of_path(Path::new("/srv/http://x/y")).is_none());
        assert!(RemoteUrl::of_path(Path::new("httpd.img")).is_none());
        assert!(RemoteUrl::of_path(Path::new("http://h/x")).unwrap().is_ok());
        for bad in [
            "http://",
            "http://host",
            "http://host/",
            "http:///x",
            "http://ho st/x",
            "http://h/ü",
            "http://h:/x",
            "http://h:99999/x",
            "http://h:0/x",
            "http://[::1/x",
            "http://[zz]/x",
            "http://h/x#y",
            "http://a%zz:pw-secret@h/x",
            "http://u:pw-secret%0a@h/x",
            "ftp://h/x",
            "http://h\n/x",
        ] {
            let e = RemoteUrl::parse(bad).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Usage, "{bad}");
            assert!(!e.to_string().contains("pw-secret"), "{e}");
        }
        for good in ["http://[::1]:80/x", "http://127.0.0.1/x?", "http://h/a@b:c", "http://u@h/x"] {
            RemoteUrl::parse(good).unwrap();
        }
        assert_eq!(RemoteUrl::parse("http://[::1]:80/x").unwrap().host(), "[::1]");
    }
}

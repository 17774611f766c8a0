//! Opening a remote image: starting its fetcher, and giving it what it needs.

use super::cache::{Cache, Entry};
use super::credentials::Login;
use super::deadline::READ_TIME;
use super::fetcher::{Confine, run};
use super::manifest::Manifest;
use super::options::RemoteOptions;
use super::origin::Identity;
use super::recording::{self, id_of};
use super::source::{Parts, RemoteFile};
use super::url::RemoteUrl;
use super::wire::{DATA, Found, GO, Go, MANIFEST, RECORDING, SOCKET, SUMS, Start, receive, send};
use crate::process::ourselves;
use crate::sandbox::{Mode, send_descriptor};
use crate::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

/// Reads that wait for the server at the same time.
const SOCKETS: usize = 16;
/// How long the server may take to answer at first if the image is in the cache.
const SHORT: Duration = Duration::from_secs(4);
/// How long the fetcher may take to say anything.
const SILENCE: Duration = READ_TIME.saturating_mul(3);

/// How processes that fetch are confined, once that was said.
static PROCESSES: Mutex<Option<Mode>> = Mutex::new(None);

/// From now on, images are fetched by processes that are confined as `sandbox` says. Without this,
/// threads of this process fetch them, as suits a program that uses this library.
pub fn fetch_with(sandbox: Mode) {
    *PROCESSES.lock() = Some(sandbox);
}

impl RemoteFile {
    /// Open the image at `url`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if it cannot be reached and is not in the cache, [`ErrorKind::Unsupported`] if
    /// its server refuses or cannot serve it; errors of the cache's directory.
    pub fn open(url: &RemoteUrl, options: &RemoteOptions) -> Result<Self> {
        let cache = Cache::open(options)?;
        let known = cache.as_ref().and_then(|cache| cache.last_identity(url));
        let patience = if known.is_some() { SHORT } else { READ_TIME };
        let failed = |e| Error::io(format!("cannot open {url}"), e);
        let mut control = start().map_err(failed)?;
        control.set_read_timeout(Some(SILENCE)).map_err(failed)?;
        let task = Start {
            version: env!("CARGO_PKG_VERSION").into(),
            url: url.clone(),
            login: Login::of(url),
            sandbox: PROCESSES.lock().unwrap_or(Mode::None),
            patience: patience.as_millis() as u32,
        };
        let said = send(&mut control, &task).and_then(|()| receive(&mut control));
        let found: Found = said.map_err(|e| {
            let what = format!("cannot open {url}: the process that fetches it has ended");
            Error::with_source(ErrorKind::Io, what, e)
        })?;
        let (identity, offline) = match (found, known) {
            (Found::Image(identity), _) => (identity, None),
            (Found::Unreachable(what), Some(known)) => (known, Some(what)),
            (Found::Unreachable(what), None) => {
                return Err(Error::new(ErrorKind::Io, format!("cannot open {url}: {what}")));
            }
            (Found::Failed(what), _) => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("cannot open {url}: {what}"),
                ));
            }
        };
        // The fetcher may have been taken over.
        identity.check().map_err(|failure| {
            Error::new(ErrorKind::Unsupported, format!("cannot open {url}: {failure}"))
        })?;
        let entry = cache.and_then(|cache| match cache.entry(url, &identity) {
            Ok(entry) => Some(entry),
            Err(e) => {
                tracing::warn!("{url} is read without a cache: {e}");
                None
            }
        });
        let note = note(url, &identity, offline, entry.is_some());
        let handed = Handed {
            entry,
            recording: recording(url, options, &identity)?,
            manifest: manifest(url, options, &identity)?,
        };
        let go = Go {
            room: handed.entry.as_ref().map_or(0, |entry| entry.room),
            id: id_of(url),
            prefetch: match &options.prefetch {
                Some(path) => recording::read(path, url, identity.len)?,
                None => Vec::new(),
            },
            identity: identity.clone(),
        };
        let (data, sockets) = hand_over(&mut control, &go, handed).map_err(failed)?;
        let name = url.name();
        Ok(Self::new(Parts {
            name,
            len: identity.len,
            version: identity.version.as_ref().map(ToString::to_string),
            note,
            data,
            sockets,
            control,
        }))
    }
}

/// What the user should know.
fn note(
    url: &RemoteUrl,
    identity: &Identity,
    offline: Option<String>,
    cached: bool,
) -> Option<String> {
    match offline {
        Some(why) => Some(format!("{url} is read from the cache: {why}")),
        None if identity.version.is_none() && cached => Some(format!(
            "the server of {url} does not tell versions apart{}: the cache is not kept, and a change \
             of the image is not noticed",
            if url.is_nbd() { "" } else { " (no ETag, no Last-Modified)" }
        )),
        None => None,
    }
}

/// The recording to which the chunks of the image are added.
fn recording(
    url: &RemoteUrl,
    options: &RemoteOptions,
    identity: &Identity,
) -> Result<Option<File>> {
    options.record.as_ref().map(|path| recording::open(path, url, identity.len)).transpose()
}

/// The checksums that the image must have: of the manifests of a file of its length, the only one or the
/// one that has its name.
fn manifest(url: &RemoteUrl, options: &RemoteOptions, identity: &Identity) -> Result<Option<File>> {
    let mut found = Vec::new();
    for path in &options.manifests {
        let (file, len) = Manifest::open(path)?;
        if len == identity.len {
            found.push((path, file));
        }
    }
    let wrong = |what: String| Err(Error::new(ErrorKind::Invalid, what));
    let len = identity.len;
    if found.len() > 1 {
        let mut name = url.file_path().file_name().unwrap_or_default().to_os_string();
        name.push(".manifest");
        found.retain(|(path, _)| path.file_name() == Some(&name));
        if found.len() != 1 {
            return wrong(format!(
                "several manifests are of images of {len} bytes; call that of {url} {}",
                name.display()
            ));
        }
    }
    match found.pop() {
        Some((_, file)) => Ok(Some(file)),
        None if options.manifests.is_empty() => Ok(None),
        None => wrong(format!("no manifest is of an image of {len} bytes; it is another image")),
    }
}

/// What the fetcher gets.
struct Handed {
    entry: Option<Entry>,
    recording: Option<File>,
    manifest: Option<File>,
}

/// Send what the fetcher needs; returns the cache's file, and the sockets for requests.
fn hand_over(
    control: &mut UnixStream,
    go: &Go,
    handed: Handed,
) -> io::Result<(Option<File>, Vec<UnixStream>)> {
    send(control, go)?;
    for (purpose, file) in [(RECORDING, &handed.recording), (MANIFEST, &handed.manifest)] {
        if let Some(file) = file {
            send_descriptor(control, purpose, file)?;
        }
    }
    let mut data = None;
    if let Some(entry) = handed.entry {
        send_descriptor(control, DATA, &entry.files.data)?;
        send_descriptor(control, SUMS, &entry.files.sums)?;
        data = Some(entry.data);
    }
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        let (ours, theirs) = UnixStream::pair()?;
        // Only if the fetcher is stuck: it keeps to the time that a request allows.
        ours.set_read_timeout(Some(SILENCE))?;
        send_descriptor(control, SOCKET, &theirs)?;
        sockets.push(ours);
    }
    rustix::net::send(control.as_fd(), &[GO], rustix::net::SendFlags::NOSIGNAL)?;
    Ok((data, sockets))
}

/// Start a fetcher, and return the socket to it.
fn start() -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    if PROCESSES.lock().is_none() {
        let end = |e: Error| tracing::debug!("fetching ended: {e}");
        let thread = std::thread::Builder::new().name("fetcher".into());
        thread.spawn(move || run(theirs, Confine::Thread).unwrap_or_else(end))?;
        return Ok(ours);
    }
    let mut command = ourselves().map_err(io::Error::other)?;
    command.args(["internal", "fetch"]).stdin(Stdio::from(OwnedFd::from(theirs)));
    // Nobody waits for it: this process may have a single thread only until it is confined, and then
    // cannot. It ends before this one, or with it.
    drop(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    Ok(ours)
}

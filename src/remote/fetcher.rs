//! The process that fetches one image.

use super::chunk::MOST_AT_ONCE;
use super::credentials::Login;
use super::deadline::{Deadline, READ_TIME};
use super::http::HttpOrigin;
use super::manifest::Manifest;
use super::nbd::NbdOrigin;
use super::origin::{Failure, Identity, Origin};
use super::recording::Recorder;
use super::session::{Kept, Session};
use super::store::{EntryFiles, Store};
use super::url::RemoteUrl;
use super::wire::{
    DATA, Found, GO, Go, MANIFEST, RECORDING, Reply, Request, SOCKET, SUMS, Start, receive, send,
};
use crate::sandbox::{Limits, Profile, confine, receive_descriptor};
use crate::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::net::ToSocketAddrs;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

/// Address space in bytes: sixteen threads with a few chunks each, and their stacks and heaps.
const MEMORY: u64 = 4 << 30;
/// Descriptors that are accepted.
const MOST_DESCRIPTORS: usize = 1024;

/// Threads that fetch what will be needed: fewer than those that fetch what is needed.
const PREFETCHING: usize = 4;

/// How this process is confined.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Confine {
    /// As the task says.
    Process,
    /// Not at all: it is a thread of a program that trusts itself.
    Thread,
}

/// `synthdisk internal fetch`: fetch the image that is named at the other end of `control`, until that
/// is closed.
///
/// # Errors
/// Errors of the socket; when this process cannot be confined.
pub fn fetch(control: UnixStream) -> Result<()> {
    run(control, Confine::Process)
}

pub(super) fn run(mut control: UnixStream, how: Confine) -> Result<()> {
    let failed = |e| Error::io("cannot talk to the process that reads the image", e);
    let start: Start = receive(&mut control).map_err(failed)?;
    if start.version != env!("CARGO_PKG_VERSION") {
        return Err(Error::new(ErrorKind::Invalid, "started by another version of this program"));
    }
    let origin = match origin(&start.url, start.login.as_ref()) {
        Ok(origin) => origin,
        Err(e) => return send(&mut control, &Found::Failed(e.to_string())).map_err(failed),
    };
    if how == Confine::Process {
        // The C library loads what it needs to look up names, which it cannot do later. This name is
        // found without a server.
        let _ = ("localhost", 0).to_socket_addrs();
        let limits = Limits { memory: Some(MEMORY), ..Limits::default() };
        if let Err(e) = confine(Profile::Fetch(limits), start.sandbox) {
            return send(&mut control, &Found::Failed(e.to_string())).map_err(failed);
        }
    }
    let found = match identify(&*origin, Duration::from_millis(start.patience.into())) {
        Ok(identity) => Found::Image(identity),
        Err(Failure::Passing(what)) => Found::Unreachable(what),
        Err(failure) => Found::Failed(failure.to_string()),
    };
    send(&mut control, &found).map_err(failed)?;
    // If it does not go on, this process has done its work.
    let Ok(go) = receive::<Go>(&mut control) else { return Ok(()) };
    let Handed { kept, sockets } = descriptors(&control, &go).map_err(failed)?;
    let session = Arc::new(Session::new(origin, go.identity, kept));
    for socket in sockets {
        let session = Arc::clone(&session);
        let thread = std::thread::Builder::new().name("fetch".into());
        thread.spawn(move || serve(&session, socket)).map_err(failed)?;
    }
    let runs = Arc::new(Mutex::new(runs(go.prefetch)));
    for _ in 0..PREFETCHING {
        let (session, runs) = (Arc::clone(&session), Arc::clone(&runs));
        let next = move || runs.lock().pop_front();
        let prefetch = move || {
            while next().is_some_and(|(first, count)| session.prefetch(first, count)) {}
        };
        std::thread::Builder::new().name("prefetch".into()).spawn(prefetch).map_err(failed)?;
    }
    // Nothing is said any more until the end.
    let _ = control.read(&mut [0]);
    Ok(())
}

fn origin(url: &RemoteUrl, login: Option<&Login>) -> std::result::Result<Box<dyn Origin>, Failure> {
    Ok(match url.is_nbd() {
        true => Box::new(NbdOrigin::new(url)?),
        false => Box::new(HttpOrigin::new(url, login)),
    })
}

/// What the image is, asked for until there is an answer.
fn identify(origin: &dyn Origin, patience: Duration) -> std::result::Result<Identity, Failure> {
    let mut deadline = Deadline::within(patience.min(READ_TIME));
    loop {
        let failure = match origin.identify(deadline.attempt().unwrap_or_default()) {
            Ok(identity) => return identity.check().map(|()| identity),
            Err(failure) => failure,
        };
        if !matches!(failure, Failure::Passing(_)) || !deadline.pause() {
            return Err(failure);
        }
    }
}

/// What the other end has opened for this process.
struct Handed {
    kept: Kept,
    sockets: Vec<UnixStream>,
}

/// Chunks that follow each other, as requests: the first one, and how many.
fn runs(chunks: Vec<u64>) -> VecDeque<(u64, u32)> {
    let mut runs: VecDeque<(u64, u32)> = VecDeque::new();
    for chunk in chunks {
        match runs.back_mut() {
            Some((first, n))
                if *n < MOST_AT_ONCE && first.checked_add((*n).into()) == Some(chunk) =>
            {
                *n += 1
            }
            _ => runs.push_back((chunk, 1)),
        }
    }
    runs
}

fn descriptors(control: &UnixStream, go: &Go) -> io::Result<Handed> {
    let (mut data, mut sums) = (Vec::new(), Vec::new());
    let (mut recordings, mut manifests) = (Vec::new(), Vec::new());
    let mut sockets = Vec::new();
    for _ in 0..MOST_DESCRIPTORS {
        let (purpose, fd) = receive_descriptor(control)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let Some(fd) = fd else {
            if purpose == GO {
                break;
            }
            return Err(io::ErrorKind::InvalidData.into());
        };
        match purpose {
            SOCKET => sockets.push(UnixStream::from(fd)),
            DATA => data.push(File::from(fd)),
            SUMS => sums.push(File::from(fd)),
            RECORDING => recordings.push(File::from(fd)),
            MANIFEST => manifests.push(File::from(fd)),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    let files = data.pop().zip(sums.pop()).map(|(data, sums)| EntryFiles { data, sums });
    let store = files.map(|files| Store::new(files, go.identity.len, go.room));
    let manifest = manifests.pop().map(Manifest::new);
    let recorder = recordings.pop().map(|file| Recorder::new(go.id.clone(), file));
    Ok(Handed { kept: Kept { store, manifest, recorder }, sockets })
}

/// Answer the requests on `socket`, until it is closed.
fn serve(session: &Session, mut socket: UnixStream) {
    while let Ok(Some(request)) = Request::receive(&mut socket) {
        let reply: Reply = session.answer(request);
        if reply.send(&mut socket).is_err() {
            break;
        }
    }
}

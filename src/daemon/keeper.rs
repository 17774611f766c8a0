//! The process that keeps a mount.
//!
//! It makes and removes the mount, waits for signals, and starts processes for the server, which
//! gives up the right to do any of this. It never looks at a byte from the guest.

use super::channel::Channel;
use super::log::start_log;
use super::parsers::Parsers;
use super::report::MountReport;
use super::request::{MountReply, MountRequest};
use super::wire::{DEVICE, FINISH, FIRST_PARSER, PARSERS, REPLY, REPLY_MAX, send_file};
use crate::fuse::{KernelMount, MountPoint};
use crate::process::{MountEntry, Stop, Sweeper, Unmount, end, ourselves, poll_until, unmount};
use crate::sandbox::{START_PARSER, receive_descriptor};
use crate::{Error, ErrorKind, Result};
use nix::poll::{PollFd, PollFlags};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// How long programs may continue to use open files after a signal.
const GRACE: Duration = Duration::from_secs(2);
/// How long the rest of a reply may take after its first byte. A server that was taken over must not
/// keep the keeper waiting.
const REPLY_TIME: Duration = Duration::from_secs(60);
/// How long a server that is not ready yet may take to clean up after a signal.
const PATIENCE: Duration = Duration::from_secs(3);

/// What cleans up if the keeper is killed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cleanup {
    /// A process that is started for that.
    Sweeper,
    /// The process that started the keeper.
    Caller,
}

/// Mount on `mountpoint` as `request` says, call `ready` once the disks can be used, and keep the
/// mount until it is removed or a signal arrives. Must be called before the process has threads.
///
/// # Errors
/// Errors from mounting, from the server, and from `ready`.
pub fn keep(
    request: &MountRequest,
    mountpoint: &Path,
    cleanup: Cleanup,
    ready: impl FnOnce(&MountReport) -> Result<()>,
) -> Result<()> {
    let stop = Stop::on_signals()?;
    start_log(request.log.as_deref())?;
    let target = MountPoint::open(mountpoint)?;
    let (requests, theirs) =
        UnixStream::pair().map_err(|e| Error::io("cannot create a socket", e))?;
    let (server, channel) = start_server(request, &theirs)?;
    drop(theirs);
    let mut keeper = Keeper {
        server,
        channel,
        requests: Some(requests),
        source: shown_source(request),
        request,
        target,
        mount: None,
        entry: None,
        cleanup,
        sweeper: None,
        parsers: Parsers::default(),
    };
    let kept = keeper.keep(&stop, ready);
    keeper.clean_up();
    kept
}

/// Start `synthdisk internal serve`, and send it `request` and the socket `requests`.
fn start_server(request: &MountRequest, requests: &UnixStream) -> Result<(Child, Channel)> {
    let (mut channel, theirs) = Channel::pair()?;
    channel.limit_waiting(REPLY_TIME)?;
    let mut server = ourselves()?
        .args(["internal", "serve"])
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .spawn()
        .map_err(|e| Error::io("cannot start the process that serves the mount", e))?;
    let sent = channel.send(request).and_then(|()| send_file(&channel, PARSERS, requests));
    if let Err(e) = sent {
        let _ = server.kill();
        let _ = server.wait();
        return Err(e);
    }
    Ok((server, channel))
}

struct Keeper<'a> {
    server: Child,
    channel: Channel,
    /// Where the server asks for parsers, until it closes its end.
    requests: Option<UnixStream>,
    request: &'a MountRequest,
    /// What the host's mount table shows as the source.
    source: String,
    target: MountPoint,
    /// The mount, until it is announced.
    mount: Option<KernelMount>,
    /// The mount, once it is announced.
    entry: Option<MountEntry>,
    cleanup: Cleanup,
    sweeper: Option<Sweeper>,
    parsers: Parsers,
}

impl Keeper<'_> {
    /// Start the parser that the first plan needs while the server starts.
    fn start_first_parser(&mut self) -> Result<()> {
        let (servers, parsers) =
            UnixStream::pair().map_err(|e| Error::io("cannot create a socket", e))?;
        self.parsers.start(parsers.into());
        // A server that has ended already has said why.
        let _ = send_file(&self.channel, FIRST_PARSER, &servers);
        Ok(())
    }

    /// Do what the server asks for, until it ends.
    fn keep(&mut self, stop: &Stop, ready: impl FnOnce(&MountReport) -> Result<()>) -> Result<()> {
        self.start_first_parser()?;
        let mut ready = Some(ready);
        let mut failure = None;
        let mut stopping = Stopping::No;
        loop {
            let wake = [stopping.deadline(), self.parsers.deadline()].into_iter().flatten().min();
            let Events { from_server, parser_wanted, signal } = self.wait(stop, stopping, wake)?;
            self.parsers.reap();
            if parser_wanted {
                self.start_parser();
            }
            if signal {
                stopping = self.stop(stop)?;
            }
            if stopping.deadline().is_some_and(|at| at <= Instant::now()) {
                // It may have ended just now.
                let _ = self.channel.send_byte(FINISH);
                stopping = Stopping::Told;
            }
            if !from_server {
                continue;
            }
            match receive_descriptor(&self.channel).map_err(|e| Error::io("cannot listen", e))? {
                None => break,
                Some((DEVICE, None)) if self.mount.is_none() && self.entry.is_none() => {
                    self.make_mount()?;
                }
                Some((REPLY, None)) => match self.channel.receive_at_most(REPLY_MAX)? {
                    Some(MountReply::Ready(mut report)) if ready.is_some() => {
                        self.announce()?;
                        self.start_sweeper()?;
                        report.mountpoint = self.target.path().to_path_buf();
                        if let Some(ready) = ready.take() {
                            ready(&report)?;
                        }
                    }
                    Some(MountReply::Failed { kind, message }) => {
                        failure = Some(Error::new(kind, message));
                    }
                    _ => return Err(nonsense()),
                },
                Some(_) => return Err(nonsense()),
            }
        }
        self.verdict(failure)
    }

    /// Wait until something happens, at most until `wake`.
    fn wait(&self, stop: &Stop, stopping: Stopping, wake: Option<Instant>) -> Result<Events> {
        let listen = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![listen(self.channel.as_fd())];
        fds.extend(self.requests.as_ref().map(|requests| listen(requests.as_fd())));
        let requests = fds.len() - 1;
        // A signal stays readable.
        fds.extend((stopping == Stopping::No).then(|| listen(stop.as_fd())));
        let ready = poll_until(&mut fds, wake)?;
        Ok(Events {
            from_server: ready[0],
            parser_wanted: self.requests.is_some() && ready[requests],
            signal: stopping == Stopping::No && ready[ready.len() - 1],
        })
    }

    /// A server that was taken over may send anything here: whatever is not a request ends this
    /// service.
    fn start_parser(&mut self) {
        match self.requests.as_ref().map(receive_descriptor) {
            Some(Ok(Some((START_PARSER, Some(socket))))) => self.parsers.start(socket),
            _ => self.requests = None,
        }
    }

    fn make_mount(&mut self) -> Result<()> {
        let (mount, device) = KernelMount::new(&self.target, &self.source, &self.request.options)?;
        self.mount = Some(mount);
        send_file(&self.channel, DEVICE, &device)
    }

    fn announce(&mut self) -> Result<()> {
        let mount = self.mount.take().ok_or_else(nonsense)?;
        self.entry = Some(mount.announce(&self.target)?);
        Ok(())
    }

    fn start_sweeper(&mut self) -> Result<()> {
        let entry = self.entry.as_ref().filter(|_| self.cleanup == Cleanup::Sweeper);
        self.sweeper = entry.map(Sweeper::of_attached).transpose()?;
        Ok(())
    }

    /// A signal arrived: end the mount.
    fn stop(&mut self, stop: &Stop) -> Result<Stopping> {
        match &self.entry {
            Some(entry) => {
                unmount_lazily(entry);
                Ok(Stopping::At(Instant::now() + GRACE))
            }
            // It is still planning.
            None => Err(stop.error()),
        }
    }

    /// How the server ended, once it has closed its end.
    fn verdict(&mut self, failure: Option<Error>) -> Result<()> {
        // It is ending. One that was taken over might close its end and stay.
        let _ = self.server.kill();
        let ended = self.server.wait();
        let status = ended.map_err(|e| Error::io("cannot wait for the serving process", e))?;
        match failure {
            Some(e) => Err(e),
            None if status.success() => Ok(()),
            None => {
                let what =
                    format!("the process that serves the mount ended unexpectedly ({status})");
                Err(Error::new(ErrorKind::Io, what))
            }
        }
    }

    /// Leave nothing behind, however [`Keeper::keep`] ended.
    fn clean_up(&mut self) {
        if let Some(entry) = &self.entry {
            unmount_lazily(entry);
        }
        // The server notices, and removes what it has made so far.
        self.channel.shut_down();
        if let Some(Err(e)) = self.mount.take().map(KernelMount::discard) {
            tracing::error!("{e}");
        }
        match self.entry {
            // It stores the last writes, however long that takes.
            Some(_) => drop(self.server.wait()),
            None => drop(end(&mut self.server, PATIENCE)),
        }
        self.sweeper = None;
    }
}

/// What a keeper waits for.
struct Events {
    /// The server said something, or has ended.
    from_server: bool,
    /// The server asks for a parser.
    parser_wanted: bool,
    /// A signal arrived.
    signal: bool,
}

/// What was done about a signal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stopping {
    /// There was none.
    No,
    /// The mount is removed; at this time, the server is told to end.
    At(Instant),
    /// The server was told to end.
    Told,
}

impl Stopping {
    fn deadline(self) -> Option<Instant> {
        match self {
            Self::At(deadline) => Some(deadline),
            Self::No | Self::Told => None,
        }
    }
}

fn unmount_lazily(entry: &MountEntry) {
    if let Err(e) = unmount(entry, Unmount::Lazy) {
        tracing::error!("{e}");
    }
}

fn nonsense() -> Error {
    Error::new(ErrorKind::Corrupt, "the process that serves the mount does not follow the protocol")
}

/// What the host's mount table shows as the source: the config or the first image.
fn shown_source(request: &MountRequest) -> String {
    let source = &request.source;
    let path = source.config.as_ref().or(source.images.first()).cloned().unwrap_or_default();
    path.canonicalize().unwrap_or(path).display().to_string()
}

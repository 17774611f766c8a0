//! The process that keeps an export.
//!
//! It makes and removes the mount or the socket, waits for signals, and starts processes for the server, which
//! gives up the right to do any of this. It never looks at a byte from the guest.

use super::channel::Channel;
use super::front::{Cleanup, Front, nonsense};
use super::log::start_log;
use super::parsers::Parsers;
use super::report::MountReport;
use super::request::{MountReply, MountRequest};
use super::wire::{DEVICE, FINISH, FIRST_PARSER, PARSERS, REPLY, REPLY_MAX, send_file};
use crate::process::{Stop, Sweeper, end, ourselves, poll_until};
use crate::sandbox::{START_PARSER, receive_descriptor};
use crate::{Error, ErrorKind, Result};
use nix::poll::{PollFd, PollFlags};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// How long the rest of a reply may take after its first byte. A server that was taken over must not
/// keep the keeper waiting.
const REPLY_TIME: Duration = Duration::from_secs(60);
/// How long a server that is not ready yet may take to clean up after a signal.
const PATIENCE: Duration = Duration::from_secs(3);

/// Export as `request` says, a mount on `mountpoint`, call `ready` once the disks can be used, and
/// keep that until it is removed or a signal arrives. Must be called before the process has threads.
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
    let front = Front::open(request, mountpoint)?;
    let (requests, theirs) =
        UnixStream::pair().map_err(|e| Error::io("cannot create a socket", e))?;
    let (server, channel) = start_server(request, &theirs)?;
    drop(theirs);
    let mut keeper = Keeper {
        server,
        channel,
        requests: Some(requests),
        request,
        front,
        announced: false,
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
        .map_err(|e| Error::io("cannot start the process that serves the disks", e))?;
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
    front: Front,
    announced: bool,
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
                Some((DEVICE, None)) => {
                    let device = self.front.make(self.request)?;
                    send_file(&self.channel, DEVICE, &device)?;
                }
                Some((REPLY, None)) => match self.channel.receive_at_most(REPLY_MAX)? {
                    Some(MountReply::Ready(mut report)) if ready.is_some() => {
                        self.announce()?;
                        self.start_sweeper()?;
                        report.mountpoint = self.front.path();
                        report.uri = self.front.uri();
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

    fn announce(&mut self) -> Result<()> {
        self.front.announce()?;
        self.announced = true;
        Ok(())
    }

    fn start_sweeper(&mut self) -> Result<()> {
        if self.cleanup == Cleanup::Sweeper {
            self.sweeper = self.front.sweeper()?;
        }
        Ok(())
    }

    /// A signal arrived: end what is exported.
    fn stop(&mut self, stop: &Stop) -> Result<Stopping> {
        match self.front.hide() {
            Some(grace) => Ok(Stopping::At(Instant::now() + grace)),
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
                    format!("the process that serves the disks ended unexpectedly ({status})");
                Err(Error::new(ErrorKind::Io, what))
            }
        }
    }

    /// Leave nothing behind, however [`Keeper::keep`] ended.
    fn clean_up(&mut self) {
        let _ = self.front.hide();
        // The server notices, and removes what it has made so far.
        self.channel.shut_down();
        self.front.discard();
        match self.announced {
            // It stores the last writes, however long that takes.
            true => drop(self.server.wait()),
            false => drop(end(&mut self.server, PATIENCE)),
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
    /// Clients see nothing any more; at this time, the server is told to end.
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

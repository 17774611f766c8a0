//! Serving exports from start to end.

use super::connection::transmit;
use super::exports::Exports;
use super::handshake::{Offer, Outcome, Stream, TlsState, greet, negotiate};
use super::pool::Pool;
use super::socket::Socket;
use super::state::ServerState;
use super::tls::TlsConfig;
use super::transport::Transport;
use crate::export::{Export, ExportSet};
use crate::sandbox::{Confined, Confinement, Mode, Profile};
use crate::{Error, Result};
use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;
use rustix::net::{Shutdown, SocketFlags, accept_with, shutdown};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Connections at a time. Each may use some 10 MiB; further clients are sent away.
const MOST_CONNECTIONS: usize = 64;
/// How long a client may take until it uses an export.
const NEGOTIATION: Duration = Duration::from_secs(60);
/// How long clients may take to read their last replies when serving ends.
const GRACE: Duration = Duration::from_secs(2);
/// Threads for requests that wait for storage.
const REQUEST_THREADS: usize = 16;
/// The same, for a [`PrivateServer`].
const THREADS_FOR_ONE: usize = 4;

/// An export as block devices, through NBD.
#[derive(Debug)]
pub struct NbdExport {
    /// A socket that listens.
    pub listener: OwnedFd,
    /// Whether all writes are refused.
    pub read_only: bool,
    /// How connections are encrypted, if they have to be.
    pub tls: Option<TlsConfig>,
    /// What happens if this process cannot be confined completely.
    pub sandbox: Mode,
}

/// Ends serving.
#[derive(Clone, Debug)]
pub struct NbdStopper(Arc<OwnedFd>);

impl NbdStopper {
    /// To end what is served on `listener`.
    ///
    /// # Errors
    /// Errors of fcntl(2).
    pub fn of(listener: &OwnedFd) -> Result<Self> {
        let copy = listener.try_clone().map_err(|e| Error::io("cannot use a socket", e))?;
        Ok(Self(Arc::new(copy)))
    }

    /// Accept no more clients; those that there are get the replies to what they have asked for.
    pub fn stop(&self) {
        let _ = shutdown(&*self.0, Shutdown::Both); // wakes who waits in accept(2)
    }
}

impl Export for NbdExport {
    /// Serve until [`NbdStopper::stop`]. This process must have a single thread.
    fn serve(self, set: ExportSet, ready: impl FnOnce(&Confined) -> Result<()>) -> Result<()> {
        let Self { listener, read_only, tls, sandbox } = self;
        let confinement = Confinement::begin(Profile::ServeSockets, sandbox)?;
        let started = |e| Error::io("cannot start the threads that serve", e);
        let pool = Pool::start(REQUEST_THREADS).map_err(started)?;
        let confined = confinement.finish()?;
        tracing::info!("confined by: {confined}");
        let exports = Exports::new(&set, read_only, ServerState::default());
        if let Some(status) = &set.status {
            exports
                .set_status(crate::export::Status { sandbox: confined.clone(), ..status.clone() });
        }
        ready(&confined)?;

        let shared = Arc::new(Shared { exports, tls, pool, clients: Clients::default() });
        let accepted = accept_all(&listener, &shared);
        shared.clients.end(Instant::now() + GRACE, || shared.exports.state().end());
        shared.pool.close();
        let flushed = set.close();
        accepted.map_err(|e| Error::io("cannot accept connections", e))?;
        flushed.map_err(|e| Error::io("the last writes could not be stored", e))
    }
}

/// What all connections use.
struct Shared {
    exports: Exports,
    tls: Option<TlsConfig>,
    pool: Arc<Pool>,
    clients: Clients,
}

/// Serve every client in a thread of its own, until the listener is shut down.
fn accept_all(listener: &OwnedFd, shared: &Arc<Shared>) -> io::Result<()> {
    loop {
        let socket = match accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(socket) => socket,
            Err(Errno::INVAL) => return Ok(()),
            Err(Errno::INTR | Errno::CONNABORTED | Errno::AGAIN) => continue,
            // Ends of connections will help.
            Err(e @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
                tracing::warn!("cannot accept a connection: {e}");
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
            Err(e) => return Err(e.into()),
        };
        let place = match shared.clients.add(&socket) {
            Ok(Some(place)) => place,
            Ok(None) => {
                tracing::warn!("more than {MOST_CONNECTIONS} connections; one was refused");
                continue;
            }
            Err(e) => {
                tracing::warn!("cannot accept a connection: {e}");
                continue;
            }
        };
        let own = Arc::clone(shared);
        let named = std::thread::Builder::new().name("connection".into());
        let thread = named.spawn(move || {
            let _removed = Removed { place, shared: &own };
            if let Err(e) = attend(socket, &own) {
                tracing::info!("a connection ended: {e}");
            }
        });
        if let Err(e) = thread {
            shared.clients.remove(place);
            tracing::warn!("cannot start a thread for a connection: {e}");
        }
    }
}

/// Serve one client from its greeting on.
fn attend(socket: OwnedFd, shared: &Shared) -> io::Result<()> {
    let mut transport = Transport::Plain(Socket::new(socket));
    transport.set_deadline(Some(Instant::now() + NEGOTIATION));
    let greeting = greet(&mut transport)?;
    let mut tls = if shared.tls.is_some() { TlsState::Required } else { TlsState::Off };
    loop {
        let offer = Offer { exports: &shared.exports, tls };
        match (negotiate(&mut transport, greeting, offer)?, &shared.tls) {
            (Outcome::Begin(session), _) => {
                transport.set_deadline(None);
                return transmit(transport, session, &shared.pool);
            }
            (Outcome::StartTls, Some(config)) => {
                transport = transport.encrypt(config)?;
                tls = TlsState::On;
            }
            (Outcome::StartTls | Outcome::End, _) => {
                transport.finish();
                return Ok(());
            }
        }
    }
}

/// A server for one client: a child of this process.
pub struct PrivateServer(Shared);

impl PrivateServer {
    /// A server of `set` that stores at most `limit` bytes of what its client writes.
    ///
    /// # Errors
    /// Errors of starting threads.
    pub fn new(set: &ExportSet, limit: u64) -> Result<Self> {
        let exports = Exports::new(set, false, ServerState::with_limit(limit));
        let started = |e| Error::io("cannot start the threads that serve", e);
        let pool = Pool::start(THREADS_FOR_ONE).map_err(started)?;
        Ok(Self(Shared { exports, tls: None, pool, clients: Clients::default() }))
    }

    /// Serve the client at the other end of `socket` until it hangs up.
    ///
    /// # Errors
    /// When the client does not keep to the protocol.
    pub fn serve(&self, socket: OwnedFd) -> Result<()> {
        attend(socket, &self.0).map_err(|e| Error::io("the connection to QEMU failed", e))
    }

    /// Give up what takes long: the client has ended.
    pub fn end(&self) {
        self.0.exports.state().end();
    }

    /// The first write, zeroing or flush that failed before [`PrivateServer::end`], if there is one.
    pub fn take_failure(&self) -> Option<io::Error> {
        self.0.exports.state().take_failure()
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        self.0.pool.close();
    }
}

/// What a client is answered that sends `said` and then nothing more, for the fuzz target.
///
/// # Errors
/// Errors of starting threads, and of sockets.
pub fn converse(set: &ExportSet, said: &[u8]) -> io::Result<Vec<u8>> {
    let (exports, pool) = (Exports::new(set, false, ServerState::default()), Pool::start(1)?);
    let shared = Shared { exports, tls: None, pool, clients: Clients::default() };
    let (ours, theirs) = UnixStream::pair()?;
    let mut sender = ours.try_clone()?;
    let answered = std::thread::scope(|scope| {
        scope.spawn(move || {
            // The server may end before it has read all of it.
            let _ = sender.write_all(said);
            let _ = sender.shutdown(std::net::Shutdown::Write);
        });
        let received = scope.spawn(move || {
            let mut received = Vec::new();
            let _ = (&ours).read_to_end(&mut received); // it may be reset
            received
        });
        let _ = attend(theirs.into(), &shared); // it may be an error
        received.join()
    });
    shared.pool.close();
    answered.map_err(|_| io::ErrorKind::Other.into())
}

impl Stream for Transport {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        Self::send(self, &[bytes])
    }
}

/// The sockets of all connections.
#[derive(Debug, Default)]
struct Clients {
    sockets: Mutex<Sockets>,
    fewer: Condvar,
}

#[derive(Debug, Default)]
struct Sockets {
    next: u64,
    open: BTreeMap<u64, OwnedFd>,
}

/// Forgets a connection when its thread ends, also by a panic.
struct Removed<'a> {
    place: u64,
    shared: &'a Shared,
}

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        self.shared.clients.remove(self.place);
    }
}

impl Clients {
    /// Remember a connection; `None` if there are too many.
    fn add(&self, socket: &OwnedFd) -> io::Result<Option<u64>> {
        let mut sockets = self.sockets.lock();
        if sockets.open.len() >= MOST_CONNECTIONS {
            return Ok(None);
        }
        let place = sockets.next;
        sockets.next += 1;
        sockets.open.insert(place, socket.try_clone()?);
        Ok(Some(place))
    }

    fn remove(&self, place: u64) {
        self.sockets.lock().open.remove(&place);
        self.fewer.notify_all();
    }

    /// Take no more requests, and wait until all connections have ended. After `deadline`, those
    /// whose clients do not read their replies are broken, and `give_up` is called.
    fn end(&self, deadline: Instant, give_up: impl FnOnce()) {
        let mut sockets = self.sockets.lock();
        let shut = |open: &BTreeMap<u64, OwnedFd>, how| {
            for socket in open.values() {
                let _ = shutdown(socket.as_fd(), how); // it may have ended
            }
        };
        shut(&sockets.open, Shutdown::Read);
        while !sockets.open.is_empty() {
            if self.fewer.wait_until(&mut sockets, deadline).timed_out() {
                shut(&sockets.open, Shutdown::Both);
                give_up();
                break;
            }
        }
        // What they are doing is done as soon as storage allows.
        while !sockets.open.is_empty() {
            self.fewer.wait(&mut sockets);
        }
    }
}

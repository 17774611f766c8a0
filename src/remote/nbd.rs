//! Images that an NBD server exports.
//!
//! Source: the NBD project's doc/proto.md: fixed newstyle negotiation with `NBD_OPT_GO`, simple
//! replies, and TLS by `NBD_OPT_STARTTLS`.

mod connection;
mod negotiate;
mod stream;

use super::origin::{Failure, Identity, Origin};
use super::url::{NbdPlace, RemoteUrl};
use connection::Connection;
use negotiate::Export;
use parking_lot::{Condvar, Mutex};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use stream::{Stream, Tls};

/// Connections that are open at the same time, if the server allows several.
const MOST: usize = 8;

/// An image that an NBD server exports.
pub(super) struct NbdOrigin {
    place: NbdPlace,
    export: String,
    tls: Option<Tls>,
    pool: Mutex<Pool>,
    returned: Condvar,
    /// Those of the host, so that its name is looked up once; none until then, and after they failed.
    addresses: Mutex<Vec<SocketAddr>>,
}

/// The connections to a server.
#[derive(Default)]
struct Pool {
    /// Negotiated, and not in use.
    free: Vec<Connection>,
    /// All connections, those in use included.
    open: usize,
    /// To a Unix socket, and not negotiated: none can be made once this process is confined. There is
    /// one, because a server of one client at a time might wait for any other.
    fresh: Option<UnixStream>,
    /// How many connections may be open; one until the server has said more.
    most: usize,
}

impl NbdOrigin {
    /// The image at `url`. Reads certificates, and connects to a Unix socket; of what the server says
    /// nothing is read.
    ///
    /// # Errors
    /// When the URL is not one of NBD, when certificates cannot be used, and when nothing listens.
    pub(super) fn new(url: &RemoteUrl) -> Result<Self, Failure> {
        let target = url.nbd().map_err(Failure::Lasting)?;
        let tls = match target.encrypted {
            true => Some(
                Tls::new(&target.host, target.certificates.as_deref()).map_err(Failure::Lasting)?,
            ),
            false => None,
        };
        let mut pool = Pool { most: 1, ..Pool::default() };
        if let NbdPlace::Unix(path) = &target.place {
            let socket = UnixStream::connect(path);
            pool.fresh = Some(socket.map_err(|e| Failure::Lasting(e.to_string()))?);
        }
        let (place, export) = (target.place, target.export);
        let (pool, returned) = (Mutex::new(pool), Condvar::new());
        Ok(Self { place, export, tls, pool, returned, addresses: Mutex::default() })
    }

    /// A connection that this thread may use until `end`.
    fn take(&self, end: Instant) -> Result<Connection, Failure> {
        let mut pool = self.pool.lock();
        loop {
            if let Some(connection) = pool.free.pop() {
                return Ok(connection);
            }
            if pool.open < pool.most {
                pool.open += 1;
                let fresh = pool.fresh.take();
                drop(pool);
                return self.connect(fresh, end).inspect_err(|_| {
                    self.pool.lock().open -= 1;
                    self.returned.notify_one();
                });
            }
            if self.returned.wait_until(&mut pool, end).timed_out() {
                return Err(Failure::Passing("the server did not answer in time".into()));
            }
        }
    }

    fn give_back(&self, connection: Option<Connection>) {
        let mut pool = self.pool.lock();
        match connection {
            Some(connection) => pool.free.push(connection),
            None => {
                // What broke one connection, such as a router that forgot it, broke the idle ones too.
                pool.open -= 1 + pool.free.len();
                pool.free.clear();
            }
        }
        self.returned.notify_all();
    }

    fn connect(&self, fresh: Option<UnixStream>, end: Instant) -> Result<Connection, Failure> {
        let stream = match (&self.place, fresh) {
            (NbdPlace::Tcp(host, port), _) => self.connect_tcp(host, *port, end),
            (NbdPlace::Unix(_), Some(socket)) => Ok(Stream::unix(socket, end)),
            (NbdPlace::Unix(_), None) => {
                return Err(Failure::Lasting(
                    "the connection to the server broke; mount it again".into(),
                ));
            }
        };
        let stream = stream.map_err(negotiate::broken)?;
        Connection::open(stream, &self.export, self.tls.as_ref())
    }

    fn connect_tcp(&self, host: &str, port: u16, end: Instant) -> io::Result<Stream> {
        let mut addresses = std::mem::take(&mut *self.addresses.lock());
        if addresses.is_empty() {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            addresses = (host, port).to_socket_addrs()?.collect();
        }
        let stream = Stream::tcp(&addresses, end)?;
        *self.addresses.lock() = addresses;
        Ok(stream)
    }

    /// Do `work` with a connection.
    fn with<T>(
        &self,
        time: Duration,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut connection = self.take(Instant::now() + time)?;
        // Waiting for a connection is no reason to give up one that works.
        connection.limit(Instant::now() + time);
        let done = work(&mut connection);
        let is_clean = connection.is_clean();
        self.give_back(is_clean.then_some(connection));
        done
    }
}

impl Origin for NbdOrigin {
    fn identify(&self, time: Duration) -> Result<Identity, Failure> {
        let Export { len, flags, .. } = self.with(time, |connection| Ok(connection.export()))?;
        let is_tcp = matches!(self.place, NbdPlace::Tcp(..));
        if is_tcp && flags & negotiate::CAN_MULTI_CONN != 0 {
            self.pool.lock().most = MOST;
        }
        Ok(Identity { len, version: None })
    }

    fn read(
        &self,
        buf: &mut [u8],
        offset: u64,
        identity: &Identity,
        time: Duration,
    ) -> Result<(), Failure> {
        self.with(time, |connection| {
            if connection.export().len != identity.len {
                return Err(Failure::Changed(
                    "it has another length than before; mount it again".into(),
                ));
            }
            connection.read(buf, offset)
        })
    }
}

/// What the server of one connection says, for the fuzz target: negotiates and reads once.
#[doc(hidden)]
pub fn negotiate_with(server: impl std::io::Read + std::io::Write) -> bool {
    let mut stream = server;
    let Ok(export) = negotiate::negotiate(&mut stream, "x") else { return false };
    let mut buf = vec![0; 4096.min(export.len as usize)];
    connection::request(&mut stream, &mut buf, 0, 7).is_ok()
}

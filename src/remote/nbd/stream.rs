//! Sockets to NBD servers, with a time limit for all that is done, and perhaps encrypted.

use super::super::certificates::system_roots;
use super::super::origin::Failure;
use super::negotiate::broken;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);

/// A socket whose reads and writes fail after `end`, however slowly bytes come.
struct Limited {
    socket: Socket,
    end: Instant,
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Limited {
    /// Let the next call take no longer than what is left.
    fn limit(&self) -> io::Result<()> {
        let left = self.end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
        let left = Some(left.ok_or(io::ErrorKind::TimedOut)?);
        match &self.socket {
            Socket::Tcp(socket) => {
                socket.set_read_timeout(left).and_then(|()| socket.set_write_timeout(left))
            }
            Socket::Unix(socket) => {
                socket.set_read_timeout(left).and_then(|()| socket.set_write_timeout(left))
            }
        }
    }
}

impl Read for Limited {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.limit()?;
        match &mut self.socket {
            Socket::Tcp(socket) => socket.read(buf),
            Socket::Unix(socket) => socket.read(buf),
        }
    }
}

impl Write for Limited {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.limit()?;
        match &mut self.socket {
            Socket::Tcp(socket) => socket.write(buf),
            Socket::Unix(socket) => socket.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection to a server.
pub(super) struct Stream(Kind);

enum Kind {
    Plain(Limited),
    Encrypted(Box<StreamOwned<ClientConnection, Limited>>),
}

impl Stream {
    /// Connect to the first of `addresses` that answers.
    ///
    /// # Errors
    /// Those of connecting.
    pub(super) fn tcp(addresses: &[SocketAddr], end: Instant) -> io::Result<Self> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "there is no such host");
        for address in addresses {
            let left = end.checked_duration_since(Instant::now()).unwrap_or_default();
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match TcpStream::connect_timeout(address, CONNECT.min(left)) {
                Ok(socket) => {
                    socket.set_nodelay(true)?;
                    return Ok(Self(Kind::Plain(Limited { socket: Socket::Tcp(socket), end })));
                }
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// The connection on `socket`.
    pub(super) fn unix(socket: UnixStream, end: Instant) -> Self {
        Self(Kind::Plain(Limited { socket: Socket::Unix(socket), end }))
    }

    /// From now on, fail after `end`.
    pub(super) fn limit(&mut self, end: Instant) {
        match &mut self.0 {
            Kind::Plain(stream) => stream.end = end,
            Kind::Encrypted(stream) => stream.sock.end = end,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Kind::Plain(stream) => stream.read(buf),
            Kind::Encrypted(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Kind::Plain(stream) => stream.write(buf),
            Kind::Encrypted(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Kind::Plain(stream) => stream.flush(),
            Kind::Encrypted(stream) => stream.flush(),
        }
    }
}

/// How to encrypt connections.
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    server: ServerName<'static>,
}

impl Tls {
    /// For the server `host`. `dir` has the files that libnbd and QEMU use: `ca-cert.pem`, and for
    /// servers that ask who is there `client-cert.pem` and `client-key.pem`. Without it, the system's
    /// CAs count.
    ///
    /// # Errors
    /// Which file cannot be used.
    pub(super) fn new(host: &str, dir: Option<&Path>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        match dir {
            None => drop(roots.add_parsable_certificates(system_roots())),
            Some(dir) => {
                for certificate in all(&dir.join("ca-cert.pem"))? {
                    roots.add(certificate).map_err(|e| format!("ca-cert.pem: {e}"))?;
                }
            }
        }
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots);
        let own = dir.map(|dir| (dir.join("client-cert.pem"), dir.join("client-key.pem")));
        let config = match own.filter(|(chain, key)| chain.exists() || key.exists()) {
            None => config.with_no_client_auth(),
            Some((chain, key)) => {
                let unusable = |e| format!("{}: {e}", key.display());
                let key =
                    PrivateKeyDer::from_pem_file(&key).map_err(|e| unusable(e.to_string()))?;
                config.with_client_auth_cert(all(&chain)?, key).map_err(|e| e.to_string())?
            }
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let server = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
        Ok(Self { config: Arc::new(config), server })
    }

    /// Shake hands on `stream`.
    ///
    /// # Errors
    /// Errors of the stream; `Lasting` if the server is not who it should be.
    pub(super) fn encrypt(&self, stream: Stream) -> Result<Stream, Failure> {
        let Kind::Plain(socket) = stream.0 else {
            return Err(Failure::Lasting("it is encrypted already".into()));
        };
        let connection = ClientConnection::new(Arc::clone(&self.config), self.server.clone());
        let connection = connection.map_err(|e| Failure::Lasting(e.to_string()))?;
        let mut stream = StreamOwned::new(connection, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).map_err(|e| match e.kind() {
                io::ErrorKind::InvalidData => Failure::Lasting(e.to_string()),
                _ => broken(e),
            })?;
        }
        Ok(Stream(Kind::Encrypted(Box::new(stream))))
    }
}

/// The certificates in the file at `path`.
fn all(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let unusable = |e: rustls::pki_types::pem::Error| format!("{}: {e}", path.display());
    CertificateDer::pem_file_iter(path)
        .map_err(unusable)?
        .collect::<Result<_, _>>()
        .map_err(unusable)
}

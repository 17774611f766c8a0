//! The socket that clients connect to: made and removed by the process that keeps the server.

use super::address::NbdAddress;
use crate::process::NamedInode;
use crate::{Error, ErrorKind, Result};
use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt,
};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 128;

/// A socket with an address. Nobody can connect before [`NbdListener::listen`].
#[derive(Debug)]
pub struct NbdListener {
    fd: OwnedFd,
    address: NbdAddress,
    /// The name of a Unix socket.
    name: Option<NamedInode>,
}

impl NbdListener {
    /// Make a socket for `address`. A Unix socket can be used by its owner only.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] when something exists at the path of a Unix socket; errors of the system
    /// calls.
    pub fn bind(address: &NbdAddress) -> Result<Self> {
        match address {
            NbdAddress::Unix(path) => Self::bind_unix(path),
            NbdAddress::Tcp { host, port } => Self::bind_tcp(host, *port),
        }
    }

    fn bind_tcp(host: &str, port: u16) -> Result<Self> {
        let failed = |e: io::Error| Error::io(format!("cannot listen on {host}:{port}"), e);
        let mut found = (host, port).to_socket_addrs().map_err(failed)?;
        let found = found.next().ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let family = if found.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let made = || -> rustix::io::Result<(OwnedFd, u16)> {
            let fd = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            sockopt::set_socket_reuseaddr(&fd, true)?;
            // Connections inherit these.
            sockopt::set_tcp_nodelay(&fd, true)?;
            sockopt::set_socket_keepalive(&fd, true)?;
            bind(&fd, &found)?;
            let bound = SocketAddr::try_from(getsockname(&fd)?)?;
            Ok((fd, bound.port()))
        };
        let (fd, port) = made().map_err(|e| failed(e.into()))?;
        let address = NbdAddress::Tcp { host: host.to_owned(), port };
        Ok(Self { fd, address, name: None })
    }

    fn bind_unix(path: &Path) -> Result<Self> {
        let shown = path.display();
        let failed = |e: io::Error| Error::io(format!("cannot make the socket {shown}"), e);
        // The process that keeps it leaves its working directory.
        let path = absolute(path).map_err(failed)?;
        let long = |_| {
            let what = format!("the path of the socket {shown} is too long (limit 107 bytes)");
            Error::new(ErrorKind::Invalid, what)
        };
        let name = SocketAddrUnix::new(&path).map_err(long)?;
        let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|e| failed(e.into()))?;
        // Linux gives the mode of the descriptor to the name.
        fchmod(&fd, Mode::RUSR | Mode::WUSR).map_err(|e| failed(e.into()))?;
        match bind(&fd, &name) {
            Ok(()) => {}
            Err(Errno::ADDRINUSE) => {
                let what = format!(
                    "{shown} exists; remove it if no server uses it, or name another socket"
                );
                return Err(Error::new(ErrorKind::Busy, what));
            }
            Err(e) => return Err(failed(e.into())),
        }
        let name = NamedInode::of(path.clone()).map_err(failed)?;
        Ok(Self { fd, address: NbdAddress::Unix(path), name: Some(name) })
    }

    /// Where clients connect; a path is absolute, and a port known.
    pub fn address(&self) -> &NbdAddress {
        &self.address
    }

    /// Let clients connect.
    ///
    /// # Errors
    /// Errors of listen(2).
    pub fn listen(&self) -> Result<()> {
        let listening = rustix::net::listen(&self.fd, BACKLOG);
        listening.map_err(|e| Error::io("cannot listen on the socket", e.into()))
    }

    /// Remove the name of a Unix socket, unless something else has it by now.
    pub fn remove(&mut self) {
        if let Some(name) = self.name.take() {
            name.remove();
        }
    }

    /// The name of a Unix socket, until it is removed.
    pub fn name(&self) -> Option<&NamedInode> {
        self.name.as_ref()
    }
}

impl AsFd for NbdListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for NbdListener {
    fn drop(&mut self) {
        self.remove();
    }
}

/// `path` without symlinks in the part that exists.
fn absolute(path: &Path) -> io::Result<PathBuf> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Ok(parent.canonicalize()?.join(name))
        }
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_socket_is_private_and_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let address = NbdAddress::Unix(path.clone());
        let mut listener = NbdListener::bind(&address).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        let again = NbdListener::bind(&address).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::Busy);
        assert!(path.exists(), "the second attempt must not remove it");
        listener.listen().unwrap();
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        // Another file in its place stays.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        listener.remove();
        assert!(path.exists());
        std::fs::remove_file(&path).unwrap();
        drop(NbdListener::bind(&address).unwrap());
        assert!(!path.exists());
        let long = NbdAddress::Unix(dir.path().join("x".repeat(120)));
        assert_eq!(NbdListener::bind(&long).unwrap_err().kind(), ErrorKind::Invalid);
    }
}

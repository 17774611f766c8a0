//! Encryption: the server's certificate, and clients that prove who they are.
//!
//! The directory has the files that QEMU, nbdkit and libnbd use: `ca-cert.pem`, `server-cert.pem`,
//! `server-key.pem`, and perhaps `ca-crl.pem`. A client needs a certificate that the CA has signed.

use super::socket::Socket;
use crate::{Error, ErrorKind, Result};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// An encrypted connection.
pub(super) type TlsStream = StreamOwned<ServerConnection, Socket>;

/// How to encrypt connections.
#[derive(Clone, Debug)]
pub struct TlsConfig(Arc<ServerConfig>);

impl TlsConfig {
    /// Read the files in `dir`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a file that cannot be read or used, with its name.
    pub fn load(dir: &Path) -> Result<Self> {
        let provider = Arc::new(default_provider());
        let mut roots = RootCertStore::empty();
        let path = dir.join("ca-cert.pem");
        for certificate in all::<CertificateDer<'_>>(&path)? {
            roots.add(certificate).map_err(|e| unusable(&path, e))?;
        }
        let path = dir.join("ca-crl.pem");
        // A link to nowhere, or to what cannot be read, is an error: revoked clients would be admitted.
        let revoked: Vec<CertificateRevocationListDer<'_>> = match path.symlink_metadata() {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            _ => all(&path)?,
        };
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
        let verifier = match revoked.is_empty() {
            true => verifier,
            // A list of a CA says nothing about the CAs above it.
            false => verifier.with_crls(revoked).only_check_end_entity_revocation(),
        };
        let verifier = verifier.build().map_err(|e| unusable(dir, e))?;
        let path = dir.join("server-key.pem");
        let key = PrivateKeyDer::from_pem_file(&path).map_err(|e| unusable(&path, e))?;
        let path = dir.join("server-cert.pem");
        let chain = all(&path)?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| unusable(dir, e))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|e| unusable(&path, e))?;
        Ok(Self(Arc::new(config)))
    }

    /// Encrypt what crosses `socket` from here on.
    ///
    /// # Errors
    /// Errors of the library.
    pub(super) fn encrypt(&self, socket: Socket) -> io::Result<TlsStream> {
        let connection = ServerConnection::new(Arc::clone(&self.0)).map_err(io::Error::other)?;
        Ok(StreamOwned::new(connection, socket))
    }
}

/// All objects of a kind in a file, at least one.
fn all<T: PemObject>(path: &Path) -> Result<Vec<T>> {
    let found =
        T::pem_file_iter(path).and_then(Iterator::collect::<std::result::Result<Vec<T>, _>>);
    match found.map_err(|e| unusable(path, e))? {
        found if found.is_empty() => Err(unusable(path, pem::Error::NoItemsFound)),
        found => Ok(found),
    }
}

fn unusable(path: &Path, e: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::with_source(ErrorKind::Invalid, format!("cannot use {} for TLS", path.display()), e)
}

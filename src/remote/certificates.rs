//! The CAs that this host trusts.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

/// Longest file of certificates in bytes.
const MOST: u64 = 16 << 20;

/// Where distributions keep the certificates of CAs: Debian, Fedora, openSUSE, Alpine.
const FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The certificates in the file that `SSL_CERT_FILE` names, else those of the system. What cannot be
/// read is left out: then, no server is believed.
pub(super) fn system_roots() -> Vec<CertificateDer<'static>> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let mut files = named.into_iter().chain(FILES.map(PathBuf::from));
    let mut bytes = Vec::new();
    let opened = files.find_map(|path| File::open(path).ok());
    let _ = opened.map(|file| file.take(MOST).read_to_end(&mut bytes));
    CertificateDer::pem_slice_iter(&bytes).flatten().collect()
}

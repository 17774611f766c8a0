//! An HTTP server with one file, which counts what it sends and can be told to misbehave.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::process::run;

/// What the server does wrong.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Fault {
    #[default]
    None,
    /// It ignores `Range`.
    NoRanges,
    /// It closes each connection after the request.
    Drop,
    /// It closes the connection in the middle of a body.
    Cut,
    /// It says that it is busy.
    Busy,
    /// It sends a byte more than it should.
    Long,
    /// It says, and sends, another range.
    WrongRange,
    /// Its file has another length than before.
    WrongLength,
    /// Its file has the greatest length that there is.
    HugeLength,
    /// It sends headers without end.
    EndlessHead,
    /// It sends the body one byte per second.
    Drip,
    /// It sends every request back to itself.
    Redirects,
    /// It compresses.
    Compressed,
    /// It denies access.
    Denied,
}

#[derive(Debug, Default)]
struct State {
    path: PathBuf,
    fault: Mutex<(Fault, u64)>,
    tag: Mutex<Option<String>>,
    authorization: Mutex<Option<String>>,
    requests: AtomicU64,
    bytes: AtomicU64,
    ended: AtomicBool,
}

/// A running server; it ends when dropped.
pub struct HttpServer {
    state: Arc<State>,
    port: u16,
    scheme: &'static str,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HttpServer {
    /// Serves the file at `path`, under any name.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self::start(path.as_ref(), 0, None)
    }

    /// Serves it on a port that a server had before.
    pub fn on_port(path: impl AsRef<Path>, port: u16) -> Self {
        Self::start(path.as_ref(), port, None)
    }

    /// Serves it with TLS, as `localhost`, with the certificate in `certificates`.
    pub fn encrypted(path: impl AsRef<Path>, certificates: &TestCertificates) -> Self {
        Self::start(path.as_ref(), 0, Some(certificates.config()))
    }

    fn start(path: &Path, port: u16, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let tag = Mutex::new(Some("\"one\"".to_owned()));
        let state = Arc::new(State { path: path.to_path_buf(), tag, ..State::default() });
        let scheme = if tls.is_some() { "https" } else { "http" };
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if shared.ended.load(Ordering::SeqCst) {
                    return;
                }
                let (state, tls) = (Arc::clone(&shared), tls.clone());
                std::thread::spawn(move || {
                    let _ = stream.set_nodelay(true);
                    match tls {
                        None => drop(state.serve(stream)),
                        Some(config) => {
                            let tls = ServerConnection::new(config).expect("a configuration");
                            drop(state.serve(StreamOwned::new(tls, stream)));
                        }
                    }
                });
            }
        });
        Self { state, port, scheme }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of the file under the name `name`.
    pub fn url(&self, name: &str) -> String {
        let host = if self.scheme == "https" { "localhost" } else { "127.0.0.1" };
        format!("{}://{host}:{}/{name}", self.scheme, self.port)
    }

    /// Misbehave from now on.
    pub fn fault(&self, fault: Fault) {
        *locked(&self.state.fault) = (fault, u64::MAX);
    }

    /// Misbehave for the next `times` requests.
    pub fn fault_for(&self, fault: Fault, times: u64) {
        *locked(&self.state.fault) = (fault, times);
    }

    /// The entity tag, from now on.
    pub fn tag(&self, tag: Option<&str>) {
        *locked(&self.state.tag) = tag.map(str::to_owned);
    }

    /// Deny access without this `Authorization`.
    pub fn require(&self, authorization: &str) {
        *locked(&self.state.authorization) = Some(authorization.to_owned());
    }

    /// The number of requests so far.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// The bytes of bodies that were sent so far.
    pub fn bytes(&self) -> u64 {
        self.state.bytes.load(Ordering::SeqCst)
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl State {
    /// Answers the requests of a connection.
    fn serve(&self, stream: impl Read + Write) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let mut head = Vec::new();
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line)? == 0 || self.ended.load(Ordering::SeqCst) {
                    return Ok(());
                }
                if line.trim().is_empty() {
                    break;
                }
                head.push(line.trim().to_owned());
            }
            self.requests.fetch_add(1, Ordering::SeqCst);
            if !self.respond(&head, stream.get_mut())? {
                return Ok(());
            }
        }
    }

    fn next_fault(&self) -> Fault {
        let mut fault = locked(&self.fault);
        if fault.1 == 0 {
            return Fault::None;
        }
        fault.1 -= 1;
        fault.0
    }

    /// Answers one request; whether the connection goes on.
    fn respond(&self, head: &[String], to: &mut impl Write) -> std::io::Result<bool> {
        let header = |name: &str| {
            let mut lines = head.iter().filter_map(|line| line.split_once(": "));
            lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        };
        let fault = self.next_fault();
        let empty = |to: &mut dyn Write, status: &str| {
            to.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes())
        };
        let wanted = locked(&self.authorization).clone();
        if fault == Fault::Denied
            || wanted.is_some() && wanted.as_deref() != header("authorization")
        {
            empty(to, "401 Unauthorized")?;
            return Ok(true);
        }
        match fault {
            Fault::Drop => return Ok(false),
            Fault::Busy => {
                empty(to, "503 Service Unavailable")?;
                return Ok(true);
            }
            Fault::Redirects => {
                empty(to, "302 Found\r\nLocation: /again?secret=in-the-redirect")?;
                return Ok(true);
            }
            Fault::EndlessHead => {
                to.write_all(b"HTTP/1.1 206 Partial Content\r\n")?;
                for n in 0..1 << 20 {
                    to.write_all(format!("X-{n}: {}\r\n", "x".repeat(100)).as_bytes())?;
                }
                return Ok(false);
            }
            _ => {}
        }
        let tag = locked(&self.tag).clone();
        if header("if-match").is_some_and(|wanted| Some(wanted) != tag.as_deref()) {
            empty(to, "412 Precondition Failed")?;
            return Ok(true);
        }
        let file = File::open(&self.path)?;
        let mut len = file.metadata()?.len();
        let range = header("range").and_then(|r| r.strip_prefix("bytes=")?.split_once('-'));
        let range = range.filter(|_| fault != Fault::NoRanges);
        let number = |text: &str| text.parse::<u64>().expect("a number");
        let (first, last) = match range {
            Some((first, last)) => (number(first), number(last).min(len - 1)),
            None => (0, len - 1),
        };
        let mut body = vec![0; (last - first + 1) as usize];
        file.read_exact_at(&mut body, first)?;
        let mut status =
            format!("206 Partial Content\r\nContent-Range: bytes {first}-{last}/{len}");
        match fault {
            Fault::WrongRange => {
                let (first, last) = (first + 1, last + 1);
                len += 1;
                status =
                    format!("206 Partial Content\r\nContent-Range: bytes {first}-{last}/{len}");
            }
            Fault::WrongLength => {
                len += 512;
                status =
                    format!("206 Partial Content\r\nContent-Range: bytes {first}-{last}/{len}");
            }
            Fault::HugeLength => {
                let len = u64::MAX;
                status =
                    format!("206 Partial Content\r\nContent-Range: bytes {first}-{last}/{len}");
            }
            Fault::NoRanges => status = "200 OK".to_owned(),
            Fault::Compressed => status.push_str("\r\nContent-Encoding: gzip"),
            Fault::Long => body.push(0),
            _ => {}
        }
        let tag = tag.map(|tag| format!("ETag: {tag}\r\n")).unwrap_or_default();
        let announced = body.len();
        to.write_all(
            format!("HTTP/1.1 {status}\r\n{tag}Content-Length: {announced}\r\n\r\n").as_bytes(),
        )?;
        if fault == Fault::Cut {
            to.write_all(&body[..body.len() / 2])?;
            return Ok(false);
        }
        if fault == Fault::Drip {
            for byte in body {
                to.write_all(&[byte])?;
                std::thread::sleep(Duration::from_secs(1));
            }
            return Ok(false);
        }
        to.write_all(&body)?;
        to.flush()?;
        self.bytes.fetch_add(body.len() as u64, Ordering::SeqCst);
        Ok(true)
    }
}

/// Makes a CA in $1, and a certificate for localhost.
const CERTIFICATES: &str = "set -e
cd \"$1\"
new='req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2'
openssl $new -x509 -subj /CN=ca -keyout ca-key.pem -out ca-cert.pem
openssl $new -subj /CN=localhost -keyout server-key.pem -out server.csr
printf 'subjectAltName=DNS:localhost\\nextendedKeyUsage=serverAuth\\n' >ext
openssl x509 -req -in server.csr -CA ca-cert.pem -CAkey ca-key.pem -days 2 -set_serial 1 \\
    -extfile ext -out server-cert.pem";

/// A CA, and the certificate of a server.
pub struct TestCertificates(tempfile::TempDir);

impl TestCertificates {
    pub fn make() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        run("sh", &["-c", CERTIFICATES, "sh", &dir.path().to_string_lossy()]);
        Self(dir)
    }

    /// The certificate of the CA.
    pub fn ca(&self) -> PathBuf {
        self.0.path().join("ca-cert.pem")
    }

    /// The directory, with the files that NBD programs look for.
    pub fn dir(&self) -> &Path {
        self.0.path()
    }

    fn config(&self) -> Arc<ServerConfig> {
        let file = |name: &str| self.0.path().join(name);
        let chain = CertificateDer::pem_file_iter(file("server-cert.pem")).expect("a file");
        let chain = chain.collect::<Result<Vec<_>, _>>().expect("certificates");
        let key = PrivateKeyDer::from_pem_file(file("server-key.pem")).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("versions").with_no_client_auth().with_single_cert(chain, key);
        Arc::new(config.expect("a certificate"))
    }
}

//! Encrypted connections, and clients that have to prove who they are.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use super::client::*;
use crate::common::hash::sha256;
use crate::common::mount::Mount;
use crate::common::process::{SYNTHDISK, command, expect_failure, have, output, run, skip, text};
use crate::common::serve::Served;
use crate::common::tiny::Tiny;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Makes a CA in $1/ca, and in $1/server and $1/client what a server and a client need.
const CERTIFICATES: &str = "set -e
cd \"$1\"
mkdir ca server client stranger
new='req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2'
for ca in ca other; do
    openssl $new -x509 -subj /CN=$ca -keyout ca/$ca-key.pem -out ca/$ca-cert.pem
done
sign() {
    openssl $new -subj /CN=localhost -keyout $1/$2-key.pem -out ca/$1.csr
    printf 'subjectAltName=DNS:localhost\\nextendedKeyUsage=%sAuth\\n' $2 >ca/ext
    openssl x509 -req -in ca/$1.csr -CA ca/$3-cert.pem -CAkey ca/$3-key.pem -days 2 \\
        -set_serial $4 -extfile ca/ext -out $1/$2-cert.pem
    cp ca/ca-cert.pem $1
}
sign server server ca 1
sign client client ca 2
sign stranger client other 3";

struct Certificates(tempfile::TempDir);

impl Certificates {
    fn make() -> Self {
        let dir = tempfile::tempdir().unwrap();
        run("sh", &["-c", CERTIFICATES, "sh", &dir.path().to_string_lossy()]);
        Self(dir)
    }

    fn dir(&self, name: &str) -> String {
        self.0.path().join(name).to_string_lossy().into_owned()
    }
}

fn tools() -> bool {
    ["openssl", "nbdinfo", "nbdcopy", "qemu-img"].into_iter().all(have)
}

#[test]
fn only_clients_with_a_certificate_are_admitted() {
    if !tools() {
        return skip("no openssl or no libnbd");
    }
    let (tiny, certificates) = (Tiny::new(), Certificates::make());
    let options = ["--tls-certificates", &certificates.dir("server")];
    let (served, mount) = (Served::new(&options, &tiny.image), Mount::new(&[], &tiny.image));
    assert!(served.printed().starts_with("nbds+unix:///?socket="), "{}", served.printed());
    let uri = |who: &str| {
        let plain = served.uri("").replacen("nbd", "nbds", 1);
        format!("{plain}&tls-certificates={}", certificates.dir(who))
    };
    let info = text(&run("nbdinfo", &[&uri("client")]).stdout);
    assert!(info.contains("with TLS"), "{info}");
    let copy = tiny.file("copy");
    run("nbdcopy", &[&uri("client"), &*copy.to_string_lossy()]);
    assert_eq!(sha256(&copy), sha256(mount.disk()));
    run("nbdcopy", &["-C", "4", &*copy.to_string_lossy(), &uri("client")]);
    assert_eq!(sha256(mount.disk()), sha256(&copy));
    // Signed by somebody else, and without a certificate.
    for who in ["stranger", "ca"] {
        assert!(!output("nbdinfo", &[&uri(who)]).status.success(), "{who} was admitted");
    }
    // Without TLS, nothing is told.
    let mut client = Client::connect(&served.socket());
    for (option, content) in [(3, &b""[..]), (8, b""), (7, &[0; 6]), (6, &[0; 6]), (99, b"")] {
        assert_eq!(client.option(option, content)[0].0, 0x8000_0005, "option {option}");
    }
    client.send_option(1, b"disk.raw");
    client.expect_end();
    // Something else than TLS after its beginning.
    let mut client = Client::connect(&served.socket());
    assert_eq!(client.option(5, b"x")[0].0, 0x8000_0003);
    assert_eq!(client.option(5, b""), [(ACK, Vec::new())]);
    client.send(&[7; 64]);
    let mut rest = Vec::new();
    let _ = std::io::Read::read_to_end(&mut client.stream, &mut rest);
    assert!(rest.len() < 100, "an alert at most");
    // The server goes on.
    run("nbdinfo", &["--size", &uri("client")]);
}

/// A server in the foreground, and what it prints.
struct Foreground(Child, String);

impl Foreground {
    fn start(args: &[&str], image: &Path) -> Self {
        let mut command = command(SYNTHDISK);
        command.args(["serve", "--foreground"]).args(args).arg(image);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self(child, line.trim().to_owned())
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

#[test]
fn over_tcp() {
    if !tools() {
        return skip("no openssl or no libnbd");
    }
    let (tiny, certificates) = (Tiny::new(), Certificates::make());
    let mount = Mount::new(&[], &tiny.image);
    let server = certificates.dir("server");
    let tls = ["--nbd", "nbds://localhost:0", "--tls-certificates", &server];
    let served = Foreground::start(&tls, &tiny.image);
    let uri = &served.1;
    assert!(uri.starts_with("nbds://localhost:") && !uri.contains(":0/"), "{uri}");
    let dir = certificates.dir("client");
    let with = format!("{uri}?tls-certificates={dir}");
    assert!(text(&run("nbdinfo", &[&with]).stdout).contains("with TLS"));
    let port = uri.trim_end_matches('/').rsplit(':').next().unwrap();
    let creds = format!("tls-creds-x509,id=t,dir={dir},endpoint=client");
    let image = format!("driver=nbd,host=localhost,port={port},tls-creds=t,export=disk.raw");
    let copy = tiny.file("copy").to_string_lossy().into_owned();
    run("qemu-img", &["convert", "--object", &creds, "--image-opts", &image, "-O", "raw", &copy]);
    assert_eq!(sha256(PathBuf::from(&copy)), sha256(mount.disk()));
    drop(served);
    // Without TLS, for reading only.
    let served = Foreground::start(&["--nbd", "nbd://127.0.0.1:0", "--read-only"], &tiny.image);
    let info = text(&run("nbdinfo", &[&served.1]).stdout);
    assert!(info.contains("is_read_only: true"), "{info}");
}

#[test]
fn what_is_not_safe_is_refused() {
    let tiny = Tiny::new();
    let image = tiny.image.to_string_lossy();
    let serve = |args: &[&str], code| {
        expect_failure(&[&["serve", "--nbd"], args, &[&*image]].concat(), code)
    };
    let open = serve(&["nbd://localhost:0"], 2);
    assert!(open.contains("everybody who reaches the port could write"), "{open}");
    let keyless = serve(&["nbds://localhost:0"], 2);
    assert!(keyless.contains("needs --tls-certificates"), "{keyless}");
    let dir = tiny.path().to_string_lossy();
    let socket = tiny.file("s");
    let missing = serve(&[&socket.to_string_lossy(), "--tls-certificates", &dir], 1);
    assert!(missing.contains("ca-cert.pem for TLS"), "{missing}");
    assert!(!socket.exists());
}

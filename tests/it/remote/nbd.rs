//! Images that NBD servers export.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use super::{CHUNK, UNREAD, read};
use crate::common::hash::{Untouched, sha256};
use crate::common::http::TestCertificates;
use crate::common::mount::Mount;
use crate::common::overlay::wait_until;
use crate::common::process::{command, expect_failure, have, skip};
use crate::common::serve::Served;
use crate::common::tiny::Tiny;

/// nbdkit with a file, on a socket.
struct Nbdkit {
    child: Child,
    socket: PathBuf,
}

impl Nbdkit {
    fn new(tiny: &Tiny, options: &[&str]) -> Self {
        let socket = tiny.file("nbdkit.sock");
        let mut command = command("nbdkit");
        command.args(["-f", "-r", "-U"]).arg(&socket).args(options).stderr(Stdio::null());
        let child = command.spawn().expect("nbdkit starts");
        let server = Self { child, socket };
        wait_until("nbdkit listens", || server.socket.exists());
        server
    }

    fn uri(&self, scheme: &str, export: &str) -> String {
        format!("{scheme}+unix:///{export}?socket={}", self.socket.display())
    }
}

impl Drop for Nbdkit {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn what_our_own_server_exports() {
    let tiny = Tiny::new();
    let untouched = Untouched::remember(&tiny.image);
    let served = Served::new(&[], &tiny.image);
    let cache = tiny.file("cache");
    let options = ["--cache-dir", text(&cache)];
    // A partition, and a whole disk with a boot loader.
    let part = Mount::new(&options, served.uri("part1.raw"));
    assert_eq!(sha256(part.part(1)), sha256(&tiny.image));
    let whole = Mount::new(&options, served.uri(""));
    assert_eq!(sha256(whole.part(1)), sha256(&tiny.image));
    assert!(part.printed().contains("does not tell versions apart"), "{}", part.printed());
    let url = served.uri("nothing.raw");
    let said = expect_failure(&["map", "--cache-dir", text(&cache), &url], 1);
    assert!(said.contains("no export 'nothing.raw'"), "{said}");
    // Nothing of it is kept.
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 0);
    drop((part, whole, served));
    untouched.check();
}

#[test]
fn what_nbdkit_exports() {
    if !have("nbdkit") {
        return skip("no nbdkit");
    }
    let tiny = Tiny::new();
    let file = format!("file={}", tiny.image.display());
    let cache = tiny.file("cache");
    for options in [
        &["file", &file][..],
        // One connection at a time; an error now and then; other sizes of blocks.
        &["--filter=noparallel", "file", &file, "serialize=connections"],
        &["--filter=error", "file", &file, "error-pread-rate=20%"],
        &[
            "--filter=blocksize-policy",
            "file",
            &file,
            "blocksize-minimum=4096",
            "blocksize-maximum=65536",
            "blocksize-error-policy=error",
        ],
    ] {
        let server = Nbdkit::new(&tiny, options);
        for size in ["10G", "0"] {
            let uri = server.uri("nbd", "");
            let mount = Mount::new(&["--cache-dir", text(&cache), "--cache-size", size], uri);
            assert_eq!(sha256(mount.part(1)), sha256(&tiny.image), "{options:?}");
        }
    }
    // A server that is gone.
    let server = Nbdkit::new(&tiny, &["file", &file]);
    let mount = Mount::new(&["--cache-dir", text(&cache)], server.uri("nbd", ""));
    let here = read(mount.part(1), 0, 4096).unwrap();
    drop(server);
    assert!(read(mount.part(1), UNREAD, 4096).is_err());
    assert!(read(mount.part(1), UNREAD + CHUNK, 4096).is_err());
    assert_eq!(read(mount.part(1), 0, 4096).unwrap(), here);
}

#[test]
fn encryption_is_checked() {
    if !have("nbdkit") || !have("openssl") {
        return skip("no nbdkit or no openssl");
    }
    let (tiny, certificates) = (Tiny::new(), TestCertificates::make());
    let (file, dir) = (format!("file={}", tiny.image.display()), certificates.dir());
    let pki = format!("--tls-certificates={}", dir.display());
    let server = Nbdkit::new(&tiny, &["--tls=require", &pki, "file", &file]);
    let uri = format!("{}&tls-certificates={}", server.uri("nbds", ""), dir.display());
    let mount = Mount::new(&["--cache-size", "0"], &uri);
    assert_eq!(
        read(mount.part(1), UNREAD, 8192).unwrap(),
        read(&tiny.image, UNREAD, 8192).unwrap()
    );
    mount.unmount();
    let said = expect_failure(&["map", "--cache-size", "0", &server.uri("nbd", "")], 1);
    assert!(said.contains("use nbds://"), "{said}");
    // The system's CAs did not sign its certificate.
    let said = expect_failure(&["map", "--cache-size", "0", &server.uri("nbds", "")], 1);
    assert!(said.contains("certificate"), "{said}");
    drop(server);
    let plain = Nbdkit::new(&tiny, &["file", &file]);
    let uri = format!("{}&tls-certificates={}", plain.uri("nbds", ""), dir.display());
    let said = expect_failure(&["map", "--cache-size", "0", &uri], 1);
    assert!(said.contains("does not encrypt"), "{said}");
}

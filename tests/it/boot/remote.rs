//! Guests whose image lies on a server.

use std::time::Duration;

use crate::common::console::{Disk, Guest};
use crate::common::guests::mini_guest;
use crate::common::hash::Untouched;
use crate::common::http::{HttpServer, TestCertificates};
use crate::common::mount::Mount;
use crate::common::process::{SYNTHDISK, command, text};
use crate::common::serve::Served;

const BOOT: Duration = Duration::from_secs(120);

#[test]
#[ignore = "boots QEMU"]
fn a_guest_boots_from_an_encrypted_server() {
    let image = mini_guest();
    let untouched = Untouched::remember(&image);
    let dir = tempfile::tempdir().unwrap();
    let certificates = TestCertificates::make();
    let server = HttpServer::encrypted(&image, &certificates);
    let mountpoint = dir.path().join("mnt");
    std::fs::create_dir(&mountpoint).unwrap();
    let mount = || {
        let mut mount = command(SYNTHDISK);
        mount.arg("mount").arg("--cache-dir").arg(dir.path().join("cache"));
        mount.arg(server.url("mini.img")).arg(&mountpoint);
        let output = mount.env("SSL_CERT_FILE", certificates.ca()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        Mount::adopt(&mountpoint)
    };
    let first = mount();
    let mut guest = Guest::builder().disk(Disk::new(first.disk())).start();
    guest.login("root", "root", BOOT);
    guest.run_ok("echo written >/root/file && sync");
    guest.poweroff_and_wait(BOOT);
    assert_eq!(first.guest_file("/root/file").as_deref(), Some("written\n"));
    first.unmount();
    let len = image.metadata().unwrap().len();
    eprintln!("fetched {} of {len} bytes in {} requests", server.bytes(), server.requests());
    assert!(server.bytes() < len);
    untouched.check();
}

/// More of the same.
mod matrix {
    use super::*;

    #[test]
    #[ignore = "boots QEMU"]
    fn a_guest_boots_from_an_nbd_server() {
        let image = mini_guest();
        let untouched = Untouched::remember(&image);
        let served = Served::new(&["--bootloader", "none", "--read-only"], &image);
        let mount = Mount::new(&["--cache-size", "0"], served.uri("part1.raw"));
        let mut guest = Guest::builder().disk(Disk::new(mount.disk())).start();
        guest.login("root", "root", BOOT);
        guest.run_ok("echo written >/root/file && sync");
        guest.poweroff_and_wait(BOOT);
        mount.unmount();
        drop(served);
        untouched.check();
    }
}

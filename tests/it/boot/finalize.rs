//! What `finalize` writes boots without synthdisk.

use std::path::Path;
use std::time::Duration;

use crate::common::console::{Disk, Guest};
use crate::common::guests::mini_guest;
use crate::common::hash::{Untouched, sha256};
use crate::common::mount::Mount;
use crate::common::process::{SYNTHDISK, run};

/// Five to ten seconds on an idle machine under TCG.
const BOOT: Duration = Duration::from_secs(120);

fn arg(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Writes the small guest out with what it has written, boots that alone, and has it write, reboot
/// and power off.
fn boots(name: &str, format: &'static str, options: &[&str]) {
    let image = mini_guest();
    let untouched = Untouched::remember(&image);
    let dir = tempfile::tempdir_in("/var/tmp").expect("a temporary directory");
    let (overlay, out) = (dir.path().join("overlay"), dir.path().join(name));
    let mount = Mount::new(&["--overlay", arg(&overlay)], &image);
    let mut guest = Guest::builder().disk(Disk::new(mount.disk())).start();
    guest.login("root", "root", BOOT);
    guest.run_ok("echo under synthdisk >/root/file && sync");
    guest.poweroff_and_wait(BOOT);
    let shown = sha256(mount.disk());
    mount.unmount();
    let args = [
        "finalize",
        "--bootloader",
        "direct",
        "-q",
        "--overlay",
        arg(&overlay),
        "--format",
        format,
        "--verify",
    ];
    run(SYNTHDISK, &[&args, options, &[arg(&image), "-o", arg(&out)]].concat());
    // Nothing is left that it could lean on.
    std::fs::remove_file(&overlay).expect("our own file");
    let back = dir.path().join("back");
    run("qemu-img", &["convert", "-f", format, "-O", "raw", arg(&out), arg(&back)]);
    assert_eq!(sha256(&back), shown);

    let mut guest = Guest::builder().disk(Disk::new(&out).format(format)).start();
    guest.login("root", "root", BOOT);
    assert_eq!(guest.run_ok("cat /root/file"), "under synthdisk");
    let swaps = guest.run_ok("cat /proc/swaps");
    assert!(swaps.contains("/dev/vda2"), "{swaps}");
    guest.run_ok("echo alone >>/root/file && sync");
    guest.reboot(BOOT);
    guest.login("root", "root", BOOT);
    assert_eq!(guest.run_ok("cat /root/file"), "under synthdisk\nalone");
    guest.poweroff_and_wait(BOOT);
    if format == "qcow2" {
        run("qemu-img", &["check", arg(&out)]);
    }
    untouched.check();
}

#[test]
#[ignore = "boots QEMU"]
fn a_raw_file_boots() {
    boots("out.raw", "raw", &[]);
}

#[test]
#[ignore = "boots QEMU"]
fn a_qcow2_file_boots() {
    boots("out.qcow2", "qcow2", &["--compress"]);
}

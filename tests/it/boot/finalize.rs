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

/// Writes the small guest out with what it has written, in two formats, and boots each alone.
#[test]
#[ignore = "boots QEMU"]
fn raw_and_qcow2_files_boot() {
    let image = mini_guest();
    let untouched = Untouched::remember(&image);
    let dir = tempfile::tempdir_in("/var/tmp").expect("a temporary directory");
    let overlay = dir.path().join("overlay");
    let mount = Mount::new(&["--overlay", arg(&overlay)], &image);
    let mut guest = Guest::builder().disk(Disk::new(mount.disk())).start();
    guest.login("root", "root", BOOT);
    guest.run_ok("echo under synthdisk >/root/file && sync");
    guest.poweroff_and_wait(BOOT);
    let shown = sha256(mount.disk());
    mount.unmount();

    let formats = [("raw", vec![]), ("qcow2", vec!["--compress"])];
    let files = formats.map(|(format, options)| {
        let (out, back) = (dir.path().join(format), dir.path().join("back"));
        let from = ["--bootloader", "direct", "--overlay", arg(&overlay), arg(&image)];
        let to = ["--format", format, "--verify", "-q", "-o", arg(&out)];
        run(SYNTHDISK, &[&["finalize"], &from[..], &to, &options].concat());
        run("qemu-img", &["convert", "-f", format, "-O", "raw", arg(&out), arg(&back)]);
        assert_eq!(sha256(&back), shown, "{format}");
        (format, out)
    });
    // Nothing is left that they could lean on.
    std::fs::remove_file(&overlay).expect("our own file");

    for (format, out) in files {
        let mut guest = Guest::builder().disk(Disk::new(&out).format(format)).start();
        guest.login("root", "root", BOOT);
        assert_eq!(guest.run_ok("cat /root/file"), "under synthdisk");
        let swaps = guest.run_ok("cat /proc/swaps");
        assert!(swaps.contains("/dev/vda2"), "{swaps}");
        if format == "qcow2" {
            guest.run_ok("echo alone >>/root/file && sync");
            guest.reboot(BOOT);
            guest.login("root", "root", BOOT);
            assert_eq!(guest.run_ok("cat /root/file"), "under synthdisk\nalone");
        }
        guest.poweroff_and_wait(BOOT);
    }
    run("qemu-img", &["check", arg(&dir.path().join("qcow2"))]);
    untouched.check();
}

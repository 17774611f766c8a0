//! Deltas over a golden image boot without synthdisk.

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

fn boot(disk: Disk) -> Guest {
    let mut guest = Guest::builder().disk(disk).start();
    guest.login("root", "root", BOOT);
    guest
}

/// `tests/it/finalize/delta.rs` compares bytes; only `scripts/test --matrix` boots deltas.
mod matrix {
    use super::*;

    /// Two guests grow from one image; each delta boots with what its guest has written, over a golden
    /// image that nobody changes.
    #[test]
    #[ignore = "boots QEMU"]
    fn deltas_boot_without_synthdisk() {
        let image = mini_guest();
        let untouched = Untouched::remember(&image);
        let dir = tempfile::tempdir_in("/var/tmp").expect("a temporary directory");
        let path = |name: &str| dir.path().join(name);
        let golden = path("golden.raw");
        run(
            SYNTHDISK,
            &["finalize", "--bootloader", "direct", "-q", arg(&image), "-o", arg(&golden)],
        );
        let golden_untouched = Untouched::remember(&golden);
        for name in ["vm1", "vm2"] {
            let (overlay, delta) = (path(&format!("{name}.ov")), path(&format!("{name}.qcow2")));
            let mount = Mount::new(&["--overlay", arg(&overlay)], &image);
            let mut guest = boot(Disk::new(mount.disk()));
            guest.run_ok(&format!("echo {name} >/root/file && sync"));
            guest.poweroff_and_wait(BOOT);
            let sum = sha256(mount.disk());
            mount.unmount();
            let args = [
                "finalize",
                "--bootloader",
                "direct",
                "-q",
                "--delta",
                arg(&overlay),
                "--backing",
                arg(&golden),
            ];
            run(SYNTHDISK, &[&args[..], &[arg(&image), "-o", arg(&delta)]].concat());
            std::fs::remove_file(&overlay).expect("our own file");
            let back = path("back.raw");
            run("qemu-img", &["convert", "-O", "raw", arg(&delta), arg(&back)]);
            assert_eq!(sha256(&back), sum);
        }
        for name in ["vm1", "vm2"] {
            let delta = path(&format!("{name}.qcow2"));
            let mut guest = boot(Disk::new(&delta).format("qcow2"));
            assert_eq!(guest.run_ok("cat /root/file"), name);
            guest.run_ok("echo more >>/root/file && sync");
            if name == "vm2" {
                guest.reboot(BOOT);
                guest.login("root", "root", BOOT);
                assert_eq!(guest.run_ok("cat /root/file"), "vm2\nmore");
            }
            guest.poweroff_and_wait(BOOT);
            run("qemu-img", &["check", arg(&delta)]);
        }
        golden_untouched.check();
        untouched.check();
    }
}

//! A real domU, made by xen-tools, on a disk that exists nowhere.

use std::path::Path;
use std::time::Duration;

use crate::common::console::{Disk, Guest};
use crate::common::guests::domu;
use crate::common::hash::Untouched;
use crate::common::mount::Mount;
use crate::common::process::run;

/// About 25 s on an idle machine under TCG.
const BOOT: Duration = Duration::from_secs(300);

fn start(mount: &Mount) -> Guest {
    Guest::builder()
        .disk(Disk::new(mount.disk()))
        .memory(512)
        .cpus(2)
        .args(&["-nic", "user,model=virtio-net-pci"])
        .start()
}

fn check_overlay(overlay: impl AsRef<Path>) {
    run("qemu-img", &["check".as_ref(), overlay.as_ref().as_os_str()]);
}

/// Only in `scripts/test --matrix`; `guests::trixie` writes to an overlay in every run, and a small guest
/// reboots.
mod matrix {
    use super::*;

    /// A domU's overlay from its first mount to its last.
    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn a_domu_keeps_what_it_wrote() {
        let domu = domu("bookworm");
        let untouched = Untouched::remember(&domu.disk);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let overlay = dir.path().join("overlay.qcow2");
        let overlay = overlay.to_str().expect("UTF-8");
        let options = ["--overlay", overlay];

        let mount = Mount::new(&options, &domu.disk);
        let mut guest = start(&mount);
        guest.login("root", "root", BOOT);
        eprintln!("shell after {:?}", guest.uptime());
        let cmdline = guest.run_ok("cat /proc/cmdline");
        assert!(cmdline.contains("root=UUID=") && cmdline.contains("console=ttyS0"), "{cmdline}");
        assert!(!cmdline.contains("xvda2"), "{cmdline}");
        assert!(guest.run_ok("findmnt -no SOURCE,OPTIONS /").starts_with("/dev/vda1 rw"));
        let swap = guest.run_ok("blkid -o export /dev/vda2");
        assert!(swap.contains("TYPE=swap") && swap.contains("PARTUUID="), "{swap}");
        guest.run_ok("grep ^/dev/vda2 /proc/swaps");
        guest.run_ok("echo written by the domU >/root/file && sync");

        // The same QEMU and the same mount.
        guest.reboot(BOOT);
        guest.login("root", "root", BOOT);
        assert_eq!(guest.run_ok("cat /root/file"), "written by the domU");
        guest.run_ok("echo after a reboot >>/root/file && sync");
        guest.poweroff_and_wait(BOOT);

        let expected = Some("written by the domU\nafter a reboot\n".to_string());
        mount.fsck();
        assert_eq!(mount.guest_file("/root/file"), expected);
        mount.unmount();
        check_overlay(overlay);

        let mount = Mount::new(&options, &domu.disk);
        assert_eq!(mount.guest_file("/root/file"), expected);
        mount.fsck();
        mount.unmount();
        check_overlay(overlay);
        untouched.check();
    }
}

//! Real domUs whose root is XFS or Btrfs: booted by their own kernel, adapted in the overlay.

use std::time::Duration;

use crate::common::console::{Disk, Guest};
use crate::common::guests::{Domu, domu_with};
use crate::common::hash::Untouched;
use crate::common::mount::Mount;
use crate::common::process::run;

/// About 25 s on an idle machine under TCG.
const BOOT: Duration = Duration::from_secs(400);

fn boots(domu: &Domu, fs_type: &str) {
    let untouched = Untouched::remember(&domu.disk);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let overlay = dir.path().join("overlay.qcow2");
    let overlay = overlay.to_str().expect("UTF-8");
    let config = domu.config.to_str().expect("UTF-8");
    let options = ["--config", config, "--overlay", overlay];

    let mount = Mount::of(&options, &[]);
    let printed = mount.printed();
    assert!(printed.contains("adapted: /etc/fstab: "), "{printed}");
    let mut guest = Guest::builder()
        .disk(Disk::new(mount.disk()))
        .memory(512)
        .args(&["-nic", "user,model=virtio-net-pci"])
        .start();
    guest.login("root", "root", BOOT);
    eprintln!("{fs_type}: shell after {:?}", guest.uptime());
    let (_, state) = guest.try_run("systemctl is-system-running --wait", BOOT).expect("an answer");
    let failed = guest.run_ok("systemctl --failed --no-legend --plain");
    eprintln!("{fs_type}: {state}, failed units: {failed:?}");
    let root = guest.run_ok("findmnt -no SOURCE,FSTYPE /");
    let root: Vec<&str> = root.split_whitespace().collect();
    assert_eq!(root, ["/dev/vda2", fs_type]);
    let fstab = guest.run_ok("cat /etc/fstab");
    assert!(!fstab.contains("xvda"), "{fstab}");
    guest.run_ok("grep ^/dev/vda1 /proc/swaps");
    assert_eq!(failed, "");
    assert_eq!(state, "running");
    guest.run_ok("echo written by the domU >/root/file && sync");
    guest.poweroff_and_wait(BOOT);
    let part = mount.part(2);
    match fs_type {
        "xfs" => run("xfs_repair", &["-n".as_ref(), "-f".as_ref(), part.as_os_str()]),
        _ => run("btrfs", &["check".as_ref(), "--readonly".as_ref(), part.as_os_str()]),
    };
    mount.unmount();

    // Nothing is left to adapt, and the guest is read through what it wrote.
    let mount = Mount::of(&options, &[]);
    assert!(!mount.printed().contains("adapted: "), "{}", mount.printed());
    mount.unmount();
    run("qemu-img", &["check", overlay]);
    untouched.check();
}

#[test]
#[ignore = "boots QEMU; makes a domU as root"]
fn an_xfs_root() {
    boots(&domu_with("domu-bookworm-xfs", &["--dist", "bookworm", "--fs", "xfs"]), "xfs");
}

/// Kinds that only `scripts/test --matrix` boots.
mod matrix {
    use super::*;

    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn a_btrfs_root() {
        boots(&domu_with("domu-bookworm-btrfs", &["--dist", "bookworm", "--fs", "btrfs"]), "btrfs");
    }
}

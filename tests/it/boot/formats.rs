//! Guests in images of other formats.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::console::{Disk, Guest};
use crate::common::guests::mini_guest;
use crate::common::hash::Untouched;
use crate::common::mount::Mount;
use crate::common::xva::{Export, Sum, XvaDisk};

const BOOT: Duration = Duration::from_secs(120);

fn export(root: &Path, path: &Path) {
    let disks = vec![XvaDisk { file: root, device: 0, bootable: true }];
    Export { name: "guest", disks, sum: Sum::XxHash, keep_alive: Some(40) }.write(path);
}

#[test]
#[ignore = "boots QEMU"]
fn a_guest_boots_from_its_export() {
    let dir = tempfile::tempdir_in("/var/tmp").expect("a temporary directory");
    let path = dir.path().join("mini.xva");
    export(&mini_guest(), &path);
    let untouched = Untouched::remember(&path);
    let mount = Mount::new(&[], &path);
    let mut guest = Guest::builder().disk(Disk::new(mount.disk())).start();
    guest.login("root", "root", BOOT);
    let words = guest.run_ok("cat /proc/cmdline");
    assert!(words.contains("root=UUID=") && words.contains("of=thexva"), "{words}");
    guest.run_ok("echo written >/root/file && sync");
    guest.poweroff_and_wait(BOOT);
    assert_eq!(mount.guest_file("/root/file").as_deref(), Some("written\n"));
    mount.unmount();
    untouched.check();
}

/// A whole Debian, booted from each format.
mod matrix {
    use super::*;
    use crate::common::guests::domu;
    use crate::common::process::run;

    const LONG: Duration = Duration::from_secs(400);

    fn arg(path: &Path) -> &str {
        path.to_str().expect("UTF-8")
    }

    /// Boots `image`, which depends on `files`.
    fn boots(image: &Path, files: &[PathBuf]) {
        let untouched: Vec<_> = files.iter().map(Untouched::remember).collect();
        let mount = Mount::new(&[], image);
        let nic = ["-nic", "user,model=virtio-net-pci"];
        let guest = Guest::builder().disk(Disk::new(mount.disk())).memory(512).cpus(2).args(&nic);
        let mut guest = guest.start();
        guest.login("root", "root", LONG);
        eprintln!("{}: shell after {:?}", image.display(), guest.uptime());
        let state = guest.try_run("systemctl is-system-running --wait", LONG).expect("an answer").1;
        assert_eq!(state, "running");
        guest.run_ok("echo written >/root/file && sync");
        guest.poweroff_and_wait(LONG);
        mount.fsck();
        mount.unmount();
        untouched.iter().for_each(Untouched::check);
    }

    fn converted(format: &str, options: &[&str]) {
        let dir = tempfile::tempdir_in("/var/tmp").expect("a temporary directory");
        let path = dir.path().join(format!("root.{format}"));
        let root = domu("bookworm").disk;
        let args = ["convert", "-f", "raw", "-O", format];
        run("qemu-img", &[&args[..], options, &[arg(&root), arg(&path)]].concat());
        boots(&path, std::slice::from_ref(&path));
    }

    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn from_an_xva() {
        let dir = tempfile::tempdir_in("/var/tmp").expect("a temporary directory");
        let path = dir.path().join("guest.xva");
        export(&domu("bookworm").disk, &path);
        boots(&path, std::slice::from_ref(&path));
    }

    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn from_a_stream_optimized_vmdk() {
        converted("vmdk", &["-o", "subformat=streamOptimized"]);
    }

    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn from_a_vhdx() {
        converted("vhdx", &[]);
    }

    /// A compressed base, and a layer that the guest was installed further in.
    #[test]
    #[ignore = "boots QEMU; makes a domU as root"]
    fn from_a_qcow2_chain() {
        let dir = tempfile::tempdir_in("/var/tmp").expect("a temporary directory");
        let (base, top) = (dir.path().join("base.qcow2"), dir.path().join("top.qcow2"));
        let root = domu("bookworm").disk;
        run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", "-c", arg(&root), arg(&base)]);
        run(
            "qemu-img",
            &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", arg(&base), arg(&top)],
        );
        boots(&top, &[base, top.clone()]);
    }
}

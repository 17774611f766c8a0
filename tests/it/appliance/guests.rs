//! Guests on XFS and Btrfs, edited by their own kernel for a user without rights, and without FUSE.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

use super::tree::{CONFIG, tree};
use crate::common::field::{Field, mount};
use crate::common::foreign::{make_btrfs, make_xfs};
use crate::common::lvm::Group;
use crate::common::mount::{LoopDev, Mount};
use crate::common::process::{copy_program, is_root, run, run_text, skip};
use crate::common::serve::Served;
use crate::common::slots::Slot;
use crate::common::tiny::menu;

/// Everything in the filesystem `image`: names, owners, modes, sizes, targets, contents; the times of
/// modification of files that the edits do not create. `None` unless root runs the tests.
fn content(image: &Path, options: &str) -> Option<String> {
    if !is_root() {
        return None;
    }
    let device = LoopDev::attach(image, true);
    let dir = tempfile::tempdir().unwrap();
    run("mount", &["-o".as_ref(), options.as_ref(), device.device(), dir.path()]);
    let script = "cd \"$0\" && find . -printf '%P %m %U %G %y %l\\n' | sort && \
                  find . -type f -print0 | sort -z | xargs -0 sha256sum && \
                  find etc/fstab etc/inittab usr boot -type f -printf '%P %s %T@\\n' | sort && \
                  getfattr -R -d -m- . 2>/dev/null | sort";
    let said = run_text("sh", &["-c".as_ref(), script.as_ref(), dir.path().as_os_str()]);
    run("umount", &[dir.path()]);
    Some(said)
}

/// A server of the guest in `field`, run by a user without rights.
pub fn served(field: &Field, config: &str, options: &[&str]) -> Served {
    let program = field.path("synthdisk");
    copy_program(&program);
    if is_root() {
        for name in ["root.img", "swap.img"] {
            chown(field.path(name), Some(65534), Some(65534)).unwrap();
        }
    }
    let options = [&["--config", config], options].concat();
    Served::by_nobody(&program, &options, &[])
}

fn edited_like_by_the_host(fs_type: &str) {
    let field = Field::new();
    let image = field.path("root.img");
    let tree = tree(&field);
    let options = match fs_type {
        "xfs" => {
            make_xfs(&image, 300 << 20, &[], &tree);
            "ro,norecovery,nouuid"
        }
        _ => {
            make_btrfs(&image, 256 << 20, &[], &tree);
            "ro"
        }
    };
    field.swap("swap.img", 1 << 20, "oldswap");
    field.guard(&image);
    let config = field.config(CONFIG);
    let _slot = Slot::take();
    let server = served(&field, &config, &[]);
    let said = server.printed();
    for path in ["/etc/fstab", "/etc/inittab"] {
        assert!(said.contains(&format!("adapted: {path}: ")), "{said}");
    }
    assert!(!said.contains("note:    the guest is not adapted"), "{said}");
    let by_guest = field.path("by-guest.img");
    run(
        "qemu-img",
        &["convert", "-O", "raw", &server.uri("part2.raw"), &field.arg("by-guest.img")],
    );
    drop(server);
    match fs_type {
        "xfs" => run("xfs_repair", &["-n".as_ref(), "-f".as_ref(), by_guest.as_os_str()]),
        _ => run("btrfs", &["check".as_ref(), "--readonly".as_ref(), by_guest.as_os_str()]),
    };
    let Some(by_guest) = content(&by_guest, options) else {
        return skip("comparing with the host's driver needs root");
    };
    let mounted = mount(&config, &["--edit-with=kernel"]);
    assert!(mounted.printed().contains("adapted: /etc/inittab: "), "{}", mounted.printed());
    let by_host = field.path("by-host.img");
    fs::copy(mounted.part(2), &by_host).unwrap();
    mounted.unmount();
    assert_eq!(by_guest, content(&by_host, options).unwrap());
}

#[test]
#[ignore = "slow"]
fn an_xfs_root() {
    edited_like_by_the_host("xfs");
}

/// Kinds that only `scripts/test --matrix` boots.
mod matrix {
    use super::*;

    #[test]
    #[ignore = "boots QEMU"]
    fn a_btrfs_root() {
        edited_like_by_the_host("btrfs");
    }

    #[test]
    #[ignore = "boots QEMU"]
    fn an_xfs_root_on_a_logical_volume() {
        const MIB: u64 = 1 << 20;
        let Some(mut group) = Group::new("vg-01", MIB, &[(340 * MIB, &[])]) else { return };
        let field = Field::new();
        let tree = tree(&field);
        let root = "/dev/mapper/vg--01-root";
        fs::write(tree.join("boot/grub/menu.lst"), menu("1").replace("/dev/xvda2", root)).unwrap();
        let image = field.path("root.img");
        make_xfs(&image, 300 * MIB, &[], &tree);
        group.create_from("root", 300, &image);
        group.detach();
        let _slot = Slot::take();
        let mounted = Mount::new(&["--swap=0"], group.part(0));
        let printed = mounted.printed();
        assert!(printed.contains("adapted: /etc/inittab: "), "{printed}");
        let names = fs::read_dir(mounted.dir()).unwrap().flatten().map(|entry| entry.path());
        let volume = names.into_iter().find(|path| path.ends_with("vg--01-root.raw"));
        let volume = volume.expect("the volume's file");
        run("xfs_repair", &["-n".as_ref(), "-f".as_ref(), volume.as_os_str()]);
        let copy = field.path("volume.img");
        fs::copy(&volume, &copy).unwrap();
        let device = LoopDev::attach(&copy, true);
        let dir = tempfile::tempdir().unwrap();
        let options = "ro,norecovery,nouuid";
        run("mount", &["-o".as_ref(), options.as_ref(), device.device(), dir.path()]);
        let inittab = fs::read_to_string(dir.path().join("etc/inittab")).unwrap();
        run("umount", &[dir.path()]);
        assert!(inittab.contains("ttyS0") && !inittab.contains("hvc0"), "{inittab}");
        mounted.unmount();
    }

    /// `/etc/fstab` and `/etc/inittab` are so short that they are in their inodes, which e2fsprogs
    /// cannot change.
    #[test]
    #[ignore = "boots QEMU"]
    fn files_in_inodes() {
        let field = Field::new();
        let (image, tree) = (field.path("root.img"), tree(&field));
        fs::File::create(&image).unwrap().set_len(300 << 20).unwrap();
        let [tree, arg] = [&tree, &image].map(|path| path.to_str().unwrap());
        let features = ["-t", "ext4", "-q", "-O", "inline_data", "-I", "1024"];
        run("mke2fs", &[&features[..], &["-d", tree, arg]].concat());
        field.swap("swap.img", 1 << 20, "oldswap");
        field.guard(&image);
        let config = field.config(CONFIG);
        let _slot = Slot::take();
        let mounted = mount(&config, &[]);
        assert!(mounted.printed().contains("adapted: /etc/fstab: "), "{}", mounted.printed());
        let part = mounted.part(2);
        run("e2fsck", &["-fn".as_ref(), part.as_os_str()]);
        let part = part.to_str().unwrap();
        let stat = run_text("debugfs", &["-R", "stat /etc/fstab", part]);
        assert!(stat.contains("Flags: 0x10000000"), "it is not in its inode: {stat}");
        assert!(!run_text("debugfs", &["-R", "cat /etc/fstab", part]).contains("xvda"));
        mounted.unmount();
    }
}

//! Edits of XFS and Btrfs guests, by the host's driver in a mount namespace of its own.
//!
//! All but one need root, and are skipped without.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::field::{FSTAB, Field, mount};
use crate::common::foreign::{make_btrfs, make_xfs};
use crate::common::mount::{LoopDev, Mount};
use crate::common::process::{
    SYNTHDISK, command, copy_program, have, is_root, output, run, run_text, skip, text,
};
use crate::common::tiny::{fake_kernel, initrd, menu, noise};
use serde_json::json;

/// Whether tests that need root can run.
fn skipped() -> bool {
    if !is_root() {
        skip("loop devices need root");
    }
    !is_root()
}

/// A tree that boots kernel 1, with this fstab.
fn tree(field: &Field, fstab: &str) -> PathBuf {
    let tree = field.path("tree");
    let (kernel, initrd, menu) = (fake_kernel(1), initrd(101), menu("1"));
    for (path, bytes) in [
        ("boot/vmlinuz-1", &kernel[..]),
        ("boot/initrd.img-1", &initrd),
        ("boot/grub/menu.lst", menu.as_bytes()),
        ("etc/fstab", fstab.as_bytes()),
        ("lib/modules/6.1.0-tiny/modules.dep", b""),
    ] {
        let file = tree.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    }
    tree
}

/// A filesystem that the kernel has mounted, until dropped.
struct Shown {
    dir: tempfile::TempDir,
    _device: LoopDev,
}

impl Shown {
    fn new(image: &Path, read_only: bool, options: &str) -> Self {
        let device = LoopDev::attach(image, read_only);
        let dir = tempfile::tempdir().unwrap();
        run("mount", &["-o".as_ref(), options.as_ref(), device.device(), dir.path()]);
        Self { dir, _device: device }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        // A child that another test is starting may briefly hold a file of ours open.
        for _ in 0..100 {
            if output("umount", &[self.dir.path()]).status.success() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

/// What must not change when a file is rewritten.
fn about(file: &Path) -> String {
    let meta = file.metadata().unwrap();
    let attributes = run_text("getfattr", &["-d".as_ref(), "-m-".as_ref(), file.as_os_str()]);
    let attributes: Vec<&str> = attributes.lines().skip(1).collect();
    let (uid, gid, mode, links) = (meta.uid(), meta.gid(), meta.mode(), meta.nlink());
    let times = (meta.atime(), meta.atime_nsec(), meta.mtime(), meta.mtime_nsec());
    format!("{} {uid} {gid} {mode:o} {links} {times:?} {attributes:?}", meta.ino())
}

/// Sets on a file what must not change.
fn mark(file: &Path) {
    run("setfattr", &["-n", "user.long", "-v", &"x".repeat(300), &file.to_string_lossy()]);
    run("setfattr", &["-n", "trusted.t", "-v", "y", &file.to_string_lossy()]);
    run("chown", &["12:34", &file.to_string_lossy()]);
    fs::set_permissions(file, Permissions::from_mode(0o4640)).unwrap();
    fs::hard_link(file, file.with_extension("link")).unwrap();
    run("touch", &["-d", "2001-02-03 04:05:06.789", &file.to_string_lossy()]);
}

/// FSTAB after the edit: no Xen device name is left.
fn check_fstab(file: &Path, uuid: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(&format!("UUID={uuid} / ")) && !text.contains("xvda2"), "{text}");
}

fn uuid(image: &Path) -> String {
    run_text("blkid", &["-p", "-o", "value", "-s", "UUID", &image.to_string_lossy()])
}

/// Only the daemon may have a file of the mount open.
fn nothing_is_left(mounted: &Mount) {
    let dir = mounted.dir().to_string_lossy().into_owned();
    let loops = run_text("losetup", &["--list", "--noheadings", "-O", "BACK-FILE"]);
    assert!(!loops.contains(&dir), "a loop device stayed: {loops}");
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.lines().any(|l| l.starts_with("/dev/loop") && l.contains("/tmp ")), "{mounts}");
}

/// The guest's own kernel, which is the default, is tested in `appliance`.
const HOST: &str = "--edit-with=kernel";

const CONFIG: &str = "bootloader = 'pygrub'\nroot = '/dev/xvda2 ro'\n\
    disk = ['root.img,,xvda2', 'swap.img,,xvda1']\n";

#[test]
fn xfs_is_edited_in_place_and_once() {
    if skipped() {
        return;
    }
    let field = Field::new();
    let image = field.path("root.img");
    make_xfs(&image, 300 << 20, &[], &tree(&field, FSTAB));
    field.swap("swap.img", 1 << 20, "oldswap");
    let before = {
        let shown = Shown::new(&image, false, "nouuid");
        mark(&shown.at("etc/fstab"));
        about(&shown.at("etc/fstab"))
    };
    field.guard(&image);
    let config = field.config(CONFIG);
    let overlay = field.arg("o.qcow2");
    let options = ["--overlay", &*overlay, HOST];
    let mounted = mount(&config, &options);
    let printed = mounted.printed();
    assert!(printed.contains("adapted: /etc/fstab: "), "{printed}");
    nothing_is_left(&mounted);
    run("xfs_repair", &["-n".as_ref(), "-f".as_ref(), mounted.part(2).as_os_str()]);
    {
        let shown = Shown::new(&mounted.part(2), true, "ro,norecovery,nouuid");
        check_fstab(&shown.at("etc/fstab"), &uuid(&image));
        check_fstab(&shown.at("etc/fstab.link"), &uuid(&image));
        assert_eq!(about(&shown.at("etc/fstab")), before);
    }
    mounted.unmount();
    let stored = fs::read(&overlay).unwrap();
    let mounted = mount(&config, &options);
    assert!(!mounted.printed().contains("adapted: "), "{}", mounted.printed());
    mounted.unmount();
    assert!(fs::read(&overlay).unwrap() == stored, "the second mount wrote to the overlay");
}

/// The edit applies to a file that is in the journal only.
#[test]
fn a_dirty_journal_is_replayed_first() {
    if skipped() || !have("xfs_io") {
        return;
    }
    let field = Field::new();
    let (image, live) = (field.path("root.img"), field.path("live.img"));
    make_xfs(&live, 300 << 20, &[], &tree(&field, "stale\n"));
    field.swap("swap.img", 1 << 20, "oldswap");
    {
        let shown = Shown::new(&live, false, "nouuid");
        fs::write(shown.at("etc/fstab.new"), FSTAB).unwrap();
        run("sync", &["-f".as_ref(), shown.at("etc").as_os_str()]);
        fs::rename(shown.at("etc/fstab.new"), shown.at("etc/fstab")).unwrap();
        let end =
            ["-x".as_ref(), "-c".as_ref(), "shutdown -f".as_ref(), shown.dir.path().as_os_str()];
        run("xfs_io", &end);
    }
    fs::copy(&live, &image).unwrap();
    field.guard(&image);
    let mounted = field.mount(CONFIG, &[HOST]);
    assert!(mounted.printed().contains("adapted: /etc/fstab: "), "{}", mounted.printed());
    {
        let shown = Shown::new(&mounted.part(2), true, "ro,norecovery,nouuid");
        check_fstab(&shown.at("etc/fstab"), &uuid(&image));
        assert!(!shown.at("etc/fstab.new").exists());
    }
    run("xfs_repair", &["-n".as_ref(), "-f".as_ref(), mounted.part(2).as_os_str()]);
    mounted.unmount();
}

#[test]
fn btrfs_is_edited_in_the_root_subvolume() {
    if skipped() {
        return;
    }
    let field = Field::new();
    let image = field.path("root.img");
    let tree = tree(&field, FSTAB);
    let empty = field.path("empty");
    fs::create_dir(&empty).unwrap();
    make_btrfs(&image, 256 << 20, &[], &empty);
    field.swap("swap.img", 1 << 20, "oldswap");
    let before = {
        let shown = Shown::new(&image, false, "compress-force=zstd");
        run("btrfs", &["subvolume".as_ref(), "create".as_ref(), shown.at("@").as_os_str()]);
        run("cp", &["-a".as_ref(), tree.join(".").as_os_str(), shown.at("@").as_os_str()]);
        mark(&shown.at("@/etc/fstab"));
        about(&shown.at("@/etc/fstab"))
    };
    field.guard(&image);
    let mounted = field.mount(CONFIG, &[HOST]);
    assert!(mounted.printed().contains("adapted: /etc/fstab: "), "{}", mounted.printed());
    nothing_is_left(&mounted);
    run("btrfs", &["check".as_ref(), "--readonly".as_ref(), mounted.part(2).as_os_str()]);
    // The kernel knows a filesystem by its UUID, so the image itself must not be mounted now.
    {
        let shown = Shown::new(&mounted.part(2), true, "ro");
        check_fstab(&shown.at("@/etc/fstab"), &uuid(&image));
        assert_eq!(about(&shown.at("@/etc/fstab")), before);
    }
    mounted.unmount();
}

/// Btrfs knows its devices by UUID, and here the host has the image itself mounted.
#[test]
fn an_image_that_the_host_has_mounted_stays_as_it_is() {
    if skipped() {
        return;
    }
    let field = Field::new();
    let image = field.path("root.img");
    make_btrfs(&image, 256 << 20, &[], &tree(&field, FSTAB));
    field.swap("swap.img", 1 << 20, "oldswap");
    field.guard(&image);
    let shown = Shown::new(&image, true, "ro");
    let config = field.config(CONFIG);
    let mounted = mount(&config, &["--force", HOST]);
    let printed = mounted.printed();
    // Since Linux 6.7 the two may be mounted side by side.
    let adapted = printed.contains("adapted: /etc/fstab: ");
    assert!(adapted || printed.contains("not adapted"), "{printed}");
    assert_eq!(fs::read_to_string(shown.at("etc/fstab")).unwrap(), FSTAB);
    drop(shown);
    mounted.unmount();
}

/// A plain user gets a disk that boots and a note about the edits left out.
#[test]
fn without_root_nothing_is_edited() {
    let field = Field::new();
    let image = field.path("root.img");
    make_xfs(&image, 300 << 20, &[], &tree(&field, FSTAB));
    field.swap("swap.img", 1 << 20, "oldswap");
    let program = field.path("synthdisk");
    copy_program(&program);
    let dir = field.path("mnt");
    fs::create_dir(&dir).unwrap();
    let mut words = Command::new(&program);
    if is_root() {
        for path in [&dir, &image, &field.path("swap.img")] {
            std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
        }
        words = command("setpriv");
        words.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(&program);
    }
    field.guard(&image);
    let config = field.config(CONFIG);
    let made = words.args(["mount", HOST, "--config", &config]).arg(&dir).output().unwrap();
    let said = text(&made.stderr);
    assert!(made.status.success(), "{said}");
    let note = said.lines().find(|l| l.contains("not adapted")).expect("it says so");
    assert!(note.contains("only root can edit an xfs filesystem"), "{note}");
    assert!(note.contains("/etc/fstab"), "{note}");
    assert!(said.contains("kernel:  /boot/vmlinuz-1"), "{said}");
    let gone = output("fusermount3", &["-u".as_ref(), dir.as_os_str()]);
    assert!(gone.status.success(), "{}", text(&gone.stderr));
}

/// Runs the process that edits; returns its exit code and output.
fn edit(image: &Path, fs_type: &str, options: &str, tasks: serde_json::Value) -> (i32, String) {
    let job = json!({
        "partition": image, "fs_type": fs_type, "options": options, "tasks": tasks,
    });
    let mut child = Command::new(SYNTHDISK)
        .args(["internal", "edit-mounted"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(job.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code().unwrap(), text(&output.stderr))
}

#[test]
fn every_kind_of_edit() {
    if skipped() {
        return;
    }
    let field = Field::new();
    let tree = tree(&field, FSTAB);
    fs::write(tree.join("etc/gone"), "gone").unwrap();
    let label = b"system_u:object_r:etc_t:s0\0";
    let host = field.path("host-file");
    fs::write(&host, noise(3_000_000, 8)).unwrap();
    for (fs_type, options) in [("xfs", "nouuid"), ("btrfs", "")] {
        let image = field.path("root.img");
        match fs_type {
            "xfs" => make_xfs(&image, 300 << 20, &[], &tree),
            _ => make_btrfs(&image, 256 << 20, &[], &tree),
        }
        let labelled = Shown::new(&image, false, options);
        xattr::set(labelled.at("etc"), "security.selinux", label).unwrap();
        drop(labelled);
        let rights = |mode: u32| json!({ "mode": mode, "uid": 12, "gid": 34 });
        let (code, said) = edit(
            &image,
            fs_type,
            options,
            json!([
                { "path": "/etc/new", "action": { "MakeDir": rights(0o2750) } },
                { "path": "/etc/new/file", "action": { "Create": {
                    "content": { "Bytes": b"bytes" }, "access": rights(0o4751) } } },
                { "path": "/etc/new/big", "action": { "Create": {
                    "content": { "HostFile": host }, "access": rights(0o600) } } },
                { "path": "/etc/new/link", "action": { "Symlink": { "target": "/etc/passwd" } } },
                { "path": "/etc/gone", "action": "Remove" },
                { "path": "/etc/fstab", "action": { "Rewrite": {
                    "old": FSTAB.as_bytes(), "new": b"short\n" } } },
            ]),
        );
        assert_eq!((code, said.as_str()), (0, ""));
        let shown = Shown::new(&image, true, "ro");
        let who = |path: &str| {
            let meta = shown.at(path).symlink_metadata().unwrap();
            (meta.mode() & 0o7777, meta.uid(), meta.gid())
        };
        assert_eq!(who("etc/new"), (0o2750, 12, 34));
        assert_eq!(who("etc/new/file"), (0o4751, 12, 34));
        assert_eq!(fs::read(shown.at("etc/new/file")).unwrap(), b"bytes");
        assert!(fs::read(shown.at("etc/new/big")).unwrap() == noise(3_000_000, 8));
        assert_eq!(fs::read_link(shown.at("etc/new/link")).unwrap(), Path::new("/etc/passwd"));
        assert!(!shown.at("etc/gone").exists());
        assert_eq!(fs::read(shown.at("etc/fstab")).unwrap(), b"short\n");
        for path in ["etc/new", "etc/new/file", "etc/new/link"] {
            let told = xattr::get(shown.at(path), "security.selinux").unwrap();
            assert_eq!(told.as_deref(), Some(&label[..]), "{fs_type}: {path}");
        }
    }
}

/// A guest that was maliciously changed after the edits were drafted.
#[test]
fn no_way_leads_out_of_the_guest() {
    if skipped() {
        return;
    }
    let field = Field::new();
    let tree = tree(&field, FSTAB);
    let outside = field.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("fstab"), FSTAB).unwrap();
    symlink(&outside, tree.join("out")).unwrap();
    symlink(outside.join("fstab"), tree.join("etc/link")).unwrap();
    symlink("etc", tree.join("inside")).unwrap();
    let image = field.path("root.img");
    make_xfs(&image, 300 << 20, &[], &tree);
    let before = fs::read(&image).unwrap();
    let new = json!({ "Create": { "content": { "Bytes": b"x" },
        "access": { "mode": 0o644, "uid": 0, "gid": 0 } } });
    let rewrite = json!({ "Rewrite": { "old": FSTAB.as_bytes(), "new": b"x" } });
    for (path, action) in [
        ("/out/fstab", &rewrite),
        ("/etc/link", &rewrite),
        ("/inside/fstab", &rewrite),
        ("/boot", &rewrite),
        ("/boot/vmlinuz-1", &rewrite),
        ("/out/new", &new),
        ("/etc/fstab", &new),
        ("/etc/link", &new),
        ("/..", &new),
        ("/out/fstab", &json!("Remove")),
        ("/etc", &json!("Remove")),
        ("/nothing/there", &new),
    ] {
        let (code, said) =
            edit(&image, "xfs", "nouuid", json!([{ "path": path, "action": action }]));
        assert_eq!(code, 1, "{path} {action}");
        assert!(said.contains(path) && said.trim_end().lines().count() == 1, "{said}");
    }
    // Paths with `..` stay below the guest's root.
    let up = json!([{ "path": "/../../../etc/fstab", "action": rewrite }]);
    assert_eq!(edit(&image, "xfs", "nouuid", up), (0, String::new()));
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(outside.join("fstab")).unwrap(), FSTAB);
    assert!(fs::read(&image).unwrap() != before);
    let shown = Shown::new(&image, true, "ro");
    assert_eq!(fs::read(shown.at("etc/fstab")).unwrap(), b"x");
}

#[test]
fn what_the_kernel_refuses() {
    if skipped() {
        return;
    }
    let field = Field::new();
    let image = field.path("root.img");
    fs::write(&image, noise(1 << 20, 1)).unwrap();
    for fs_type in ["xfs", "nosuchfs"] {
        let (code, said) = edit(&image, fs_type, "", json!([]));
        assert_eq!(code, 1);
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
        assert!(said.contains("this host's kernel does not mount it"), "{said}");
    }
    assert!(fs::read(&image).unwrap() == noise(1 << 20, 1));
}

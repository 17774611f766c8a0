//! Bad input: one message that says what is wrong, exit code 1 (2 for wrong usage), and nothing
//! left over.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

use crate::common::file::{bytes_of, writer};
use crate::common::hash::Untouched;
use crate::common::mount::{LoopDev, Mount, expect_no_mount, is_mount_point};
use crate::common::process::{
    SYNTHDISK, command, copy_program, expect_failure, is_root, output, run, run_text, skip, text,
};
use crate::common::tiny::{Tiny, fake_kernel, make_ext4, noise};

/// The user that tests running as root switch to.
const NOBODY: u32 = 65534;

/// Mounting `image` must fail with a message that contains all `words`; the image does not change.
fn refused(options: &[&str], image: &Path, words: &[&str]) {
    let untouched = image.is_file().then(|| Untouched::remember(image));
    let image = image.to_string_lossy();
    let said = expect_no_mount(&[options, &[&*image]].concat());
    for word in words {
        assert!(said.contains(word), "no `{word}` in: {said}");
    }
    assert!(said.contains(&*image), "it does not name the image: {said}");
    if let Some(untouched) = untouched {
        untouched.check();
    }
}

#[test]
fn files_that_are_no_image() {
    let tiny = Tiny::new();
    let file = |name: &str, bytes: &[u8]| {
        fs::write(tiny.file(name), bytes).unwrap();
        tiny.file(name)
    };
    refused(&[], &tiny.file("missing.img"), &["there is no file"]);
    refused(&[], &file("empty.img", b""), &["empty"]);
    refused(&[], tiny.path(), &["directory"]);
    refused(&[], Path::new("/dev/null"), &["neither a regular file nor a block device"]);
    let loop_link = tiny.file("loop.img");
    symlink("loop.img", &loop_link).unwrap();
    refused(&[], &loop_link, &["cannot open"]);
    refused(&[], &file("zeros.img", &[0; 1 << 20]), &["--kernel", "--bootloader none"]);
    refused(&[], &file("noise.img", &noise(1 << 20, 5)), &["--kernel", "--bootloader none"]);
    refused(&[], &file("short.img", b"x"), &["--kernel"]);

    let whole = file("disk.img", &[0; 4 << 20]);
    run("sh", &["-c", "echo 2048,,83 | sfdisk -q \"$0\"", &whole.to_string_lossy()]);
    refused(&[], &whole, &["no partition with a filesystem", "1 (empty)", "--bootloader none"]);
    let swap = file("swap.img", &[0; 1 << 20]);
    run("mkswap", &["-q", &swap.to_string_lossy()]);
    refused(&[], &swap, &["swap", "root image"]);
    for (format, name, advice) in [
        ("qcow2", "qcow2", "--image-format qcow2"),
        ("vpc", "VHD", "--image-format vhd"),
        ("vmdk", "VMDK", "--image-format vmdk"),
    ] {
        let image = tiny.file(&format!("{format}.img"));
        let path = image.to_string_lossy();
        run("qemu-img", &["convert", "-O", format, &tiny.image.to_string_lossy(), &path]);
        refused(&[], &image, &[name, advice]);
        // Its bytes as they are hold no kernel.
        refused(&["--image-format", "raw"], &image, &["--kernel", "--bootloader none"]);
    }
    run("sh", &["-c", "gzip -1 -c \"$0\" >\"$0.gz\"", &tiny.image.to_string_lossy()]);
    refused(&[], &tiny.file("root.img.gz"), &["gzip", "unpack"]);
}

#[test]
fn filesystems_that_cannot_be_read() {
    let tiny = Tiny::new();
    let image = tiny.file("jfs.img");
    let file = File::create(&image).unwrap();
    file.set_len(32 << 20).and_then(|()| file.write_all_at(b"JFS1", 32768)).unwrap();
    refused(&[], &image, &["JFS", "--kernel", "--bootloader none"]);
    Mount::new(&["--bootloader", "none"], &image).unmount();
    let (kernel, initrd) = (tiny.file("vmlinuz"), tiny.file("initrd"));
    fs::write(&kernel, fake_kernel(9)).unwrap();
    fs::write(&initrd, noise(5000, 1)).unwrap();
    let (kernel, initrd) = (kernel.to_string_lossy(), initrd.to_string_lossy());
    let mount = Mount::new(&["--kernel", &kernel, "--initrd", &initrd], &image);
    assert_eq!(bytes_of(mount.disk(), 131_072, 4096), fake_kernel(9)[..4096]);
    mount.unmount();
    let image = image.to_string_lossy();
    let wrong = ["map", "--kernel", &kernel, "--bootloader", "none", &image];
    let said = expect_failure(&wrong, 2);
    assert!(said.contains("leave out --bootloader none"), "{said}");
}

#[test]
fn nothing_to_boot() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("bare.img");
    make_ext4(&image, 4 << 20, None);
    let path = image.to_string_lossy();
    let said = expect_no_mount(&[&path]);
    for looked_for in ["grub.cfg", "menu.lst", "extlinux", "loader/entries", "vmlinuz"] {
        assert!(
            said.contains(looked_for),
            "it does not say that it looked for {looked_for}: {said}"
        );
    }
    assert!(said.contains("--kernel"), "{said}");

    let broken = |what: &str, words: &[&str], edit: &dyn Fn(&Path)| {
        let tiny = Tiny::with(|tree| edit(tree));
        let untouched = Untouched::remember(&tiny.image);
        let said = expect_no_mount(&[&tiny.image.to_string_lossy()]);
        for word in words {
            assert!(said.contains(word), "{what}: no `{word}` in: {said}");
        }
        untouched.check();
    };
    let kernel = |bytes: &'static [u8]| {
        move |tree: &Path| fs::write(tree.join("boot/vmlinuz-1"), bytes).unwrap()
    };
    broken("gzip'd", &["/boot/vmlinuz-1", "Xen", "--kernel"], &kernel(b"\x1f\x8b\x08rest of it"));
    broken("ELF", &["/boot/vmlinuz-1", "Xen", "--kernel"], &kernel(b"\x7fELF\x02rest of it"));
    broken("empty", &["menu.lst", "--kernel"], &kernel(b""));
    broken("text", &["/boot/vmlinuz-1", "--kernel"], &kernel(b"not a kernel at all"));
    broken("symlink loop", &["menu.lst", "--kernel"], &|tree| {
        fs::remove_file(tree.join("boot/vmlinuz-1")).unwrap();
        symlink("vmlinuz-2", tree.join("boot/vmlinuz-1")).unwrap();
        symlink("vmlinuz-1", tree.join("boot/vmlinuz-2")).unwrap();
    });
    broken("boot is a loop", &[], &|tree| {
        fs::remove_dir_all(tree.join("boot")).unwrap();
        symlink("boot", tree.join("boot")).unwrap();
    });
    broken("a menu without end", &["--kernel"], &|tree| {
        let line = "title x\nkernel /boot/vmlinuz-9\n".repeat(25_000);
        fs::write(tree.join("boot/grub/menu.lst"), line).unwrap();
        fs::remove_file(tree.join("boot/vmlinuz-1")).unwrap();
        fs::remove_file(tree.join("vmlinuz")).unwrap();
    });
}

#[test]
fn a_damaged_filesystem() {
    let tiny = Tiny::new();
    let good = fs::read(&tiny.image).unwrap();
    for (i, (from, len)) in
        [(4096, 4096), (1024 + 88, 8), (1024, 100), (8192, 1 << 20)].into_iter().enumerate()
    {
        let mut bad = good.clone();
        bad[from..from + len].copy_from_slice(&noise(len, i as u64));
        let image = tiny.file("bad.img");
        fs::write(&image, bad).unwrap();
        expect_no_mount(&[&image.to_string_lossy()]);
        Mount::new(&["--bootloader", "none"], &image).unmount();
    }
}

#[test]
fn unusable_mount_points() {
    let tiny = Tiny::new();
    let untouched = Untouched::remember(&tiny.image);
    let image = tiny.image.to_string_lossy();
    let missing = tiny.file("nowhere");
    let said = expect_failure(&["mount", &image, &missing.to_string_lossy()], 1);
    assert!(said.contains("nowhere") && said.contains("mkdir"), "{said}");
    let said = expect_failure(&["mount", &image, &image], 1);
    assert!(said.contains("not a directory"), "{said}");
    let mount = Mount::new(&[], &tiny.image);
    let said = expect_failure(&["mount", &image, &mount.dir().to_string_lossy()], 1);
    assert!(said.contains("already"), "{said}");
    assert_eq!(mount.daemon_pids().len(), 1);
    let dir = mount.dir().to_path_buf();
    mount.unmount();
    assert!(!is_mount_point(&dir));
    for path in ["/nonexistent", "/", &image] {
        let said = expect_failure(&["umount", path], 1);
        assert!(said.contains(path), "{said}");
    }
    untouched.check();
}

#[test]
fn wrong_usage() {
    for args in [
        &["mount"][..],
        &["mount", "--no-such-option", "a", "b"],
        &["mount", "--swap", "lots", "a", "b"],
        &["mount", "--align", "1.5M", "a", "b"],
        &["mount", "--disk-id", "xyz", "a", "b"],
        &["mount", "--swap-uuid", "1234", "a", "b"],
        &["mount", "--bootloader", "lilo", "a", "b"],
        &["mount", "--overlay", "o", "--read-only", "a", "b"],
        &["umount"],
        &["no-such-command"],
    ] {
        expect_failure(args, 2);
    }
}

#[test]
fn images_that_somebody_uses() {
    if !is_root() {
        skip("loop devices need root");
        return;
    }
    let tiny = Tiny::new();
    let dir = tiny.file("elsewhere");
    fs::create_dir(&dir).unwrap();
    {
        let device = LoopDev::attach(&tiny.image, false);
        let name = device.device().to_string_lossy();
        refused(&[], &tiny.image, &["attached to", &name, "--force"]);
        Mount::new(&["--force"], &tiny.image).unmount();
        run("mount", &[device.device(), &dir]);
        let image = tiny.image.to_string_lossy();
        let said = [expect_no_mount(&[&image]), expect_no_mount(&[&name])];
        run("umount", &[&dir]);
        for said in said {
            assert!(said.contains(&*dir.to_string_lossy()) && said.contains("--force"), "{said}");
        }
        // The block device itself, which nobody uses now.
        let mount = Mount::new(&[], device.device());
        run("cmp", &[&tiny.image, &mount.part(1)]);
        mount.unmount();
    }
    let untouched = Untouched::remember(&tiny.image);
    {
        let device = LoopDev::attach(&tiny.image, true);
        run("mount", &["-o".as_ref(), "ro".as_ref(), device.device().as_os_str(), dir.as_os_str()]);
        let mounts = [output_of_mount(&tiny.image), output_of_mount(device.device())];
        run("umount", &[&dir]);
        for made in mounts {
            assert!(made.status.success(), "{}", text(&made.stderr));
        }
    }
    untouched.check();
}

/// Mounts and unmounts `image`, successfully or not.
fn output_of_mount(image: &Path) -> Output {
    let home = tempfile::tempdir().unwrap();
    let made = output(SYNTHDISK, &["mount".as_ref(), image.as_os_str(), home.path().as_os_str()]);
    if made.status.success() {
        run(SYNTHDISK, &["umount".as_ref(), home.path().as_os_str()]);
    }
    made
}

/// A directory in which a plain user finds the program, an image and a mount point of his own.
struct Plain {
    tiny: Tiny,
    program: std::path::PathBuf,
    mnt: std::path::PathBuf,
}

impl Plain {
    /// `None` where no plain user can mount.
    fn new() -> Option<Self> {
        if !is_root() {
            skip("becoming a plain user needs root");
            return None;
        }
        let tiny = Tiny::new();
        let program = tiny.file("synthdisk");
        copy_program(&program);
        let mnt = tiny.file("plain-mnt");
        fs::create_dir(&mnt).unwrap();
        std::os::unix::fs::chown(&mnt, Some(NOBODY), Some(NOBODY)).unwrap();
        fs::set_permissions(&tiny.image, fs::Permissions::from_mode(0o644)).unwrap();
        Some(Self { tiny, program, mnt })
    }

    fn command(&self, program: &Path) -> Command {
        let mut words = command("setpriv");
        words.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(program);
        words
    }

    fn synthdisk(&self, args: &[&std::ffi::OsStr]) -> Output {
        self.command(&self.program).args(args).output().unwrap()
    }

    /// It must fail with one message.
    fn refused(&self, result: &Output, words: &[&str]) {
        let said = text(&result.stderr);
        assert_eq!(result.status.code(), Some(1), "{said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
        for word in words {
            assert!(said.contains(word), "no `{word}` in: {said}");
        }
        assert!(!is_mount_point(&self.mnt), "a mount stayed after: {said}");
    }
}

#[test]
fn a_plain_user() {
    let Some(plain) = Plain::new() else { return };
    let untouched = Untouched::remember(&plain.tiny.image);
    let (image, mnt) = (plain.tiny.image.as_os_str(), plain.mnt.as_os_str());
    let made = plain.synthdisk(&["mount".as_ref(), image, mnt]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let shell = |script: &str| {
        let result = plain.command(Path::new("sh")).args(["-c", script]).arg(mnt).output().unwrap();
        assert!(result.status.success(), "{script}: {}", text(&result.stderr));
        text(&result.stdout)
    };
    shell("echo hello | dd of=\"$0/disk.raw\" bs=1 seek=70000000 conv=notrunc 2>/dev/null");
    assert_eq!(shell("dd if=\"$0/disk.raw\" bs=1 skip=70000000 count=5 2>/dev/null"), "hello");
    shell("sfdisk --verify \"$0/disk.raw\" && sync \"$0/disk.raw\"");
    // Nobody else may enter it, not even root.
    assert!(fs::read_dir(&plain.mnt).is_err());
    let gone = plain.synthdisk(&["umount".as_ref(), mnt]);
    assert!(gone.status.success(), "{}", text(&gone.stderr));
    assert!(!is_mount_point(&plain.mnt));

    let overlay = plain.mnt.join("o.qcow2");
    let others = plain.tiny.file("root-only");
    fs::create_dir(&others).unwrap();
    let no = plain.synthdisk(&["mount".as_ref(), image, others.as_os_str()]);
    plain.refused(&no, &["root-only"]);
    fs::set_permissions(&plain.tiny.image, fs::Permissions::from_mode(0o600)).unwrap();
    let no =
        plain.synthdisk(&["mount".as_ref(), "--overlay".as_ref(), overlay.as_os_str(), image, mnt]);
    plain.refused(&no, &["root.img", "Permission denied"]);
    assert!(!overlay.exists());
    fs::set_permissions(&plain.tiny.image, fs::Permissions::from_mode(0o644)).unwrap();

    let mut bare = plain.command(&plain.program);
    let no = bare.arg("mount").args([image, mnt]).env("PATH", "/nonexistent");
    // setpriv itself is found first, with the path as it is here.
    let setpriv = run_text("sh", &["-c", "command -v setpriv"]);
    let mut with_path = Command::new(setpriv);
    with_path.args(no.get_args()).env("PATH", "/nonexistent");
    plain.refused(&with_path.output().unwrap(), &["fusermount3", "fuse3"]);
    untouched.check();
}

#[test]
fn mount_helper() {
    let tiny = Tiny::new();
    let untouched = Untouched::remember(&tiny.image);
    let helper = tiny.file("mount.fuse.synthdisk");
    symlink(SYNTHDISK, &helper).unwrap();
    let dir = tiny.file("mnt");
    fs::create_dir(&dir).unwrap();
    let call = |options: &str| {
        output(&helper, &[tiny.image.as_os_str(), dir.as_os_str(), "-o".as_ref(), options.as_ref()])
    };
    let made = call("rw,swap=0,align=63s,bootloader=none,noauto,user");
    assert!(made.status.success(), "{}", text(&made.stderr));
    let mount = Mount::adopt(&dir);
    assert!(!mount.part(2).exists());
    assert_eq!(bytes_of(mount.disk(), 63 * 512, 4096), bytes_of(&tiny.image, 0, 4096));
    crate::common::file::write_at(&writer(mount.disk()), b"x", 1000);
    mount.unmount();
    let no = call("bogus_option");
    assert_eq!(no.status.code(), Some(2));
    assert!(text(&no.stderr).contains("bogus_option"));
    let no = call("swap=lots");
    assert!(!no.status.success() && !is_mount_point(&dir));
    untouched.check();
}

#[test]
fn mount_by_type() {
    let sbin = Path::new("/sbin/mount.fuse.synthdisk");
    if !is_root() || sbin.symlink_metadata().is_ok() {
        skip("the mount helper is installed by root, and not twice");
        return;
    }
    struct Installed<'a>(&'a Path);
    impl Drop for Installed<'_> {
        fn drop(&mut self) {
            let _ = fs::remove_file(self.0);
        }
    }
    symlink(SYNTHDISK, sbin).expect("install the mount helper");
    let _installed = Installed(sbin);
    let tiny = Tiny::new();
    let untouched = Untouched::remember(&tiny.image);
    let dir = tiny.file("mnt");
    fs::create_dir(&dir).unwrap();
    let (image, at) = (tiny.image.to_string_lossy(), dir.to_string_lossy());
    run("mount", &["-t", "fuse.synthdisk", &image, &at, "-o", "ro,swap=0,allow_other"]);
    let mount = Mount::adopt(&dir);
    let error = File::options().write(true).open(mount.disk()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    assert!(!mount.part(2).exists());
    let read = command("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "cmp"])
        .args([&tiny.image, &mount.part(1)])
        .status();
    assert!(read.unwrap().success(), "allow_other lets nobody in");
    run("umount", &[&*at]);
    let gone = (0..500).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        mount.daemon_pids().is_empty()
    });
    assert!(gone, "the daemon stays");
    mount.already_gone();
    untouched.check();
}

#[test]
fn a_closed_pipe_for_messages_is_no_reason_to_fail() {
    let tiny = Tiny::new();
    let untouched = Untouched::remember(&tiny.image);
    let dir = tiny.file("mnt");
    fs::create_dir(&dir).unwrap();
    // The reader has ended before the first message.
    let script = "{ sleep 0.3; \"$0\" mount \"$1\" \"$2\"; echo $? >\"$3\"; } 2>&1 | true";
    let code = tiny.file("code");
    let words = [SYNTHDISK.as_ref(), tiny.image.as_os_str(), dir.as_os_str(), code.as_os_str()];
    let result = command("sh").args(["-c", script]).args(words).output().unwrap();
    assert!(result.status.success());
    assert_eq!(fs::read_to_string(&code).unwrap().trim(), "0");
    Mount::adopt(&dir).unmount();
    untouched.check();
}

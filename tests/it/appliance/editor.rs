//! The program in the appliance: every kind of edit, paths that lead elsewhere, edits that belong
//! together, and a filesystem that is full.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use synthdisk::edit::guest_kernel::{Answer, EditResult, Job, Unit};
use synthdisk::edit::{Change, Edit, FileAccess, FileContent};
use synthdisk::plan::{GuestKernel, OverlayChoice, Plan, SourceOptions};

use super::tree::{CONFIG, tree};
use crate::common::field::{FSTAB, Field};
use crate::common::file::{write_at, writer};
use crate::common::foreign::make_xfs;
use crate::common::guests::test_kernel;
use crate::common::mount::LoopDev;
use crate::common::process::{command, have, is_root, run, skip};
use crate::common::slots::Slot;
use crate::common::tiny::noise;
use crate::common::whole::{put, whole_disk};

/// How long a machine may take on a busy host.
const PATIENCE: Duration = Duration::from_secs(400);

/// The kernel and initrd with which a guest is edited.
fn kernel(field: &Field) -> GuestKernel {
    let options =
        SourceOptions { config: Some(field.config(CONFIG).into()), ..SourceOptions::default() };
    let overlay = OverlayChoice::Temporary(std::env::temp_dir());
    let plan = Plan::build(&options, &overlay).unwrap();
    let adaptation = plan.adaptation.as_ref().unwrap().as_ref().unwrap();
    plan.guest_kernel(adaptation).unwrap()
}

/// The boot code of the image starts the guest, and its kernel is found all the same.
#[test]
fn a_whole_disk_that_boots_by_itself() {
    let field = Field::new();
    let root = field.path("root.img");
    make_xfs(&root, 300 << 20, &[], &tree(&field));
    let disk = field.path("disk.img");
    whole_disk(&disk, 302 << 20, "start=2048, size=614400, type=83, bootable");
    put(&disk, 2048, &root);
    // A jump to itself: code, and of no kind that is known.
    write_at(&writer(&disk), &[0xeb, 0xfe], 0);
    let images = vec![disk];
    let options = SourceOptions { images, ..SourceOptions::default() };
    let overlay = OverlayChoice::Temporary(std::env::temp_dir());
    let plan = Plan::build(&options, &overlay).unwrap();
    assert!(plan.boot.is_none() && plan.own_loader.is_some());
    let adaptation = plan.adaptation.as_ref().unwrap().as_ref().unwrap();
    let kernel = plan.guest_kernel(adaptation).unwrap();
    assert_eq!(kernel.fs_type, "xfs");
    assert!(kernel.kernel == fs::read(test_kernel()).unwrap());
}

/// What became of `edits` in the filesystem `image`.
fn results(field: &Field, kernel: &GuestKernel, image: &Path, edits: &[Edit]) -> Vec<EditResult> {
    match answer(field, kernel, image, edits) {
        (Answer::Edited(results), _) => results,
        (other, said) => panic!("{other:?}: {said}"),
    }
}

/// What a machine answers that makes `edits` in the filesystem `image`, and what its kernel says.
fn answer(field: &Field, kernel: &GuestKernel, image: &Path, edits: &[Edit]) -> (Answer, String) {
    let job = Job::new(edits, (&kernel.fs_type, &kernel.options), Unit::Each).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        fs::write(field.path(name), bytes).unwrap();
        field.arg(name)
    };
    let drive = |path: &str| format!("file={path},format=raw,if=virtio,cache=unsafe");
    let disk = file("job", &job.disk());
    let _slot = Slot::take();
    let mut qemu = command("qemu-system-x86_64")
        .args(["-accel", "tcg", "-cpu", "max", "-m", "512", "-nodefaults", "-no-reboot"])
        .args(["-display", "none", "-serial", "file:/dev/stdout", "-nic", "none"])
        .args(["-kernel", &file("kernel", &kernel.kernel)])
        .args(["-initrd", &file("initrd", &kernel.initrd)])
        .args(["-append", "rdinit=/synthdisk/init console=ttyS0 quiet panic=-1 reboot=t"])
        .args(["-drive", &drive(&image.to_string_lossy()), "-drive", &drive(&disk)])
        .stdout(Stdio::from(fs::File::create(field.path("console")).unwrap()))
        .spawn()
        .unwrap();
    let end = Instant::now() + PATIENCE;
    while qemu.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            qemu.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let said = String::from_utf8_lossy(&fs::read(field.path("console")).unwrap()).into_owned();
    (job.answer(&fs::read(disk).unwrap(), edits), said)
}

fn edit(path: &str, change: Change) -> Edit {
    Edit { path: path.into(), change, why: "why".into(), step: "fstab" }
}

fn create(path: &str, bytes: &[u8]) -> Edit {
    let content = FileContent::Bytes(bytes.to_vec());
    edit(path, Change::Create { content, access: FileAccess { mode: 0o4751, uid: 12, gid: 34 } })
}

fn rewrite(path: &str, old: &[u8], new: &[u8]) -> Edit {
    edit(path, Change::Rewrite { old: old.to_vec(), new: new.to_vec() })
}

fn link(path: &str, target: &str) -> Edit {
    edit(path, Change::Symlink { target: target.into() })
}

/// A filesystem that the kernel has mounted, until dropped.
struct Shown(tempfile::TempDir, #[expect(dead_code, reason = "detached with the mount")] LoopDev);

impl Shown {
    fn new(image: &Path) -> Self {
        let (dir, device) = (tempfile::tempdir().unwrap(), LoopDev::attach(image, false));
        run("mount", &["-o".as_ref(), "nouuid".as_ref(), device.device(), dir.path()]);
        Self(dir, device)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        run("umount", &[self.0.path()]);
    }
}

#[test]
fn edits_of_every_kind_and_none_elsewhere() {
    if !is_root() || !have("qemu-system-x86_64") {
        return skip("looking at the result needs root");
    }
    let field = Field::new();
    let tree = tree(&field);
    symlink("/", tree.join("out")).unwrap();
    symlink("fstab", tree.join("etc/link")).unwrap();
    let image = field.path("root.img");
    make_xfs(&image, 300 << 20, &[], &tree);
    field.swap("swap.img", 1 << 20, "oldswap");
    let label = b"system_u:object_r:etc_t:s0\0";
    let host = field.path("host-file");
    fs::write(&host, noise(3_000_000, 8)).unwrap();
    let about = |file: &Path| {
        let meta = file.metadata().unwrap();
        (meta.ino(), meta.mode(), meta.uid(), meta.mtime(), meta.mtime_nsec(), meta.atime())
    };
    let before = {
        let shown = Shown::new(&image);
        xattr::set(shown.at("etc"), "security.selinux", label).unwrap();
        run("chmod", &["4640".as_ref(), shown.at("etc/fstab").as_os_str()]);
        run("chown", &["12:34".as_ref(), shown.at("etc/fstab").as_os_str()]);
        run("chmod", &["4640".as_ref(), shown.at("etc/fstab").as_os_str()]);
        run(
            "touch",
            &["-d".as_ref(), "2001-02-03 04:05:06.789".as_ref(), shown.at("etc/fstab").as_os_str()],
        );
        about(&shown.at("etc/fstab"))
    };
    let kernel = kernel(&field);
    let copied =
        Change::Create { content: FileContent::HostFile(host), access: FileAccess::root(0o600) };
    let good = [
        edit("/etc/new", Change::MakeDir(FileAccess { mode: 0o2750, uid: 12, gid: 34 })),
        create("/etc/new/file", b"bytes"),
        edit("/etc/new/big", copied),
        link("/etc/new/link", "/etc/passwd"),
        edit("/etc/gone", Change::Remove),
        link("/etc/gone", "instead"),
        rewrite("/etc/fstab", FSTAB.as_bytes(), b"short\n"),
    ];
    let bad = [
        rewrite("/out/etc/fstab", FSTAB.as_bytes(), b"x"),
        rewrite("/etc/link", FSTAB.as_bytes(), b"x"),
        rewrite("/etc/inittab", b"other", b"x"),
        rewrite("/boot", b"", b"x"),
        create("/out/new", b"x"),
        create("/..", b"x"),
        create("/etc/../new", b"x"),
        create("/usr/lib", b"x"),
        create("/nothing/there", b"x"),
        edit("/boot", Change::Remove),
        // What was removed for it is there again.
        edit("/usr/lib/file", Change::Remove),
        create("/usr/lib/file", b"x"),
        create("/usr/lib/file", b"x"),
    ];
    let edits = [good.as_slice(), &bad].concat();
    let results = results(&field, &kernel, &image, &edits);
    for (edit, result) in edits.iter().zip(&results).take(good.len()) {
        assert_eq!(*result, Ok(()), "{}", edit.path);
    }
    for (edit, result) in edits.iter().zip(&results).skip(good.len()) {
        let why = result.as_ref().expect_err(&edit.path);
        assert!(why.starts_with(&format!("{} is left as it is: ", edit.path)), "{why}");
    }
    run("xfs_repair", &["-n".as_ref(), "-f".as_ref(), image.as_os_str()]);
    let shown = Shown::new(&image);
    assert_eq!(about(&shown.at("etc/fstab")), before);
    assert_eq!(fs::read(shown.at("etc/fstab")).unwrap(), b"short\n");
    assert_eq!(fs::read(shown.at("etc/new/file")).unwrap(), b"bytes");
    assert!(fs::read(shown.at("etc/new/big")).unwrap() == noise(3_000_000, 8));
    assert_eq!(fs::read_link(shown.at("etc/new/link")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(fs::read_link(shown.at("etc/gone")).unwrap(), Path::new("instead"));
    assert_eq!(fs::read(shown.at("usr/lib/file")).unwrap(), b"usr");
    let who = |path: &str| {
        let meta = shown.at(path).symlink_metadata().unwrap();
        (meta.mode() & 0o7777, meta.uid(), meta.gid())
    };
    assert_eq!(who("etc/new"), (0o2750, 12, 34));
    assert_eq!(who("etc/new/file"), (0o4751, 12, 34));
    assert_eq!(who("etc/new/big"), (0o600, 0, 0));
    for path in ["etc/new", "etc/new/file", "etc/new/link"] {
        let told = xattr::get(shown.at(path), "security.selinux").unwrap();
        assert_eq!(told.as_deref(), Some(&label[..]), "{path}");
    }
    for dir in ["etc", "usr/lib", ""] {
        let names = fs::read_dir(shown.at(dir)).unwrap().flatten();
        let names: Vec<_> = names.map(|e| e.file_name().into_string().unwrap()).collect();
        assert!(!names.iter().any(|name| name.starts_with(".synthdisk")), "{dir}: {names:?}");
    }
}

#[test]
fn a_full_filesystem_keeps_what_it_has() {
    if !is_root() || !have("qemu-system-x86_64") {
        return skip("filling the filesystem needs root");
    }
    let field = Field::new();
    let tree = tree(&field);
    let image = field.path("root.img");
    make_xfs(&image, 300 << 20, &[], &tree);
    field.swap("swap.img", 1 << 20, "oldswap");
    {
        let shown = Shown::new(&image);
        for size in ["1M", "4k"] {
            let fill = shown.at(&format!("fill{size}"));
            let of = format!("of={}", fill.display());
            // It ends when the filesystem is full.
            let _ = command("dd").args(["if=/dev/zero", &of, &format!("bs={size}")]).output();
        }
    }
    let kernel = kernel(&field);
    let mut new = FSTAB.as_bytes().to_vec();
    new.extend(noise(200_000, 3));
    let edits = [
        rewrite("/etc/fstab", FSTAB.as_bytes(), &new),
        edit("/etc/gone", Change::Remove),
        create("/etc/gone", &noise(900_000, 4)),
        // It needs no further block.
        rewrite("/usr/lib/file", b"usr", b"USR"),
    ];
    let results = results(&field, &kernel, &image, &edits);
    assert!(results[0].as_ref().unwrap_err().contains("has no free space"), "{results:?}");
    assert!(results[1].as_ref().unwrap_err().contains("an edit that belongs to it"), "{results:?}");
    assert!(results[2].as_ref().unwrap_err().contains("has no free space"), "{results:?}");
    assert_eq!(results[3], Ok(()));
    run("xfs_repair", &["-n".as_ref(), "-f".as_ref(), image.as_os_str()]);
    let shown = Shown::new(&image);
    assert_eq!(fs::read_to_string(shown.at("etc/fstab")).unwrap(), FSTAB);
    assert_eq!(fs::read(shown.at("etc/gone")).unwrap(), b"gone");
    assert_eq!(fs::read(shown.at("usr/lib/file")).unwrap(), b"USR");
}

/// Kinds that only `scripts/test --matrix` boots.
mod matrix {
    use super::*;

    #[test]
    #[ignore = "boots QEMU"]
    fn what_is_no_filesystem_is_not_edited() {
        let field = Field::new();
        let image = field.path("root.img");
        make_xfs(&image, 300 << 20, &[], &tree(&field));
        field.swap("swap.img", 1 << 20, "oldswap");
        let kernel = kernel(&field);
        let damaged = noise(1 << 20, 7);
        fs::write(&image, &damaged).unwrap();
        let edits = [edit("/etc/gone", Change::Remove)];
        let (answer, said) = answer(&field, &kernel, &image, &edits);
        let Answer::Failed(why) = answer else { panic!("{answer:?}: {said}") };
        assert!(why.starts_with("it does not mount the filesystem: "), "{why}");
        assert!(fs::read(&image).unwrap() == damaged);
    }

    /// Linux panics when it has nothing to start.
    #[test]
    #[ignore = "boots QEMU"]
    fn a_kernel_that_panics_gives_no_answer() {
        let field = Field::new();
        let image = field.path("root.img");
        make_xfs(&image, 300 << 20, &[], &tree(&field));
        field.swap("swap.img", 1 << 20, "oldswap");
        let kernel = GuestKernel { initrd: vec![0; 4096], ..kernel(&field) };
        let (answer, said) = answer(&field, &kernel, &image, &[edit("/x", Change::Remove)]);
        assert_eq!(answer, Answer::Nothing, "{said}");
        assert!(said.contains("Kernel panic - not syncing"), "{said}");
    }
}

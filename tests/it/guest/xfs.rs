//! Reading XFS and Btrfs: compared with the trees that the images were made from, with what
//! the kernel shows, and on hostile images.
//!
//! Needs `mkfs.xfs` (xfsprogs) and `mkfs.btrfs` (btrfs-progs). What only the kernel can make, such as
//! fragmented files and journals of guests that crashed, needs root and is skipped without.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use crate::common::file::FileReader;
use crate::common::foreign::{make_btrfs, make_xfs};
use crate::common::mount::LoopDev;
use crate::common::process::{have, is_root, run, skip};
use crate::common::random::random;
use crate::common::tiny::{fake_kernel, menu, noise};
use synthdisk::ErrorKind;
use synthdisk::fs::Budget;
use synthdisk::fs::open::open_fs;
use synthdisk::fs::xfs::log_is_dirty;
use synthdisk::fs::{FileKind, GuestFs};
use synthdisk::guest::select::choose;
use tempfile::TempDir;

fn open(image: &Path) -> Box<dyn GuestFs> {
    open_fs(FileReader::open(image), &Budget::new()).unwrap()
}

/// A directory for trees and images.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(TempDir::with_prefix("synthdisk-xfs-").unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A tree with directories and symlinks of every form on the disk, and a kernel that boots.
    fn tree(&self, most: usize) -> PathBuf {
        let tree = self.path("tree");
        let add = |path: &str, bytes: &[u8]| {
            let file = tree.join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, bytes).unwrap();
        };
        add("boot/vmlinuz-1", &fake_kernel(1));
        add("boot/initrd.img-1", &noise(70_001, 101));
        add("boot/grub/menu.lst", menu("1").as_bytes());
        add("etc/fstab", b"/dev/xvda1 / xfs defaults 0 1\n");
        add("empty", b"");
        add("big", &noise(3_000_001, 5));
        // In the inode, in one block, with leaves, with leaves and nodes.
        for count in [2, 30, 400, 3000].into_iter().filter(|n| *n <= most) {
            for i in 0..count {
                add(&format!("dirs/{count}/a-rather-long-name-{i}"), b"");
            }
        }
        fs::create_dir_all(tree.join("dirs/none")).unwrap();
        symlink("boot/vmlinuz-1", tree.join("vmlinuz")).unwrap();
        symlink(format!("{}boot", "./".repeat(450)), tree.join("long")).unwrap();
        symlink("/dirs/../etc", tree.join("absolute")).unwrap();
        symlink("loop", tree.join("loop")).unwrap();
        tree
    }
}

/// Everything below `dir` in the guest must be as in `tree`.
fn compare(fs: &dyn GuestFs, tree: &Path, dir: &str) {
    let mut names: Vec<String> = fs::read_dir(tree)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        // Not the guest's.
        .filter(|name| name != "lost+found")
        .collect();
    names.sort();
    assert_eq!(fs.read_dir(if dir.is_empty() { "/" } else { dir }).unwrap(), names, "{dir}");
    for (i, name) in names.iter().enumerate() {
        let (ours, path) = (tree.join(name), format!("{dir}/{name}"));
        let meta = ours.symlink_metadata().unwrap();
        if meta.is_dir() {
            compare(fs, &ours, &path);
        } else if meta.is_symlink() {
            assert_eq!(fs.lstat(&path).unwrap().kind, FileKind::Symlink, "{path}");
        } else {
            // Looking up thousands of names would take long and prove little.
            if i > 40 && meta.len() == 0 {
                continue;
            }
            let stat = fs.stat(&path).unwrap();
            assert_eq!((stat.kind, stat.len), (FileKind::File, meta.len()), "{path}");
            assert!(fs.read(&path, 1 << 30).unwrap() == fs::read(&ours).unwrap(), "{path}");
        }
    }
}

fn check(image: &Path, tree: &Path) {
    let guest = open(image);
    compare(&*guest, tree, "");
    assert_eq!(guest.canonicalize("/vmlinuz").unwrap(), "/boot/vmlinuz-1");
    assert_eq!(guest.canonicalize("/absolute/fstab").unwrap(), "/etc/fstab");
    assert_eq!(guest.canonicalize("/../boot/../etc/./fstab").unwrap(), "/etc/fstab");
    assert_eq!(guest.read("/absolute/fstab", 3).unwrap_err().kind(), ErrorKind::TooLarge);
    for (path, kind) in [
        ("/nothing", ErrorKind::NotFound),
        ("/big/nothing", ErrorKind::NotFound),
        ("/loop", ErrorKind::Invalid),
    ] {
        assert_eq!(guest.stat(path).unwrap_err().kind(), kind, "{path}");
    }
    assert_eq!(guest.open("/boot").err().map(|e| e.kind()), Some(ErrorKind::Invalid));
    assert_eq!(guest.read_dir("/big").err().map(|e| e.kind()), Some(ErrorKind::Invalid));
    assert_eq!(guest.caveat(), None);
    // Forwards, backwards and past the end.
    let big = fs::read(tree.join("big")).unwrap();
    let mut file = guest.open("/big").unwrap();
    for at in [0usize, 1_234_567, 4095, 2_999_990, 3_000_001, 4_000_000] {
        let mut buf = [0; 5000];
        let n = file.read_at(&mut buf, at as u64).unwrap();
        let want = big.get(at..).unwrap_or_default();
        assert!(buf[..n] == want[..want.len().min(5000)], "at {at}");
    }
    let boot = choose(&*guest, None).unwrap();
    assert_eq!(boot.kernel, "/boot/vmlinuz-1");
}

#[test]
fn every_form_of_xfs() {
    let home = Home::new();
    let tree = home.tree(3000);
    let long = format!("{}boot", "./".repeat(450));
    for options in [
        &[][..],
        &["-m", "crc=0"],
        &["-m", "crc=0", "-n", "ftype=0"],
        &["-m", "bigtime=0,inobtcount=0,reflink=0", "-i", "sparse=0"],
        &["-b", "size=1024", "-n", "size=4096"],
        &["-i", "size=2048,nrext64=1"],
        &["-n", "size=16384"],
        &["-d", "agcount=13"],
    ] {
        eprintln!("{options:?}");
        let image = home.path("xfs.img");
        make_xfs(&image, 300 << 20, options, &tree);
        check(&image, &tree);
        assert_eq!(open(&image).canonicalize("/long").ok().as_deref(), Some("/boot"), "{long}");
    }
}

#[test]
fn refused_in_a_sentence() {
    let home = Home::new();
    let tree = home.tree(30);
    let image = home.path("xfs.img");
    make_xfs(&image, 300 << 20, &["-m", "crc=0", "-n", "version=ci"], &tree);
    let refused = |image: Vec<u8>| {
        open_fs(image, &Budget::new()).err().map(|e| (e.kind(), e.to_string())).unwrap()
    };
    let bytes = fs::read(&image).unwrap();
    let (kind, text) = refused(bytes.clone());
    assert_eq!(kind, ErrorKind::Unsupported, "{text}");
    let (kind, text) = refused(bytes[..200 << 20].to_vec());
    assert!(kind == ErrorKind::Corrupt && text.contains("cut short"), "{text}");
    let (kind, text) = refused(bytes[..700].to_vec());
    assert_eq!(kind, ErrorKind::Corrupt, "{text}");
    let (kind, text) = refused(vec![0; 1 << 20]);
    assert_eq!(kind, ErrorKind::Corrupt, "{text}");
}

#[test]
fn btrfs_of_a_tree() {
    let home = Home::new();
    let tree = home.tree(3000);
    for options in [
        &[][..],
        &["--mixed"],
        &["-m", "single", "-n", "65536"],
        &["--csum", "xxhash"],
        &["--csum", "sha256", "-n", "4096"],
        &["--csum", "blake2", "--mixed"],
    ] {
        eprintln!("{options:?}");
        let image = home.path("btrfs.img");
        make_btrfs(&image, 256 << 20, options, &tree);
        check(&image, &tree);
    }
}

/// A filesystem that the kernel has mounted, until dropped.
struct Mounted {
    dir: PathBuf,
    _device: LoopDev,
}

impl Mounted {
    fn new(image: &Path, options: &str) -> Self {
        let device = LoopDev::attach(image, false);
        let dir = image.with_extension("mnt");
        fs::create_dir_all(&dir).unwrap();
        run("mount", &["-o".as_ref(), options.as_ref(), device.device(), dir.as_path()]);
        Self { dir, _device: device }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A child that another test is starting may briefly hold a file of ours open.
        for _ in 0..100 {
            if crate::common::process::output("umount", &[&self.dir]).status.success() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

/// Writes a file of many pieces: every other block is a hole.
fn holes(path: &Path, blocks: u64) {
    let file = fs::File::create(path).unwrap();
    let bytes = noise(4096, 3);
    for i in 0..blocks {
        file.write_all_at(&bytes, i * 8192).unwrap();
    }
    file.write_all_at(b"end", blocks * 8192 + 5000).unwrap();
    file.sync_all().unwrap();
}

/// Files and directories must have been modified when the kernel says.
fn same_times(guest: &dyn GuestFs, tree: &Path) {
    for path in ["boot/vmlinuz-1", "etc/fstab", "etc", "dirs/2", "holes"] {
        let (ours, theirs) =
            (guest.stat(&format!("/{path}")).unwrap(), tree.join(path).metadata().unwrap());
        let theirs = (theirs.mtime(), theirs.mtime_nsec());
        assert_eq!((ours.mtime_secs, i64::from(ours.mtime_nanos)), theirs, "{path}");
        // mkfs.btrfs counts no transactions.
        assert!(ours.revision != 0 || path != "holes", "{path}");
    }
}

#[test]
fn what_the_kernel_wrote_on_xfs() {
    if !is_root() {
        skip("loop devices need root");
        return;
    }
    let home = Home::new();
    let tree = home.tree(30);
    // mkfs.xfs writes such links without their header, which the kernel refuses.
    fs::remove_file(tree.join("long")).unwrap();
    let (image, copy) = (home.path("xfs.img"), home.path("copy"));
    make_xfs(&image, 300 << 20, &[], &tree);
    {
        let mounted = Mounted::new(&image, "nouuid");
        let at = |path: &str| mounted.dir.join(path);
        symlink(format!("{}boot", "./".repeat(450)), at("long")).unwrap();
        // In a tree of extents, not in the inode.
        holes(&at("holes"), 3000);
        run("fallocate", &["-l".as_ref(), "1M".as_ref(), at("unwritten").as_os_str()]);
        fs::remove_dir_all(at("dirs/30")).unwrap();
        for i in 0..5000 {
            fs::write(at(&format!("dirs/2/{i}")), "").unwrap();
        }
        for i in (0..5000).filter(|i| i % 7 != 0) {
            fs::remove_file(at(&format!("dirs/2/{i}"))).unwrap();
        }
        run("cp", &["-a".as_ref(), mounted.dir.as_os_str(), copy.as_os_str()]);
    }
    let guest = open(&image);
    compare(&*guest, &copy, "");
    same_times(&*guest, &copy);
    assert_eq!(guest.canonicalize("/long/vmlinuz-1").unwrap(), "/boot/vmlinuz-1");
    assert_eq!(guest.caveat(), None);
}

#[test]
fn what_the_kernel_wrote_on_btrfs() {
    if !is_root() {
        skip("loop devices need root");
        return;
    }
    let home = Home::new();
    let tree = home.tree(30);
    for compression in ["zlib", "lzo", "zstd", "no"] {
        eprintln!("{compression}");
        let image = home.path("btrfs.img");
        make_btrfs(&image, 256 << 20, &[], &tree);
        let copy = home.path("copy");
        let _ = fs::remove_dir_all(&copy);
        {
            let mounted = Mounted::new(&image, &format!("compress-force={compression}"));
            let text = (0..200_000).map(|i| format!("{i} ")).collect::<String>();
            fs::write(mounted.dir.join("text"), &text).unwrap();
            fs::write(mounted.dir.join("short"), &text[..1500]).unwrap();
            holes(&mounted.dir.join("holes"), 500);
            run(
                "fallocate",
                &["-l".as_ref(), "1M".as_ref(), mounted.dir.join("unwritten").as_os_str()],
            );
            run("sync", &["-f".as_ref(), mounted.dir.as_os_str()]);
            run("cp", &["-a".as_ref(), mounted.dir.as_os_str(), copy.as_os_str()]);
        }
        let guest = open(&image);
        compare(&*guest, &copy, "");
        same_times(&*guest, &copy);
    }
}

/// The subvolumes of installers, and the paths that GRUB uses.
#[test]
fn the_root_subvolume_is_found() {
    if !is_root() {
        skip("loop devices need root");
        return;
    }
    let home = Home::new();
    let tree = home.tree(2);
    let none = home.path("none");
    fs::create_dir(&none).unwrap();
    for (names, default, want) in [
        (&["@", "@home"][..], None, "@"),
        (&["@rootfs"], None, "@rootfs"),
        (&["home", "system"], None, "system"),
        (&["one", "two"], Some("two"), ""),
    ] {
        let image = home.path("btrfs.img");
        make_btrfs(&image, 256 << 20, &[], &none);
        {
            let mounted = Mounted::new(&image, "noatime");
            for name in names {
                let at = mounted.dir.join(name);
                run("btrfs", &["subvolume".as_ref(), "create".as_ref(), at.as_os_str()]);
            }
            // With a default, both are root filesystems.
            for name in names.iter().filter(|n| default.is_some() || **n == want) {
                let (from, to) = (tree.join("."), mounted.dir.join(name));
                run("cp", &["-a".as_ref(), from.as_os_str(), to.as_os_str()]);
                fs::write(to.join("name"), name).unwrap();
            }
            if let Some(name) = default {
                let at = mounted.dir.join(name);
                run("btrfs", &["subvolume".as_ref(), "set-default".as_ref(), at.as_os_str()]);
            }
        }
        let guest = open(&image);
        assert_eq!(guest.read("/name", 99).unwrap(), default.unwrap_or(want).as_bytes());
        assert_eq!(choose(&*guest, None).unwrap().kernel, "/boot/vmlinuz-1");
        let options = guest.kernel_mount().unwrap().options;
        if want.is_empty() {
            assert_eq!(options, "");
            continue;
        }
        assert_eq!(options, format!("subvol=/{want}"));
        let grub = format!("/{want}/boot/vmlinuz-1");
        let canonical = guest.canonicalize(&grub).unwrap();
        assert!(guest.read(&canonical, 1 << 20).unwrap() == fake_kernel(1));
        assert!(guest.read_dir(&format!("/{want}/boot")).unwrap().contains(&"grub".into()));
        assert_eq!(guest.stat("/@nothing").unwrap_err().kind(), ErrorKind::NotFound);
    }
}

/// A guest whose power was cut: what it had written is in its journal.
#[test]
fn a_journal_is_replayed_in_memory() {
    if !is_root() || !have("xfs_io") {
        skip("needs root and xfs_io");
        return;
    }
    let home = Home::new();
    let tree = home.tree(30);
    fs::remove_file(tree.join("long")).unwrap();
    let image = home.path("xfs.img");
    make_xfs(&image, 300 << 20, &[], &tree);
    {
        let mounted = Mounted::new(&image, "nouuid");
        fs::create_dir(mounted.dir.join("new")).unwrap();
        for i in 0..100 {
            fs::write(mounted.dir.join(format!("new/{i}")), noise(5000, i)).unwrap();
        }
        run("sync", &["-f".as_ref(), mounted.dir.as_os_str()]);
        fs::rename(mounted.dir.join("new/7"), mounted.dir.join("etc/seven")).unwrap();
        // Written to the log, and nowhere else.
        let end = ["-x".as_ref(), "-c".as_ref(), "shutdown -f".as_ref(), mounted.dir.as_os_str()];
        run("xfs_io", &end);
    }
    let crashed = home.path("crashed.img");
    fs::copy(&image, &crashed).unwrap();
    let copy = home.path("copy");
    {
        let mounted = Mounted::new(&image, "nouuid");
        run("cp", &["-a".as_ref(), mounted.dir.as_os_str(), copy.as_os_str()]);
    }
    assert!(fs::read(&image).unwrap() != fs::read(&crashed).unwrap(), "nothing was replayed");
    let dirty = |image: &Path| log_is_dirty(&fs::read(image).unwrap());
    assert_eq!((dirty(&crashed), dirty(&image)), (Some(true), Some(false)));
    let guest = open(&crashed);
    assert_eq!(guest.caveat(), None);
    assert!(guest.read("/etc/seven", 9999).unwrap() == noise(5000, 7));
    compare(&*guest, &copy, "");
}

/// A journal that only the kernel can replay does not prevent reading the guest.
#[test]
fn a_journal_of_version_4_is_left_out() {
    let home = Home::new();
    let tree = home.tree(30);
    let path = home.path("xfs.img");
    make_xfs(&path, 24 << 20, &["-m", "crc=0"], &tree);
    let mut image = fs::read(&path).unwrap();
    // The only record says "unmounted"; without that flag it is one to be replayed.
    let record = image.windows(4).position(|w| w == [0xfe, 0xed, 0xba, 0xbe]).expect("a log");
    let flags = record + 512 + 9;
    assert_eq!(image[flags], 0x20);
    assert_eq!(log_is_dirty(&image), Some(false));
    image[flags] = 1;
    assert_eq!(log_is_dirty(&image), Some(true));
    let guest = open_fs(image, &Budget::new()).unwrap();
    assert!(guest.caveat().unwrap().contains("journal"));
    compare(&*guest, &tree, "");
    assert_eq!(choose(&*guest, None).unwrap().kernel, "/boot/vmlinuz-1");
}

/// Reads everything in a broken image; errors are fine, panics and hangs are not.
fn exercise(image: Vec<u8>) -> bool {
    let Ok(guest) = open_fs(image, &Budget::new()) else { return false };
    let ok = choose(&*guest, None).is_ok();
    for path in ["/", "/boot", "/dirs/2", "/dirs/30", "/dirs/400", "/long"] {
        let _ = guest.read_dir(path);
        let _ = guest.stat(path);
    }
    for path in ["/vmlinuz", "/big", "/long/vmlinuz-1", "/boot/grub/menu.lst"] {
        let _ = guest.read(path, 4 << 20);
    }
    ok
}

#[test]
#[ignore = "slow"]
fn flipped_bytes() {
    let home = Home::new();
    let tree = home.tree(400);
    let image = home.path("img");
    // Without checksums broken metadata is parsed; with them it is refused.
    make_xfs(&image, 24 << 20, &["-m", "crc=0"], &tree);
    let v4 = fs::read(&image).unwrap();
    make_xfs(&image, 24 << 20, &[], &tree);
    let v5 = fs::read(&image).unwrap();
    make_btrfs(&image, 120 << 20, &[], &tree);
    let btrfs = fs::read(&image).unwrap();
    let data = [noise(3_000_001, 5), noise(70_001, 101), fake_kernel(1)];
    for (kind, mut image, rounds) in [("v4", v4, 400), ("v5", v5, 100), ("btrfs", btrfs, 60)] {
        assert!(exercise(image.clone()), "{kind}");
        // What is neither zero nor a file's bytes: there is something to break.
        let mut is_data = vec![false; image.len()];
        for bytes in &data {
            // The kernel begins with zeros.
            let (at, some) = (8192, &bytes[8192..8256]);
            let found = image.windows(64).position(|w| w == some).expect("the file");
            let start = found - at;
            is_data[start..start + bytes.len()].fill(true);
        }
        let used: Vec<usize> =
            (0..image.len()).filter(|i| image[*i] != 0 && !is_data[*i]).collect();
        let mut random = random(kind.len() as u64 + rounds);
        let mut survived = 0;
        for round in 0..rounds {
            let mut undo = Vec::new();
            for _ in 0..1 + round % 150 {
                let at =
                    if random() % 8 == 0 { random() % 65536 } else { used[random() % used.len()] };
                undo.push((at, image[at]));
                image[at] = random() as u8;
            }
            survived += usize::from(exercise(image.clone()));
            for (at, byte) in undo.into_iter().rev() {
                image[at] = byte;
            }
        }
        let count = used.len();
        eprintln!("{kind}: {survived} of {rounds} survived, with {count} bytes to break");
        assert!(survived < rounds as usize, "{kind}: nothing was broken");
        for len in (0..image.len()).step_by(1 << 20).chain([1, 511, 512, 4095, 65536, 69631, 69632])
        {
            assert!(!exercise(image[..len].to_vec()) || kind == "btrfs", "{kind} cut at {len}");
        }
    }
}

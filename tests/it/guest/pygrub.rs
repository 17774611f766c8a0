//! The choice of what boots, compared with pygrub on the same images; and hostile images.
//!
//! Needs `mke2fs` (e2fsprogs). Where pygrub (xen-utils) is not installed, the comparisons are
//! skipped with a message.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};
use synthdisk::ErrorKind;
use synthdisk::bytes::ReadAt;
use synthdisk::fs::GuestFs;
use synthdisk::fs::ext4::Ext4Fs;
use synthdisk::guest::select::{Boot, EntrySelector, choose};

struct FileReader(fs::File, u64);

impl FileReader {
    fn open(path: &Path) -> Self {
        let file = fs::File::open(path).unwrap();
        let len = file.metadata().unwrap().len();
        Self(file, len)
    }
}

impl ReadAt for FileReader {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn len(&self) -> u64 {
        self.1
    }
}

/// A directory that becomes an image. Paths ending in ` -> target` are symlinks.
struct Guest {
    dir: tempfile::TempDir,
}

impl Guest {
    fn new(files: &[(&str, &str)]) -> Self {
        let guest = Self { dir: tempfile::tempdir().unwrap() };
        for (path, content) in files {
            guest.add(path, content);
        }
        guest
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn add(&self, path: &str, content: &str) {
        let (path, target) = path.split_once(" -> ").map_or((path, None), |(p, t)| (p, Some(t)));
        let full = self.root().join(path.trim_start_matches('/'));
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        match target {
            Some(target) => symlink(target, full).unwrap(),
            None => fs::write(full, content).unwrap(),
        }
    }

    fn image(&self, kind: &str, size: &str) -> PathBuf {
        let image = self.dir.path().join("disk.img");
        let _ = fs::remove_file(&image);
        let status = Command::new("/usr/sbin/mke2fs")
            .args(["-qq", "-F", "-t", kind, "-i", "4096", "-d"])
            .arg(self.root())
            .arg(&image)
            .arg(size)
            .status()
            .expect("mke2fs must be installed (package e2fsprogs)");
        assert!(status.success());
        image
    }
}

fn pygrub_path() -> Option<PathBuf> {
    let dirs = fs::read_dir("/usr/lib").ok()?.flatten();
    dirs.filter(|d| d.file_name().to_string_lossy().starts_with("xen-"))
        .map(|d| d.path().join("bin/pygrub"))
        .find(|p| p.exists())
}

/// A choice, by pygrub or synthdisk: hashes of kernel and initrd, the command line.
#[derive(Debug, Eq, PartialEq)]
struct Choice {
    kernel: String,
    ramdisk: Option<String>,
    args: String,
}

fn words(args: &str) -> String {
    args.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn hash(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|b| format!("{b:02x}")).collect()
}

fn pygrub(image: &Path, entry: Option<&str>) -> Option<Choice> {
    let Some(pygrub) = pygrub_path() else {
        crate::common::process::skip("pygrub is not installed (package xen-utils-4.17)");
        return None;
    };
    let out = tempfile::tempdir().unwrap();
    let mut command = Command::new(pygrub);
    command.args(["-q", "--output-format=simple"]);
    command.arg(format!("--output-directory={}", out.path().display()));
    command.args(entry.map(|e| format!("--entry={e}")));
    let result = command.arg(image).output().unwrap();
    let stdout = String::from_utf8(result.stdout).unwrap();
    assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
    let get = |key: &str| {
        stdout.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')).map(str::to_owned)
    };
    Some(Choice {
        kernel: hash(&fs::read(get("kernel").unwrap()).unwrap()),
        ramdisk: get("ramdisk").map(|p| hash(&fs::read(p).unwrap())),
        args: words(&get("args").unwrap_or_default()),
    })
}

fn ours(image: &Path, entry: Option<&str>) -> (Boot, Choice) {
    let fs = Ext4Fs::open(FileReader::open(image)).unwrap();
    let boot = choose(&fs, entry.map(EntrySelector::parse).as_ref()).unwrap();
    let read = |path: &String| fs.read(path, 256 << 20).unwrap();
    let ramdisk: Vec<u8> = boot.initrds.iter().flat_map(read).collect();
    let choice = Choice {
        kernel: hash(&read(&boot.kernel)),
        ramdisk: (!boot.initrds.is_empty()).then(|| hash(&ramdisk)),
        args: words(&boot.cmdline),
    };
    (boot, choice)
}

const KERNELS: [(&str, &str); 6] = [
    ("/boot/vmlinuz-6.1.0-9-amd64", "old kernel"),
    ("/boot/initrd.img-6.1.0-9-amd64", "old initrd"),
    ("/boot/vmlinuz-6.1.0-10-amd64", "new kernel"),
    ("/boot/initrd.img-6.1.0-10-amd64", "new initrd"),
    ("/vmlinuz -> boot/vmlinuz-6.1.0-10-amd64", ""),
    ("/initrd.img -> /boot/initrd.img-6.1.0-10-amd64", ""),
];

/// As `grub-mkconfig` writes it; DEFAULT stands for GRUB_DEFAULT.
const GRUB2: &str = r#"
if [ -s $prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="DEFAULT"
fi
if [ x"${feature_menuentry_id}" = xy ]; then
  menuentry_id_option="--id"
else
  menuentry_id_option=""
fi
function load_video {
  if [ x$feature_all_video_module = xy ]; then
    insmod all_video
  fi
}
if [ x$feature_timeout_style = xy ] ; then
  set timeout_style=menu
  set timeout=5
else
  set timeout=5
fi
menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple-x' {
	load_video
	insmod gzio
	search --no-floppy --fs-uuid --set=root 1234
	echo	'Loading Linux 6.1.0-10-amd64 ...'
	linux	/boot/vmlinuz-6.1.0-10-amd64 root=UUID=1234 ro  quiet
	echo	'Loading initial ramdisk ...'
	initrd	/boot/initrd.img-6.1.0-10-amd64
}
submenu 'Advanced options' $menuentry_id_option 'gnulinux-advanced-x' {
	menuentry 'Debian, with Linux 6.1.0-10-amd64' --class debian $menuentry_id_option 'new' {
		linux	/boot/vmlinuz-6.1.0-10-amd64 root=UUID=1234 ro advanced
		initrd	/boot/initrd.img-6.1.0-10-amd64
	}
	menuentry 'Debian, with Linux 6.1.0-9-amd64' --class debian $menuentry_id_option 'old' {
		linux16	(hd0,msdos1)/boot/vmlinuz-6.1.0-9-amd64 root=UUID=1234 ro
		initrd16	/boot/initrd.img-6.1.0-9-amd64
	}
	menuentry 'Debian, without initrd' --class debian {
		linux	/vmlinuz root=/dev/xvda1 ro console=hvc0
	}
}
"#;

const MENU_LST: &str = "\
# menu.lst of update-grub\ndefault DEFAULT\nfallback 0\ntimeout 2\n\n## ## Start Default Options ##\n\
title\t\tDebian GNU/Linux\nroot\t\t(hd0,0)\nkernel\t\t/vmlinuz root=/dev/xvda2 ro elevator=noop\n\
initrd\t\t/initrd.img\n\n\
title\t\tOld kernel\nroot\t\t(hd0,0)\nkernel\t\t(hd0,0)/boot/vmlinuz-6.1.0-9-amd64 root=/dev/xvda2 ro\n\
initrd\t\t(hd0,0)/boot/initrd.img-6.1.0-9-amd64\n\n\
title no initrd\nkernel /boot/vmlinuz-6.1.0-9-amd64 single\n";

const EXTLINUX: &str = "DEFAULT DEFAULT\nTIMEOUT 50\nLABEL l0\n\tMENU LABEL new\n\
\tKERNEL /boot/vmlinuz-6.1.0-10-amd64\n\tAPPEND initrd=/boot/initrd.img-6.1.0-10-amd64 root=/dev/xvda1 ro\n\n\
LABEL l1\n\tKERNEL /boot/vmlinuz-6.1.0-9-amd64\n\
\tAPPEND root=/dev/xvda1 ro initrd=/boot/initrd.img-6.1.0-9-amd64 quiet\n\n\
LABEL l2\n\tKERNEL /vmlinuz\n\tAPPEND root=/dev/xvda1 ro\n";

#[test]
fn same_choice_as_pygrub() {
    for (path, text, defaults) in [
        ("/boot/grub/grub.cfg", GRUB2, &["0", "1", "2", "3", "9", "saved"][..]),
        ("/boot/grub2/grub.cfg", GRUB2, &["0"]),
        ("/boot/grub/menu.lst", MENU_LST, &["0", "1", "2", "saved"]),
        ("/boot/grub/grub.conf", MENU_LST, &["1"]),
        ("/boot/extlinux/extlinux.conf", EXTLINUX, &["l0", "l1", "l2", "none"]),
        ("/boot/isolinux/isolinux.cfg", EXTLINUX, &["l1"]),
        ("/extlinux.conf", EXTLINUX, &["l1"]),
    ] {
        for kind in ["ext4", "ext2"] {
            for default in defaults {
                let guest = Guest::new(&KERNELS);
                let saved = if text == GRUB2 { "${saved_entry}" } else { "saved" };
                let default = if *default == "saved" { saved } else { default };
                guest.add(
                    path,
                    &text
                        .replace("DEFAULT\"", &format!("{default}\""))
                        .replace(" DEFAULT", &format!(" {default}")),
                );
                let image = guest.image(kind, "8M");
                let Some(want) = pygrub(&image, None) else { return };
                assert_eq!(ours(&image, None).1, want, "{path} {kind} {default}");
            }
        }
        // pygrub numbers flattened entries too, which is what --entry takes.
        let guest = Guest::new(&KERNELS);
        guest.add(path, text);
        let image = guest.image("ext3", "8M");
        for entry in ["0", "1", "2"] {
            let Some(want) = pygrub(&image, Some(entry)) else { return };
            assert_eq!(ours(&image, Some(entry)).1, want, "{path} entry {entry}");
        }
    }
}

#[test]
fn same_file_as_pygrub_when_there_are_several() {
    let guest = Guest::new(&KERNELS);
    let configs = [
        ("/grub/grub.conf", "title x\nkernel /vmlinuz four\n"),
        ("/boot/grub/menu.lst", "title x\nkernel /vmlinuz three\n"),
        ("/boot/extlinux.conf", "label x\nkernel /vmlinuz\nappend two\n"),
        ("/grub/grub.cfg", "menuentry 'x' {\nlinux /vmlinuz one\n}\n"),
        ("/boot/grub/grub.cfg", "menuentry 'x' --class y {\nlinux /vmlinuz zero\n}\n"),
    ];
    for (path, text) in configs {
        // pygrub needs something between title and brace.
        guest.add(path, &text.replace("'x' {", "'x' --class y {"));
        let image = guest.image("ext4", "8M");
        let Some(want) = pygrub(&image, None) else { return };
        assert_eq!(ours(&image, None).1, want, "{path}");
    }
}

#[test]
fn same_choice_as_pygrub_on_a_real_domu() {
    let cache = std::env::var_os("SYNTHDISK_CACHE").map(PathBuf::from).unwrap_or_else(|| {
        PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/synthdisk")
    });
    let image = cache.join("domains/domu-bookworm/disk.img");
    if !image.exists() {
        crate::common::process::skip("there is no domU in the cache; scripts/make-domu makes one");
        return;
    }
    let Some(want) = pygrub(&image, None) else { return };
    let (boot, got) = ours(&image, None);
    assert_eq!(got, want);
    assert!(boot.kernel.starts_with("/boot/vmlinuz-") && boot.notes.is_empty());
}

#[test]
fn better_than_pygrub() {
    // saved_entry of grubenv.
    let guest = Guest::new(&KERNELS);
    guest.add("/boot/grub/grub.cfg", &GRUB2.replace("DEFAULT", "${saved_entry}"));
    guest.add(
        "/boot/grub/grubenv",
        "# GRUB Environment Block\nsaved_entry=gnulinux-advanced-x>old\n###",
    );
    let (boot, _) = ours(&guest.image("ext4", "8M"), None);
    assert_eq!(boot.kernel, "/boot/vmlinuz-6.1.0-9-amd64");

    // Defaults by title, identifier and place in a submenu: pygrub 4.17 takes the first entry.
    for default in [
        "1>1",
        "gnulinux-advanced-x>old",
        "Advanced options>Debian, with Linux 6.1.0-9-amd64",
        "Debian, with Linux 6.1.0-9-amd64",
    ] {
        guest.add("/boot/grub/grub.cfg", &GRUB2.replace("DEFAULT", default));
        let (boot, _) = ours(&guest.image("ext4", "8M"), None);
        assert_eq!(boot.kernel, "/boot/vmlinuz-6.1.0-9-amd64");
    }

    // The Xen entry that a dom0's GRUB has first.
    let xen = "menuentry 'Xen' --class xen {\nmultiboot2 /boot/xen.gz placeholder\n\
        module2 /boot/vmlinuz-6.1.0-9-amd64 placeholder root=x ro\n\
        module2 --nounzip /boot/initrd.img-6.1.0-9-amd64\n}\n";
    guest.add("/boot/grub/grub.cfg", &(xen.to_owned() + &GRUB2.replace("DEFAULT", "0")));
    let (boot, _) = ours(&guest.image("ext4", "8M"), None);
    assert_eq!(boot.cmdline, "root=UUID=1234 ro");
    assert_eq!(boot.kernel, "/boot/vmlinuz-6.1.0-9-amd64");

    // BLS entries, through GRUB and alone.
    let guest = Guest::new(&KERNELS);
    for version in ["6.1.0-9", "6.1.0-10"] {
        guest.add(
            &format!("/boot/loader/entries/0f-{version}.conf"),
            &format!(
                "title Fedora {version}\nversion {version}\nlinux /boot/vmlinuz-{version}-amd64\n\
                 initrd /boot/initrd.img-{version}-amd64\noptions $kernelopts quiet\n"
            ),
        );
    }
    let (boot, _) = ours(&guest.image("ext4", "8M"), None);
    assert_eq!((boot.title.as_str(), boot.cmdline.as_str()), ("Fedora 6.1.0-10", "quiet"));
    guest.add("/boot/grub2/grub.cfg", "load_env\nset default=\"${saved_entry}\"\nblscfg\n");
    guest.add("/boot/grub2/grubenv", "saved_entry=0f-6.1.0-9\nkernelopts=root=UUID=1 ro\n");
    let (boot, _) = ours(&guest.image("ext4", "8M"), None);
    assert_eq!(boot.kernel, "/boot/vmlinuz-6.1.0-9-amd64");
    assert_eq!(boot.cmdline, "root=UUID=1 ro quiet");
}

fn debugfs(image: &Path, commands: &str, write: bool) -> String {
    let script = image.with_extension("debugfs");
    fs::write(&script, commands).unwrap();
    let mut command = Command::new("/usr/sbin/debugfs");
    command.args(write.then_some("-w")).arg("-f").arg(&script).arg(image);
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}

#[test]
fn dirty_journals() {
    for (kind, open) in
        [("ext3", "jo"), ("ext4", "jo -c -v 3"), ("ext4", "jo -c -v 2"), ("ext4", "jo")]
    {
        let guest = Guest::new(&[("/a", &"a".repeat(9000)), ("/b", &"b".repeat(9000))]);
        let image = guest.image(kind, "16M");
        let block = |path: &str| -> u64 {
            let out = debugfs(&image, &format!("blocks {path}\n"), false);
            let numbers = out.lines().last().unwrap().split_whitespace();
            numbers.last().unwrap().parse().unwrap()
        };
        let (a, b) = (block("/a"), block("/b"));
        let new = image.with_extension("new");
        // A block that starts with the log's magic is escaped in the log.
        let mut data = vec![b'n'; 4096];
        data[..4].copy_from_slice(&[0xc0, 0x3b, 0x39, 0x98]);
        fs::write(&new, &data).unwrap();
        let new = new.display();
        debugfs(
            &image,
            &format!("{open}\njw -b {a} {new}\njw -b {b} {new}\njw -r {b}\njc\n"),
            true,
        );
        let look = |image: &Path| {
            let fs = Ext4Fs::open(FileReader::open(image)).unwrap();
            (fs.read("/a", 1 << 20).unwrap(), fs.read("/b", 1 << 20).unwrap())
        };
        let mut head = vec![0; 2048];
        FileReader::open(&image).read_at(&mut head, 0).unwrap();
        assert_ne!(head[1024 + 0x60] & 4, 0, "{kind} {open}: the journal is not dirty");
        let ours = look(&image);
        let status = Command::new("/usr/sbin/e2fsck")
            .args(["-y", "-E", "journal_only"])
            .arg(&image)
            .output()
            .unwrap()
            .status;
        assert!(matches!(status.code(), Some(0 | 1)), "{kind} {open}: {status}");
        let theirs = look(&image);
        assert!(ours == theirs, "{kind} {open}: not what e2fsck's replay gives");
        assert!(ours.0.contains(&b'n') && !ours.1.contains(&b'n'), "{kind} {open}");
    }
}

#[test]
fn hostile_files() {
    let guest = Guest::new(&[
        ("/vmlinuz -> initrd.img", ""),
        ("/initrd.img -> vmlinuz", ""),
        ("/boot/grub/menu.lst", "title x\nkernel /vmlinuz\n"),
    ]);
    let image = guest.image("ext4", "8M");
    let fs = Ext4Fs::open(FileReader::open(&image)).unwrap();
    assert_eq!(choose(&fs, None).unwrap_err().kind(), ErrorKind::NotFound);

    // A 100 MB configuration.
    let config = guest.root().join("boot/grub/grub.cfg");
    fs::File::create(&config).unwrap().set_len(100_000_000).unwrap();
    let image = guest.image("ext4", "16M");
    let fs = Ext4Fs::open(FileReader::open(&image)).unwrap();
    let e = choose(&fs, None).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::TooLarge);
    assert!(e.to_string().contains("/boot/grub/grub.cfg"), "{e}");

    // A directory of very many kernels.
    fs::remove_file(&config).unwrap();
    for i in 0..5000 {
        fs::write(guest.root().join(format!("boot/vmlinuz-{i}.0")), "k").unwrap();
    }
    let image = guest.image("ext4", "48M");
    let fs = Ext4Fs::open(FileReader::open(&image)).unwrap();
    let started = std::time::Instant::now();
    assert_eq!(choose(&fs, None).unwrap().kernel, "/boot/vmlinuz-4999.0");
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}

#[test]
fn lying_inodes() {
    let guest = Guest::new(&KERNELS);
    guest.add("/f", "x");
    guest.add(&format!("/long -> {}boot", "./".repeat(100)), "");
    let image = guest.image("ext4", "8M");
    let huge = "0x3ff00000000";
    debugfs(
        &image,
        &format!("sif /f size {huge}\nsif /long size {huge}\nsif /boot size {huge}\n"),
        true,
    );
    let fs = Ext4Fs::open(FileReader::open(&image)).unwrap();
    assert_eq!(fs.stat("/f").unwrap().len, 0x3ff_0000_0000);
    assert_eq!(fs.read("/f", 1 << 20).unwrap_err().kind(), ErrorKind::TooLarge);
    let mut buf = [1; 4];
    let n = fs.open("/f").unwrap().read_at(&mut buf, 1 << 41);
    assert!(n.is_err() || buf == [0; 4], "{n:?}");
    assert_eq!(fs.stat("/long").unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(fs.read_dir("/boot").unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(choose(&fs, None).unwrap_err().kind(), ErrorKind::TooLarge);
}

/// Reads everything in a broken image; errors are fine, panics and hangs are not.
fn exercise(image: Vec<u8>) -> bool {
    let Ok(fs) = Ext4Fs::open(image) else { return false };
    let ok = choose(&fs, None).is_ok();
    for path in ["/", "/boot", "/boot/grub", "/big"] {
        let _ = fs.read_dir(path);
        let _ = fs.stat(path);
    }
    for path in ["/vmlinuz", "/big/file", "/long", "/boot/grub/grub.cfg"] {
        let _ = fs.read(path, 1 << 20);
    }
    ok
}

fn small_image(kind: &str) -> Vec<u8> {
    let guest = Guest::new(&KERNELS);
    guest.add("/boot/grub/grub.cfg", &GRUB2.replace("DEFAULT", "0"));
    guest.add("/big/file", &"x".repeat(300_000));
    guest.add(&format!("/long -> {}boot", "./".repeat(100)), "");
    for i in 0..300 {
        guest.add(&format!("/big/a-rather-long-name-{i}"), "");
    }
    let image = guest.image(kind, "4M");
    if kind == "ext3" {
        // With a dirty journal, so that its replay is broken too.
        let new = image.with_extension("new");
        fs::write(&new, vec![b'n'; 4096]).unwrap();
        let log = "jo\njw -b 2000-2100 NEW\njw -r 2000\njw -b 2001 NEW\njc\n";
        debugfs(&image, &log.replace("NEW", &new.display().to_string()), true);
    }
    fs::read(image).unwrap()
}

#[test]
fn truncated_images() {
    let image = small_image("ext4");
    for len in (0..image.len()).step_by(64 << 10).chain([1, 1023, 1024, 1100, 2047, 2048, 4096]) {
        exercise(image[..len].to_vec());
    }
    assert!(exercise(image));
}

#[test]
fn flipped_bytes() {
    for (kind, seed) in [("ext4", 1u64), ("ext2", 2), ("ext3", 3)] {
        let image = small_image(kind);
        assert!(exercise(image.clone()), "{kind}");
        assert_eq!(image[1024 + 0x60] & 4 != 0, kind == "ext3", "only ext3 is dirty");
        // Where the image is not zero, there is something to break.
        let used: Vec<usize> = (0..image.len()).filter(|i| image[*i] != 0).collect();
        let mut state = seed;
        let mut random = move || {
            // xorshift64*
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) as usize
        };
        let mut survived = 0;
        for round in 0..300 {
            let mut broken = image.clone();
            for _ in 0..1 + round % 40 {
                // Half of the flips go to the first blocks: superblock, descriptors, inodes.
                let at =
                    if random() % 2 == 0 { random() % 65536 } else { used[random() % used.len()] };
                broken[at] = random() as u8;
            }
            survived += usize::from(exercise(broken));
        }
        eprintln!("{kind}: {survived} of 300 broken images still had a kernel");
    }
}

//! The choice of what boots, compared with pygrub on the same images.
//!
//! Needs `mke2fs` (e2fsprogs). Where pygrub (xen-utils) is not installed, the comparisons are
//! skipped with a message.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::file::FileReader;
use sha2::{Digest, Sha256};
use synthdisk::fs::GuestFs;
use synthdisk::fs::ext4::Ext4Fs;
use synthdisk::guest::select::{Boot, EntrySelector, choose};

/// A directory that becomes an image. Paths ending in ` -> target` are symlinks.
pub(super) struct Guest {
    dir: tempfile::TempDir,
}

impl Guest {
    pub(super) fn new(files: &[(&str, &str)]) -> Self {
        let guest = Self { dir: tempfile::tempdir().unwrap() };
        for (path, content) in files {
            guest.add(path, content);
        }
        guest
    }

    pub(super) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub(super) fn add(&self, path: &str, content: &str) {
        let (path, target) = path.split_once(" -> ").map_or((path, None), |(p, t)| (p, Some(t)));
        let full = self.root().join(path.trim_start_matches('/'));
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        match target {
            Some(target) => symlink(target, full).unwrap(),
            None => fs::write(full, content).unwrap(),
        }
    }

    pub(super) fn image(&self, kind: &str, size: &str) -> PathBuf {
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

pub(super) const KERNELS: [(&str, &str); 6] = [
    ("/boot/vmlinuz-6.1.0-9-amd64", "old kernel"),
    ("/boot/initrd.img-6.1.0-9-amd64", "old initrd"),
    ("/boot/vmlinuz-6.1.0-10-amd64", "new kernel"),
    ("/boot/initrd.img-6.1.0-10-amd64", "new initrd"),
    ("/vmlinuz -> boot/vmlinuz-6.1.0-10-amd64", ""),
    ("/initrd.img -> /boot/initrd.img-6.1.0-10-amd64", ""),
];

/// As `grub-mkconfig` writes it; DEFAULT stands for GRUB_DEFAULT.
pub(super) const GRUB2: &str = r#"
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
#[ignore = "slow"]
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

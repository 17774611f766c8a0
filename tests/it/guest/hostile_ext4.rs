//! Reading ext2/3/4 that was not unmounted, that lies, or that is broken.
//!
//! Needs `mke2fs` and `debugfs` (e2fsprogs).

use std::fs;
use std::path::Path;
use std::process::Command;

use super::pygrub::{GRUB2, Guest, KERNELS};
use crate::common::file::FileReader;
use crate::common::random::random;
use synthdisk::ErrorKind;
use synthdisk::bytes::ReadAt;
use synthdisk::fs::GuestFs;
use synthdisk::fs::ext4::Ext4Fs;
use synthdisk::guest::select::choose;

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
    assert_eq!(choose(&fs, None).unwrap().kernel, "/boot/vmlinuz-4999.0");
}

#[test]
#[ignore = "slow"]
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
    assert_eq!(fs.open("/f").err().unwrap().kind(), ErrorKind::TooLarge);
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
        let mut random = random(seed);
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

//! Which disks of a domU are writable, and where writes are kept.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::common::field::{DATA, Field, HOME, ROOT, mount};
use crate::common::process::{expect_failure, run, run_text};
use crate::common::tiny::noise;

const MIB: u64 = 1 << 20;

fn write(path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.write_all_at(bytes, offset)?;
    file.sync_all()
}

/// The file can't be opened for writing, or can't be written to: "read-only file system".
fn refuses(path: &Path, offset: u64) {
    let e = write(path, offset, &[1; 4096]).expect_err("it may not be written");
    let code = e.raw_os_error();
    assert!(code == Some(libc::EROFS) || code == Some(libc::EACCES), "{e}");
}

#[test]
fn a_read_only_partition_among_others() {
    let field = Field::new();
    field.root("root.img", "");
    let home = field.ext4("home.img", HOME, &[("file", b"home")]);
    field.ext4("data.img", DATA, &[]);
    let mounted = field
        .mount("disk = ['root.img,,xvda1,w', 'home.img,,xvda2,r', 'data.img,,xvda3,rw']\n", &[]);
    let start = crate::common::field::table(&mounted.disk()).1[1].start;
    refuses(&mounted.part(2), MIB);
    // The rest of the disk is writable, up to the boundaries of that partition.
    for offset in [start, start + MIB, start - 2048, start + (16 << 20) - 2048] {
        refuses(&mounted.disk(), offset);
    }
    run("cmp", &[&home, &mounted.part(2)]);
    for (n, offset) in [(1, 8 * MIB), (3, 8 * MIB)] {
        write(&mounted.part(n), offset, b"written").expect("its neighbours may be written");
        assert_eq!(crate::common::file::bytes_of(mounted.part(n), offset, 7), b"written");
    }
    write(&mounted.disk(), start - 4096, &[7; 4096]).expect("up to its border");
    mounted.unmount();
}

#[test]
fn a_read_only_root_is_adapted_for_a_guest_that_cannot_write_to_it() {
    let (field, _) = Field::xen_tools();
    let text = "disk = ['disk.img,,xvda2,r', 'swap.img,,xvda1,w']\n";
    let mounted = field.mount(text, &[]);
    let adapted = |part: &Path| {
        let show = ["-R".as_ref(), "cat /etc/fstab".as_ref(), part.as_os_str()];
        let fstab = crate::common::process::run_text("debugfs", &show);
        assert!(fstab.contains(&format!("UUID={ROOT} / ext4")), "{fstab}");
    };
    refuses(&mounted.part(2), MIB);
    adapted(&mounted.part(2));
    assert!(mounted.printed().contains("adapted: /etc/fstab"), "{}", mounted.printed());
    write(&mounted.part(1), 8192, b"swapped").expect("swap may be written");
    mounted.unmount();

    // A disk that is read-only as a whole, and overlays that are kept for the others.
    let config = field.config("disk = ['disk.img,,xvda2,r', 'swap.img,,xvdb1,w']\n");
    let dir = field.arg("overlays");
    for options in [&[][..], &["--overlay-dir", &*dir], &["--overlay-dir", &*dir]] {
        let mounted = mount(&config, options);
        refuses(&mounted.disk(), MIB);
        refuses(&mounted.part(2), MIB);
        adapted(&mounted.part(2));
        let printed = mounted.printed();
        let line = printed.lines().find(|l| l.starts_with("try it:")).expect("a command");
        let drive = line.split(" -drive ").find(|part| part.contains("disk.raw")).expect(line);
        assert!(drive.contains(",readonly=on"), "{drive}");
        mounted.unmount();
    }
    let kept: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
}

#[test]
fn a_read_only_disk_and_a_cdrom() {
    let field = Field::new();
    field.root("root.img", "");
    field.ext4("data.img", DATA, &[]);
    let iso = field.path("cd.iso");
    fs::write(&iso, noise(100 * 2048, 3)).unwrap();
    field.guard(&iso);
    let text =
        "disk = ['cd.iso,,hdc,cdrom', 'data.img,,xvdb,r', 'root.img,,xvda1', ',,hdd,cdrom']\n";
    let mounted = field.mount(text, &[]);
    let (b, cd) = (mounted.dir().join("disk-b.raw"), mounted.dir().join("cdrom-c.raw"));
    run("cmp", &[&iso, &cd]);
    for path in [&b, &cd, &mounted.dir().join("disk-b-part1.raw")] {
        refuses(path, 4096);
        assert!(fs::metadata(path).unwrap().permissions().readonly(), "{}", path.display());
    }
    write(&mounted.disk(), MIB, b"written").expect("the first disk may be written");
    let line = mounted.printed();
    let line = line.lines().find(|l| l.starts_with("try it:")).unwrap();
    for (file, device) in [("disk-b.raw", "virtio-blk-pci"), ("cdrom-c.raw", "ide-cd")] {
        let drive = line.split(" -drive ").find(|part| part.contains(file)).expect(line);
        assert!(drive.contains(",readonly=on") && drive.contains(device), "{drive}");
    }
    assert_eq!(fs::read_dir(mounted.dir()).unwrap().count(), 5, "the empty drive has no file");
    mounted.unmount();

    let config = field.config(text);
    let mounted = mount(&config, &["--read-only"]);
    refuses(&mounted.disk(), MIB);
    mounted.unmount();
}

#[test]
fn an_overlay_for_each_disk() {
    let field = Field::new();
    field.root("root.img", "/dev/xvda1 / ext4 defaults 0 1\n/dev/xvdb1 /data ext4 x 0 0\n");
    field.ext4("data.img", DATA, &[]);
    field.ext4("home.img", HOME, &[]);
    let disks = "disk = ['root.img,,xvda1', 'data.img,,xvdb1', 'home.img,,xvdc,r']\n";
    let config = field.config(&format!("name = 'web/1'\n{disks}"));
    let dir = field.arg("overlays");
    let options = ["--overlay-dir", &*dir];

    let mounted = mount(&config, &options);
    assert!(mounted.printed().contains("adapted: /etc/fstab"), "{}", mounted.printed());
    let b = mounted.dir().join("disk-b-part1.raw");
    write(&mounted.part(1), 9 * MIB, b"on the first").unwrap();
    write(&b, 9 * MIB, b"on the second").unwrap();
    mounted.unmount();
    let mut names: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["web_1-a.qcow2", "web_1-b.qcow2"]);
    for name in &names {
        run("qemu-img", &["check", &format!("{dir}/{name}")]);
    }

    // Another mount with the same overlays finds everything and has nothing to adapt.
    let before: Vec<_> = names.iter().map(|n| fs::read(format!("{dir}/{n}")).unwrap()).collect();
    let mounted = mount(&config, &options);
    assert!(!mounted.printed().contains("adapted: "), "{}", mounted.printed());
    assert_eq!(crate::common::file::bytes_of(mounted.part(1), 9 * MIB, 12), b"on the first");
    let b = mounted.dir().join("disk-b-part1.raw");
    assert_eq!(crate::common::file::bytes_of(&b, 9 * MIB, 13), b"on the second");
    let info = run_text("debugfs", &["-R", "cat /etc/fstab", &mounted.part(1).to_string_lossy()]);
    assert!(info.contains(&format!("UUID={DATA} /data ext4 x 0 0")), "{info}");
    mounted.unmount();
    let after: Vec<_> = names.iter().map(|n| fs::read(format!("{dir}/{n}")).unwrap()).collect();
    assert!(before == after, "a mount that writes nothing changes no overlay");

    // Options that an overlay remembers may be repeated, but not changed.
    let again = [&options[..], &["--table", "mbr", "--swap", "0"]].concat();
    mount(&config, &again).unmount();
    let name = format!("name = 'web/1'\n{disks}");
    for (option, value) in [("--table", "gpt"), ("--swap", "1M"), ("--align", "63s")] {
        let said = field.refused(&name, &[&options[..], &[option, value]].concat());
        assert!(said.contains(option) && said.contains("web_1-a.qcow2"), "{said}");
    }

    // Without the overlays everything is as before.
    let mounted = mount(&config, &[]);
    assert_ne!(crate::common::file::bytes_of(mounted.part(1), 9 * MIB, 12), b"on the first");
    mounted.unmount();

    // The overlays belong to their images.
    let other = field.config(&format!("name = 'web/1'\n{}", disks.replace("data.img", "home.img")));
    let mnt = field.path("mnt");
    fs::create_dir(&mnt).unwrap();
    let mnt = mnt.to_string_lossy();
    let said = expect_failure(&["mount", "--config", &other, "--overlay-dir", &dir, &mnt], 1);
    assert!(said.contains("web_1-b.qcow2") && said.contains("another image"), "{said}");
}

#[test]
fn one_overlay_is_not_enough_for_two_disks() {
    let field = Field::new();
    field.root("root.img", "");
    field.ext4("data.img", DATA, &[]);
    let overlay = field.arg("o.qcow2");
    let text = "disk = ['root.img,,xvda1', 'data.img,,xvdb1']\n";
    let said = field.refused(text, &["--overlay", &overlay]);
    assert!(said.contains("2 disks") && said.contains("--overlay-dir"), "{said}");
    assert!(!Path::new(&overlay).exists());
    // One that is never written needs none.
    let text = "disk = ['root.img,,xvda1', 'data.img,,xvdb1,r']\n";
    let mounted = field.mount(text, &["--overlay", &overlay]);
    write(&mounted.part(1), 9 * MIB, b"kept").unwrap();
    mounted.unmount();
    let mounted = field.mount(text, &["--overlay", &overlay]);
    assert_eq!(crate::common::file::bytes_of(mounted.part(1), 9 * MIB, 4), b"kept");
    mounted.unmount();
    // The directory's place is taken by a file.
    let said = field.refused(text, &["--overlay-dir", &overlay]);
    assert!(said.contains("directory") && said.contains("o.qcow2"), "{said}");
}

#[test]
fn a_cd_that_is_gone_and_cards_with_one_address() {
    let (field, _) = Field::xen_tools();
    let text = "disk = ['disk.img,,xvda2', 'swap.img,,xvda1', 'gone.iso,,hdc,cdrom']\n\
                vif = ['mac=00:16:3e:00:00:0A', 'mac=00:16:3E:00:00:0a', 'mac=00:16:3e:00:00:0b']\n";
    let mounted = field.mount(text, &[]);
    let printed = mounted.printed();
    assert!(printed.contains("gone.iso does not exist, so the CD drive hdc is empty"), "{printed}");
    assert!(
        printed.contains("several network cards have the address 00:16:3e:00:00:0a"),
        "{printed}"
    );
    mounted.unmount();
}

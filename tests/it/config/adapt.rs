//! Edits that make the guest run well on KVM: in the overlay, in place, and no more than needed.

use std::fs;
use std::path::Path;

use crate::common::field::{FSTAB, Field, HOME, ROOT, SWAP, mount};
use crate::common::mount::{LoopDev, Mount};
use crate::common::process::{is_root, run, run_text, skip};
use crate::common::tiny::{fake_kernel, menu, noise};

/// What debugfs prints about the filesystem in `part`.
fn debugfs(part: &Path, request: &str) -> String {
    run_text("debugfs", &["-R", request, &part.to_string_lossy()])
}

fn fstab(mount: &Mount, number: u32) -> String {
    debugfs(&mount.part(number), "cat /etc/fstab")
}

fn is_clean(mount: &Mount, number: u32) {
    run("e2fsck", &["-fn".as_ref(), mount.part(number).as_os_str()]);
}

/// Everything that debugfs prints about an inode except its length.
fn inode(part: &Path, path: &str) -> Vec<String> {
    let about = debugfs(part, &format!("stat {path}")) + &debugfs(part, &format!("ea_list {path}"));
    about
        .lines()
        .map(|l| match l.split_once("Size:") {
            Some((before, _)) => before.to_owned(),
            None => l.to_owned(),
        })
        // A checksum over all of it.
        .filter(|l| !l.contains("Inode checksum"))
        .collect()
}

/// FSTAB after the edit.
fn adapted() -> String {
    let new = FSTAB.replace("/dev/xvda1", &format!("UUID={SWAP}"));
    new.replace("/dev/xvda2", &format!("UUID={ROOT}")).trim_end().to_owned()
}

#[test]
fn fstab_is_edited_in_place_and_once() {
    let (field, config) = Field::xen_tools();
    let overlay = field.arg("o.qcow2");
    let options = ["--overlay", &*overlay];
    let mounted = mount(&config, &options);
    let printed = mounted.printed();
    let said =
        printed.lines().find(|l| l.starts_with("adapted: /etc/fstab: ")).expect("it says so");
    assert!(said.contains(&format!("/dev/xvda2 became UUID={ROOT}")), "{said}");
    assert_eq!(fstab(&mounted, 2), adapted());
    is_clean(&mounted, 2);
    assert_eq!(
        inode(&mounted.part(2), "/etc/fstab"),
        inode(&field.path("disk.img"), "/etc/fstab"),
        "same inode, owner, mode, times and blocks"
    );
    mounted.unmount();
    let before = fs::read(&overlay).unwrap();

    let mounted = mount(&config, &options);
    assert!(!mounted.printed().contains("adapted: "), "{}", mounted.printed());
    assert_eq!(fstab(&mounted, 2), adapted());
    mounted.unmount();
    assert!(fs::read(&overlay).unwrap() == before, "the second mount wrote to the overlay");
}

#[test]
fn owner_mode_times_and_attributes_stay() {
    let field = Field::new();
    let image = field.path("root.img");
    {
        let made = Field::new();
        let root = made.root("root.img", FSTAB);
        fs::copy(root, &image).unwrap();
    }
    let commands = field.path("commands");
    fs::write(
        &commands,
        "sif /etc/fstab mode 0100640\nsif /etc/fstab uid 12\nsif /etc/fstab gid 34\n\
         sif /etc/fstab mtime 20010203040506\nsif /etc/fstab crtime 20010203040505\n\
         ea_set /etc/fstab security.selinux system_u:object_r:etc_t:s0\n\
         ea_set /etc/fstab user.long 0123456789012345678901234567890123456789012345678901234567890\n\
         ln /etc/fstab /etc/fstab.link\nsif /etc/fstab links_count 2\n",
    )
    .unwrap();
    run("debugfs", &["-w", "-f", &commands.to_string_lossy(), &image.to_string_lossy()]);
    run("e2fsck", &["-fn".as_ref(), image.as_os_str()]);
    field.guard(&image);
    let mounted = field.mount("disk = ['root.img,,xvda2']\n", &[]);
    let shown = inode(&mounted.part(2), "/etc/fstab");
    assert_eq!(shown, inode(&image, "/etc/fstab"));
    let all = shown.join("\n");
    for part in ["0640", "User:    12", "Group:    34", "Links: 2", "2001", "etc_t", "user.long"] {
        assert!(all.contains(part), "no {part} in {all}");
    }
    let expected = FSTAB.replace("/dev/xvda2", &format!("UUID={ROOT}"));
    let expected =
        expected.replace("swap sw 0 0", "swap sw,nofail,x-systemd.device-timeout=5s 0 0");
    assert_eq!(fstab(&mounted, 2), expected.trim_end());
    assert_eq!(debugfs(&mounted.part(2), "cat /etc/fstab.link"), expected.trim_end());
    is_clean(&mounted, 2);
    mounted.unmount();
}

#[test]
fn nothing_is_edited_when_told_so() {
    let (field, config) = Field::xen_tools();
    for options in [&["--adapt", "none"][..], &["--read-only"]] {
        let mounted = mount(&config, options);
        assert!(!mounted.printed().contains("adapted"), "{}", mounted.printed());
        run("cmp", &[field.path("disk.img"), mounted.part(2)]);
        mounted.unmount();
    }
}

#[test]
fn inittab_and_more_than_one_file() {
    let field = Field::new();
    let (kernel, menu) = (fake_kernel(1), menu("1"));
    let inittab = "id:2:initdefault:\n1:2345:respawn:/sbin/getty 38400 hvc0\n";
    field.ext4(
        "root.img",
        ROOT,
        &[
            ("boot/vmlinuz-1", &kernel),
            ("boot/initrd.img-1", b"initrd"),
            ("boot/grub/menu.lst", menu.as_bytes()),
            ("etc/fstab", b"/dev/sda1 / ext4 defaults 0 1\n/dev/sdb1 /old ext4 defaults 0 2\n"),
            ("etc/inittab", inittab.as_bytes()),
            ("etc/network/interfaces", b"auto eth0\n"),
        ],
    );
    let mounted = field.mount("disk = ['root.img,,xvda1']\n", &[]);
    assert_eq!(
        fstab(&mounted, 1),
        format!(
            "UUID={ROOT} / ext4 defaults 0 1\n/dev/sdb1 /old ext4 defaults,nofail,x-systemd.device-timeout=5s 0 2"
        )
    );
    let new = debugfs(&mounted.part(1), "cat /etc/inittab");
    assert_eq!(new, inittab.replace("hvc0", "ttyS0").trim_end());
    assert!(mounted.printed().contains(" net.ifnames=0\n"), "{}", mounted.printed());
    is_clean(&mounted, 1);
    mounted.unmount();
}

/// Edits of several steps that create, link and remove.
#[test]
fn units_agents_and_new_files() {
    let field = Field::new();
    let (kernel, menu) = (fake_kernel(1), menu("1"));
    let xe = b"[Service]\nExecStart=/usr/sbin/xe-daemon\n[Install]\nWantedBy=multi-user.target\n";
    let units = "etc/systemd/system";
    for (link, to) in [
        (
            "getty.target.wants/serial-getty@hvc0.service",
            "/lib/systemd/system/serial-getty@.service",
        ),
        ("multi-user.target.wants/xe-daemon.service", "/lib/systemd/system/xe-daemon.service"),
    ] {
        let link = field.path("root.img.tree").join(units).join(link);
        fs::create_dir_all(link.parent().expect("below the tree")).unwrap();
        std::os::unix::fs::symlink(to, link).unwrap();
    }
    let rule = "SUBSYSTEM==\"net\", ATTR{address}==\"00:16:3e:0a:0b:0c\", NAME=\"eth0\"\n";
    field.ext4(
        "root.img",
        ROOT,
        &[
            ("boot/vmlinuz-1", &kernel),
            ("boot/initrd.img-1", b"initrd"),
            ("boot/grub/menu.lst", menu.as_bytes()),
            ("lib/systemd/system/xe-daemon.service", xe),
            ("lib/systemd/systemd-udevd", b""),
            ("etc/fstab", b"/dev/xvda2 / ext4 defaults 0 1\nxenfs /proc/xen xenfs defaults 0 0\n"),
            ("etc/network/interfaces", b"auto enX0\niface enX0 inet dhcp\n"),
            ("etc/udev/rules.d/70-persistent-net.rules", rule.as_bytes()),
            ("etc/modules", b"loop\nxenblk\n"),
            ("etc/sysctl.conf", b"xen.independent_wallclock = 1\n"),
            ("etc/securetty", b"hvc0\n"),
        ],
    );
    let overlay = field.arg("o.qcow2");
    let config = field.config("disk = ['root.img,,xvda2']\n");
    let mounted = mount(&config, &["--overlay", &overlay]);
    let part = mounted.part(2);
    let shown = |path: &str| debugfs(&part, &format!("cat {path}"));
    assert!(fstab(&mounted, 2).contains("xenfs /proc/xen xenfs defaults,noauto 0 0"));
    let masked = debugfs(&part, &format!("stat /{units}/xe-daemon.service"));
    assert!(masked.contains("symlink") && masked.contains("\"/dev/null\""), "{masked}");
    let wants = debugfs(&part, &format!("ls -p /{units}/getty.target.wants"));
    assert!(!wants.contains("hvc0"), "{wants}");
    let link = shown("/etc/systemd/network/10-synthdisk-enX0.link");
    assert!(link.ends_with("[Match]\nOriginalName=eth0\n\n[Link]\nName=enX0"), "{link}");
    let mode = debugfs(&part, "stat /etc/systemd/network/10-synthdisk-enX0.link");
    assert!(mode.contains("Mode:  0644"), "{mode}");
    assert_eq!(shown("/etc/modules"), "loop\n#xenblk");
    assert_eq!(shown("/etc/sysctl.conf"), "#xen.independent_wallclock = 1");
    assert_eq!(shown("/etc/securetty"), "hvc0\nttyS0");
    assert_eq!(shown("/etc/udev/rules.d/70-persistent-net.rules"), format!("#{}", rule.trim_end()));
    assert!(mounted.printed().contains(" net.ifnames=0\n"), "{}", mounted.printed());
    is_clean(&mounted, 2);
    mounted.unmount();
    let before = fs::read(&overlay).unwrap();
    let mounted = mount(&config, &["--overlay", &overlay]);
    assert!(!mounted.printed().contains("adapted: "), "{}", mounted.printed());
    mounted.unmount();
    assert!(fs::read(&overlay).unwrap() == before, "the second mount wrote to the overlay");
}

/// A guest that was not shut down: its fstab is in the journal only.
#[test]
fn a_dirty_journal_is_replayed_first() {
    if !is_root() {
        skip("loop devices need root");
        return;
    }
    let field = Field::new();
    let dir = field.path("mnt");
    fs::create_dir(&dir).unwrap();
    let live = field.path("live.img");
    {
        let made = Field::new();
        fs::copy(made.root("root.img", "stale\n"), &live).unwrap();
    }
    let image = field.path("root.img");
    {
        let device = LoopDev::attach(&live, false);
        run("mount", &["-o".as_ref(), "data=journal".as_ref(), device.device(), dir.as_path()]);
        let wrote = fs::write(dir.join("etc/fstab"), FSTAB)
            .and_then(|()| fs::write(dir.join("data"), noise(100_000, 3)))
            .and_then(|()| fs::File::open(dir.join("etc/fstab"))?.sync_all())
            .and_then(|()| fs::File::open(dir.join("data"))?.sync_all());
        let copied = fs::copy(&live, &image);
        // A child that another test is starting may briefly hold a file of ours open.
        for _ in 0..100 {
            if crate::common::process::output("umount", &[&dir]).status.success() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        assert!(!crate::common::mount::is_mount_point(&dir));
        wrote.expect("writable");
        copied.expect("readable");
    }
    let header = run_text("dumpe2fs", &["-h".as_ref(), image.as_os_str()]);
    assert!(header.contains("needs_recovery"), "{header}");
    field.guard(&image);
    let config = field.config("disk = ['root.img,,xvda2']\n");
    let mut states = Vec::new();
    for _ in 0..2 {
        let mounted = mount(&config, &[]);
        assert!(mounted.printed().contains("adapted: /etc/fstab"), "{}", mounted.printed());
        let expected = FSTAB.replace("/dev/xvda2", &format!("UUID={ROOT}"));
        let expected =
            expected.replace("swap sw 0 0", "swap sw,nofail,x-systemd.device-timeout=5s 0 0");
        assert_eq!(fstab(&mounted, 2), expected.trim_end());
        is_clean(&mounted, 2);
        let after = run_text("dumpe2fs", &["-h".as_ref(), mounted.part(2).as_os_str()]);
        assert!(!after.contains("needs_recovery"), "{after}");
        states.push(fs::read(mounted.part(2)).unwrap());
        mounted.unmount();
        crate::common::clock::next_second(1);
    }
    let differ = states[0].iter().zip(&states[1]).position(|(a, b)| a != b);
    assert_eq!(differ, None, "two mounts of one image differ at this byte");
}

/// Whatever the file holds, the guest boots and the file is not damaged.
#[test]
fn hostile_fstabs() {
    let field = Field::new();
    let long = "/dev/xvda3 /mnt ext4 defaults 0 2\n".repeat((64 << 10) / 34);
    let too_long = long.repeat(2);
    let block = format!("/dev/xvda2 / ext4 defaults 0 1\n#{}\n", "x".repeat(4096 - 33));
    assert_eq!(block.len(), 4096);
    let many = "/dev/xvda9 x\0y ext4\n".repeat(2);
    for (name, text, edited) in [
        ("long", long.as_bytes(), true),
        ("too long", too_long.as_bytes(), false),
        ("a full block", block.as_bytes(), true),
        ("binary", &noise(3000, 6)[..], false),
        ("nul", many.as_bytes(), true),
        ("empty", b"", false),
        ("no newline", b"/dev/xvda2 / ext4 defaults 0 1", true),
        ("crlf", b"/dev/xvda2 / ext4 defaults 0 1\r\n/dev/xvda8 /x ext4\r\n", true),
    ] {
        let (kernel, menu) = (fake_kernel(1), menu("1"));
        let image = field.ext4(
            &format!("{name}.img").replace(' ', "-"),
            ROOT,
            &[
                ("boot/vmlinuz-1", &kernel),
                ("boot/initrd.img-1", b"initrd"),
                ("boot/grub/menu.lst", menu.as_bytes()),
                ("etc/fstab", text),
            ],
        );
        let text_of = |part: &Path| {
            let to = field.path("dumped");
            debugfs(part, &format!("dump /etc/fstab {}", to.display()));
            fs::read(to).unwrap()
        };
        let config = format!("disk = ['{},,xvda2']\n", image.display());
        let mounted = field.mount(&config, &[]);
        let printed = mounted.printed();
        assert!(printed.lines().all(|l| l.len() < 1000), "{name}: {} bytes", printed.len());
        assert_eq!(printed.contains("adapted: "), edited, "{name}: {printed}");
        let new = text_of(&mounted.part(2));
        assert_eq!(new != text, edited, "{name}");
        if edited {
            let old_lines = text.split(|b| *b == b'\n').count();
            assert_eq!(new.split(|b| *b == b'\n').count(), old_lines, "{name}");
        }
        is_clean(&mounted, 2);
        mounted.unmount();
    }
}

/// Small filesystems have small blocks, which an edited fstab outgrows.
#[test]
fn an_fstab_that_outgrows_its_block() {
    let field = Field::new();
    field.ext4("home.img", HOME, &[]);
    let (kernel, menu) = (fake_kernel(1), menu("1"));
    let fstab_text = format!("{FSTAB}/dev/xvda3 /home ext4 defaults 0 2\n# {}\n", "x".repeat(760));
    assert!((990..1024).contains(&fstab_text.len()), "{}", fstab_text.len());
    for (kind, name) in [("ext4", "four.img"), ("ext3", "three.img")] {
        let image = field.ext4_with(
            name,
            ROOT,
            16 << 20,
            &["-b", "1024", "-t", kind],
            &[
                ("boot/vmlinuz-1", &kernel),
                ("boot/initrd.img-1", b"initrd"),
                ("boot/grub/menu.lst", menu.as_bytes()),
                ("etc/fstab", fstab_text.as_bytes()),
            ],
        );
        let config = format!("disk = ['{},,xvda2', 'home.img,,xvda3']\n", image.display());
        let mounted = field.mount(&config, &[]);
        let new = fstab(&mounted, 2);
        assert!(new.contains(&format!("UUID={HOME} /home")), "{}{new}", mounted.printed());
        assert!(new.ends_with('x'), "{new}");
        is_clean(&mounted, 2);
        mounted.unmount();
    }
}

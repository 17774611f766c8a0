//! Filesystems without a free inode or block: what fits is edited, and the rest is said before.

use crate::common::field::{Field, ROOT};
use crate::common::mount::Mount;
use crate::common::process::{SYNTHDISK, run, run_text};
use crate::common::tiny::{fake_kernel, initrd, menu};

const FSTAB: &str = "/dev/xvda1 / ext4 defaults 0 1\n";

/// A root filesystem with `inodes` inodes in all, whose network needs a new file.
fn guest(inodes: u32) -> Field {
    let field = Field::new();
    let (kernel, initrd, menu) = (fake_kernel(1), initrd(101), menu("1"));
    let files: &[(&str, &[u8])] = &[
        ("boot/vmlinuz-1", &kernel),
        ("boot/initrd.img-1", &initrd),
        ("boot/grub/menu.lst", menu.as_bytes()),
        ("etc/fstab", FSTAB.as_bytes()),
        ("etc/network/interfaces", b"auto enX0\niface enX0 inet dhcp\n"),
        ("usr/lib/systemd/systemd-udevd", b"x"),
    ];
    let number = inodes.to_string();
    let options = ["-t", "ext4", "-b", "4096", "-N", &number, "-O", "^resize_inode"];
    field.ext4_with("root.img", ROOT, 16 << 20, &options, files);
    field
}

/// The number of inodes with which no free one is left.
fn exactly() -> u32 {
    let field = guest(64);
    let said = run_text("dumpe2fs", &["-h", &field.arg("root.img")]);
    let number = |key: &str| -> u32 {
        let line = said.lines().find(|line| line.starts_with(key)).expect("dumpe2fs");
        line.rsplit(' ').next().expect("a number").parse().expect("a number")
    };
    number("Inode count:") - number("Free inodes:")
}

#[test]
fn without_a_free_inode() {
    // mke2fs rounds up to whole blocks of inodes, so the rest is used up by files.
    let field = guest(exactly());
    let image = field.path("full.img");
    std::fs::copy(field.path("root.img"), &image).expect("room for a copy");
    let many: String = (0..200).map(|i| format!("mknod fill{i} p\n")).collect();
    std::fs::write(field.path("script"), many).expect("our own file");
    run("debugfs", &["-w", "-f", &field.arg("script"), &field.arg("full.img")]);
    let said = run_text("dumpe2fs", &["-h", &field.arg("full.img")]);
    assert!(said.lines().any(|l| l.starts_with("Free inodes:") && l.ends_with(" 0")), "{said}");

    let report = run_text(SYNTHDISK, &["inspect", &field.arg("full.img")]);
    assert!(report.contains("edits left out that it needs"), "{report}");
    assert!(report.contains("has no free inode"), "{report}");
    let mount = Mount::new(&[], &image);
    let part = mount.part(1);
    let show = ["-R".as_ref(), "cat /etc/fstab".as_ref(), part.as_os_str()];
    assert!(run_text("debugfs", &show).contains(&format!("UUID={ROOT} / ext4")));
    let printed = mount.printed();
    assert!(printed.contains("adapted: /etc/fstab"), "{printed}");
    assert!(printed.contains("10-synthdisk-enX0.link is left as it is"), "{printed}");
    mount.unmount();
}

//! Which boot loader `finalize` writes.

use std::path::Path;

use crate::common::file::bytes_of;
use crate::common::mount::Mount;
use crate::common::process::{SYNTHDISK, command, expect_failure, is_root, output, skip, text};
use crate::common::tiny::Tiny;

const MODULES: &str = "/usr/lib/grub";

fn arg(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// The boot code of a disk.
fn code(disk: &Path) -> Vec<u8> {
    bytes_of(disk, 0, 440)
}

fn mounted(tiny: &Tiny, options: &[&str]) -> Vec<u8> {
    let mount = Mount::new(options, &tiny.image);
    let code = code(&mount.disk());
    mount.unmount();
    code
}

fn finalized(tiny: &Tiny, options: &[&str]) -> (Vec<u8>, String) {
    let out = tiny.file("out.raw");
    let args = ["finalize", "--force", arg(&tiny.image), "-o", arg(&out)];
    let done = output(SYNTHDISK, &[&args, options].concat());
    assert!(done.status.success(), "{}", text(&done.stderr));
    (code(&out), text(&done.stderr))
}

#[test]
fn grub_unless_the_kernel_is_the_hosts() {
    let tiny = Tiny::new();
    let (direct, grub) = (mounted(&tiny, &[]), mounted(&tiny, &["--bootloader", "grub"]));
    assert_ne!(direct, grub);
    let (code, said) = finalized(&tiny, &[]);
    assert!(code == grub && !said.contains("warning"), "{said}");
    let (code, said) = finalized(&tiny, &["--bootloader", "direct"]);
    assert!(code == direct && said.contains("warning: this disk always boots"), "{said}");
    let (code, said) = finalized(&tiny, &["--bootloader", "none"]);
    assert!(code == [0; 440] && !said.contains("warning"), "{said}");
    // A kernel of the host is not in the guest's menu.
    let kernel = tiny.file("kernel");
    std::fs::write(&kernel, crate::common::tiny::fake_kernel(7)).expect("our own file");
    let (code, said) = finalized(&tiny, &["--kernel", arg(&kernel)]);
    assert!(code == direct && said.contains("warning: this disk always boots"), "{said}");
    let args = ["finalize", "--bootloader", "grub", "--kernel", arg(&kernel), arg(&tiny.image)];
    let said = expect_failure(&[&args[..], &["-o", "/tmp/x"]].concat(), 2);
    assert!(said.contains("use --bootloader direct, or --guest-kernel"), "{said}");
}

#[test]
fn a_mount_keeps_its_loader() {
    let tiny = Tiny::new();
    for (options, warns) in [(&[][..], true), (&["--bootloader", "grub"][..], false)] {
        let mount = Mount::new(options, &tiny.image);
        let out = tiny.file("out.raw");
        let args = ["finalize", "--force", arg(mount.dir()), "-o", arg(&out)];
        let done = output(SYNTHDISK, &args);
        assert!(done.status.success(), "{}", text(&done.stderr));
        assert_eq!(code(&out), code(&mount.disk()));
        assert_eq!(text(&done.stderr).contains("warning: this disk always boots"), warns);
        let said = expect_failure(&[&args[..], &["--bootloader", "grub"]].concat(), 2);
        assert!(said.contains("a mount has its boot loader already"), "{said}");
        mount.unmount();
    }
}

/// In a mount namespace of its own, where GRUB's modules are hidden.
#[test]
fn without_grub_a_warning_says_what_that_means() {
    if !is_root() {
        return skip("hiding GRUB's modules needs root");
    }
    let tiny = Tiny::new();
    let direct = mounted(&tiny, &[]);
    let out = tiny.file("out.raw");
    let hidden = |options: &[&str]| {
        let script = format!("mount -t tmpfs none {MODULES} && exec \"$@\"");
        let mut unshare = command("unshare");
        unshare.args(["-m", "sh", "-c", &script, "sh", SYNTHDISK, "finalize", "--adapt", "none"]);
        let done = unshare.args(options).args([arg(&tiny.image), "-o", arg(&out)]).output();
        let done = done.expect("unshare starts");
        (done.status.success(), text(&done.stderr))
    };
    let (done, said) = hidden(&[]);
    assert!(done, "{said}");
    assert_eq!(code(&out), direct);
    assert!(said.contains("warning: this disk always boots the kernel in its boot gap"), "{said}");
    assert!(said.contains("install grub-common and grub-pc-bin"), "{said}");
    let (done, said) = hidden(&["--force", "--bootloader", "grub"]);
    assert!(!done && said.contains("GRUB's modules for BIOS machines; install"), "{said}");
}

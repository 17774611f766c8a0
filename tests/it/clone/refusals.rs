//! What cannot be done for a clone fails with one message and leaves nothing over.

use std::fs;

use crate::common::field::{FSTAB, Field, ROOT, mount};
use crate::common::mount::expect_no_mount;
use crate::common::process::{command, expect_failure, have, skip};
use crate::common::tiny::noise;

#[test]
fn wrong_usage() {
    let (field, config) = Field::xen_tools();
    fs::write(field.path("script"), "#!/bin/sh\n").unwrap();
    let script = format!("--run-first={}", field.arg("script"));
    for (options, said) in [
        (&["--hostname=a_b"][..], "can be no hostname"),
        (&["--hostname="], "can be no hostname"),
        (&["--root-uuid=newer"], "neither the word new nor a UUID"),
        (&["--machine-id=keep"], "reset"),
        (&["--copy-in=/etc/hosts"], "SRC:DEST"),
        (&["--root-password-hash=secret"], "openssl passwd -6"),
        (&["--read-only", "--hostname=a"], "--hostname needs a writable overlay"),
        (&["-o", "ro", &script], "--run-first needs a writable overlay"),
        (&["--cloud-init=a,b,c,d"], "one to three files"),
    ] {
        let dir = field.path("refused");
        fs::create_dir_all(&dir).unwrap();
        let mut words = vec!["mount", "--config", &config];
        words.extend(options);
        let dir = dir.to_string_lossy();
        words.push(&dir);
        let sentence = expect_failure(&words, 2);
        assert!(sentence.contains(said), "{options:?}: {sentence}");
        assert!(!sentence.contains("secret"), "{sentence}");
        assert!(!crate::common::mount::is_mount_point(dir.as_ref().as_ref()));
    }
    // A map edits nothing.
    expect_failure(&["map", "--config", &config, "--hostname=a"], 2);
    for words in [
        &["run", "--config", &config, "--read-only", "--hostname=a"][..],
        &["run", "--config", &config, "--config", &config, "--expect=x", "--hostname=a"],
    ] {
        expect_failure(words, 2);
    }
}

#[test]
fn what_this_guest_cannot_have() {
    let field = Field::new();
    let fstab = format!("{FSTAB}UUID={ROOT} /home ext4 defaults 0 2\n");
    field.root("disk.img", &fstab);
    let config = field.config("disk = ['disk.img,,xvda2']\nroot = '/dev/xvda2 ro'\n");
    let file = |name: &str, text: &[u8]| {
        fs::write(field.path(name), text).unwrap();
        field.arg(name)
    };
    let private = file("id", b"-----BEGIN OPENSSH PRIVATE KEY-----\nxyz\n");
    let script = file("script", b"#!/bin/sh\n");
    let text = file("text", b"echo\n");
    let big = file("big", &noise(40 << 20, 1));
    let hash = file("hash", b"$6$saltsalt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/\n");
    let overlay = field.arg("o.qcow2");
    for (option, said) in [
        (format!("--ssh-key={private}"), "private key"),
        (format!("--ssh-key={private}x"), "cannot read"),
        (format!("--root-password-hash=@{hash}"), "no /etc/shadow"),
        (format!("--run-first={script}"), "systemd, sysvinit, upstart nor OpenRC"),
        (format!("--run-first={text}"), "does not begin with #!"),
        (format!("--copy-in={text}:/home/me"), "/home is a filesystem of its own"),
        (format!("--copy-in={text}:/etc/fstab"), "/etc/fstab in the guest is no directory"),
        (format!("--copy-in={text}-none:/etc"), "cannot read"),
        (format!("--copy-in={big}:/srv"), "MiB left"),
        ("--cloud-init=/nowhere".into(), "cannot read /nowhere"),
    ] {
        let sentence = expect_no_mount(&[
            "--config",
            &config,
            "--overlay",
            &overlay,
            "--hostname=web",
            &option,
        ]);
        assert!(sentence.contains(said), "{option}: {sentence}");
        assert!(!field.path("o.qcow2").exists(), "{option} left an overlay");
    }
    // A refused option does not affect the next mount.
    let mounted = mount(&config, &["--hostname=web", "--overlay", &overlay]);
    mounted.unmount();
    assert!(field.path("o.qcow2").exists());
}

/// Filesystems that can't be edited, and disks without one.
#[test]
fn other_filesystems() {
    let field = Field::new();
    if !have("mkfs.xfs") {
        skip("there is no mkfs.xfs");
        return;
    }
    let image = field.path("xfs.img");
    fs::File::create(&image).unwrap().set_len(400 << 20).unwrap();
    let made = command("mkfs.xfs").args(["-q", "-f"]).arg(&image).output().unwrap();
    assert!(made.status.success());
    let config = field.config("disk = ['xfs.img,,xvda2']\nroot = '/dev/xvda2 ro'\n");
    let overlay = field.arg("o.qcow2");
    let sentence = expect_no_mount(&[
        "--config",
        &config,
        "--bootloader=none",
        "--overlay",
        &overlay,
        "--root-uuid=new",
    ]);
    assert!(sentence.contains("ext2, ext3 or ext4"), "{sentence}");
    assert!(!field.path("o.qcow2").exists());
}

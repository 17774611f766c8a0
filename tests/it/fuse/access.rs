//! Who may use a mount, and whose files edits of a guest reach.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::common::field::Field;
use crate::common::hash::Untouched;
use crate::common::mount::{Mount, is_mount_point};
use crate::common::process::{
    SYNTHDISK, command, copy_program, expect_failure, is_root, output, synthdisk, text,
};
use crate::common::tiny::{Tiny, open_to_all};

/// The user whom tests that run as root become.
const NOBODY: u32 = 65534;

fn skipped() -> bool {
    if is_root() {
        return false;
    }
    eprintln!("skipped: becoming another user needs root");
    true
}

fn as_nobody(program: impl AsRef<OsStr>) -> Command {
    let mut words = command("setpriv");
    words.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(program.as_ref());
    words
}

/// Whether the user 65534 can read and write `path`.
fn nobody_can(path: &Path) -> (bool, bool) {
    let test = |flag| as_nobody("sh").args(["-c", flag]).arg(path).status().unwrap().success();
    (test("head -c1 \"$0\" >/dev/null 2>&1"), test("true 2>/dev/null <>\"$0\""))
}

#[test]
fn modes_count_with_allow_other() {
    if skipped() {
        return;
    }
    for (mode, group, options, expected, allowed) in [
        (0o600, 0, "allow_other,umask=077", 0o600, (false, false)),
        (0o600, 0, "allow_other", 0o600, (false, false)),
        (0o644, 0, "allow_other", 0o644, (true, false)),
        (0o666, 0, "allow_other", 0o666, (true, true)),
        // A group that may read the images is not the one that the files show.
        (0o640, 6, "allow_other", 0o600, (false, false)),
        (0o640, 6, "allow_other,gid=6", 0o640, (false, false)),
        (0o600, 0, "allow_other,uid=65534", 0o600, (true, true)),
        (0o600, 0, "allow_other,gid=65534,umask=007", 0o660, (true, true)),
    ] {
        let tiny = Tiny::new();
        open_to_all(tiny.path());
        fs::set_permissions(&tiny.image, Permissions::from_mode(mode)).unwrap();
        chown(&tiny.image, None, Some(group)).unwrap();
        let dir = tiny.file("mnt");
        fs::create_dir(&dir).unwrap();
        let mount = Mount::at(&["--swap", "8M", "-o", options], &[&tiny.image], &dir);
        let shown = mount.disk().metadata().unwrap().mode() & 0o777;
        assert_eq!(format!("{shown:o}"), format!("{expected:o}"), "{mode:o} {options}");
        assert_eq!(nobody_can(&mount.disk()), allowed, "disk.raw: {mode:o} {options}");
        assert_eq!(nobody_can(&mount.part(1)), allowed, "part1.raw: {mode:o} {options}");
        mount.unmount();
    }
}

/// Swaps `parent` for a symlink to `evil` as soon as something is mounted below it.
fn swap_once_mounted(parent: PathBuf, moved: PathBuf, evil: PathBuf) -> bool {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        if is_mount_point(&parent.join("mnt")) {
            fs::rename(&parent, &moved).unwrap();
            symlink(&evil, &parent).unwrap();
            return true;
        }
    }
    false
}

/// The owner of a directory above the mount point cannot have edits of the guest land elsewhere.
#[test]
fn edits_do_not_follow_a_path() {
    if skipped() {
        return;
    }
    let (field, config) = Field::xen_tools();
    let (parent, moved, evil) = (field.path("parent"), field.path("moved"), field.path("evil"));
    fs::create_dir_all(parent.join("mnt")).unwrap();
    fs::create_dir_all(evil.join("mnt")).unwrap();
    // What another user wants to have rewritten, by a name that he chose.
    let secret = field.path("secret");
    fs::copy(field.path("disk.img"), &secret).unwrap();
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    let untouched = Untouched::remember(&secret);
    for number in 1..=2 {
        symlink(&secret, evil.join(format!("mnt/part{number}.raw"))).unwrap();
    }
    let swap = {
        let (parent, moved) = (parent.clone(), moved.clone());
        std::thread::spawn(move || swap_once_mounted(parent, moved, evil))
    };
    let made =
        output(SYNTHDISK, &["mount", "--config", &config, parent.join("mnt").to_str().unwrap()]);
    assert!(swap.join().unwrap(), "{}", text(&made.stderr));
    let mount = Mount::adopt(&moved.join("mnt"));
    untouched.check();
    assert!(made.status.success(), "{}", text(&made.stderr));
    assert!(text(&made.stderr).contains("adapted: /etc/fstab: "), "{}", text(&made.stderr));
    let edited = (1..=2).any(|number| {
        let part = mount.part(number);
        let cat = ["-R", "cat /etc/fstab", part.to_str().unwrap()];
        text(&output("debugfs", &cat).stdout).contains("UUID=")
    });
    assert!(edited, "the guest was not edited");
    mount.unmount();
}

/// Takes a mount off its directory when dropped, if it is still there.
struct Detached<'a>(&'a Path);

impl Drop for Detached<'_> {
    fn drop(&mut self) {
        if is_mount_point(self.0) {
            let _ = command("umount").arg("-l").arg(self.0).status();
        }
    }
}

/// What a plain user's guest needs is edited in a private view, of which nothing stays.
#[test]
fn a_plain_users_guest_is_edited() {
    if skipped() {
        return;
    }
    let (field, config) = Field::xen_tools();
    for name in ["disk.img", "swap.img", "domu.cfg"] {
        fs::set_permissions(field.path(name), Permissions::from_mode(0o644)).unwrap();
    }
    let program = field.path("synthdisk");
    copy_program(&program);
    let (mnt, runtime) = (field.path("mnt"), field.path("runtime"));
    for dir in [&mnt, &runtime] {
        fs::create_dir(dir).unwrap();
        chown(dir, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let run = |args: &[&OsStr]| -> Output {
        as_nobody(&program).args(args).env("XDG_RUNTIME_DIR", &runtime).output().unwrap()
    };
    let _detached = Detached(&mnt);
    let made = run(&["mount".as_ref(), "--config".as_ref(), config.as_ref(), mnt.as_os_str()]);
    let said = text(&made.stderr);
    assert!(made.status.success() && said.contains("adapted: /etc/fstab: "), "{said}");
    assert_eq!(fs::read_dir(&runtime).unwrap().count(), 0, "the private view's directory stayed");
    // Root does not believe what another user's mount says of itself.
    let result = field.arg("out.raw");
    let refused = expect_failure(&["finalize", mnt.to_str().unwrap(), "-o", &result], 1);
    assert!(refused.contains("was made by user 65534"), "{refused}");
    assert!(!Path::new(&result).exists());
    // But ends it, without waiting for a process that the other user names.
    let ended = synthdisk(&["umount".as_ref(), mnt.as_os_str()]);
    assert!(ended.status.success() && !is_mount_point(&mnt), "{}", text(&ended.stderr));
}

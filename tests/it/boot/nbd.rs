//! A guest in a container that has no FUSE: `run` takes NBD by itself.

use std::fs;

use crate::common::guests::mini_guest;
use crate::common::hash::Untouched;
use crate::common::process::{SYNTHDISK, command, text};
use crate::common::slots::Slot;

/// Runs its arguments in a user namespace of its own, with a /dev that has no FUSE.
const WITHOUT_FUSE: &str = "set -e
dev=$(mktemp -d)
mount -t tmpfs none \"$dev\"
for name in null zero full random urandom; do
    touch \"$dev/$name\"
    mount --bind \"/dev/$name\" \"$dev/$name\"
done
mount --move \"$dev\" /dev
test ! -e /dev/fuse
exec \"$@\"";

#[test]
#[ignore = "boots QEMU"]
fn a_guest_boots_where_there_is_no_fuse() {
    let image = mini_guest();
    let untouched = Untouched::remember(&image);
    let _slot = Slot::take();
    let home = tempfile::tempdir().unwrap();
    let accel = std::env::var("SYNTHDISK_TEST_ACCEL").unwrap_or_else(|_| "tcg".to_string());
    let result = command("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", WITHOUT_FUSE, "sh", SYNTHDISK])
        .args(["run", "--accel", &accel, "--memory", "256", "--expect", "login:"])
        .args(["--timeout", "600"])
        .arg(&image)
        .env("XDG_RUNTIME_DIR", home.path())
        .output()
        .expect("unshare runs");
    let said = text(&result.stderr);
    assert!(result.status.success(), "{said}");
    assert!(said.contains("QEMU gets the disks by NBD, because there is no /dev/fuse"), "{said}");
    // Its kernel has no modules in the root filesystem, so it cannot edit it, and that is said.
    assert!(said.contains("not adapted to KVM: the guest has no module virtio_pci"), "{said}");
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0, "something is left");
    untouched.check();
}

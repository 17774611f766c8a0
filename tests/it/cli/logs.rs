//! Files that commands write for later: logs and reports.

use crate::common::mount::Mount;
use crate::common::process::{SYNTHDISK, is_root, output, text};
use crate::common::tiny::Tiny;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};

#[test]
fn a_log_is_private_and_not_written_through_foreign_symlinks() {
    let guest = Tiny::new();
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    let log = dir.path().join("log");
    let shown = log.to_string_lossy().into_owned();
    let mount = Mount::new(&["--log", &shown], &guest.image);
    assert_eq!(fs::metadata(&log).unwrap().mode() & 0o777, 0o600);
    mount.unmount();
    if !is_root() {
        return; // only root can give a symlink away
    }
    let secret = dir.path().join("secret");
    fs::write(&secret, "kept").unwrap();
    let link = dir.path().join("link");
    symlink(&secret, &link).unwrap();
    lchown(&link, Some(65534), Some(65534)).unwrap();
    let target = dir.path().join("mnt");
    fs::create_dir(&target).unwrap();
    let (link, target) = (link.to_string_lossy(), target.to_string_lossy());
    let image = guest.image.to_string_lossy();
    let refused = output(SYNTHDISK, &["mount", "--log", &link, &image, &target]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stderr).contains("a symlink of another user"),
        "{}",
        text(&refused.stderr)
    );
    assert_eq!(fs::read_to_string(&secret).unwrap(), "kept");
}

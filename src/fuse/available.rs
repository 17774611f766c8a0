//! Whether this process can make mounts.

use crate::process::find_program;
use nix::unistd::geteuid;
use rustix::thread::{CapabilitySet, capabilities};
use std::fs::File;

/// Why this process cannot make FUSE mounts; `None` if it seems that it can.
pub fn why_unavailable() -> Option<String> {
    if let Err(e) = File::options().read(true).write(true).open("/dev/fuse") {
        return Some(match e.kind() {
            std::io::ErrorKind::NotFound => "there is no /dev/fuse".into(),
            _ => format!("/dev/fuse cannot be opened: {e}"),
        });
    }
    let may_mount =
        || capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
    if geteuid().is_root() {
        return (!may_mount()).then(|| "this process may not mount".into());
    }
    let helper = find_program("fusermount3");
    helper.is_none().then(|| "fusermount3 is not installed".into())
}

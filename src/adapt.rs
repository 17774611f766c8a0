//! Edits that make a Xen guest at home on KVM.
//!
//! A step looks at files of the guest and proposes new contents; [`apply`] stores them in the
//! filesystem with the host's own e2fsprogs, through our own partition view, so that they land in
//! the overlay like any other write. Calls only `guest`.

mod apply;
mod devices;
mod fstab;
mod inittab;
mod network;

pub use apply::apply;
pub use devices::{Device, Devices};
pub use network::old_interface_names;

use crate::Result;
use crate::guest::fs::GuestFs;

/// Files beyond this many bytes are no configuration.
const MAX_FILE: usize = 64 << 10;

/// New contents for a file that exists. Owner, mode, times and extended attributes stay.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Edit {
    /// Absolute path in the guest's root filesystem, without symlinks.
    pub path: String,
    /// What the file holds now.
    pub old: Vec<u8>,
    /// What it is to hold.
    pub new: Vec<u8>,
    /// What was changed, for a person.
    pub why: String,
}

/// One kind of edit. A step must propose nothing for what it has already edited.
struct Step {
    /// The file that it is about.
    path: &'static str,
    /// The new text and what was changed, or `None` to leave the file as it is.
    edit: fn(&str, &Devices) -> Option<(String, String)>,
}

const STEPS: [Step; 2] = [
    Step { path: "/etc/fstab", edit: fstab::edit },
    Step { path: "/etc/inittab", edit: inittab::edit },
];

/// The edits that the guest with this root filesystem needs.
///
/// # Errors
/// Those of reading the filesystem; a file that is not there, not text or too large is passed over.
pub fn propose(root: &dyn GuestFs, devices: &Devices) -> Result<Vec<Edit>> {
    let mut edits = Vec::new();
    for step in &STEPS {
        let Ok(path) = root.canonicalize(step.path) else { continue };
        let Ok(old) = root.read(&path, MAX_FILE) else { continue };
        let Ok(text) = std::str::from_utf8(&old) else { continue };
        if let Some((new, why)) = (step.edit)(text, devices) {
            edits.push(Edit { path, new: new.into_bytes(), why, old });
        }
    }
    Ok(edits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::tree::MemFs;

    #[test]
    fn steps_propose_nothing_twice() {
        let devices = Devices::of(&[("a", 2, "UUID=r", false), ("a", 1, "UUID=s", true)], true);
        let fstab = "/dev/xvda1 none swap sw 0 0\n/dev/xvda2 / ext4 defaults 0 1\n";
        let inittab = "id:2:initdefault:\n1:2345:respawn:/sbin/getty 38400 hvc0\n";
        let fs = MemFs::new().file("/etc/fstab", fstab).file("/etc/inittab", inittab);
        let edits = propose(&fs, &devices).unwrap();
        assert_eq!(edits.len(), 2);
        let text = |i: usize| String::from_utf8(edits[i].new.clone()).unwrap();
        let again = MemFs::new().file("/etc/fstab", text(0)).file("/etc/inittab", text(1));
        assert_eq!(propose(&again, &devices).unwrap(), []);
    }
}

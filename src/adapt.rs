//! Edits that make a Xen guest at home on KVM.
//!
//! A [`Step`] looks at files of the guest and drafts changes; [`apply`] stores them in the guest's
//! filesystem through our own partition view, so that they land in the overlay like any other write.
//! Calls only `guest`.

mod apply;
mod devices;
mod draft;
mod e2fs;
pub mod identity;
mod selection;
mod steps;

pub use apply::{apply, check_room, set_uuid};
pub use devices::{Device, Devices};
pub use selection::Selection;
pub use steps::network::{NETWORK, old_interface_names};
pub use steps::{STEPS, Step};

use crate::Result;
use crate::guest::fs::GuestFs;
use draft::Draft;
use std::path::PathBuf;

/// Files beyond this many bytes are no configuration.
const MAX_FILE: usize = 64 << 10;

/// A change of one path in the guest's root filesystem.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Edit {
    /// Absolute path in the guest's root filesystem; no part of it but the last is a symlink.
    pub path: String,
    /// What happens to it.
    pub change: Change,
    /// What was changed, for a person.
    pub why: String,
    /// Name of the step that wants it.
    pub step: &'static str,
}

/// What happens to a path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// New contents for a regular file that exists. Owner, mode, times and extended attributes stay.
    Rewrite {
        /// What the file holds now.
        old: Vec<u8>,
        /// What it is to hold.
        new: Vec<u8>,
    },
    /// A regular file where there is nothing, in a directory that is there.
    Create {
        /// What it is to hold.
        content: Content,
        /// Who may do what, and whose it is.
        access: Access,
    },
    /// A directory where there is nothing.
    MakeDir(Access),
    /// A symlink where there is nothing.
    Symlink {
        /// What it points to.
        target: String,
    },
    /// A regular file or symlink is taken away.
    Remove,
}

/// Contents of a new file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// Those of a file of this host.
    HostFile(PathBuf),
}

/// Permissions and owner of something new.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Access {
    /// Permission bits, as in chmod(2).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Access {
    /// Root's, with the permission bits `mode`.
    pub const fn root(mode: u32) -> Self {
        Self { mode, uid: 0, gid: 0 }
    }
}

/// The edits that the guest with this root filesystem needs, as far as `selection` wants them, in
/// the order in which they are to be made.
///
/// # Errors
/// Those of reading the filesystem; a file that is not there, not text or too large is passed over.
pub fn propose(root: &dyn GuestFs, devices: &Devices, selection: &Selection) -> Result<Vec<Edit>> {
    let mut draft = Draft::new(root, devices);
    draft_steps(&mut draft, selection)?;
    Ok(draft.finish())
}

/// Take the steps that `selection` wants.
fn draft_steps(draft: &mut Draft, selection: &Selection) -> Result<()> {
    for step in STEPS.iter().filter(|step| selection.has(step.name)) {
        draft.begin(step.name);
        (step.draft)(draft)?;
    }
    Ok(())
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
        let edits = propose(&fs, &devices, &Selection::auto()).unwrap();
        assert_eq!(edits.len(), 2);
        let again = edits.iter().fold(MemFs::new(), |fs, edit| match &edit.change {
            Change::Rewrite { new, .. } => fs.file(&edit.path, new.clone()),
            other => panic!("{other:?}"),
        });
        assert_eq!(propose(&again, &devices, &Selection::auto()).unwrap(), []);
        let only = Selection::parse("inittab").unwrap();
        let edits = propose(&fs, &devices, &only).unwrap();
        assert_eq!(edits.iter().map(|e| e.step).collect::<Vec<_>>(), ["inittab"]);
    }
}

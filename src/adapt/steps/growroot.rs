//! Growing the root partition at boot: cloud-init's `growpart` and cloud-initramfs-growroot. On an
//! image that is a whole disk, a loader of ours follows the last partition, and would be
//! overwritten. Both look for a file before they do anything (cloud-init `cc_growpart.py`).

use crate::Result;
use crate::adapt::devices::Devices;
use crate::adapt::step::Step;
use crate::edit::{Draft, FileAccess, FileContent};

pub(super) const STEP: Step = Step {
    name: "growroot",
    what: "`/etc/growroot-disabled` on whole disks: cloud-init leaves the space of the loader alone",
    draft,
};

const OFF: &str = "/etc/growroot-disabled";
const GROWERS: [&str; 3] =
    ["/usr/bin/growpart", "/usr/bin/cloud-init", "/usr/share/initramfs-tools/hooks/growroot"];
const TEXT: &[u8] = b"# The boot loader of synthdisk is stored after the last partition.\n";

fn draft(draft: &mut Draft, devices: &Devices) -> Result<()> {
    let grows = GROWERS.iter().any(|path| draft.exists(path));
    if devices.has_tail() && grows && !draft.is_there(OFF) {
        let why = "the boot loader is stored after the last partition, which must not grow";
        draft.create(OFF, FileContent::Bytes(TEXT.to_vec()), FileAccess::root(0o644), why);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::steps::test::{applied, raw_edits};
    use crate::fs::MemFs;

    #[test]
    fn only_where_something_would_be_overwritten() {
        let tail = Devices::default().with_tail();
        let cloud = || MemFs::new().file("/usr/bin/growpart", "").file("/etc/fstab", "");
        let edits = raw_edits(&cloud(), &STEP, &tail);
        assert_eq!(edits.iter().map(|e| e.path.as_str()).collect::<Vec<_>>(), [OFF]);
        assert_eq!(raw_edits(&applied(cloud(), &edits), &STEP, &tail), []);
        assert_eq!(raw_edits(&cloud(), &STEP, &Devices::default()), []);
        assert_eq!(raw_edits(&MemFs::new().file("/etc/fstab", ""), &STEP, &tail), []);
    }
}

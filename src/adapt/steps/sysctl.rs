//! Kernel settings that only Xen's kernels have: `xen.independent_wallclock` and the like. systemd
//! ignores them, but procps' `sysctl` complains at each boot, and its init script fails.

use super::lines::{comment_out, edit_lines};
use crate::Result;
use crate::adapt::devices::Devices;
use crate::adapt::step::Step;
use crate::edit::Draft;

pub(super) const STEP: Step = Step {
    name: "sysctl",
    what: "`/etc/sysctl.conf`, `/etc/sysctl.d`: settings below `xen.` become comments",
    draft,
};

fn draft(draft: &mut Draft, _: &Devices) -> Result<()> {
    let mut files = draft.paths("/etc/sysctl.d");
    files.retain(|path| path.ends_with(".conf"));
    files.push("/etc/sysctl.conf".into());
    for file in files {
        draft.edit(&file, |text| edit_lines(text, setting));
    }
    Ok(())
}

/// A setting. One whose name starts with `-` is allowed to fail and stays. See sysctl.d(5).
fn setting(line: &str) -> Option<(String, String)> {
    let key = line.split('=').next()?.trim();
    let is_xens = ["xen.", "xen/", "dev.xen.", "dev/xen/"].iter().any(|p| key.starts_with(p));
    is_xens.then_some(())?;
    comment_out(line, format!("{key} is Xen's"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::steps::test::{edits, is_settled};
    use crate::fs::MemFs;

    #[test]
    fn xens_settings_become_comments() {
        let fs = MemFs::new()
            .file("/etc/sysctl.conf", "vm.swappiness = 10\nxen.independent_wallclock = 1\n")
            .file("/etc/sysctl.d/30-xen.conf", "xen/balloon/hotplug_unpopulated=0\n-xen.x=1\n")
            .file("/etc/sysctl.d/xen.conf.orig", "xen.independent_wallclock=1\n");
        let expected = [
            "/etc/sysctl.d/30-xen.conf = #xen/balloon/hotplug_unpopulated=0\n-xen.x=1\n",
            "/etc/sysctl.conf = vm.swappiness = 10\n#xen.independent_wallclock = 1\n",
        ];
        assert_eq!(edits(&fs, &STEP), expected);
        assert!(is_settled(fs, &STEP));
    }
}

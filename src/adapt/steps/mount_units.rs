//! The administrator's own units for mounts that fstab does not list: `What=` of systemd.mount(5)
//! and systemd.swap(5). systemd would wait 90 s for a missing device.
//!
//! `What=` takes only paths, so a UUID is written as a path. The name of a swap unit contains the
//! device, so the unit cannot refer to another one; the `fstab` step takes care of swap.

use super::lines::{assigned, edit_lines};
use super::systemd_console::enabled;
use crate::Result;
use crate::adapt::devices::{Devices, Meaning};
use crate::adapt::step::Step;
use crate::edit::Draft;

pub(super) const STEP: Step = Step {
    name: "mount-units",
    what: "`What=` of `.mount` units in `/etc/systemd/system`: device names become UUIDs; units of disks that are not there, and swap units of the old names, are disabled",
    draft,
};

const UNITS: &str = "/etc/systemd/system";

fn draft(draft: &mut Draft, devices: &Devices) -> Result<()> {
    for path in draft.paths(UNITS) {
        let is_swap = path.ends_with(".swap");
        if !is_swap && !path.ends_with(".mount") {
            continue;
        }
        let Some(text) = draft.text(&path) else { continue };
        let Some(what) = text.lines().filter_map(|l| assigned(l, "What")).next_back() else {
            continue;
        };
        let new = match devices.meaning(what) {
            Meaning::Unrelated => continue,
            Meaning::Present(device) if !is_swap && !device.swap => Some(device.path()),
            _ => None,
        };
        let Some(new) = new else {
            disable(draft, &path, what);
            continue;
        };
        draft.edit(&path, |text| {
            edit_lines(text, |line| {
                assigned(line, "What").filter(|here| *here == what)?;
                Some((format!("What={new}"), format!("{what} became {new}")))
            })
        });
    }
    Ok(())
}

/// Remove the links through which something starts the unit at `path`.
fn disable(draft: &mut Draft, path: &str, what: &str) {
    let name = path.rsplit('/').next();
    for link in enabled(draft) {
        if link.rsplit('/').next() == name {
            draft.remove(&link, format!("{what} not found; disabled"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::steps::test::{applied, raw_edits};
    use crate::fs::GuestFs;
    use crate::fs::MemFs;

    fn unit(fs: MemFs, name: &str, what: &str) -> MemFs {
        let path = format!("{UNITS}/{name}");
        let text = format!("[Unit]\nDescription=x\n[Mount]\nWhat={what}\nWhere=/x\n");
        fs.file(&path, text).symlink(&format!("{UNITS}/local-fs.target.wants/{name}"), &path)
    }

    #[test]
    fn units_are_told_or_disabled() {
        let devices = Devices::of(&[("a", 2, "UUID=r", false), ("a", 1, "UUID=s", true)], true)
            .and_no_others();
        let mut fs = MemFs::new();
        for (name, what) in [
            ("here.mount", "/dev/xvda2"),
            ("gone.mount", "/dev/xvdb1"),
            ("label.mount", "/dev/disk/by-label/data"),
            ("dev-xvda1.swap", "/dev/xvda1"),
            ("nfs.mount", "nas:/export"),
            ("uuid.mount", "/dev/disk/by-uuid/r"),
        ] {
            fs = unit(fs, name, what);
        }
        let made = raw_edits(&fs, &STEP, &devices);
        let said: Vec<String> = made.iter().map(|e| format!("{}: {}", e.path, e.why)).collect();
        let links = format!("{UNITS}/local-fs.target.wants");
        let expected = [
            format!("{links}/dev-xvda1.swap: /dev/xvda1 not found; disabled"),
            format!("{links}/gone.mount: /dev/xvdb1 not found; disabled"),
            format!("{UNITS}/here.mount: /dev/xvda2 became /dev/disk/by-uuid/r"),
            format!("{links}/label.mount: /dev/disk/by-label/data not found; disabled"),
        ];
        assert_eq!(said, expected);
        let again = applied(fs, &made);
        let here = again.read(&format!("{UNITS}/here.mount"), 1 << 10).unwrap();
        assert!(String::from_utf8(here).unwrap().contains("\nWhat=/dev/disk/by-uuid/r\nWhere="));
        assert_eq!(raw_edits(&again, &STEP, &devices), []);
    }
}

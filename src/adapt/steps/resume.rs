//! The swap area from which a hibernated guest resumes, as configured for the tools that build
//! initrds and for those that hibernate: initramfs.conf(5), uswsusp.conf(5).
//!
//! These settings take effect when the guest next builds an initrd; the command line is adapted
//! separately.

use super::lines::{assigned, edit_lines};
use crate::Result;
use crate::adapt::devices::{Devices, Meaning};
use crate::adapt::step::Step;
use crate::device_name::DeviceName;
use crate::edit::{Draft, MAX_FILE};
use crate::fs::GuestFs;

/// Name of the step.
pub const RESUME: &str = "resume";

pub(super) const STEP: Step = Step {
    name: RESUME,
    what: "`RESUME=` of initramfs-tools, on the command line too, and `resume device` of uswsusp: the swap area's UUID",
    draft,
};

const INITRAMFS_TOOLS: &str = "/etc/initramfs-tools";
const USWSUSP: [&str; 2] = ["/etc/uswsusp.conf", "/etc/suspend.conf"];

fn draft(draft: &mut Draft, devices: &Devices) -> Result<()> {
    let mut files = draft.paths(&format!("{INITRAMFS_TOOLS}/conf.d"));
    files.push(format!("{INITRAMFS_TOOLS}/initramfs.conf"));
    for file in files {
        draft.edit(&file, |text| {
            edit_lines(text, |line| variable(line, devices, ("RESUME", "none")))
        });
    }
    for file in USWSUSP {
        draft.edit(file, |text| {
            edit_lines(text, |line| variable(line, devices, ("resume device", "")))
        });
    }
    Ok(())
}

/// The device from which initramfs-tools was configured to resume. It is recorded in the initrd,
/// which waits half a minute for it unless the command line overrides it (initramfs-tools:
/// `scripts/local-premount`).
pub(crate) fn configured(root: &dyn GuestFs) -> Option<String> {
    let dir = format!("{INITRAMFS_TOOLS}/conf.d");
    let mut files = vec![format!("{INITRAMFS_TOOLS}/initramfs.conf")];
    files.extend(root.read_dir(&dir).unwrap_or_default().iter().map(|n| format!("{dir}/{n}")));
    let mut found = None;
    for file in files.iter().take(100) {
        let Ok(bytes) = root.read(file, MAX_FILE) else { continue };
        let text = String::from_utf8_lossy(&bytes);
        let mut values = text.lines().rev().filter_map(|line| assigned(line, "RESUME"));
        found = values.next().map(|v| v.trim_matches(['"', '\'']).to_owned()).or(found);
    }
    found.filter(|device| DeviceName::parse(device).is_some() || device.starts_with("UUID="))
}

/// `line` with the value of `key` corrected; `none` is the value for "no such device".
fn variable(line: &str, devices: &Devices, (key, none): (&str, &str)) -> Option<(String, String)> {
    let value = assigned(line, key)?;
    let device = value.trim_matches(['"', '\'']);
    let new = match devices.meaning(device) {
        Meaning::Unrelated => return None,
        Meaning::Present(device) if device.swap => Some(device),
        _ => devices.swaps().next(),
    };
    let new = match new {
        None => none.to_owned(),
        Some(swap) if key == "RESUME" => swap.spec.clone(),
        // uswsusp takes only paths.
        Some(swap) => swap.path(),
    };
    let at = line.rfind(device)?;
    let why = match new.as_str() {
        "" | "none" => format!("no swap to resume from, {device} dropped"),
        new => format!("{device} became {new}"),
    };
    Some((format!("{}{new}{}", &line[..at], &line[at + device.len()..]), why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFs;

    #[test]
    fn what_the_initrd_was_told() {
        let conf = "/etc/initramfs-tools/initramfs.conf";
        let resume = "/etc/initramfs-tools/conf.d/resume";
        let told = |files: &[(&str, &str)]| {
            let fs = files.iter().fold(MemFs::new(), |fs, (path, text)| fs.file(path, *text));
            configured(&fs)
        };
        assert_eq!(told(&[]), None);
        assert_eq!(told(&[(resume, "RESUME=/dev/xvda1\n")]).as_deref(), Some("/dev/xvda1"));
        let both = [(conf, "RESUME=/dev/xvdb1\n"), (resume, "RESUME='UUID=x'\n")];
        assert_eq!(told(&both).as_deref(), Some("UUID=x"));
        for silent in ["RESUME=none", "RESUME=auto", "#RESUME=/dev/xvda1", "RESUME=/dev/vg/swap"] {
            assert_eq!(told(&[(resume, silent)]), None, "{silent}");
        }
    }

    #[test]
    fn values() {
        let with = Devices::of(&[("a", 2, "UUID=r", false), ("a", 1, "UUID=s", true)], true)
            .and_no_others();
        let without = Devices::of(&[("a", 2, "UUID=r", false)], true);
        let (debian, uswsusp) = (("RESUME", "none"), ("resume device", ""));
        for (line, devices, key, expected) in [
            ("RESUME=/dev/xvda1", &with, debian, "RESUME=UUID=s"),
            ("RESUME=\"/dev/xvdb\"", &with, debian, "RESUME=\"UUID=s\""),
            ("RESUME=UUID=gone", &with, debian, "RESUME=UUID=s"),
            ("RESUME=/dev/xvda1", &without, debian, "RESUME=none"),
            ("resume device = /dev/xvda1", &with, uswsusp, "resume device = /dev/disk/by-uuid/s"),
            ("resume device = /dev/xvda1", &without, uswsusp, "resume device = "),
        ] {
            let (new, _) = variable(line, devices, key).unwrap();
            assert_eq!(new, expected);
            assert_eq!(variable(&new, devices, key), None, "once is enough");
        }
        for same in ["RESUME=auto", "RESUME=none", "RESUME=UUID=s", "MODULES=most", "RESUME="] {
            assert_eq!(variable(same, &with, debian), None, "{same}");
        }
    }
}

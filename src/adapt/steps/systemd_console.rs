//! Gettys that systemd was configured to start on Xen's console. `serial-getty@hvc0` waits for its
//! device, and `getty.target` waits for that service: the system counts as starting for 90 s. The
//! serial port needs no unit: systemd-getty-generator(8) starts a getty on each console that the
//! kernel's command line names.

use super::console::xen_tty;
use crate::Result;
use crate::adapt::devices::Devices;
use crate::adapt::step::Step;
use crate::edit::Draft;

pub(super) const STEP: Step = Step {
    name: "systemd-console",
    what: "`/etc/systemd/system`: `serial-getty@hvc0.service` and its like are disabled",
    draft,
};

const UNITS: &str = "/etc/systemd/system";

fn draft(draft: &mut Draft, _: &Devices) -> Result<()> {
    for link in enabled(draft) {
        let name = link.rsplit('/').next().unwrap_or_default();
        if name.contains("getty@")
            && let Some(tty) = xen_tty(name)
        {
            let why = format!("{tty} not found; getty disabled");
            draft.remove(&link, why);
        }
    }
    Ok(())
}

/// Links in `/etc/systemd/system` through which units start other units.
pub(super) fn enabled(draft: &Draft) -> Vec<String> {
    let wants = [".wants", ".requires"];
    let dirs = draft.paths(UNITS).into_iter();
    let dirs = dirs.filter(|dir| wants.iter().any(|suffix| dir.ends_with(suffix)));
    dirs.flat_map(|dir| draft.paths(&dir)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::steps::test::{edits, is_settled};
    use crate::fs::MemFs;

    #[test]
    fn gettys_on_xens_console_are_disabled() {
        let wants = "/etc/systemd/system/getty.target.wants";
        let template = "/lib/systemd/system/serial-getty@.service";
        let fs = MemFs::new()
            .file(template, "")
            .symlink(&format!("{wants}/getty@tty1.service"), "/lib/systemd/system/getty@.service")
            .symlink(&format!("{wants}/serial-getty@hvc0.service"), template)
            .symlink(&format!("{wants}/serial-getty@ttyS0.service"), template)
            .symlink("/etc/systemd/system/multi-user.target.wants/getty@xvc0.service", "x")
            .symlink("/etc/systemd/system/multi-user.target.wants/hvc0-log.service", "x")
            .file("/etc/systemd/system/serial-getty@hvc0.service", "");
        let expected = [
            format!("{wants}/serial-getty@hvc0.service removed"),
            "/etc/systemd/system/multi-user.target.wants/getty@xvc0.service removed".to_owned(),
        ];
        assert_eq!(edits(&fs, &STEP), expected);
        assert!(is_settled(fs, &STEP));
    }
}

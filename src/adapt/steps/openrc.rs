//! OpenRC's service for a getty is a symlink to `/etc/init.d/agetty` whose name contains the
//! terminal: `agetty.hvc0`. The symlink and its settings in `/etc/conf.d` move to the serial port.

use super::console::{SERIAL, is_xen_tty};
use super::lines::replace_word;
use crate::Result;
use crate::adapt::devices::Devices;
use crate::adapt::step::Step;
use crate::edit::Draft;

pub(super) const STEP: Step =
    Step { name: "openrc", what: "OpenRC's `agetty.hvc0` becomes `agetty.ttyS0`", draft };

fn draft(draft: &mut Draft, _: &Devices) -> Result<()> {
    for runlevel in draft.paths("/etc/runlevels") {
        for name in draft.names(&runlevel) {
            let Some(tty) = name.strip_prefix("agetty.").filter(|tty| is_xen_tty(tty)) else {
                continue;
            };
            let why = format!("getty on {tty} moved to {SERIAL}");
            draft.remove(&format!("{runlevel}/{name}"), &*why);
            let service = format!("/etc/init.d/agetty.{SERIAL}");
            if !draft.is_there(&service) {
                draft.symlink(&service, "agetty", &*why);
            }
            let enabled = format!("{runlevel}/agetty.{SERIAL}");
            if !draft.is_there(&enabled) {
                draft.symlink(&enabled, &service, &*why);
            }
            let settings = format!("/etc/conf.d/agetty.{SERIAL}");
            if !draft.is_there(&settings)
                && let Some(text) = draft.text(&format!("/etc/conf.d/{name}"))
            {
                draft.rewrite(&settings, replace_word(&text, tty, SERIAL), &*why);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::steps::test::{edits, is_settled};
    use crate::fs::MemFs;

    #[test]
    fn the_service_moves() {
        let fs = || {
            MemFs::new()
                .file("/etc/init.d/agetty", "#!/sbin/openrc-run\n")
                .symlink("/etc/init.d/agetty.hvc0", "agetty")
                .symlink("/etc/runlevels/default/agetty.tty1", "/etc/init.d/agetty.tty1")
                .symlink("/etc/runlevels/default/agetty.hvc0", "/etc/init.d/agetty.hvc0")
        };
        let moved = [
            "/etc/runlevels/default/agetty.hvc0 removed",
            "/etc/init.d/agetty.ttyS0 -> agetty",
            "/etc/runlevels/default/agetty.ttyS0 -> /etc/init.d/agetty.ttyS0",
        ];
        assert_eq!(edits(&fs(), &STEP), moved);
        assert!(is_settled(fs(), &STEP));
        let with_settings = fs().file("/etc/conf.d/agetty.hvc0", "baud=\"38400\"\n");
        let settings = "/etc/conf.d/agetty.ttyS0 = baud=\"38400\"\n";
        assert_eq!(edits(&with_settings, &STEP)[3..], [settings]);
        assert!(is_settled(with_settings, &STEP));
        let both = fs()
            .symlink("/etc/init.d/agetty.ttyS0", "agetty")
            .symlink("/etc/runlevels/default/agetty.ttyS0", "/etc/init.d/agetty.ttyS0");
        assert_eq!(edits(&both, &STEP), moved[..1]);
    }
}

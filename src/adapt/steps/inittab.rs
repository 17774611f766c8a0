//! `/etc/inittab` of sysvinit: the getty on Xen's console moves to the serial port. See inittab(5).
//!
//! systemd and its kin need no edit: they start a getty on every console that the kernel's command
//! line names.

use super::Step;
use crate::Result;
use crate::adapt::draft::Draft;

pub(super) const STEP: Step = Step {
    name: "inittab",
    what: "`/etc/inittab`: the getty on `hvc0` or `xvc0` moves to `ttyS0`",
    draft,
};

fn draft(draft: &mut Draft) -> Result<()> {
    draft.edit("/etc/inittab", edit);
    Ok(())
}

/// The new text and what was changed.
fn edit(text: &str) -> Option<(String, String)> {
    let runs_on = |line: &str, tty: &str| {
        !line.trim_start().starts_with('#')
            && line.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == tty)
    };
    // Somebody has seen to the serial port already.
    if text.lines().any(|line| runs_on(line, "ttyS0")) {
        return None;
    }
    let xen = ["hvc0", "xvc0"];
    let mut changed = None;
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        match xen.iter().find(|tty| runs_on(line, tty) && changed.is_none()) {
            Some(tty) => {
                changed = Some(format!("getty on {tty} moved to ttyS0"));
                out.push_str(&line.replace(tty, "ttyS0"));
            }
            None => out.push_str(line),
        }
    }
    changed.map(|why| (out, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xens_console_becomes_the_serial_port() {
        let edited = |text: &str| edit(text).map(|(new, _)| new);
        for (text, new) in [
            ("1:2345:respawn:/sbin/getty 38400 hvc0\n", "1:2345:respawn:/sbin/getty 38400 ttyS0\n"),
            ("xvc:2345:respawn:/sbin/agetty -L xvc0", "xvc:2345:respawn:/sbin/agetty -L ttyS0"),
        ] {
            assert_eq!(edited(text).as_deref(), Some(new));
            assert_eq!(edited(new), None, "once is enough");
        }
        for same in [
            "#1:2345:respawn:/sbin/getty 38400 hvc0\n",
            "1:2345:respawn:/sbin/getty 38400 tty1\n",
            "a:2:respawn:/sbin/getty 38400 hvc0\nb:2:respawn:/sbin/getty -L ttyS0\n",
        ] {
            assert_eq!(edited(same), None, "{same}");
        }
    }
}

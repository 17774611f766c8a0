//! `/etc/inittab` of sysvinit and busybox: the getty on Xen's console moves to the serial port. See
//! inittab(5), and `init/init.c` of busybox, where the first field is the terminal.

use super::console::{SERIAL, is_systemd, names_serial, xen_tty};
use super::lines::{comment_out, edit_lines, is_comment, replace_word};
use crate::Result;
use crate::adapt::devices::Devices;
use crate::adapt::step::Step;
use crate::edit::Draft;

pub(super) const STEP: Step = Step {
    name: "inittab",
    what: "`/etc/inittab`: the getty on `hvc0` or `xvc0` moves to `ttyS0`",
    draft,
};

fn draft(draft: &mut Draft, _: &Devices) -> Result<()> {
    if !is_systemd(draft) {
        draft.edit("/etc/inittab", edit);
    }
    Ok(())
}

/// The new text and what was changed.
fn edit(text: &str) -> Option<(String, String)> {
    // There may already be a getty on the serial port.
    let mut has_serial = text.lines().any(|line| !is_comment(line) && names_serial(line));
    edit_lines(text, |line| {
        let tty = terminal(line)?;
        if has_serial {
            // init would try again and again, and report that on the console.
            return comment_out(line, format!("{tty} is not there: getty disabled"));
        }
        has_serial = true;
        Some((moved(line, tty), format!("getty on {tty} moved to {SERIAL}")))
    })
}

/// The Xen console that an entry runs on.
fn terminal(line: &str) -> Option<&str> {
    let (_, rest) = parts(line);
    xen_tty(rest)
}

/// `line` with the serial port in place of `tty`.
fn moved(line: &str, tty: &str) -> String {
    let (name, rest) = parts(line);
    format!("{name}{}", replace_word(rest, tty, SERIAL))
}

/// Splits an entry into its name and the part that says where it runs. sysvinit's first field is a
/// name of at most four letters, not a terminal; busybox's first field is the terminal, and its
/// second field stays empty.
fn parts(line: &str) -> (&str, &str) {
    let second = line.find(':').map_or(0, |at| at + 1);
    match line[second..].starts_with(':') {
        true => ("", line),
        false => line.split_at(second),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(text: &str) -> Option<String> {
        edit(text).map(|(new, _)| new)
    }

    #[test]
    fn xens_console_becomes_the_serial_port() {
        for (text, new) in [
            ("1:2345:respawn:/sbin/getty 38400 hvc0\n", "1:2345:respawn:/sbin/getty 38400 ttyS0\n"),
            ("xvc:2345:respawn:/sbin/agetty -L xvc0", "xvc:2345:respawn:/sbin/agetty -L ttyS0"),
            // Gentoo, CentOS 5.
            (
                "x0:12345:respawn:/sbin/agetty 38400 hvc0 screen\n",
                "x0:12345:respawn:/sbin/agetty 38400 ttyS0 screen\n",
            ),
            (
                "co:2345:respawn:/sbin/agetty xvc0 9600 vt100-nav\n",
                "co:2345:respawn:/sbin/agetty ttyS0 9600 vt100-nav\n",
            ),
            (
                "hvc0:2345:respawn:/sbin/mingetty /dev/hvc0\n",
                "hvc0:2345:respawn:/sbin/mingetty /dev/ttyS0\n",
            ),
            // Alpine.
            (
                "hvc0::respawn:/sbin/getty -L hvc0 115200 vt100\n",
                "ttyS0::respawn:/sbin/getty -L ttyS0 115200 vt100\n",
            ),
            ("hvc0::askfirst:-/bin/sh\n", "ttyS0::askfirst:-/bin/sh\n"),
            // One getty is enough.
            (
                "1:23:respawn:/sbin/getty 38400 hvc0\n2:23:respawn:/sbin/getty 38400 hvc1\n",
                "1:23:respawn:/sbin/getty 38400 ttyS0\n#2:23:respawn:/sbin/getty 38400 hvc1\n",
            ),
            (
                "a:2:respawn:/sbin/getty 38400 hvc0\nb:2:respawn:/sbin/getty -L ttyS0\n",
                "#a:2:respawn:/sbin/getty 38400 hvc0\nb:2:respawn:/sbin/getty -L ttyS0\n",
            ),
        ] {
            assert_eq!(edited(text).as_deref(), Some(new));
            assert_eq!(edited(new), None, "once is enough");
        }
        for same in [
            "#1:2345:respawn:/sbin/getty 38400 hvc0\n",
            "1:2345:respawn:/sbin/getty 38400 tty1\n",
            "T0:23:respawn:/sbin/getty -L ttyS0 9600 vt100\n",
        ] {
            assert_eq!(edited(same), None, "{same}");
        }
    }
}

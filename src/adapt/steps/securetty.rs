//! `/etc/securetty`: terminals on which root may log in. See securetty(5). If the file allows root
//! on some terminal, it will allow root on the serial port too; a file that lists no terminal stays
//! so.

use super::console::{SERIAL, is_xen_tty, names_serial};
use super::lines::is_comment;
use crate::Result;
use crate::adapt::devices::Devices;
use crate::adapt::step::Step;
use crate::edit::Draft;

pub(super) const STEP: Step = Step {
    name: "securetty",
    what: "`/etc/securetty`: root may log in on `ttyS0` where it might on the console",
    draft,
};

fn draft(draft: &mut Draft, _: &Devices) -> Result<()> {
    if is_read(draft) {
        draft.edit("/etc/securetty", edit);
    }
    Ok(())
}

/// Whether anything reads the file: PAM, if configured to, or a login program without PAM. Debian
/// 11 and later have the file, but nothing that reads it.
fn is_read(draft: &Draft) -> bool {
    let dirs = ["/etc/pam.d", "/usr/lib/pam.d"];
    if !dirs.iter().any(|dir| draft.exists(&format!("{dir}/login"))) {
        return true;
    }
    let asks =
        |text: String| text.lines().any(|line| !is_comment(line) && line.contains("pam_securetty"));
    dirs.iter().flat_map(|dir| draft.paths(dir)).filter_map(|path| draft.text(&path)).any(asks)
}

/// The new text and what was changed.
fn edit(text: &str) -> Option<(String, String)> {
    let entries = || text.lines().filter(|line| !is_comment(line)).map(str::trim);
    let is_terminal = |entry: &str| is_xen_tty(entry) || entry.starts_with("tty");
    if entries().any(names_serial) || !entries().any(is_terminal) {
        return None;
    }
    let end = if text.ends_with('\n') { "" } else { "\n" };
    Some((format!("{text}{end}{SERIAL}\n"), format!("root may log in on {SERIAL}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::steps::test::edits;
    use crate::fs::MemFs;

    #[test]
    fn only_a_file_that_is_read() {
        let fs = |login: &str| {
            MemFs::new().file("/etc/securetty", "hvc0\n").file("/etc/pam.d/login", login)
        };
        let asks = "auth [user_unknown=ignore default=bad] pam_securetty.so\n";
        assert_eq!(edits(&fs(asks), &STEP), ["/etc/securetty = hvc0\nttyS0\n"]);
        assert_eq!(edits(&fs(&format!("# {asks}@include common-auth\n")), &STEP), [""; 0]);
        let busybox = MemFs::new().file("/etc/securetty", "hvc0\n");
        assert_eq!(edits(&busybox, &STEP), ["/etc/securetty = hvc0\nttyS0\n"]);
    }

    #[test]
    fn the_serial_port_is_listed() {
        for (text, new) in [
            ("hvc0\nxvc0\n", "hvc0\nxvc0\nttyS0\n"),
            ("console\nvc/1\ntty1", "console\nvc/1\ntty1\nttyS0\n"),
            ("tty1\n# ttyS0\n", "tty1\n# ttyS0\nttyS0\n"),
        ] {
            assert_eq!(edit(text).unwrap().0, new);
            assert_eq!(edit(new), None, "once is enough");
        }
        for same in ["", "# nobody\n", "console\n", "tty1\nttyS0\n"] {
            assert_eq!(edit(same), None, "{same}");
        }
    }
}

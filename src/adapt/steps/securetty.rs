//! `/etc/securetty`: terminals on which root may log in. See securetty(5). Where the file lets root
//! in on some terminal, it does so on the serial port; where it lists none, that stays so.

use super::Step;
use super::console::{SERIAL, is_xen_tty, names_serial};
use super::lines::is_comment;
use crate::Result;
use crate::adapt::draft::Draft;

pub(super) const STEP: Step = Step {
    name: "securetty",
    what: "`/etc/securetty`: root may log in on `ttyS0` where it might on the console",
    draft,
};

fn draft(draft: &mut Draft) -> Result<()> {
    draft.edit("/etc/securetty", edit);
    Ok(())
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

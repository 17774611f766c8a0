//! What the steps for the various init systems share. Xen's consoles, `hvc0` and formerly `xvc0`,
//! do not exist on KVM; the serial port does.

use super::lines::words;
use crate::edit::Draft;

/// The serial port.
pub(super) const SERIAL: &str = "ttyS0";

/// Whether `word` names a Xen console: `hvc0`, `xvc0`.
pub(super) fn is_xen_tty(word: &str) -> bool {
    let number = word.strip_prefix("hvc").or_else(|| word.strip_prefix("xvc"));
    number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// The Xen console that `text` names, if any.
pub(super) fn xen_tty(text: &str) -> Option<&str> {
    words(text).find(|word| is_xen_tty(word))
}

/// Whether `text` names the serial port.
pub(super) fn names_serial(text: &str) -> bool {
    words(text).any(|word| word == SERIAL)
}

/// Whether the guest boots with systemd, which ignores leftover console settings of other init
/// systems.
pub(super) fn is_systemd(draft: &Draft) -> bool {
    draft.root().canonicalize("/sbin/init").is_ok_and(|path| path.ends_with("/systemd"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(xen_tty("exec /sbin/getty -8 38400 hvc0"), Some("hvc0"));
        assert_eq!(xen_tty("tty=/dev/xvc0"), Some("xvc0"));
        for other in ["hvc", "hvcs0", "ahvc0", "tty1", ""] {
            assert_eq!(xen_tty(other), None, "{other}");
        }
        assert!(names_serial("-L /dev/ttyS0 vt100") && !names_serial("ttyS01 ttyS1"));
    }
}

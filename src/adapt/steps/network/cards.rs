//! Network cards of the old machine, which configuration files identify by their MAC addresses.

use super::names::{NAMEIF, PLACES, UDEV_RULES, old_name};
use crate::adapt::devices::Devices;
use crate::edit::Draft;

/// The cards that the new machine does not have.
pub(super) struct Cards<'a> {
    devices: &'a Devices,
    /// Whether some file names a card that the new machine has. The cards that it does not have are
    /// then other cards, and no card takes over their names.
    some_are_here: bool,
    /// Addresses of cards that were given kernel names, in that order.
    seen: Vec<String>,
}

impl<'a> Cards<'a> {
    /// Cards for the addresses in the guest's files.
    pub fn new(draft: &Draft, devices: &'a Devices) -> Self {
        let files = PLACES.iter().chain(&[UDEV_RULES]).chain(&NAMEIF).flat_map(|place| {
            let mut files = draft.paths(place);
            files.push((*place).to_owned());
            files
        });
        let is_here = |text: String| macs(&text).iter().any(|mac| devices.has_mac(mac));
        let some_are_here = files.filter_map(|path| draft.text(&path)).any(is_here);
        Self { devices, some_are_here, seen: Vec::new() }
    }

    /// Cards of a machine about which nothing is known.
    pub fn of(devices: &'a Devices) -> Self {
        Self { devices, some_are_here: false, seen: Vec::new() }
    }

    /// The first address in `text`, if all addresses there belong to missing cards.
    pub fn stale(&self, text: &str) -> Option<String> {
        let found = macs(text);
        let all = found.iter().all(|mac| self.devices.is_stale_mac(mac)) && !self.some_are_here;
        found.into_iter().next().filter(|_| all)
    }

    /// The kernel's name for the card that replaces the one with the address `mac`: the one with
    /// the number in `name`, else the next.
    pub fn kernel_name(&mut self, mac: &str, name: Option<&str>) -> String {
        let next = self.seen.iter().position(|seen| seen == mac).unwrap_or_else(|| {
            self.seen.push(mac.to_owned());
            self.seen.len() - 1
        });
        match name.and_then(old_name) {
            Some((_, number)) => format!("eth{number}"),
            None => format!("eth{next}"),
        }
    }
}

/// The MAC addresses in `text`, in lower case, with colons.
pub(super) fn macs(text: &str) -> Vec<String> {
    const LEN: usize = 17;
    let is_part = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_hexdigit() || *b == b':');
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    for (at, window) in bytes.windows(LEN).enumerate() {
        let separator = window[2];
        let is_mac = matches!(separator, b':' | b'-')
            && window.iter().enumerate().all(|(i, b)| match i % 3 {
                2 => *b == separator,
                _ => b.is_ascii_hexdigit(),
            });
        let alone =
            !is_part(at.checked_sub(1).and_then(|i| bytes.get(i))) && !is_part(bytes.get(at + LEN));
        if is_mac && alone {
            let mac = window.iter().map(|b| char::from(b.to_ascii_lowercase()));
            found.push(mac.map(|c| if c == '-' { ':' } else { c }).collect());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, expected) in [
            ("HWADDR=00:16:3E:01:0a:ff", &["00:16:3e:01:0a:ff"][..]),
            ("'00-16-3e-01-02-03' 52:54:00:12:34:56", &["00:16:3e:01:02:03", "52:54:00:12:34:56"]),
            ("00:16:3e:01:02:03:04", &[]),
            ("fe80::0016:3eff:fe01:0203", &[]),
            ("00:16:3e-01:02:03", &[]),
            ("", &[]),
        ] {
            assert_eq!(macs(text), expected, "{text}");
        }
    }

    #[test]
    fn numbers() {
        let devices = Devices::default();
        let mut cards = Cards::of(&devices);
        let (a, b) = ("00:16:3e:00:00:0a", "00:16:3e:00:00:0b");
        assert_eq!(cards.stale(a).as_deref(), Some(a));
        assert_eq!(cards.stale("52:54:00:00:00:01"), None);
        assert_eq!(cards.stale(&format!("{a} 52:54:00:00:00:01")), None);
        assert_eq!(cards.kernel_name(a, Some("lan")), "eth0");
        assert_eq!(cards.kernel_name(b, None), "eth1");
        assert_eq!(cards.kernel_name(a, None), "eth0");
        assert_eq!(cards.kernel_name(a, Some("enX3")), "eth3");
    }
}

//! systemd.network(5) and systemd.link(5): a `[Match]` on the MAC address of a missing card becomes
//! one on the name of the card that replaces it.

use super::cards::Cards;
use super::names::NETWORKD;
use crate::adapt::steps::lines::{assigned, comment_out, edit_lines, is_comment};
use crate::edit::Draft;

pub(super) fn draft(draft: &mut Draft, cards: &mut Cards) {
    for path in draft.paths(NETWORKD) {
        draft.edit(&path, |text| edit_file(&path, text, cards));
    }
}

/// The new text and what was changed, if `path` is a systemd file for a card.
pub(super) fn edit_file(path: &str, text: &str, cards: &mut Cards) -> Option<(String, String)> {
    let name = path.strip_prefix(NETWORKD)?;
    // A .link file matches the kernel's name, a .network file the final one.
    let key = match () {
        () if name.ends_with(".link") => "OriginalName",
        () if name.ends_with(".network") => "Name",
        () => return None,
    };
    let has_name = values(text, "[Match]", key).next().is_some();
    let named = values(text, "[Link]", "Name").next().or(Some(name));
    let mut section = String::new();
    let mut is_named = has_name;
    edit_lines(text, |line| {
        if line.trim_start().starts_with('[') {
            section = line.trim().to_owned();
        }
        let value =
            assigned(line, "MACAddress").or_else(|| assigned(line, "PermanentMACAddress"))?;
        let mac = cards.stale(value).filter(|_| section == "[Match]")?;
        if std::mem::replace(&mut is_named, true) {
            return comment_out(line, format!("no card has {mac}: no longer asked for"));
        }
        let card = cards.kernel_name(&mac, named);
        Some((format!("{key}={card}"), format!("no card has {mac}: matched as {card}")))
    })
}

/// Values of `key` in a section.
fn values<'a>(text: &'a str, section: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    let mut is_inside = false;
    text.lines().filter(|line| !is_comment(line)).filter_map(move |line| {
        if line.trim_start().starts_with('[') {
            is_inside = line.trim() == section;
        }
        assigned(line, key).filter(|value| is_inside && !value.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::devices::Devices;

    fn edited(name: &str, text: &str) -> Option<String> {
        let devices = Devices::default();
        edit_file(&format!("{NETWORKD}/{name}"), text, &mut Cards::of(&devices)).map(|(new, _)| new)
    }

    #[test]
    fn matches() {
        let mac = "00:16:3e:1a:b3:4c";
        for (name, text, new) in [
            // As cloud-init writes it.
            (
                "10-cloud-init-eth0.network",
                format!("[Match]\nMACAddress={mac}\nName=eth0\n\n[Network]\nDHCP=ipv4\n"),
                format!("[Match]\n#MACAddress={mac}\nName=eth0\n\n[Network]\nDHCP=ipv4\n"),
            ),
            (
                "20-wired.network",
                format!("[Match]\nMACAddress={mac}\n[Network]\nDHCP=yes\n"),
                "[Match]\nName=eth0\n[Network]\nDHCP=yes\n".into(),
            ),
            (
                "eth1.network",
                format!("[Match]\nPermanentMACAddress = {mac}\n"),
                "[Match]\nName=eth1\n".into(),
            ),
            (
                "10-lan.link",
                format!("[Match]\nMACAddress={mac}\n\n[Link]\nName=lan0\n"),
                "[Match]\nOriginalName=eth0\n\n[Link]\nName=lan0\n".into(),
            ),
        ] {
            assert_eq!(edited(name, &text).as_deref(), Some(&*new));
            assert_eq!(edited(name, &new), None, "once is enough");
        }
        for (name, same) in [
            ("a.link", format!("[Match]\nOriginalName=eth0\n[Link]\nMACAddress={mac}\n")),
            ("a.netdev", format!("[Match]\nMACAddress={mac}\n")),
            ("a.network", "[Match]\nMACAddress=52:54:00:12:34:56\n".into()),
        ] {
            assert_eq!(edited(name, &same), None, "{same}");
        }
    }
}

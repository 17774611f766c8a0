//! netplan(5): a `match` on the MAC address of a missing card becomes one on the name that the
//! kernel gives the card that replaces it. The entry, its `set-name` and its addresses therefore
//! stay as they are. cloud-init writes such files.

use super::cards::Cards;
use super::names::NETPLAN;
use crate::adapt::steps::lines::{comment_out, in_short, is_comment};
use crate::edit::Draft;

pub(super) fn draft(draft: &mut Draft, cards: &mut Cards) {
    for path in draft.paths(NETPLAN) {
        draft.edit(&path, |text| edit_file(&path, text, cards));
    }
}

/// The new text and what was changed, if `path` is a netplan file.
pub(super) fn edit_file(path: &str, text: &str, cards: &mut Cards) -> Option<(String, String)> {
    let is_ours = path.starts_with(NETPLAN) && (path.ends_with(".yaml") || path.ends_with(".yml"));
    is_ours.then(|| edit(text, cards)).flatten()
}

const KEY: &str = "macaddress:";

fn edit(text: &str, cards: &mut Cards) -> Option<(String, String)> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let mut out = String::with_capacity(text.len());
    let mut changes = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let Some((new, why)) = matching(&lines, i).and_then(|m| m.edit(line, cards)) else {
            out.push_str(line);
            continue;
        };
        out.push_str(&new);
        changes.push(why);
    }
    (!changes.is_empty()).then(|| (out, in_short(&changes)))
}

/// A `macaddress` inside a `match`.
struct Match<'a> {
    /// Offset of the key in its line, in bytes.
    at: usize,
    /// Name that the interface will have: `set-name`, else the name of the entry.
    name: Option<&'a str>,
    /// Whether the `match` names the interface as well.
    by_name: bool,
}

fn matching<'a>(lines: &[&'a str], i: usize) -> Option<Match<'a>> {
    let line = lines[i];
    let at = line.find(KEY).filter(|_| !is_comment(line))?;
    // Flow style has everything on one line: match: {macaddress: "…"}.
    let in_flow = line[..at].contains("match:");
    let head = match in_flow {
        true => i,
        false => parent(lines, i).filter(|k| lines[*k].trim() == "match:")?,
    };
    let entry = parent(lines, head);
    let set_name = siblings(lines, head).find_map(|line| line.trim().strip_prefix("set-name:"));
    let by_name = !in_flow && siblings(lines, i).any(|line| line.trim().starts_with("name:"));
    let name = set_name.or_else(|| lines[entry?].trim().strip_suffix(':'));
    Some(Match { at, name: name.map(str::trim), by_name })
}

impl Match<'_> {
    fn edit(&self, line: &str, cards: &mut Cards) -> Option<(String, String)> {
        let value = &line[self.at + KEY.len()..];
        let mac = cards.stale(value)?;
        if self.by_name {
            return comment_out(line, format!("no card has {mac}: no longer asked for"));
        }
        let card = cards.kernel_name(&mac, self.name);
        // Whatever follows the value and its quotes stays.
        let start = value.len() - value.trim_start_matches([' ', '"', '\'']).len();
        let rest = value[start + mac.len()..].trim_start_matches(['"', '\'']);
        let new = format!("{}name: {card}{rest}", &line[..self.at]);
        Some((new, format!("no card has {mac}: matched as {card}")))
    }
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

/// Index of the line under which line `i` is nested.
fn parent(lines: &[&str], i: usize) -> Option<usize> {
    (0..i).rev().find(|k| !is_comment(lines[*k]) && indent(lines[*k]) < indent(lines[i]))
}

/// The other lines that are nested under the same line as line `i`, at the same depth.
fn siblings<'a>(lines: &[&'a str], i: usize) -> impl Iterator<Item = &'a str> {
    let depth = indent(lines[i]);
    let is_inside = move |line: &&&str| is_comment(line) || indent(line) >= depth;
    let before = lines[..i].iter().rev().take_while(is_inside);
    let behind = lines[i + 1..].iter().take_while(is_inside);
    let all: Vec<&str> = before.chain(behind).copied().collect();
    all.into_iter().filter(move |line| !is_comment(line) && indent(line) == depth)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::devices::Devices;

    fn edited(text: &str) -> Option<String> {
        let devices = Devices::default();
        edit_file("/etc/netplan/a.yaml", text, &mut Cards::of(&devices)).map(|(new, _)| new)
    }

    #[test]
    fn as_cloud_init_writes_it() {
        let text = "# This file is generated from information provided by the datasource.\n\
            network:\n    ethernets:\n        eth0:\n            dhcp4: true\n            match:\n                \
            macaddress: 00:16:3e:1a:b3:4c\n            set-name: eth0\n        eth1:\n            match:\n                \
            macaddress: '00:16:3E:1A:B3:4D'\n            set-name: eth1\n    version: 2\n";
        let new = text
            .replace("macaddress: 00:16:3e:1a:b3:4c", "name: eth0")
            .replace("macaddress: '00:16:3E:1A:B3:4D'", "name: eth1");
        assert_eq!(edited(text), Some(new.clone()));
        assert_eq!(edited(&new), None, "once is enough");
    }

    #[test]
    fn forms() {
        for (text, new) in [
            (
                "  lan:\n    match:\n      macaddress: \"00:16:3e:1a:b3:4c\" # front\n    dhcp4: true\n",
                "  lan:\n    match:\n      name: eth0 # front\n    dhcp4: true\n",
            ),
            (
                "  lan:\n    set-name: enX2\n    match: {macaddress: \"00:16:3e:1a:b3:4c\"}\n",
                "  lan:\n    set-name: enX2\n    match: {name: eth2}\n",
            ),
            (
                "  lan:\n    match:\n      name: eth*\n      macaddress: 00:16:3e:1a:b3:4c\n",
                "  lan:\n    match:\n      name: eth*\n#      macaddress: 00:16:3e:1a:b3:4c\n",
            ),
        ] {
            assert_eq!(edited(text).as_deref(), Some(new));
            assert_eq!(edited(new), None, "once is enough");
        }
        for same in [
            // This sets the address.
            "  eth0:\n    dhcp4: true\n    macaddress: 00:16:3e:1a:b3:4c\n",
            "  eth0:\n    match:\n      driver: virtio*\n    macaddress: 00:16:3e:1a:b3:4c\n",
            "  eth0:\n    match:\n      macaddress: 52:54:00:12:34:56\n",
            "#  eth0:\n#    match:\n#      macaddress: 00:16:3e:1a:b3:4c\n",
            "macaddress:\n",
            "match: macaddress:",
        ] {
            assert_eq!(edited(same), None, "{same}");
        }
    }
}

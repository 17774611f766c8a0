//! Filters in `lvm.conf`: which devices LVM looks at.
//!
//! Source: lvm.conf(5), and `lib/filters/filter-regex.c` for what takes precedence.

use super::text::{Section, Value};
use regex::RegexBuilder;

/// Settings of the section `devices` that are filters.
const SETTINGS: [&str; 2] = ["filter", "global_filter"];
/// Most bytes of a compiled pattern.
const MAX_COMPILED: usize = 1 << 20;
/// Most patterns of a filter.
const MAX_PATTERNS: usize = 100;

/// The settings in the text of an `lvm.conf` that reject a device with these names. A text or a
/// pattern that is not understood rejects nothing.
pub fn rejecting_settings(conf: &str, names: &[&str]) -> Vec<&'static str> {
    let Ok(root) = Section::parse(conf) else { return Vec::new() };
    let rejects = |setting: &&&str| {
        let section = root.section("devices").and_then(|devices| devices.list(setting));
        let list = section.or_else(|| root.list(&format!("devices/{setting}")));
        list.is_some_and(|patterns| !accepts(patterns, names))
    };
    SETTINGS.iter().filter(rejects).copied().collect()
}

/// Whether a filter accepts a device: one of its names is accepted, or all match nothing.
fn accepts(patterns: &[Value<'_>], names: &[&str]) -> bool {
    let first_match = |name: &&str| {
        let matching = |value: &Value<'_>| match value {
            Value::Text(pattern) => verdict(pattern, name),
            _ => None,
        };
        patterns.iter().take(MAX_PATTERNS).find_map(matching)
    };
    let verdicts: Vec<bool> = names.iter().filter_map(first_match).collect();
    verdicts.contains(&true) || verdicts.is_empty()
}

/// Whether `pattern`, such as `a|^/dev/xvd|`, accepts or rejects `name`; `None` if it does not match.
fn verdict(pattern: &str, name: &str) -> Option<bool> {
    let mut chars = pattern.chars();
    let accept = match chars.next()? {
        'a' => true,
        'r' => false,
        _ => return None,
    };
    let end = match chars.next()? {
        '(' => ')',
        '[' => ']',
        '{' => '}',
        other => other,
    };
    // The end of the pattern may be followed by nothing.
    let (expression, _) = chars.as_str().rsplit_once(end)?;
    let regex = RegexBuilder::new(&expression.replace("\\\\", "\\"))
        .size_limit(MAX_COMPILED)
        .dfa_size_limit(MAX_COMPILED)
        .build()
        .ok()?;
    regex.is_match(name).then_some(accept)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 2] = ["/dev/vda2", "/dev/disk/by-id/virtio-xvda-part2"];

    fn rejected(filter: &str) -> bool {
        let conf =
            format!("# a\nconfig {{ checks = 1 }}\ndevices {{\n\tdir = \"/dev\"\n{filter}\n}}\n");
        !rejecting_settings(&conf, &NAMES).is_empty()
    }

    #[test]
    fn filters() {
        for filter in [
            "",
            "# filter = [ \"r/.*/\" ]",
            "filter = [ \"a/.*/\" ]",
            "filter = [ \"a|.*/|\" ]",
            "filter = [ \"r|/dev/cdrom|\" ]",
            "filter = [ \"a|/dev/xvd|\" ]",
            "filter = [ \"a|xvda|\", \"r|.*|\" ]",
            "filter = [ \"a|/dev/[xv]+da[0-9]|\", \"r|.*|\" ]",
            "filter = [ \"a(/dev/vd.*)\",\n \"r|.*|\" ]",
            "filter = [ \"r|(|\", \"x\", \"a\", 7 ]",
            "filter = \"a/.*/\"",
        ] {
            assert!(!rejected(filter), "{filter}");
        }
        for filter in [
            "filter = [ \"a|/dev/xvd|\", \"r|.*|\" ]",
            "filter = [ \"a|^/dev/xvda2$|\", \"r/.*/\" ]",
            "global_filter = [ \"a|^/dev/sd.*|\", \"r{.*}\" ]",
            "filter = \"r/.*/\"",
        ] {
            assert!(rejected(filter), "{filter}");
        }
        assert_eq!(
            rejecting_settings("devices/global_filter = [\"r|.*|\"]", &NAMES),
            ["global_filter"]
        );
    }
}

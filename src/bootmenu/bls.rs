//! Boot Loader Specification entries, type 1: one `*.conf` per kernel.
//!
//! Sources: uapi-group.org, "The Boot Loader Specification"; for order and variables, the `blscfg`
//! command of Fedora's GRUB.

use std::cmp::Ordering;

use super::menu::{MAX_ENTRIES, MenuEntry};
use super::text::{bounded, charge_words, first_word, read_optional, strip_device};
use super::version::rpm_cmp;
use crate::Result;
use crate::fs::{Cost, GuestFs};

/// Largest entry file that is read, in bytes; larger ones are skipped.
const MAX_ENTRY_FILE: usize = 64 << 10;

/// Reads all entries of a directory, newest first. `variable` returns the value of a GRUB variable
/// (`$kernelopts`) used in them. An entry's `id` is its file name without `.conf`.
///
/// # Errors
/// `TooLarge` when the budget of `fs` is used up; errors from reading the directory and the files.
pub fn read_entries(
    fs: &dyn GuestFs,
    dir: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<MenuEntry>> {
    let mut names: Vec<String> = fs.read_dir(dir)?;
    names.retain(|n| n.ends_with(".conf") && !n.starts_with('.'));
    names.sort_by(|a, b| compare_names(b, a));
    names.truncate(MAX_ENTRIES);
    let mut entries = Vec::new();
    for name in names {
        let path = format!("{dir}/{name}");
        if fs.stat(&path).is_ok_and(|stat| stat.len > MAX_ENTRY_FILE as u64) {
            continue;
        }
        let Some(text) = read_optional(fs, &path)? else { continue };
        let mut entry = parse_entry(fs, &text, variable)?;
        let id = name.strip_suffix(".conf").unwrap_or(&name);
        if entry.title.is_empty() {
            entry.title = id.to_owned();
        }
        entry.id = Some(id.to_owned());
        entries.push(entry);
    }
    Ok(entries)
}

/// Compares two file names like GRUB's `bls_cmp`: `name-version-release`, part by part.
fn compare_names(a: &str, b: &str) -> Ordering {
    fn parts(name: &str) -> [&str; 3] {
        let mut it = name.strip_suffix(".conf").unwrap_or(name).rsplitn(3, '-');
        let (release, version) = (it.next().unwrap_or(""), it.next().unwrap_or(""));
        [it.next().unwrap_or(""), version, release]
    }
    let (a, b) = (parts(a), parts(b));
    (0..3).map(|i| rpm_cmp(a[i], b[i])).find(|o| *o != Ordering::Equal).unwrap_or(Ordering::Equal)
}

fn parse_entry(
    fs: &dyn GuestFs,
    text: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<MenuEntry> {
    let mut entry = MenuEntry::default();
    let mut options: Vec<String> = Vec::new();
    for line in text.lines() {
        let (key, value) = first_word(line);
        match key {
            "title" => entry.title = value.to_owned(),
            "linux" => entry.kernel = strip_device(value).to_owned(),
            "initrd" => {
                let value = expand(value, variable);
                charge_words(fs, &value)?;
                entry.initrds.extend(value.split_whitespace().map(|p| strip_device(p).to_owned()));
            }
            "options" => {
                let value = expand(value, variable);
                fs.budget().charge(Cost::MenuBytes, value.len() as u64)?;
                options.push(value);
            }
            _ => {}
        }
    }
    let words: Vec<&str> = options.iter().flat_map(|o| o.split_whitespace()).collect();
    entry.cmdline = bounded(words.join(" "));
    Ok(entry)
}

/// Substitutes the values of `$name` and `${name}`; unknown variables expand to nothing.
fn expand(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let braced = rest.starts_with('{');
        rest = rest.strip_prefix('{').unwrap_or(rest);
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        if out.len() < MAX_ENTRY_FILE {
            out.push_str(&variable(&rest[..end]).unwrap_or_default());
        }
        rest = &rest[end..];
        if braced {
            rest = rest.strip_prefix('}').unwrap_or(rest);
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFs;

    #[test]
    fn entries_of_rhel_8() {
        let id = "f00d";
        let entry = |v: &str| {
            format!(
                "title RHEL ({v})\nversion {v}\nlinux /vmlinuz-{v}\n\
                 initrd /initramfs-{v}.img $tuned_initrd\noptions $kernelopts ${{tuned_params}}\n\
                 options quiet\n# c\nid x\n"
            )
        };
        let mut fs = MemFs::new().file("/boot/loader/entries/README", "");
        for v in ["4.18.0-80.el8.x86_64", "4.18.0-193.1.2.el8.x86_64", "0-rescue"] {
            fs = fs.file(&format!("/boot/loader/entries/{id}-{v}.conf"), entry(v));
        }
        let vars = |name: &str| (name == "kernelopts").then(|| "root=UUID=1 ro".to_owned());
        let entries = read_entries(&fs, "/boot/loader/entries", &vars).unwrap();
        let titles: Vec<_> = entries.iter().map(|e| e.title.as_str()).collect();
        assert_eq!(
            titles,
            ["RHEL (4.18.0-193.1.2.el8.x86_64)", "RHEL (4.18.0-80.el8.x86_64)", "RHEL (0-rescue)"]
        );
        assert_eq!(entries[0].cmdline, "root=UUID=1 ro quiet");
        assert_eq!(entries[0].initrds, ["/initramfs-4.18.0-193.1.2.el8.x86_64.img"]);
        assert_eq!(entries[0].id.as_deref(), Some("f00d-4.18.0-193.1.2.el8.x86_64"));
    }
}

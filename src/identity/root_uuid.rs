//! A new UUID for the root filesystem, wherever the guest records it.

use crate::edit::Draft;
use crate::{Error, ErrorKind, Result};
use std::fmt;
use uuid::Uuid;

/// Which UUID the root filesystem is to have.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum RootUuid {
    /// A random one, unless the filesystem's UUID already differs from the image's.
    New,
    /// This one.
    Given(Uuid),
}

impl RootUuid {
    /// Parse `new` or a UUID.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        match Uuid::try_parse(text) {
            _ if text == "new" => Ok(Self::New),
            Ok(uuid) if !uuid.is_nil() => Ok(Self::Given(uuid)),
            _ => {
                let what = format!("'{text}' is neither the word new nor a UUID");
                Err(Error::new(ErrorKind::Usage, what))
            }
        }
    }
}

impl fmt::Display for RootUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("new"),
            Self::Given(uuid) => uuid.fmt(f),
        }
    }
}

/// A root filesystem whose UUID is not the image's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UuidChange {
    /// Its UUID from now on, in lower case.
    pub new: String,
    /// The UUIDs that it had before.
    pub former: Vec<String>,
    /// Whether the filesystem itself still has to be changed.
    pub pending: bool,
}

/// Files that may contain the UUID; those of boot loaders are included so that the guest's own boot
/// loader works too.
const FILES: [&str; 14] = [
    "/etc/fstab",
    "/etc/default/grub",
    "/etc/kernel/cmdline",
    "/boot/grub/grub.cfg",
    "/boot/grub/menu.lst",
    "/boot/grub/grub.conf",
    "/boot/grub2/grub.cfg",
    "/boot/grub2/grubenv",
    "/boot/grub/grubenv",
    "/boot/extlinux/extlinux.conf",
    "/boot/extlinux.conf",
    "/boot/syslinux/syslinux.cfg",
    "/extlinux/extlinux.conf",
    "/extlinux.conf",
];
/// Boot entries, one per file.
const ENTRIES: &str = "/boot/loader/entries";
/// Maximum number of entries that are examined.
const MOST_ENTRIES: usize = 200;

pub(super) fn draft(draft: &mut Draft, change: &UuidChange) {
    let entries = draft.names(ENTRIES);
    let entries = entries.iter().take(MOST_ENTRIES).map(|name| format!("{ENTRIES}/{name}"));
    for path in FILES.into_iter().map(str::to_owned).chain(entries) {
        draft.edit(&path, |text| edit(text, change));
    }
}

fn edit(text: &str, change: &UuidChange) -> Option<(String, String)> {
    let mut out = text.to_owned();
    for former in &change.former {
        out = replace(&out, former, &change.new);
    }
    (out != text).then(|| (out, format!("the root filesystem is UUID={}", change.new)))
}

/// Like [`str::replace`], but ignores the case of ASCII letters.
fn replace(text: &str, from: &str, to: &str) -> String {
    let (lower, from) = (text.to_ascii_lowercase(), from.to_ascii_lowercase());
    let mut out = String::with_capacity(text.len());
    let mut end = 0;
    // ASCII lower-casing moves no byte, so positions are the same in both strings.
    for (at, found) in lower.match_indices(&from) {
        out.push_str(&text[end..at]);
        out.push_str(to);
        end = at + found.len();
    }
    out.push_str(&text[end..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFs;
    use crate::identity::testing::{applied, drafted};

    #[test]
    fn words() {
        let uuid = "74696e79-6775-4573-8074-0000000000a1";
        for text in ["new", uuid] {
            assert_eq!(RootUuid::parse(text).unwrap().to_string(), text);
        }
        for bad in ["", "New", "x", "00000000-0000-0000-0000-000000000000"] {
            assert_eq!(RootUuid::parse(bad).unwrap_err().kind(), ErrorKind::Usage, "{bad}");
        }
    }

    #[test]
    fn wherever_it_stands() {
        let fs = MemFs::new()
            .file("/etc/fstab", "# was on UUID=aB-1\nUUID=AB-1 / ext4 x 0 1\nUUID=cd-2 /x ext4\n")
            .file("/boot/loader/entries/x.conf", "options root=UUID=ab-1 ro\n")
            .file("/boot/grub/grub.cfg", "search --fs-uuid ab-0\n");
        let former = vec!["ab-0".to_owned(), "ab-1".into()];
        let change = UuidChange { new: "ef-3".into(), former, pending: true };
        let run = |fs: &MemFs| {
            drafted(fs, |d| {
                draft(d, &change);
                Ok(())
            })
            .unwrap()
        };
        let edits = run(&fs);
        let texts: Vec<&str> = edits.iter().map(|e| e.1.as_str()).collect();
        let fstab = "# was on UUID=ef-3\nUUID=ef-3 / ext4 x 0 1\nUUID=cd-2 /x ext4\n";
        let entry = "options root=UUID=ef-3 ro\n";
        assert_eq!(texts, [fstab, "search --fs-uuid ef-3\n", entry]);
        assert_eq!(run(&applied(fs, &edits)), []);
    }
}

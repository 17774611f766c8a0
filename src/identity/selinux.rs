//! Labels for new files in guests that enforce SELinux.

use crate::edit::{Change, Draft, FileAccess, FileContent};

/// Make the guest relabel its files at the next boot if it enforces SELinux and has new ones: they
/// have the label of their directory, which is wrong for some of them (SSH keys, scripts). See
/// selinux-autorelabel(8).
pub(super) fn draft(draft: &mut Draft) {
    let config = draft.text("/etc/selinux/config").unwrap_or_default();
    let mode = config.lines().filter_map(|l| l.trim().strip_prefix("SELINUX=")).next_back();
    if mode.map(str::trim) != Some("enforcing") || draft.exists("/.autorelabel") {
        return;
    }
    if draft.edits().iter().any(|e| matches!(e.change, Change::Create { .. })) {
        let why = "SELinux labels the new files at the next boot, and the guest then starts again";
        draft.create("/.autorelabel", FileContent::Bytes(Vec::new()), FileAccess::root(0o644), why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFs;
    use crate::identity::testing::drafted;

    #[test]
    fn only_for_new_files() {
        let run = |mode: &str, new: bool| {
            let fs = MemFs::new().file("/etc/selinux/config", format!("# x\nSELINUX={mode}\n"));
            let edits = drafted(&fs, |d| {
                if new {
                    d.rewrite("/etc/new", "", "");
                }
                draft(d);
                Ok(())
            });
            edits.unwrap().iter().any(|e| e.0 == "/.autorelabel")
        };
        assert!(run("enforcing", true));
        assert!(!run("enforcing", false) && !run("permissive", true));
    }
}

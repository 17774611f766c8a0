//! Scripts for a test boot, which logs in and runs them.

use super::first_boot::Script;
use crate::edit::{Draft, FileAccess, FileContent};

/// On every guest's root filesystem and never mounted `noexec`.
pub const CHECKS: &str = "/etc/synthdisk/checks";

pub(super) fn draft(draft: &mut Draft, scripts: &[Script]) {
    for script in scripts {
        let content = FileContent::Bytes(script.bytes().to_vec());
        let why = format!("{} runs when the guest is checked", script.name());
        let path = format!("{CHECKS}/{}", script.name());
        draft.create(&path, content, FileAccess::root(0o755), why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFs;
    use crate::identity::testing::drafted;

    #[test]
    fn one_file_each() {
        let script = Script::new("a b", "a b", b"#!/bin/sh\n".to_vec()).unwrap();
        let edits = drafted(&MemFs::new(), |d| {
            draft(d, &[script]);
            Ok(())
        });
        let edits = edits.unwrap();
        assert!(edits.contains(&(format!("{CHECKS}/a_b"), "#!/bin/sh\n".into())), "{edits:?}");
    }
}

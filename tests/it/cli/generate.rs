//! `synthdisk generate`: what packagers call.

use crate::common::process::{expect_failure, run_text, synthdisk, text};
use std::fs;

#[test]
fn manual_pages_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man");
    synthdisk(&["generate", "man", &pages.to_string_lossy()]);
    let page = fs::read_to_string(pages.join("synthdisk-mount.1")).unwrap().replace("\\-", "-");
    for word in ["synthdisk mount", "--overlay-dir", "--root-password-hash", "MOUNTPOINT"] {
        assert!(page.contains(word), "{word}: {page}");
    }
    for command in
        ["serve", "umount", "map", "inspect", "adapt", "finalize", "run", "libvirt-xml", "generate"]
    {
        let page = pages.join(format!("synthdisk-{command}.1"));
        assert!(page.exists(), "{}", page.display());
    }
    assert!(pages.join("mount.fuse.synthdisk.8").exists());
}

#[test]
fn completions_complete() {
    let script = text(&synthdisk(&["generate", "completions", "bash"]).stdout);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("synthdisk.bash");
    fs::write(&file, script).unwrap();
    let ask = format!(
        ". {} && COMP_WORDS=(synthdisk mount --overlay-d) COMP_CWORD=2 && \
         _synthdisk synthdisk --overlay-d mount && echo \"${{COMPREPLY[@]}}\"",
        file.display()
    );
    assert_eq!(run_text("bash", &["-c", &ask]), "--overlay-dir");
    assert!(expect_failure(&["generate", "completions", "tcsh2"], 2).contains("tcsh2"));
}

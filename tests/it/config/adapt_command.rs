//! `synthdisk adapt`: the edits as a diff, and made in an overlay.

use std::fs;

use crate::common::field::{FSTAB, Field, ROOT, SWAP, mount};
use crate::common::process::{expect_failure, output, run, run_text, synthdisk, text};

#[test]
fn the_diff_is_what_is_done() {
    let (field, config) = Field::xen_tools();
    let shown = synthdisk(&["adapt", "--dry-run", "--config", &config]);
    assert!(shown.status.success());
    let diff = text(&shown.stdout);
    assert!(diff.starts_with("diff --git a/etc/fstab b/etc/fstab\n--- a/etc/fstab\n"), "{diff}");
    assert!(text(&shown.stderr).contains("root=/dev/xvda2 became root=UUID="));

    // Applying the diff gives the file that the mount shows.
    fs::create_dir(field.path("etc")).unwrap();
    fs::write(field.path("etc/fstab"), FSTAB).unwrap();
    fs::write(field.path("diff"), &diff).unwrap();
    run("patch", &["-s", "-p1", "-d", &field.arg(""), "-i", &field.arg("diff")]);
    let patched = fs::read_to_string(field.path("etc/fstab")).unwrap();
    let overlay = field.arg("o.qcow2");
    let adapted = run(
        crate::common::process::SYNTHDISK,
        &["adapt", "--overlay", &overlay, "--config", &config],
    );
    assert!(text(&adapted.stderr).contains("adapted: /etc/fstab: "));
    let mounted = mount(&config, &["--overlay", &overlay]);
    assert!(!mounted.printed().contains("adapted: "));
    let part = mounted.part(2);
    let inside = run_text("debugfs", &["-R", "cat /etc/fstab", &part.to_string_lossy()]);
    assert_eq!(inside, patched.trim_end());
    assert!(patched.contains(ROOT) && patched.contains(SWAP));
    mounted.unmount();

    for words in [&["--dry-run"][..], &[]] {
        let words = [&["adapt", "--overlay", &overlay, "--config", &config], words].concat();
        let again = synthdisk(&words);
        assert!(again.status.success() && again.stdout.is_empty());
        assert!(text(&again.stderr).ends_with("nothing to adapt\n"), "{}", text(&again.stderr));
    }
}

#[test]
fn steps_can_be_chosen() {
    let (_field, config) = Field::xen_tools();
    let shown = |steps: &str| {
        text(&synthdisk(&["adapt", "--dry-run", "--adapt", steps, "--config", &config]).stdout)
    };
    assert!(shown("fstab").contains("/etc/fstab"));
    assert_eq!(shown("inittab"), "");
    assert_eq!(shown("none"), "");
    let wrong = output(
        crate::common::process::SYNTHDISK,
        &["adapt", "--dry-run", "--adapt", "fstab,nonsense", "--config", &config],
    );
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("'nonsense' is none of auto, none, fstab"));
}

#[test]
fn what_is_refused() {
    let (field, config) = Field::xen_tools();
    // An overlay for the edits is required.
    expect_failure(&["adapt", "--config", &config], 2);
    let missing = field.arg("none.qcow2");
    let said =
        expect_failure(&["adapt", "--dry-run", "--overlay", &missing, "--config", &config], 1);
    assert!(said.contains("does not exist"), "{said}");
    assert!(!field.path("none.qcow2").exists());
}

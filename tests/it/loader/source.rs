//! The committed programs are equal to what their sources give.

use std::path::Path;
use std::process::{Command, Output};

use crate::common::process::{run_text, skip};

fn build(script: &str, to: &Path) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
    let output = Command::new(&script).arg(to).output();
    output.unwrap_or_else(|e| {
        panic!("{} could not be started: {e}; is bash installed?", script.display())
    })
}

fn compare(built: &Path, folder: &str, name: &str, script: &str) {
    let fresh = std::fs::read(built.join(name)).unwrap();
    let committed = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(name));
    let committed = committed.unwrap();
    assert!(
        fresh == committed,
        "{folder}/{name} is not what {script} makes of its source; run it and commit both (first \
         difference at byte {:?})",
        fresh.iter().zip(&committed).position(|(a, b)| a != b)
    );
}

#[test]
fn the_binaries_are_assembled_from_their_sources() {
    let dir = tempfile::tempdir().unwrap();
    let output = build("scripts/assemble-loader", dir.path());
    assert!(
        output.status.success(),
        "scripts/assemble-loader failed (it needs binutils: apt-get install binutils):\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for (folder, name) in [
        ("src/loader/direct", "loader.bin"),
        ("src/plan/examine/extra_initrd", "insmod64.bin"),
        ("src/plan/examine/extra_initrd", "insmod32.bin"),
        ("src/plan/examine/extra_initrd", "mountroot64.bin"),
    ] {
        compare(dir.path(), folder, name, "scripts/assemble-loader");
    }
}

/// Other versions of the compiler may make other bytes.
const COMPILER: &str = "12.2.0";

#[test]
fn the_loader_for_uefi_is_compiled_from_its_source() {
    let version = run_text("gcc-12", &["-dumpfullversion"]);
    if version != COMPILER {
        skip(&format!("gcc-12 is {version}, and the loader was built by {COMPILER}"));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let output = build("scripts/build-efi-loader", dir.path());
    assert!(
        output.status.success(),
        "scripts/build-efi-loader failed (it needs gcc-12 and binutils):\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    compare(dir.path(), "src/loader/direct/efi", "loader.efi", "scripts/build-efi-loader");
}

#[test]
fn the_editor_is_compiled_from_its_source() {
    let version = run_text("gcc-12", &["-dumpfullversion"]);
    if version != COMPILER {
        skip(&format!("gcc-12 is {version}, and the editor was built by {COMPILER}"));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = "scripts/build-guest-editor";
    let output = build(script, dir.path());
    assert!(
        output.status.success(),
        "{script} failed (it needs gcc-12 and binutils):\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for name in ["editor64.bin", "editor32.bin"] {
        compare(dir.path(), "src/edit/guest_kernel", name, script);
    }
}

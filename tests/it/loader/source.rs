//! The committed programs are equal to their assembled sources.

use std::path::Path;
use std::process::Command;

#[test]
fn the_binaries_are_assembled_from_their_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(root.join("scripts/assemble-loader"))
        .arg(dir.path())
        .output()
        .expect("scripts/assemble-loader could not be started; is bash installed?");
    assert!(
        output.status.success(),
        "scripts/assemble-loader failed (it needs binutils: apt-get install binutils):\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for (folder, name) in [
        ("src/loader/direct", "loader.bin"),
        ("src/plan/examine/extra_initrd", "insmod64.bin"),
        ("src/plan/examine/extra_initrd", "insmod32.bin"),
    ] {
        let fresh = std::fs::read(dir.path().join(name)).unwrap();
        let committed = std::fs::read(root.join(folder).join(name)).unwrap();
        assert!(
            fresh == committed,
            "{folder}/{name} is not what its source assembles to; run scripts/assemble-loader and \
             commit both (first difference at byte {:?})",
            fresh.iter().zip(&committed).position(|(a, b)| a != b)
        );
    }
}

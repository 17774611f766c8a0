//! The committed loader is what its source assembles to.

use std::path::Path;
use std::process::Command;

#[test]
fn loader_bin_is_assembled_from_loader_s() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir().unwrap();
    let fresh = dir.path().join("loader.bin");
    let output = Command::new(root.join("scripts/assemble-loader"))
        .arg(&fresh)
        .output()
        .expect("scripts/assemble-loader could not be started; is bash installed?");
    assert!(
        output.status.success(),
        "scripts/assemble-loader failed (it needs binutils: apt-get install binutils):\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let fresh = std::fs::read(fresh).unwrap();
    let committed = std::fs::read(root.join("src/boot/loader.bin")).unwrap();
    assert!(
        fresh == committed,
        "src/boot/loader.bin is not what src/boot/loader.S assembles to; run \
         scripts/assemble-loader and commit both (first difference at byte {:?})",
        fresh.iter().zip(&committed).position(|(a, b)| a != b)
    );
}

//! A qcow2 file as a persistent overlay: header, metadata and all tables. Start from overlays that
//! `synthdisk mount --overlay` made.
#![no_main]

use libfuzzer_sys::fuzz_target;
use synthdisk::disk::{Overlay, Qcow2Overlay};

fuzz_target!(|data: &[u8]| {
    let path = std::env::temp_dir().join(format!("synthdisk-fuzz-overlay-{}", std::process::id()));
    std::fs::write(&path, data).expect("the directory of temporary files is writable");
    let Ok((overlay, metadata)) = Qcow2Overlay::open_frozen(&path) else { return };
    assert!(metadata.len() <= data.len());
    let len = overlay.disk_len();
    for place in 0..16 {
        let offset = len / 16 * place;
        let _ = overlay.run_at(offset, (len - offset).min(1 << 20));
        let _ = overlay.place_at(offset, (len - offset).min(1 << 20));
    }
});

//! One disk spec, and the device name in it.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use synthdisk::xen::{DiskSpec, parse_vdev};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(mut spec) = DiskSpec::parse(text, 1) {
        assert!(spec.target.is_some() || spec.cdrom);
        assert_eq!(parse_vdev(&spec.vdev.to_string()).ok(), Some(spec.vdev));
        spec.resolve(Path::new("/etc/xen"));
        if let Some(target) = &spec.target {
            assert!(target.is_absolute() || spec.script.is_some());
        }
    }
    if let Ok(vdev) = parse_vdev(text) {
        assert_eq!(parse_vdev(&vdev.to_string()).ok(), Some(vdev));
    }
});

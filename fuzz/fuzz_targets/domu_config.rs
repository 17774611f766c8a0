//! A whole domU config: grammar, settings, notes, disks and boot method.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use synthdisk::xen::{DomainConfig, GuestDiskContent};

fuzz_target!(|data: &[u8]| {
    let Ok(domain) = DomainConfig::parse_bytes(data, Path::new("/etc/xen")) else { return };
    let _ = (domain.boot_method(), domain.command_line());
    for note in &domain.notes {
        assert!(note.line >= 1 && !note.to_string().is_empty());
    }
    for vif in &domain.vifs {
        assert!(vif.mac_string().is_none_or(|mac| mac.len() == 17));
    }
    if let Ok(disks) = domain.layout() {
        let mut specs = 0;
        for disk in &disks {
            specs += match &disk.content {
                GuestDiskContent::Whole(_) => 1,
                GuestDiskContent::Partitions(parts) => {
                    assert!(parts.windows(2).all(|w| w[0].0 < w[1].0) && parts[0].0 > 0);
                    parts.len()
                }
            };
        }
        assert_eq!(specs, domain.disks.len());
    }
});

//! An XVA: the walk over the archive, the description of the guest, its disks and checksums. Inputs
//! that do not begin like a tar are taken for the description alone.
#![no_main]

use libfuzzer_sys::fuzz_target;
use synthdisk::image::{OpenOptions, Xva};
use synthdisk::xen::DomainConfig;

fuzz_target!(|data: &[u8]| {
    if !data.starts_with(b"ova.xml") {
        let _ = DomainConfig::parse_ova(data);
        return;
    }
    let path = std::env::temp_dir().join(format!("synthdisk-fuzz-xva-{}", std::process::id()));
    std::fs::write(&path, data).expect("the directory of temporary files is writable");
    let Ok(xva) = Xva::open(&path, &OpenOptions::default()) else { return };
    let _ = xva.verify();
    let Ok(domain) = DomainConfig::parse_ova(xva.description()) else { return };
    for disk in &domain.disks {
        let name = disk.target.as_ref().map(|name| name.to_string_lossy()).unwrap_or_default();
        let Ok(image) = xva.disk(&name, disk.size.unwrap_or_default()) else { continue };
        let mut buf = [0; 4096];
        for place in 0..16 {
            let offset = image.len() / 16 * place;
            let len = buf.len().min((image.len() - offset) as usize);
            let _ = image.read_at(&mut buf[..len], offset);
            let _ = image.extent_at(offset);
        }
    }
});

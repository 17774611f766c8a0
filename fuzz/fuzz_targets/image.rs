//! An image in a format with metadata. The first byte says which; the rest is the file. Start from
//! images that `qemu-img create` and `qemu-img convert` make.
#![no_main]

use libfuzzer_sys::fuzz_target;
use synthdisk::bytes::ReadAt;
use synthdisk::image::{Foreign, Format, InUse, OpenOptions, open};

fuzz_target!(|data: &[u8]| {
    let Some((format, bytes)) = data.split_first() else { return };
    let names: Vec<_> = Format::names().collect();
    let format = Format::by_name(names[usize::from(*format) % names.len()]);
    let path = std::env::temp_dir().join(format!("synthdisk-fuzz-image-{}", std::process::id()));
    std::fs::write(&path, bytes).expect("the directory of temporary files is writable");
    let options = OpenOptions {
        format,
        in_use: InUse::Refuse,
        foreign: Foreign::Refuse,
        backing_dirs: Vec::new(),
    };
    let Ok(image) = open(&path, &options) else { return };
    let mut buf = [0; 4096];
    for place in 0..16 {
        let offset = image.len() / 16 * place;
        let len = buf.len().min((image.len() - offset) as usize);
        let _ = image.read_at(&mut buf[..len], offset);
        let _ = image.extent_at(offset);
    }
});

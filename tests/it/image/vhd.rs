//! VHD images: what `qemu-img` writes, and chains as XenServer makes them, behind whole disks.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::common::hash::{Untouched, sha256};
use crate::common::mount::Mount;
use crate::common::process::{expect_failure, run};
use crate::common::tiny::Tiny;

fn arg(path: &Path) -> &str {
    path.to_str().expect("temporary directories have plain names")
}

/// The VHD `name` with the bytes of `raw`, written by `qemu-img`.
fn vhd(tiny: &Tiny, name: &str, subformat: &str) -> std::path::PathBuf {
    let path = tiny.file(name);
    let options = format!("subformat={subformat},force_size=on");
    let args = ["convert", "-f", "raw", "-O", "vpc", "-o", &options, arg(&tiny.image), arg(&path)];
    run("qemu-img", &args);
    path
}

/// A differencing child of the dynamic VHD `parent`, whose first sector of the root filesystem's last
/// block is `sector`. It is made by the specification: what `qemu-img` wrote is the template.
fn child(parent: &Path, path: &Path, place: u64, sector: &[u8; 512]) {
    let parent_bytes = fs::read(parent).unwrap();
    let mut footer = parent_bytes[parent_bytes.len() - 512..].to_vec();
    let mut header = parent_bytes[512..1536].to_vec();
    let be32 = |b: &[u8], at: usize| u32::from_be_bytes(b[at..at + 4].try_into().unwrap());
    let (entries, block) = (be32(&header, 28), u64::from(be32(&header, 32)));
    header[40..56].copy_from_slice(&footer[68..84]);
    let name: Vec<u8> = parent.file_name().unwrap().to_str().unwrap().bytes().collect();
    let name16: Vec<u8> = name.iter().flat_map(|b| [0, *b]).collect();
    header[64..64 + name16.len()].copy_from_slice(&name16);
    footer[60..64].copy_from_slice(&4u32.to_be_bytes());
    footer[68..84].copy_from_slice(&[0x5a; 16]);
    let sign = |bytes: &mut [u8], at: usize| {
        bytes[at..at + 4].fill(0);
        let sum: u32 = bytes.iter().map(|b| u32::from(*b)).sum();
        bytes[at..at + 4].copy_from_slice(&(!sum).to_be_bytes());
    };
    sign(&mut footer, 64);
    header[16..24].copy_from_slice(&1536u64.to_be_bytes());
    sign(&mut header, 36);
    let mut table = vec![0xff; (entries as usize * 4).next_multiple_of(512)];
    let first = 1536 + table.len();
    let number = (place / block) as usize;
    table[number * 4..][..4].copy_from_slice(&((first / 512) as u32).to_be_bytes());
    let within = (place % block / 512) as usize;
    let mut bitmap = vec![0; (block as usize / 512 / 8).next_multiple_of(512)];
    bitmap[within / 8] |= 0x80 >> (within % 8);
    let mut data = vec![0; block as usize];
    data[within * 512..][..512].copy_from_slice(sector);
    fs::write(path, [&footer[..], &header, &table, &bitmap, &data, &footer].concat()).unwrap();
}

#[test]
fn what_qemu_img_writes_is_shown_as_it_is() {
    let tiny = Tiny::new();
    for subformat in ["dynamic", "fixed"] {
        let image = vhd(&tiny, &format!("{subformat}.vhd"), subformat);
        let untouched = Untouched::remember(&image);
        let mounted = Mount::new(&[], &image);
        assert_eq!(sha256(mounted.part(1)), sha256(&tiny.image), "{subformat}");
        mounted.unmount();
        untouched.check();
    }
    // By option, where the name says nothing.
    let image = vhd(&tiny, "VHD-0b0e", "dynamic");
    let mounted = Mount::new(&["--image-format", "vhd"], &image);
    assert_eq!(sha256(mounted.part(1)), sha256(&tiny.image));
    mounted.unmount();
}

#[test]
fn a_chain_shows_its_parents_data() {
    let tiny = Tiny::new();
    let base = vhd(&tiny, "base.vhd", "dynamic");
    let len = fs::metadata(&tiny.image).unwrap().len();
    // The last sector, which no filesystem needs.
    let place = len - 512;
    let top = tiny.file("top.vhd");
    child(&base, &top, place, &[0xc3; 512]);
    let expected = tiny.file("expected.raw");
    fs::copy(&tiny.image, &expected).unwrap();
    fs::File::options()
        .write(true)
        .open(&expected)
        .unwrap()
        .write_all_at(&[0xc3; 512], place)
        .unwrap();
    let untouched = [Untouched::remember(&base), Untouched::remember(&top)];
    let mounted = Mount::new(&[], &top);
    assert_eq!(sha256(mounted.part(1)), sha256(&expected));
    mounted.unmount();
    untouched.iter().for_each(Untouched::check);

    // Without its parent it is nothing, and nothing is guessed.
    fs::rename(&base, tiny.file("elsewhere.vhd")).unwrap();
    let said = expect_failure(&["map", arg(&top)], 1);
    assert!(said.contains("its backing image is missing; put"), "{said}");
    // Another disk under that name.
    vhd(&tiny, "base.vhd", "dynamic");
    let said = expect_failure(&["map", arg(&top)], 1);
    assert!(said.contains("it is another disk"), "{said}");
}

//! A boot menu of each grammar: GRUB 2, GRUB legacy, extlinux and a Boot Loader Specification entry.
//! The first byte says which one the rest is. Start from real ones.
#![no_main]

use libfuzzer_sys::fuzz_target;
use synthdisk::bootmenu::{MAX_CMDLINE, MAX_ENTRIES, find};
use synthdisk::fs::MemFs;
use synthdisk::guest::select::choose;
use synthdisk::ErrorKind;

fuzz_target!(|data: &[u8]| {
    let Some((grammar, text)) = data.split_first() else { return };
    let fs = MemFs::new().file("/boot/vmlinuz", "k").file("/boot/grub/grubenv", text.to_vec());
    let fs = match grammar % 5 {
        0 => fs.file("/boot/grub/grub.cfg", text),
        1 => fs.file("/boot/grub/menu.lst", text).file("/boot/grub/default", text),
        2 => fs.file("/boot/extlinux/extlinux.conf", text).file("/boot/extlinux/a", text),
        3 => fs.file("/boot/loader/entries/a.conf", text),
        _ => fs
            .file("/boot/loader/entries/a-1-2.conf", text)
            .file("/boot/grub2/grub.cfg", [b"set a=b\nblscfg\n", text].concat()),
    };
    match find(&fs) {
        Ok(None) => {}
        Ok(Some(found)) => {
            assert!(found.menu.entries.len() <= MAX_ENTRIES);
            assert!(found.menu.entries.iter().all(|e| e.cmdline.len() <= MAX_CMDLINE));
            let _ = choose(&fs, None);
        }
        Err(e) => assert_eq!(e.kind(), ErrorKind::TooLarge),
    }
});

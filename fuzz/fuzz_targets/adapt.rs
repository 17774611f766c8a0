//! The files that adaptation steps read and rewrite. The first byte says how the rest is spread over
//! them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use synthdisk::adapt::{Device, Devices, Selection, propose};
use synthdisk::fs::MemFs;

const FILES: [&str; 12] = [
    "/etc/fstab",
    "/etc/crypttab",
    "/etc/inittab",
    "/etc/initramfs-tools/conf.d/resume",
    "/etc/initramfs-tools/initramfs.conf",
    "/etc/systemd/system/old.mount",
    "/etc/network/interfaces",
    "/etc/udev/rules.d/70-persistent-net.rules",
    "/etc/sysconfig/network-scripts/ifcfg-eth0",
    "/etc/netplan/01.yaml",
    "/etc/default/grub",
    "/etc/os-release",
];

fuzz_target!(|data: &[u8]| {
    let Some((first, text)) = data.split_first() else { return };
    let parts = usize::from(first >> 4) + 1;
    let start = usize::from(first & 15);
    let mut fs = MemFs::new().symlink(
        "/etc/systemd/system/getty.target.wants/serial-getty@hvc0.service",
        "/lib/systemd/system/serial-getty@.service",
    );
    for (i, part) in text.chunks(text.len().div_ceil(parts).max(1)).enumerate() {
        fs = fs.file(FILES[(start + i) % FILES.len()], part);
    }
    let device = |number, spec: &str, swap| Device {
        disk: "a".to_owned(),
        number,
        spec: spec.to_owned(),
        partuuid: format!("0badcafe-0{number}"),
        label: None,
        swap,
    };
    let devices = Devices::new(vec![device(2, "UUID=r", false), device(1, "UUID=s", true)], true);
    if let Ok(edits) = propose(&fs, &devices.and_no_others(), &Selection::auto()) {
        for edit in edits {
            assert!(edit.path.starts_with('/') && !edit.path.contains("/../"));
        }
    }
});

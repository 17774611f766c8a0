//! The start of a Linux kernel: its kind, and the set-up header of a bzImage.
#![no_main]

use libfuzzer_sys::fuzz_target;
use synthdisk::loader::linux::{KernelKind, SetupHeader};

fuzz_target!(|data: &[u8]| {
    let _ = SetupHeader::parse(data);
    let _ = KernelKind::detect(data).and_then(KernelKind::bootable);
});

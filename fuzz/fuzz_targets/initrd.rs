//! What is inside an initrd.
#![no_main]

use libfuzzer_sys::fuzz_target;
use synthdisk::fs::Budget;
use synthdisk::initrd::{Initrd, Whole};

fuzz_target!(|data: &[u8]| {
    if let Ok(found) = Initrd::read(&mut Whole(data.to_vec()), &Budget::new()) {
        assert!(found.complete || found.problem.is_some());
    }
});

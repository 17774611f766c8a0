//! The status that a mount shows in `.synthdisk.json`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use synthdisk::export::Status;

fuzz_target!(|data: &[u8]| {
    if let Ok(status) = serde_json::from_slice::<Status>(data) {
        let text = serde_json::to_vec(&status).expect("a status can be written");
        assert_eq!(serde_json::from_slice::<Status>(&text).expect("and read again"), status);
    }
});

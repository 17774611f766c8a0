//! CRC-32C as ext4 and jbd2 use it: reflected polynomial 0x1EDC6F41, no final inversion.

use crate::crc::CASTAGNOLI;

/// Continues a checksum; `!0` starts one.
pub(super) fn crc32c(seed: u32, data: &[u8]) -> u32 {
    CASTAGNOLI.update(seed, data)
}

#[cfg(test)]
mod tests {
    #[test]
    fn check_value() {
        assert_eq!(!super::crc32c(!0, b"123456789"), 0xe306_9283);
    }
}

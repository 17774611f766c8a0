//! CRC-32C as ext4 and jbd2 use it: reflected polynomial 0x1EDC6F41, no final inversion.

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut value = i as u32;
        let mut bit = 0;
        while bit < 8 {
            value = (value >> 1) ^ if value & 1 != 0 { 0x82f6_3b78 } else { 0 };
            bit += 1;
        }
        table[i] = value;
        i += 1;
    }
    table
};

/// Continues a checksum; `!0` starts one.
pub(super) fn crc32c(seed: u32, data: &[u8]) -> u32 {
    data.iter().fold(seed, |crc, b| (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ b)])
}

#[cfg(test)]
mod tests {
    #[test]
    fn check_value() {
        assert_eq!(!super::crc32c(!0, b"123456789"), 0xe306_9283);
    }
}

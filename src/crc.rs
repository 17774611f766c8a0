//! Checksums of 32 bits that consume the lowest bit first (reflected).

/// A checksum by its polynomial. The start value, and whether the result is inverted, is the caller's.
pub struct Crc32([u32; 256]);

/// Ethernet's and zlib's (ISO 3309), also GPT's and LVM's.
pub static ISO_3309: Crc32 = Crc32::new(0xedb8_8320);
/// CRC-32C (Castagnoli), ext4's.
pub static CASTAGNOLI: Crc32 = Crc32::new(0x82f6_3b78);

impl Crc32 {
    /// The checksum with the bits of its polynomial in reverse order.
    const fn new(reversed: u32) -> Self {
        let mut table = [0; 256];
        let mut i = 0;
        while i < table.len() {
            let mut value = i as u32;
            let mut bit = 0;
            while bit < 8 {
                value = (value >> 1) ^ if value & 1 != 0 { reversed } else { 0 };
                bit += 1;
            }
            table[i] = value;
            i += 1;
        }
        Self(table)
    }

    /// Continues the checksum `start` with `data`.
    pub fn update(&self, start: u32, data: &[u8]) -> u32 {
        data.iter().fold(start, |crc, b| (crc >> 8) ^ self.0[usize::from(crc as u8 ^ b)])
    }
}

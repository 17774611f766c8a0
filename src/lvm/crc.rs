//! The checksum of LVM2 (`lib/misc/crc.c`): CRC-32 with a start value of its own, and without the
//! final inversion.

use crate::crc::ISO_3309;

/// The checksum of `data`.
pub(super) fn crc(data: &[u8]) -> u32 {
    ISO_3309.update(0xf597_a6cf, data)
}

#[cfg(test)]
mod tests {
    /// A label that pvcreate of lvm2 2.03.16 wrote, from byte 20 on; its checksum is 0x826ff1a7.
    #[test]
    fn a_label_of_pvcreate() {
        let mut sector = [0; 512];
        sector[20..24].copy_from_slice(&32_u32.to_le_bytes());
        sector[24..64].copy_from_slice(b"LVM2 001vJsxEofeubJ2p2jARdM3MFww24Co2emC");
        sector[64..72].copy_from_slice(&(64_u64 << 20).to_le_bytes());
        sector[72..80].copy_from_slice(&(1_u64 << 20).to_le_bytes());
        sector[0x68..0x70].copy_from_slice(&0x1000_u64.to_le_bytes());
        sector[0x70..0x78].copy_from_slice(&0xf_f000_u64.to_le_bytes());
        sector[0x88] = 2;
        sector[0x8c] = 1;
        assert_eq!(super::crc(&sector[20..]), 0x826f_f1a7);
    }
}

//! The last modification time of a file, from the bytes of its inode.
//!
//! Source: *XFS Algorithms & Data Structures*, 3rd edition, sections "Inode Core" and "Timestamps".

/// Seconds since 1970, and nanoseconds within the second; `None` if `raw` is not inode `number`.
pub(super) fn modified(raw: &[u8], number: u64) -> Option<(i64, u32)> {
    let u32_at = |at: usize| Some(u32::from_be_bytes(raw.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_be_bytes(raw.get(at..at + 8)?.try_into().ok()?));
    let version = *raw.get(4)?;
    if !raw.starts_with(b"IN") || (version >= 3 && u64_at(152)? != number) {
        return None;
    }
    /// A flag of version 3: nanoseconds since the year 1901, as one number.
    const BIGTIME: u64 = 1 << 3;
    if version >= 3 && u64_at(120)? & BIGTIME != 0 {
        let nanos = u64_at(40)?;
        // The quotient is below 2^35, the remainder below 10^9.
        let (secs, nanos) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
        return Some((secs as i64 - (1 << 31), nanos as u32));
    }
    // The seconds are signed.
    Some((i64::from(u32_at(40)? as i32), u32_at(44)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_times() {
        let mut raw = vec![0; 256];
        raw[..2].copy_from_slice(b"IN");
        raw[4] = 2;
        raw[40..44].copy_from_slice(&(-5i32).to_be_bytes());
        raw[44..48].copy_from_slice(&7u32.to_be_bytes());
        assert_eq!(modified(&raw, 99), Some((-5, 7)));
        raw[4] = 3;
        assert_eq!(modified(&raw, 99), None, "another inode");
        raw[159] = 99;
        assert_eq!(modified(&raw, 99), Some((-5, 7)));
        raw[127] = 8;
        let nanos = ((1u64 << 31) + 981_173_106) * 1_000_000_000 + 789;
        raw[40..48].copy_from_slice(&nanos.to_be_bytes());
        assert_eq!(modified(&raw, 99), Some((981_173_106, 789)));
        assert_eq!(modified(&raw[..150], 99), None);
        assert_eq!(modified(&[], 99), None);
    }
}

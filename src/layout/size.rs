//! Sizes in the form that users write.

use crate::{Error, ErrorKind, Result};

/// Parses `512M`, `20G`, `1048576`, `63s` into bytes.
///
/// Suffixes are binary (`K` = 1024 bytes, then `M`, `G`, `T`, `P`; `KiB` and `KB` mean the same).
/// `s` means 512-byte sectors, no suffix means bytes, as in `qemu-img` and `parted`.
///
/// # Errors
/// [`ErrorKind::Invalid`] for anything else, and for sizes that do not fit in 63 bits.
pub fn parse_size(text: &str) -> Result<u64> {
    let bad = || {
        Error::new(
            ErrorKind::Invalid,
            format!("`{text}` is not a size; write it like 512M, 20G, 1048576 or 63s (sectors)"),
        )
    };
    let trimmed = text.trim();
    let digits = trimmed.len() - trimmed.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number: u64 = trimmed[..digits].parse().map_err(|_| bad())?;
    let unit: u64 = match trimmed[digits..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "s" => super::SECTOR,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        "p" | "pb" | "pib" => 1 << 50,
        _ => return Err(bad()),
    };
    number.checked_mul(unit).filter(|n| *n <= i64::MAX as u64).ok_or_else(bad)
}

/// Formats `bytes` for display: in the largest binary unit, with one decimal if it is not a whole
/// number.
pub fn format_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut value = bytes as f64;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value.fract() == 0.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_users_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("63s", 63 * 512),
            ("512M", 512 << 20),
            ("20G", 20 << 30),
            ("1MiB", 1 << 20),
            ("1mb", 1 << 20),
            ("2T", 2 << 40),
            ("1048576", 1 << 20),
            (" 4k ", 4096),
        ] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "M", "-1", "1X", "1.5G", "99999999999999999999", "16384P", "1 G x"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_as_users_read_them() {
        assert_eq!(format_size(0), "0 B");
        assert_eq!(format_size(512), "512 B");
        assert_eq!(format_size(64 << 20), "64 MiB");
        assert_eq!(format_size(1_572_864), "1.5 MiB");
        assert_eq!(format_size(2 << 40), "2 TiB");
    }
}

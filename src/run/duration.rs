//! Durations, as a user writes them and as a table shows them.

use crate::{Error, ErrorKind, Result};
use std::time::Duration;

/// Parse `90`, `120s`, `2m` or `1h`; a bare number means seconds.
///
/// # Errors
/// [`ErrorKind::Invalid`] for anything else, for zero and for more than a year.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let bad = || {
        let what = format!("invalid duration '{text}'; write it like 90, 120s, 2m or 1h");
        Error::new(ErrorKind::Invalid, what)
    };
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number: u64 = text[..digits].parse().map_err(|_| bad())?;
    let unit = match &text[digits..] {
        "" | "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        _ => return Err(bad()),
    };
    let seconds = number.checked_mul(unit).filter(|s| (1..=366 * 86400).contains(s));
    seconds.map(Duration::from_secs).ok_or_else(bad)
}

/// Seconds with one decimal: `18.2 s`.
pub fn show(span: Duration) -> String {
    format!("{:.1} s", span.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        for (text, seconds) in
            [("90", 90), ("120s", 120), ("2m", 120), ("2min", 120), ("1h", 3600), (" 5 ", 5)]
        {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_secs(seconds), "{text}");
        }
        for text in ["", "s", "0", "-1", "1.5", "2 m", "10d", "99999999999999999999", "9999999h"] {
            let message = parse_duration(text).unwrap_err().to_string();
            assert!(message.contains("write it like"), "{text}: {message}");
        }
        assert_eq!(show(Duration::from_millis(18_249)), "18.2 s");
    }
}

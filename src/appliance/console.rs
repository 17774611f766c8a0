//! What the machine says: kept in part, for a message.

use crate::text::in_a_line;
use std::io::Read;

/// Bytes that are kept of each stream: the last ones.
const KEPT: usize = 32 << 10;
/// Longest line of a message, in bytes.
const LINE: usize = 300;

/// Read `stream` to its end, and return the last part of it as text.
pub(super) fn last_part(mut stream: impl Read) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        kept.extend(&buffer[..n]);
        if kept.len() > 2 * KEPT {
            kept.drain(..kept.len() - KEPT);
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// The line that says best what is wrong: a panic, else the last line of the kernel, else of QEMU.
pub(super) fn complaint(kernel: &str, qemu: &str) -> Option<String> {
    let lines = || kernel.lines().map(str::trim).filter(|line| !line.is_empty());
    let panic = lines().find(|line| line.contains("Kernel panic - "));
    // After these, the machine ends.
    let last = || lines().rfind(|line| !line.contains("reboot:") && !line.contains("Rebooting"));
    let qemu = || qemu.lines().map(str::trim).rfind(|line| !line.is_empty());
    let line = panic.or_else(last).or_else(qemu)?;
    let mut end = line.len().min(LINE);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    Some(in_a_line(&line[..end]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_says_best_what_is_wrong() {
        let say = |kernel: &str, qemu: &str| complaint(kernel, qemu);
        let kernel = "[1] XFS (vda): bad\r\n\n[2] Kernel panic - not syncing: x\r\n[3] end\r\n";
        assert_eq!(say(kernel, "q").unwrap(), "[2] Kernel panic - not syncing: x");
        let kernel = "[1] XFS (vda): bad\r\n[2] reboot: Restarting system\r\n";
        assert_eq!(say(kernel, "q").unwrap(), "[1] XFS (vda): bad");
        assert_eq!(say("", "a\nqemu: no\n\n").unwrap(), "qemu: no");
        assert_eq!(say("\n", ""), None);
        assert_eq!(say(&"ä".repeat(500), "").unwrap().len(), LINE);
        assert!(!say("a\x1b[2Jb", "").unwrap().contains('\x1b'));
    }

    #[test]
    fn only_the_last_part_is_kept() {
        let endless = std::io::repeat(b'x').take(10 << 20);
        assert!(last_part(endless.chain("end".as_bytes())).ends_with("xend"));
        assert!(last_part(std::io::repeat(b'x').take(10 << 20)).len() <= 2 * KEPT);
    }
}

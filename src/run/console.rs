//! Parses the output of a serial console: bytes into lines of text, and lines into findings.

use crate::text::printable;
use regex::Regex;
use std::collections::VecDeque;
use std::time::Duration;

/// Longer lines are broken at this length, in bytes, because a guest may print without end.
const MAX_LINE: usize = 16 << 10;

/// Number of lines that are kept for a report.
const TAIL: usize = 60;

/// The state of the escape sequence parser (ECMA-48).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum State {
    #[default]
    Text,
    /// After ESC, or ESC and intermediate bytes.
    Escape,
    /// After ESC `[`.
    Csi,
    /// In a string (ESC `]`, `P`, `X`, `^`, `_`), which BEL or ESC `\` ends.
    Text7,
    /// In a string, after ESC.
    Text7Escape,
}

/// Converts terminal output to plain lines: escape sequences and control characters are removed,
/// backspaces are applied. A carriage return or a cursor movement starts a new line, so that text
/// that was on the screen only briefly is not lost.
#[derive(Debug, Default)]
pub struct Lines {
    line: Vec<u8>,
    state: State,
}

impl Lines {
    /// Processes `bytes` and calls `each` for every line that they complete.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(&str)) {
        for &byte in bytes {
            if self.step(byte) || self.line.len() >= MAX_LINE {
                if !self.line.is_empty() {
                    each(&self.partial());
                }
                self.line.clear();
            }
        }
    }

    /// The line that is not yet complete, for example a prompt.
    pub fn partial(&self) -> String {
        // C1 controls are two bytes in UTF-8, so they are found here and not in `step`.
        printable(&String::from_utf8_lossy(&self.line)).into_owned()
    }

    /// Processes one byte; returns true if it ends the line.
    fn step(&mut self, byte: u8) -> bool {
        match (self.state, byte) {
            (State::Text7, 0x1b) => self.state = State::Text7Escape,
            (State::Text7, 0x07) => self.state = State::Text,
            // A string that is never terminated would swallow all following output.
            (State::Text7, b'\n') => {
                self.state = State::Text;
                return true;
            }
            (State::Text7, _) => {}
            (State::Text7Escape, _) => self.state = State::Text,
            (_, 0x1b) => self.state = State::Escape,
            (State::Escape, b'[') => self.state = State::Csi,
            (State::Escape, b']' | b'P' | b'X' | b'^' | b'_') => self.state = State::Text7,
            (State::Escape, 0x20..=0x2f) => {}
            (State::Escape, b'c') => {
                self.state = State::Text;
                return true;
            }
            (State::Escape, 0x30..) => self.state = State::Text,
            (State::Csi, 0x40..=0x7e) => {
                self.state = State::Text;
                // The cursor moves elsewhere, or the screen is cleared.
                return matches!(byte, b'H' | b'f' | b'J' | b'd' | b'E' | b'F');
            }
            (State::Csi, 0x20..=0x3f) => {}
            (_, b'\n' | b'\r') => {
                self.state = State::Text;
                return true;
            }
            (_, 0x08) => drop(self.line.pop()),
            (_, b'\t') => self.line.push(b'\t'),
            (_, 0..=0x1f | 0x7f) => {}
            (_, byte) => self.line.push(byte),
        }
        false
    }
}

/// What the console printed that decides a test boot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Finding {
    /// The expected text appeared, in this line.
    Matched(String),
    /// It won't appear, and why.
    Hopeless(String),
}

/// Asks a [`Watch`] to print the console's lines to standard error.
#[derive(Clone, Copy, Debug)]
pub struct Echo;

/// Watches one guest's console.
#[derive(Debug)]
pub struct Watch {
    expect: Regex,
    lines: Lines,
    kernel_at: Option<Duration>,
    starts: u32,
    last_at: Option<Duration>,
    tail: VecDeque<String>,
    echo: Option<Echo>,
    /// What is likely if nothing is printed.
    if_empty: String,
}

impl Watch {
    /// Searches for `expect` in each line.
    pub fn new(expect: Regex, echo: Option<Echo>) -> Self {
        Self {
            expect,
            lines: Lines::default(),
            kernel_at: None,
            starts: 0,
            last_at: None,
            tail: VecDeque::new(),
            echo,
            if_empty: "is `console=ttyS0` missing?".to_owned(),
        }
    }

    /// Says `why` if the console stays empty.
    #[must_use]
    pub fn if_empty(self, why: &str) -> Self {
        Self { if_empty: why.to_owned(), ..self }
    }

    /// Processes output that the console printed at `at` after the guest's start.
    pub fn feed(&mut self, bytes: &[u8], at: Duration) -> Option<Finding> {
        let lines = self.listen(bytes, at);
        lines.iter().find_map(|line| self.judge(line))
    }

    /// As [`feed`](Self::feed), without looking for the text: returns the lines that are complete.
    pub fn listen(&mut self, bytes: &[u8], at: Duration) -> Vec<String> {
        self.last_at = Some(at);
        let mut lines = Vec::new();
        self.lines.feed(bytes, |line| lines.push(line.to_owned()));
        for line in &lines {
            if self.echo.is_some() {
                eprintln!("{line}");
            }
            if line.contains("Linux version ") {
                self.kernel_at.get_or_insert(at);
                self.starts += 1;
            }
            if self.tail.len() == TAIL {
                self.tail.pop_front();
            }
            self.tail.push_back(line.clone());
        }
        lines
    }

    /// The line that is not yet complete.
    pub fn partial(&self) -> String {
        self.lines.partial()
    }

    /// Must be called when the console has been silent for a moment: an incomplete line is then a
    /// prompt and not the beginning of a longer line.
    pub fn quiet(&self) -> Option<Finding> {
        let partial = self.lines.partial();
        if partial.is_empty() { None } else { self.judge(&partial) }
    }

    fn judge(&self, line: &str) -> Option<Finding> {
        if self.expect.is_match(line) {
            return Some(Finding::Matched(line.trim().to_owned()));
        }
        hopeless(line, self.kernel_at.is_some()).map(Finding::Hopeless)
    }

    /// When the kernel's first line appeared, counted from the guest's start. A kernel that is told
    /// to be `quiet` prints none.
    pub fn kernel_at(&self) -> Option<Duration> {
        self.kernel_at
    }

    /// Why the text didn't appear in time: the last line, and how long before `now` it was printed.
    pub fn silence(&self, now: Duration) -> String {
        let partial = self.lines.partial();
        let last = if partial.trim().is_empty() {
            self.tail.iter().rev().map(String::as_str).find(|line| !line.trim().is_empty())
        } else {
            Some(partial.as_str())
        };
        let (Some(last), Some(at)) = (last, self.last_at) else {
            return format!("the serial console stayed empty: {}", self.if_empty);
        };
        let ago = now.saturating_sub(at).as_secs();
        let mut text = format!("last line, {ago} s before: {}", clip(last.trim()));
        if self.starts > 1 {
            text.push_str(&format!("; the kernel started {} times", self.starts));
        }
        text
    }

    /// The last lines of the console.
    pub fn tail(&self) -> Vec<String> {
        let mut lines: Vec<_> = self.tail.iter().cloned().collect();
        let partial = self.lines.partial();
        if !partial.is_empty() {
            lines.push(partial);
        }
        lines
    }
}

/// Texts after which no login prompt can appear, and their descriptions. They come from the
/// initramfs of Debian and of Red Hat, from systemd and from GRUB.
const DEAD_ENDS: [(&str, &str); 7] = [
    ("(initramfs)", "the initramfs gave up and opened a shell"),
    ("dracut:/#", "the initramfs gave up and opened a shell"),
    ("Generating \"/run/initramfs/rdsosreport.txt\"", "the initramfs gave up"),
    ("You are in emergency mode", "systemd entered emergency mode"),
    ("Give root password for maintenance", "the guest asks for maintenance"),
    ("grub rescue>", "GRUB did not find its files"),
    ("No bootable device", "the BIOS found no bootable disk"),
];

/// Why a guest that printed `line` can't get any further; `None` if it may.
pub fn hopeless(line: &str, kernel_runs: bool) -> Option<String> {
    if let Some((_, why)) = line.split_once("Kernel panic - not syncing") {
        let why = why.trim_start_matches([':', ' ']);
        let why = if why.is_empty() { "no reason given" } else { why };
        return Some(format!("kernel panic: {}", clip(why)));
    }
    // The loader uses the same prefix for progress and for errors.
    if let Some(said) = line.strip_prefix("synthdisk: ") {
        if !kernel_runs && !said.starts_with("loading") {
            return Some(format!("the boot loader stopped: {}", clip(said)));
        }
    }
    let (text, why) = DEAD_ENDS.iter().find(|(text, _)| line.contains(text))?;
    // Messages of GRUB and the BIOS mean nothing once a kernel runs.
    let before_kernel = text.starts_with("grub") || text.starts_with("No boot");
    (!(before_kernel && kernel_runs)).then(|| (*why).to_owned())
}

/// The first 200 characters.
fn clip(text: &str) -> String {
    let mut out: String = text.chars().take(200).collect();
    if text.chars().nth(200).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
#[path = "console_tests.rs"]
mod tests;

//! Progress on standard error: a bar on a terminal, lines otherwise, nothing with --quiet.

use crate::layout::format_size;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The `indicatif` template of the bar.
const TEMPLATE: &str = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";

/// How progress is shown.
#[derive(Debug)]
enum Style {
    Quiet,
    Bar(ProgressBar),
    /// When the last line was printed.
    Lines(Mutex<Instant>),
}

/// A task with a known amount of work, in bytes. Several threads may report progress.
#[derive(Debug)]
pub struct Progress {
    style: Style,
    what: String,
    total: u64,
    done: AtomicU64,
    started: Instant,
}

impl Progress {
    /// A task `what` ("copying web1.raw") of `total` bytes, shown on standard error unless `quiet`.
    pub fn new(what: impl Into<String>, total: u64, quiet: bool) -> Self {
        let (what, started) = (what.into(), Instant::now());
        let style = if quiet {
            Style::Quiet
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            // A unit test ensures that the template is valid.
            if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_message(what.clone());
            Style::Bar(bar)
        } else {
            Style::Lines(Mutex::new(started))
        };
        Self { style, what, total, done: AtomicU64::new(0), started }
    }

    /// Report `bytes` more bytes as done.
    pub fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.show(done);
    }

    /// Set the total number of bytes done.
    pub fn set(&self, bytes: u64) {
        self.done.store(bytes, Ordering::Relaxed);
        self.show(bytes);
    }

    fn show(&self, done: u64) {
        match &self.style {
            Style::Quiet => {}
            Style::Bar(bar) => bar.set_position(done),
            Style::Lines(last) => {
                // If another thread holds the lock, it prints the line.
                let Some(mut last) = last.try_lock() else { return };
                if last.elapsed() >= LINE_EVERY {
                    *last = Instant::now();
                    let line = line(&self.what, done, self.total, self.started.elapsed());
                    let _ = writeln!(std::io::stderr(), "{line}");
                }
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // Clear the bar; only the summary remains on the screen.
        if let Style::Bar(bar) = &self.style {
            bar.finish_and_clear();
        }
    }
}

/// A plain line: bytes done and total, rate, and time left.
fn line(what: &str, done: u64, total: u64, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(1e-9);
    let rate = done as f64 / seconds;
    let percent = if total == 0 { 100 } else { u128::from(done) * 100 / u128::from(total) };
    let left = total.saturating_sub(done) as f64 / rate.max(1.0);
    format!(
        "{what}: {} of {} ({percent} %), {}/s, {left:.0} s left",
        format_size(done),
        format_size(total),
        format_size(rate as u64),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_show_rate_and_time_left() {
        assert_eq!(
            line("copying a.raw", 1 << 30, 4 << 30, Duration::from_secs(2)),
            "copying a.raw: 1 GiB of 4 GiB (25 %), 512 MiB/s, 6 s left"
        );
        assert_eq!(line("x", 0, 0, Duration::ZERO), "x: 0 B of 0 B (100 %), 0 B/s, 0 s left");
    }

    #[test]
    fn the_bar_has_a_style() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }
}

//! A tiny guest with a persistent overlay, and waiting for the effects of a mount.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::hash::Untouched;
use super::mount::{Mount, expect_no_mount};
use super::process::{output, text};
use super::tiny::Tiny;

/// A tiny guest, its overlay's path, and a check that the image does not change.
pub struct Case {
    /// The guest.
    pub tiny: Tiny,
    /// Where its overlay is, or will be.
    pub overlay: PathBuf,
    /// The state of its image.
    pub untouched: Untouched,
}

impl Case {
    /// A guest without an overlay yet.
    pub fn new() -> Self {
        let tiny = Tiny::new();
        let untouched = Untouched::remember(&tiny.image);
        Self { overlay: tiny.file("overlay.qcow2"), untouched, tiny }
    }

    /// The overlay's path as an argument.
    pub fn overlay(&self) -> String {
        self.overlay.to_string_lossy().into_owned()
    }

    /// Mount with the overlay.
    pub fn mount(&self) -> Mount {
        self.mount_with(&[])
    }

    /// Mount with the overlay and `options`.
    pub fn mount_with(&self, options: &[&str]) -> Mount {
        Mount::new(&[&["--overlay", &self.overlay()], options].concat(), &self.tiny.image)
    }

    /// Mounts with the overlay and `options`, which must fail; returns the message.
    pub fn refused(&self, options: &[&str]) -> String {
        let image = self.tiny.image.to_string_lossy();
        expect_no_mount(&[&["--overlay", &self.overlay()], options, &[&*image]].concat())
    }

    /// `qemu-img check` must find no corruption: 0 is clean, 3 is clean but for leaks.
    pub fn check(&self) {
        let result = output("qemu-img", &["check", &self.overlay()]);
        let code = result.status.code();
        assert!(matches!(code, Some(0 | 3)), "{}{}", text(&result.stdout), text(&result.stderr));
    }
}

/// The daemon that keeps a mount.
pub fn daemon(mount: &Mount) -> Pid {
    let pids = mount.daemon_pids();
    assert_eq!(pids.len(), 1, "daemons of {}: {pids:?}", mount.dir().display());
    Pid::from_raw(pids[0])
}

/// Waits, with a limit.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Opens what this process has just closed. A child that another test is starting has our files open,
/// locks included, until it runs its program.
pub fn unlocked<T>(open: impl Fn() -> synthdisk::Result<T>) -> synthdisk::Result<T> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        match open() {
            Err(e) if e.kind() == synthdisk::ErrorKind::Busy && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(1));
            }
            done => return done,
        }
    }
}

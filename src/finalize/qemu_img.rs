//! Running the host's `qemu-img`.

use super::errors::check_stop;
use super::progress::Progress;
use crate::process::{Stop, bound_to_us, clean_environment, find_program, ourselves};
use crate::sandbox::{Limits, RunAs, ToolSandbox, ToolThread};
use crate::{Error, ErrorKind, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use std::ffi::OsString;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

/// A run of qemu-img.
pub(super) struct QemuImg<'a> {
    /// Its arguments.
    pub(super) words: &'a [OsString],
    /// The files and directories that it may use.
    pub(super) files: &'a [&'a Path],
    /// Shows its progress.
    pub(super) progress: &'a Progress,
    /// The length of the disk in bytes, of which it reports percentages.
    pub(super) len: u64,
    /// The result's name in messages.
    pub(super) name: &'a str,
    /// Stops it when raised.
    pub(super) stop: &'a Stop,
}

impl QemuImg<'_> {
    /// Run it until it ends or is stopped; `told` is called after each report of progress.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without qemu-img, [`ErrorKind::Corrupt`] when it finds a difference;
    /// errors reported by qemu-img; the error of `stop`.
    pub(super) fn run(&self, told: impl Fn() + Send) -> Result<()> {
        let program = find_qemu_img()?;
        // It is started through this program, which sets the signal that it gets.
        let ourselves = ourselves()?;
        let sandbox = ToolSandbox {
            // The result belongs to the user, and not to an account that others may use.
            run_as: RunAs::Caller,
            limits: Limits::default(),
            programs: &[&program, Path::new(ourselves.get_program())],
            files: self.files,
        };
        sandbox.run(|thread| self.supervise(thread, &program, told))
    }

    fn supervise(&self, thread: &ToolThread, program: &Path, told: impl Fn()) -> Result<()> {
        let failed = |e| Error::io("cannot run qemu-img", e);
        let mut command = bound_to_us(program.as_os_str(), Signal::SIGKILL)?;
        clean_environment(&mut command)
            .args(self.words)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = thread.spawn(&mut command).map_err(failed)?;
        let watched = watch(&mut child, self.stop, |percent| {
            self.progress.set((percent / 100.0 * self.len as f64) as u64);
            told();
        });
        if watched.is_err() {
            let _ = child.kill();
        }
        let status = child.wait().map_err(failed)?;
        let (said, complaint) = watched?;
        // Ctrl-C also reaches qemu-img, which may end first.
        check_stop(self.stop)?;
        if status.success() {
            return Ok(());
        }
        let name = self.name;
        if status.code() == Some(1) && self.words.first().is_some_and(|w| w == "compare") {
            let said = last_line(&said).unwrap_or("they are not identical");
            let what = format!("{name} differs from the disk: {said}");
            return Err(Error::new(ErrorKind::Corrupt, what));
        }
        let complaint = last_line(&complaint).unwrap_or("it says nothing");
        let complaint = complaint.strip_prefix("qemu-img: ").unwrap_or(complaint);
        let kind =
            if complaint.contains("No space left") { ErrorKind::TooLarge } else { ErrorKind::Io };
        Err(Error::new(kind, format!("qemu-img cannot write {name}: {complaint}")))
    }
}

fn last_line(text: &str) -> Option<&str> {
    text.lines().map(str::trim).rfind(|line| !line.is_empty())
}

/// The path of qemu-img.
fn find_qemu_img() -> Result<PathBuf> {
    find_program("qemu-img").ok_or_else(|| {
        Error::new(
            ErrorKind::NotFound,
            "formats other than raw are written by qemu-img, which is not there; install the \
             package qemu-utils (Debian, Ubuntu) or qemu-img (Fedora, SUSE, Arch)",
        )
    })
}

/// Read the child's output until it closes both pipes or `stop` is raised. Returns both outputs
/// without percentages, which are passed to `told`.
fn watch(child: &mut Child, stop: &Stop, told: impl Fn(f64)) -> Result<(String, String)> {
    let failed = |e| Error::io("cannot listen to qemu-img", e);
    let (mut output, mut errors) = (child.stdout.take(), child.stderr.take());
    let (mut said, mut complained) = (Vec::new(), Vec::new());
    let mut buffer = [0; 4096];
    while output.is_some() || errors.is_some() {
        let ready = |fd: BorrowedFd<'_>, others: [Option<BorrowedFd<'_>>; 2]| {
            let mut fds = vec![PollFd::new(fd, PollFlags::POLLIN)];
            fds.extend(others.iter().flatten().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)));
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(e) => return Err(failed(e.into())),
            }
            let mut ready = fds.iter().map(|fd| fd.any().unwrap_or(true));
            let first = ready.next().unwrap_or(false);
            let rest = others.map(|fd| fd.is_some() && ready.next().unwrap_or(false));
            Ok((first, rest))
        };
        let others = [output.as_ref().map(AsFd::as_fd), errors.as_ref().map(AsFd::as_fd)];
        let (stopped, [out, err]) = ready(stop.as_fd(), others)?;
        if stopped {
            return Err(stop.error());
        }
        if out {
            let n = output.as_mut().map_or(Ok(0), |o| o.read(&mut buffer)).map_err(failed)?;
            if n == 0 {
                output = None;
            }
            // Each percentage overwrites the previous one on the same line: `    (12.34/100%)\r`.
            for byte in &buffer[..n] {
                match byte {
                    b'\r' => {
                        percent(&said).into_iter().for_each(&told);
                        said.clear();
                    }
                    _ if said.len() < 4096 => said.push(*byte),
                    _ => {}
                }
            }
        }
        if err {
            let n = errors.as_mut().map_or(Ok(0), |e| e.read(&mut buffer)).map_err(failed)?;
            if n == 0 {
                errors = None;
            }
            if complained.len() < 64 << 10 {
                complained.extend_from_slice(&buffer[..n]);
            }
        }
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((text(&said), text(&complained)))
}

/// The number in `    (12.34/100%)`.
fn percent(line: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(line).ok()?.trim();
    let percent: f64 = text.strip_prefix('(')?.strip_suffix("/100%)")?.parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents_are_read() {
        assert_eq!(percent(b"    (12.34/100%)"), Some(12.34));
        for bad in [&b""[..], b"Images are identical.", b"(x/100%)", b"(nan/100%)", b"(1e9/100%)"] {
            assert_eq!(percent(bad), None);
        }
    }
}

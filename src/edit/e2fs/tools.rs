//! Running e2fsprogs.

use super::script::Script;
use crate::process::find_tool;
use crate::text::in_a_line;
use crate::{Error, ErrorKind, Result};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The tools, on one partition.
pub(super) struct Tools<'a> {
    pub(super) partition: &'a Path,
    /// The time that they use as the present, in seconds of Unix time; not 0.
    pub(super) now: u64,
}

impl Tools<'_> {
    /// Run `script` in debugfs, and return its output.
    pub(super) fn debugfs(&self, args: &[&str], script: &Script) -> Result<String> {
        let args = [args, &["-f", "/dev/stdin"]].concat();
        let commands = format!("set_current_time @{}\n{}", self.now, script.as_str());
        let output = self.run("debugfs", &args, commands)?;
        // The exit code is 0 even when a command has failed.
        match complaint(&output) {
            None if output.status.success() => {
                Ok(String::from_utf8_lossy(&output.stdout).into_owned())
            }
            complaint => Err(failed("debugfs", complaint)),
        }
    }

    /// Run e2fsck.
    pub(super) fn e2fsck(&self, args: &[&str]) -> Result<()> {
        let output = self.run("e2fsck", args, String::new())?;
        // 1 means that it has repaired something, as requested.
        match output.status.code() {
            Some(0 | 1) => Ok(()),
            _ => Err(failed("e2fsck", complaint(&output))),
        }
    }

    /// Run tune2fs.
    pub(super) fn tune2fs(&self, args: &[&str]) -> Result<()> {
        let output = self.run("tune2fs", args, String::new())?;
        if output.status.success() {
            return Ok(());
        }
        Err(failed("tune2fs", complaint(&output)))
    }

    /// Run a tool on the partition, with `input` on its standard input.
    fn run(&self, name: &str, args: &[&str], input: String) -> Result<Output> {
        let failed = |e| Error::io(format!("cannot run {name}"), e);
        // A regular user's PATH often leaves out the directories of these tools.
        let found = find_tool(name, &["/usr/sbin", "/sbin", "/usr/local/sbin"]);
        let mut child = Command::new(found)
            .args(args)
            .arg(self.partition)
            .env("LC_ALL", "C")
            .env("E2FSCK_TIME", self.now.to_string())
            .env("E2FSPROGS_FAKE_TIME", self.now.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => Error::new(
                    ErrorKind::NotFound,
                    format!("editing the guest needs {name}; install the package e2fsprogs"),
                ),
                _ => failed(e),
            })?;
        let stdin = child.stdin.take();
        // The input is written by a separate thread, because the tool produces output while it
        // still reads.
        std::thread::scope(|scope| {
            // A write error is ignored: the tool may have exited without reading everything, and
            // its output says why.
            scope.spawn(move || stdin.map(|mut pipe| pipe.write_all(input.as_bytes())));
            child.wait_with_output()
        })
        .map_err(failed)
    }
}

fn failed(name: &str, complaint: Option<String>) -> Error {
    let what = format!("{name} failed: {}", complaint.as_deref().unwrap_or("no error message"));
    Error::new(ErrorKind::Io, what)
}

/// The first line on standard error after the one with the tool's version. It may quote names from
/// the guest.
fn complaint(output: &Output) -> Option<String> {
    let said = String::from_utf8_lossy(&output.stderr);
    let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let is_version = |line: &&str| line.ends_with(')') && line.contains(" 1.");
    lines.find(|line| !is_version(line)).map(|line| in_a_line(line).into_owned())
}

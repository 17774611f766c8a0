//! Running e2fsprogs.

use super::script::Script;
use crate::process::find_program;
use crate::sandbox::{Limits, RunAs, ToolSandbox};
use crate::text::in_a_line;
use crate::{Error, ErrorKind, Result};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Far more than the tools need for the largest filesystems.
const LIMITS: Limits = Limits { memory: Some(4 << 30), cpu: Some(1800), file_len: None };

/// The tools, on one partition.
pub(super) struct Tools<'a> {
    pub(super) partition: &'a Path,
    /// The time that they use as the present, in seconds of Unix time; not 0.
    pub(super) now: u64,
}

impl Tools<'_> {
    /// Run `script` in debugfs, and return its output. The script may name `files` of this host.
    pub(super) fn debugfs(
        &self,
        args: &[&str],
        script: &Script,
        files: &HostFiles<'_>,
    ) -> Result<String> {
        let args = [args, &["-f", "-"]].concat();
        let commands = format!("set_current_time @{}\n{}", self.now, script.as_str());
        let output = self.run("debugfs", &args, commands, files)?;
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
        let output = self.run("e2fsck", args, String::new(), &HostFiles::none())?;
        // 1 means that it has repaired something, as requested.
        match output.status.code() {
            Some(0 | 1) => Ok(()),
            _ => Err(failed("e2fsck", complaint(&output))),
        }
    }

    /// Run tune2fs.
    pub(super) fn tune2fs(&self, args: &[&str]) -> Result<()> {
        let output = self.run("tune2fs", args, String::new(), &HostFiles::none())?;
        if output.status.success() {
            return Ok(());
        }
        Err(failed("tune2fs", complaint(&output)))
    }

    /// Run a tool on the partition, with `input` on its standard input.
    fn run(
        &self,
        name: &str,
        args: &[&str],
        input: String,
        files: &HostFiles<'_>,
    ) -> Result<Output> {
        let failed = |e| Error::io(format!("cannot run {name}"), e);
        let program = find_program(name).ok_or_else(|| {
            let what = format!("editing the guest needs {name}; install the package e2fsprogs");
            Error::new(ErrorKind::NotFound, what)
        })?;
        let mut command = Command::new(&program);
        command
            .args(args)
            .arg(self.partition)
            .env("LC_ALL", "C")
            .env("E2FSCK_TIME", self.now.to_string())
            .env("E2FSPROGS_FAKE_TIME", self.now.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let sandbox = ToolSandbox {
            run_as: files.run_as,
            limits: LIMITS,
            programs: &[&program],
            files: &[&[self.partition], files.paths.as_slice()].concat(),
        };
        sandbox.run(|thread| {
            let mut child = thread.spawn(&mut command).map_err(failed)?;
            let stdin = child.stdin.take();
            // The input is written by a separate thread, because the tool produces output while it
            // still reads.
            std::thread::scope(|scope| {
                // A write error is ignored: the tool may have exited without reading everything,
                // and its output says why.
                scope.spawn(move || stdin.map(|mut pipe| pipe.write_all(input.as_bytes())));
                child.wait_with_output()
            })
            .map_err(failed)
        })
    }
}

/// The files of this host that a tool may use.
#[derive(Debug)]
pub(super) struct HostFiles<'a> {
    /// Who can read them.
    pub(super) run_as: RunAs,
    /// Files and directories.
    pub(super) paths: Vec<&'a Path>,
}

impl HostFiles<'_> {
    /// No files.
    pub(super) fn none() -> Self {
        Self { run_as: RunAs::Unprivileged, paths: Vec::new() }
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

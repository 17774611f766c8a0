//! Copying disks, and the switch to the copies.

use super::Options;
use super::disk::SettleDisk;
use super::jobs::{ASK_EVERY, JobState, await_equal, cancel_all, end_of, finish, state_of, text};
use super::names::{Names, PAUSED};
use super::sources::leave_mount;
use super::target::{attach, detach, detach_unused, forget, prepare, store_boot_area};
use crate::finalize::OutputFormat;
use crate::fuse::LiveMount;
use crate::qemu::Qmp;
use crate::{Error, ErrorKind, Result};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A guest whose disks are in files now.
#[derive(Clone, Debug)]
pub struct Settled {
    /// The files.
    pub files: Vec<PathBuf>,
    /// How long the guest was paused.
    pub pause: Duration,
    /// Whether the guest has shut down; QEMU still exists.
    pub is_off: bool,
}

/// Copy `disks` while the guest runs, and make QEMU go on with the copies. `progress` is told how many
/// bytes of how many are copied.
///
/// # Errors
/// Then the guest runs on from the mount, and no file has been made, unless the error says so.
pub fn settle(
    qmp: &mut Qmp<'_>,
    disks: Vec<SettleDisk>,
    options: Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Settled> {
    let unique = uuid::Uuid::new_v4().as_fields().0;
    let copy = |(i, disk)| Copy {
        disk,
        names: Names::new(unique, i),
        fdset: None,
        named: None,
        is_used: false,
    };
    let copies = disks.into_iter().enumerate().map(copy).collect();
    let mut settling = Settling { qmp, copies, paused: false, is_off: false };
    settling.run(options, progress).inspect_err(|_| settling.undo())
}

/// A disk and its new file.
struct Copy {
    disk: SettleDisk,
    names: Names,
    /// The number of the file in QEMU.
    fdset: Option<u64>,
    /// The path of the new file, once it has a name.
    named: Option<PathBuf>,
    /// Whether the guest uses the new file.
    is_used: bool,
}

impl Copy {
    /// Make QEMU copy the disk from now on: all of it (`full`), or only what is written (`none`).
    fn mirror(&self, qmp: &mut Qmp<'_>, sync: &str, rate: Option<u64>) -> Result<()> {
        let arguments = json!({
            "job-id": self.names.mirror(), "device": self.disk.place.device,
            "target": self.names.node(), "sync": sync, "speed": rate.unwrap_or(0),
            // A guest that writes faster than its disk is copied would never end.
            "copy-mode": "write-blocking",
            "on-source-error": "report", "on-target-error": "report",
        });
        qmp.execute("blockdev-mirror", arguments).map(drop)
    }

    /// Give the file what the disk shows while the guest is paused.
    fn make_whole(&self, qmp: &mut Qmp<'_>) -> Result<()> {
        await_equal(qmp, self.names.mirror())?;
        let Some(fdset) = self.fdset else { return Ok(()) };
        if self.disk.format == OutputFormat::Raw {
            return store_boot_area(&self.disk);
        }
        // Two programs must not write to one qcow2 file. Nothing else is written meanwhile, so QEMU
        // can take up its work later without copying again.
        finish(qmp, self.names.mirror(), false)?;
        detach(qmp, &self.names)?;
        store_boot_area(&self.disk)?;
        attach(qmp, self.disk.format, &self.names, fdset)?;
        self.mirror(qmp, "none", None)?;
        await_equal(qmp, self.names.mirror())
    }
}

struct Settling<'q, 's> {
    qmp: &'q mut Qmp<'s>,
    copies: Vec<Copy>,
    /// Whether the guest is paused by us.
    paused: bool,
    is_off: bool,
}

impl Settling<'_, '_> {
    fn run(&mut self, options: Options, progress: &mut dyn FnMut(u64, u64)) -> Result<Settled> {
        for copy in &mut self.copies {
            copy.fdset = Some(prepare(self.qmp, &copy.disk, &copy.names)?);
            copy.mirror(self.qmp, "full", options.rate)?;
        }
        self.copy(progress)?;
        // What the host has in its cache would otherwise be stored while the guest is paused.
        for copy in &self.copies {
            let stored = copy.disk.file.file().sync_data();
            stored.map_err(|e| copy.disk.file.output().failed(e))?;
        }
        let started = Instant::now();
        // From here on it takes a moment, and must not end half-way.
        self.qmp.ignore_stop();
        self.pause()?;
        self.switch().map_err(|e| self.explain(e))?;
        // While the mark is there: who is killed before the end is found by the next call.
        self.leave();
        self.go_on()?;
        let pause = started.elapsed();
        let files = self.copies.iter().filter_map(|copy| copy.named.clone()).collect();
        Ok(Settled { files, pause, is_off: self.is_off })
    }

    /// Wait until all disks are copied.
    fn copy(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        let mut ask = Instant::now() + ASK_EVERY;
        loop {
            if let Some(event) = self.qmp.next_event(ask)? {
                for copy in &self.copies {
                    if let Some(end) = end_of(&event, copy.names.mirror()) {
                        return end.and(Err(Error::new(ErrorKind::Io, "QEMU stopped copying")));
                    }
                }
                if Instant::now() < ask {
                    continue;
                }
            }
            ask = Instant::now() + ASK_EVERY;
            let mut all = JobState { ready: true, ..JobState::default() };
            for copy in &self.copies {
                let one = state_of(self.qmp, copy.names.mirror())?;
                all.done += one.done;
                all.total += one.total;
                all.ready &= one.ready;
            }
            progress(all.done, all.total);
            if all.ready {
                return Ok(());
            }
        }
    }

    /// Pause the guest if it runs. A mark in QEMU says that it was us.
    fn pause(&mut self) -> Result<()> {
        let status = self.qmp.execute("query-status", json!({}))?;
        self.is_off = text(&status, "status") == Some("shutdown");
        if text(&status, "status") == Some("suspended") {
            // It may wake at any time, and QEMU before 9.0 cannot be told to prevent that.
            let what = "the guest sleeps, so it cannot settle; wake it first";
            return Err(Error::new(ErrorKind::Busy, what));
        }
        if !is_running(&status) {
            return Ok(());
        }
        let mark = json!({ "qom-type": "throttle-group", "id": PAUSED });
        self.qmp.execute("object-add", mark)?;
        self.paused = true;
        self.qmp.execute("stop", json!({})).map(drop)
    }

    /// Make the files whole, give them their names, and make QEMU use them.
    fn switch(&mut self) -> Result<()> {
        for copy in &self.copies {
            copy.make_whole(self.qmp)?;
        }
        // Somebody else at QEMU's monitor could make it run on.
        if is_running(&self.qmp.execute("query-status", json!({}))?) {
            let what = "the guest was continued by another program while it was switched";
            return Err(Error::new(ErrorKind::Busy, what));
        }
        for copy in &mut self.copies {
            copy.disk.file.publish()?;
            copy.named = Some(copy.disk.file.output().path());
        }
        for copy in &mut self.copies {
            finish(self.qmp, copy.names.mirror(), true)?;
            copy.is_used = true;
        }
        Ok(())
    }

    /// The error `e` of the switch, with what the files are now.
    fn explain(&self, e: Error) -> Error {
        let mut what = e.to_string();
        for copy in &self.copies {
            let Some(path) = &copy.named else { continue };
            let is = match copy.is_used {
                true => "is the disk that the guest uses now",
                false => "is the disk at this moment, but the guest goes on with the mount",
            };
            what.push_str(&format!("; {} {is}", path.display()));
        }
        Error::new(e.kind(), what)
    }

    fn go_on(&mut self) -> Result<()> {
        if self.paused {
            self.qmp.execute("cont", json!({}))?;
            self.qmp.execute("object-del", json!({ "id": PAUSED }))?;
            self.paused = false;
        }
        Ok(())
    }

    /// Close what QEMU no longer needs. It is no error if it does not: it only keeps a file open.
    fn leave(&mut self) {
        for copy in &self.copies {
            for node in &copy.disk.place.nodes {
                let _ = self.qmp.execute("blockdev-del", json!({ "node-name": node }));
            }
            if let Some(fdset) = copy.fdset {
                let _ = forget(self.qmp, fdset);
            }
        }
    }

    /// Leave QEMU as it was, except for disks that it has in their files already. What fails here is not reported: there is an error already, and QEMU may
    /// have ended.
    fn undo(&mut self) {
        self.qmp.ignore_stop();
        let _ = cancel_all(self.qmp);
        for copy in &self.copies {
            let _ = detach(self.qmp, &copy.names);
            if let Some(fdset) = copy.fdset {
                let _ = forget(self.qmp, fdset);
            }
        }
        let _ = self.go_on();
    }
}

/// Whether an answer to `query-status` says that the guest runs.
fn is_running(status: &Value) -> bool {
    status.get("running").and_then(Value::as_bool) == Some(true)
}

/// Leave nothing in QEMU of a call of [`settle`] that was killed: the guest goes on with the mount,
/// unless it has its disks in files already. Returns whether there was anything.
///
/// # Errors
/// As [`Qmp::execute`].
pub fn recover(qmp: &mut Qmp<'_>, live: &LiveMount) -> Result<bool> {
    let jobs = cancel_all(qmp)?;
    let objects = qmp.execute("qom-list", json!({ "path": "/objects" }))?;
    let mut objects = objects.as_array().into_iter().flatten();
    let paused = objects.any(|o| o.get("name").and_then(Value::as_str) == Some(PAUSED));
    if paused {
        leave_mount(qmp, live)?;
        qmp.execute("cont", json!({}))?;
        qmp.execute("object-del", json!({ "id": PAUSED }))?;
    }
    detach_unused(qmp)?;
    Ok(jobs || paused)
}

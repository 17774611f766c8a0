//! QEMU's jobs: waiting for them, and ending them.

use super::names::PREFIX;
use crate::qemu::{Event, Qmp};
use crate::{Error, ErrorKind, Result};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long QEMU may stay silent before it is asked about its jobs.
pub(super) const ASK_EVERY: Duration = Duration::from_millis(200);

/// How long a job may take that has nothing to copy.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a job that copies a disk has done.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct JobState {
    /// Bytes that were copied.
    pub(super) done: u64,
    /// Bytes to copy; it grows when the guest writes.
    pub(super) total: u64,
    /// Whether everything was copied once, and writes go to both places.
    pub(super) ready: bool,
}

impl JobState {
    /// Whether both places have the same bytes, as long as the guest writes nothing.
    pub(super) fn is_equal(self) -> bool {
        self.ready && self.done == self.total
    }
}

/// The state of the job `id`.
///
/// # Errors
/// If there is no such job: it has failed.
pub(super) fn state_of(qmp: &mut Qmp<'_>, id: &str) -> Result<JobState> {
    let jobs = qmp.execute("query-block-jobs", json!({}))?;
    let mut jobs = jobs.as_array().into_iter().flatten();
    let job = jobs.find(|job| text(job, "device") == Some(id)).ok_or_else(gone)?;
    let number = |key| job.get(key).and_then(Value::as_u64).unwrap_or(0);
    Ok(JobState {
        done: number("offset"),
        total: number("len"),
        ready: job.get("ready").and_then(Value::as_bool).unwrap_or(false)
            // Absent before QEMU 8.2, where `offset` reaches `len` only then.
            && job.get("actively-synced").and_then(Value::as_bool).unwrap_or(true),
    })
}

/// What an event says of the job `id`: `None` if nothing, otherwise its end, which may be an error.
pub(super) fn end_of(event: &Event, id: &str) -> Option<Result<()>> {
    if text(&event.data, "device") != Some(id) {
        return None;
    }
    match event.name.as_str() {
        "BLOCK_JOB_COMPLETED" => Some(match text(&event.data, "error") {
            Some(why) => Err(failed(why)),
            None => Ok(()),
        }),
        "BLOCK_JOB_CANCELLED" => Some(Err(failed("it was cancelled"))),
        _ => None,
    }
}

fn failed(why: &str) -> Error {
    Error::new(ErrorKind::Io, format!("QEMU could not copy the disk: {why}"))
}

fn gone() -> Error {
    failed("the job has ended")
}

/// Let the mirror job `id` end: with `complete`, QEMU leaves the source for the copy; otherwise it
/// leaves the copy, which is whole.
pub(super) fn finish(qmp: &mut Qmp<'_>, id: &str, complete: bool) -> Result<()> {
    let command = if complete { "block-job-complete" } else { "block-job-cancel" };
    qmp.execute(command, json!({ "device": id }))?;
    let deadline = Instant::now() + PATIENCE;
    while let Some(event) = qmp.next_event(deadline)? {
        if let Some(end) = end_of(&event, id) {
            return end;
        }
    }
    Err(failed("the job does not end"))
}

/// Wait until both places of the mirror job `id` have the same bytes. The guest does not run.
pub(super) fn await_equal(qmp: &mut Qmp<'_>, id: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(1);
    while !state_of(qmp, id)?.is_equal() {
        if Instant::now() >= deadline {
            return Err(failed("the last bytes are not copied"));
        }
        // QEMU announces only the first time that the bytes are equal. An event may come meanwhile;
        // the state tells what matters.
        std::thread::sleep(pause);
        pause = (pause * 2).min(ASK_EVERY);
    }
    Ok(())
}

/// Wait until the job `id`, which is not a block job, has ended, and dismiss it.
pub(super) fn await_end(qmp: &mut Qmp<'_>, id: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let jobs = qmp.execute("query-jobs", json!({}))?;
        let mut jobs = jobs.as_array().into_iter().flatten();
        let job = jobs.find(|job| text(job, "id") == Some(id)).ok_or_else(gone)?;
        if text(job, "status") == Some("concluded") {
            let error = text(job, "error").map(str::to_owned);
            qmp.execute("job-dismiss", json!({ "id": id }))?;
            return match error {
                Some(why) => Err(Error::new(ErrorKind::Io, format!("QEMU failed: {why}"))),
                None => Ok(()),
            };
        }
        // Its next change is announced.
        if qmp.next_event(deadline)?.is_none() {
            return Err(failed("the job does not end"));
        }
    }
}

/// Cancel the jobs of this program in QEMU, and wait until they are gone. Returns whether there were
/// any.
pub(super) fn cancel_all(qmp: &mut Qmp<'_>) -> Result<bool> {
    let deadline = Instant::now() + PATIENCE;
    let mut any = false;
    loop {
        let jobs = qmp.execute("query-block-jobs", json!({}))?;
        let jobs = jobs.as_array().into_iter().flatten();
        let ours: Vec<_> = jobs
            .filter_map(|job| text(job, "device"))
            .filter(|id| id.starts_with(PREFIX))
            .map(str::to_owned)
            .collect();
        if ours.is_empty() {
            return Ok(any);
        }
        if !any {
            for id in &ours {
                // One that ends by itself meanwhile is not found any more.
                let _ = qmp.execute("block-job-cancel", json!({ "device": id, "force": true }));
            }
        }
        any = true;
        if Instant::now() >= deadline {
            return Err(failed("the job cannot be cancelled"));
        }
        qmp.next_event((Instant::now() + ASK_EVERY).min(deadline))?;
    }
}

/// The string `key` of `value`.
pub(super) fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

//! Edits by the guest's own kernel: what the program in its throwaway machine is told, and what it
//! answers. No I/O.
//!
//! The program (`guest_kernel/editor.c`, built by `scripts/build-guest-editor`) has the format of both.
//! It reads a job from a disk and writes results to it, with the secret bytes of the job: so nothing
//! that a filesystem contains or a kernel prints can be taken for a result.

use super::fit::groups;
use super::{Change, Edit, FileAccess, FileContent};
use crate::{Error, ErrorKind, Result};
use std::io;
use uuid::Uuid;

/// The program, for 64-bit kernels.
pub const PROGRAM_64: &[u8] = include_bytes!("guest_kernel/editor64.bin");
/// The program, for 32-bit kernels.
pub const PROGRAM_32: &[u8] = include_bytes!("guest_kernel/editor32.bin");

/// The disk's length is a multiple of this.
const PAGE: usize = 4096;
const JOB: &[u8; 8] = b"SYNDJOB1";
const RESULTS: &[u8; 8] = b"SYNDRES1";
const SECRET: usize = 32;
/// Before the results: name, secret bytes, how far it came, error number, number of tasks.
const RESULT_HEAD: usize = 8 + SECRET + 12;
/// Results in the first page, and in each further page.
const IN_FIRST: usize = (PAGE - RESULT_HEAD) / 8;
const IN_PAGE: usize = PAGE / 8;
/// Most edits of one job: the program compares each with those before.
const MAX_EDITS: usize = 16_384;
/// Most bytes of a job, with the files of this host that it copies.
const MAX_JOB: usize = 64 << 20;
const ENOSPC: u32 = 28;

/// Which edits are made together or not at all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unit {
    /// Those that belong together; every other edit stands alone.
    Each,
    /// All of them.
    All,
}

/// What the program is told to do.
#[derive(Debug)]
pub struct Job {
    bytes: Vec<u8>,
    secret: [u8; SECRET],
    count: usize,
}

/// What became of an edit; the error says why it was not made.
pub type EditResult = std::result::Result<(), String>;

/// What the program answers.
#[derive(Debug, Eq, PartialEq)]
pub enum Answer {
    /// Nothing, so far.
    Nothing,
    /// It made no edits, or it is not known which: the reason.
    Failed(String),
    /// What became of each edit.
    Edited(Vec<EditResult>),
}

impl Job {
    /// To make `edits` in a filesystem that is mounted as `fs_type` with `options`. Files of this host
    /// that they name are read.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] for more than 16,384 edits or 64 MiB; errors from reading files.
    pub fn new(edits: &[Edit], (fs_type, options): (&str, &str), unit: Unit) -> Result<Self> {
        let too_large = |what: &str| {
            let what = format!(
                "{what} for the guest's own kernel; --edit-with kernel makes them with the host's"
            );
            Error::new(ErrorKind::TooLarge, what)
        };
        if edits.len() > MAX_EDITS {
            return Err(too_large("too many edits"));
        }
        let mut tasks = Vec::new();
        put_text(&mut tasks, fs_type.as_bytes());
        put_text(&mut tasks, options.as_bytes());
        let groups = match unit {
            Unit::Each => groups(edits),
            Unit::All => vec![0; edits.len()],
        };
        for (edit, group) in edits.iter().zip(groups) {
            put_task(&mut tasks, edit, group as u32)?;
            if tasks.len() > MAX_JOB {
                return Err(too_large("the edits take more than 64 MiB, too much"));
            }
        }
        let mut secret = [0; SECRET];
        for half in secret.chunks_mut(16) {
            half.copy_from_slice(Uuid::new_v4().as_bytes());
        }
        let mut bytes = [JOB.as_slice(), &secret].concat();
        let len = bytes.len() + 8 + tasks.len();
        bytes.extend((edits.len() as u32).to_le_bytes());
        bytes.extend((len as u32).to_le_bytes());
        bytes.extend(tasks);
        Ok(Self { bytes, secret, count: edits.len() })
    }

    /// The content of the program's disk. There is room for the results.
    pub fn disk(&self) -> Vec<u8> {
        let pages = 1 + self.count.saturating_sub(IN_FIRST).div_ceil(IN_PAGE);
        let len = self.bytes.len().next_multiple_of(PAGE).max(pages * PAGE);
        let mut disk = self.bytes.clone();
        disk.resize(len, 0);
        disk
    }

    /// Whether the first bytes of the disk are those of results; they are written last.
    pub fn is_answered(&self, head: &[u8]) -> bool {
        head.strip_prefix(RESULTS).is_some_and(|rest| rest.starts_with(&self.secret))
    }

    /// What the program has written to its `disk`, for the edits of this job.
    pub fn answer(&self, disk: &[u8], edits: &[Edit]) -> Answer {
        if !self.is_answered(disk) {
            return Answer::Nothing;
        }
        let wrong = || Answer::Failed("it gave an answer that makes no sense".into());
        let number = |at: usize| {
            let bytes = disk.get(at..at + 4)?;
            Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        };
        let head = 8 + SECRET;
        let (Some(how_far), Some(error), Some(count)) =
            (number(head), number(head + 4), number(head + 8))
        else {
            return wrong();
        };
        if count as usize != self.count || self.count != edits.len() {
            return wrong();
        }
        let cause = os_error(error);
        match how_far {
            1 => return Answer::Failed("it did not understand what to do".into()),
            2 => return Answer::Failed("it did not find its disk".into()),
            3 => return Answer::Failed(format!("it does not mount the filesystem: {cause}")),
            4 => return Answer::Failed(format!("it could not store the edits: {cause}")),
            5 => return Answer::Failed(format!("it could not unmount the filesystem: {cause}")),
            6 => {}
            _ => return wrong(),
        }
        let result = |(i, edit): (usize, &Edit)| {
            let at = match i.checked_sub(IN_FIRST) {
                None => RESULT_HEAD + 8 * i,
                Some(i) => PAGE + 8 * i,
            };
            became(edit, number(at)?, number(at + 4)?)
        };
        let results: Option<Vec<_>> = edits.iter().enumerate().map(result).collect();
        results.map_or_else(wrong, Answer::Edited)
    }
}

/// The outcome of `edit` in words; `None` for numbers that have no meaning.
fn became(edit: &Edit, became: u32, error: u32) -> Option<EditResult> {
    let path = &edit.path;
    let left = |why: &str| Some(Err(format!("{path} is left as it is: {why} ({})", edit.why)));
    match (became, error) {
        (1, 0) => Some(Ok(())),
        (2, ENOSPC) => left("its filesystem has no free space"),
        (2, _) => left(&format!("the guest's kernel says: {}", os_error(error))),
        (3, _) => left("it is not what it was when it was looked at"),
        (4, _) => left("it is not a regular file"),
        (5, _) => left("an edit that belongs to it could not be made"),
        (6, _) => Some(Err(format!(
            "{path} may be damaged: an edit of it could not be taken back: {}",
            os_error(error)
        ))),
        _ => None,
    }
}

/// Linux has the same error numbers on all x86 processors.
fn os_error(number: u32) -> String {
    i32::try_from(number).map_or_else(
        |_| format!("error {number}"),
        |number| io::Error::from_raw_os_error(number).to_string(),
    )
}

fn put_task(out: &mut Vec<u8>, edit: &Edit, group: u32) -> Result<()> {
    let none = FileAccess::root(0);
    let read;
    let (what, access, first, second): (u32, _, &[u8], &[u8]) = match &edit.change {
        Change::Rewrite { old, new } => (0, none, old, new),
        Change::Create { content: FileContent::Bytes(bytes), access } => (1, *access, bytes, &[]),
        Change::Create { content: FileContent::HostFile(path), access } => {
            let failed = |e| Error::io(format!("cannot read {}", path.display()), e);
            // One byte more than fits is enough to refuse it.
            let mut bytes = Vec::new();
            let file = std::fs::File::open(path).map_err(failed)?;
            let limited = io::Read::take(file, MAX_JOB as u64 + 1);
            io::Read::read_to_end(&mut { limited }, &mut bytes).map_err(failed)?;
            read = bytes;
            (1, *access, &read, &[])
        }
        Change::MakeDir(access) => (2, *access, &[], &[]),
        Change::Symlink { target } => (3, none, target.as_bytes(), &[]),
        Change::Remove => (4, none, &[], &[]),
    };
    for number in [what, group, access.mode & 0o7777, access.uid, access.gid] {
        out.extend(number.to_le_bytes());
    }
    for text in [edit.path.as_bytes(), first, second] {
        put_text(out, text);
    }
    Ok(())
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text);
    out.push(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(path: &str, change: Change) -> Edit {
        Edit { path: path.into(), change, why: "why".into(), step: "fstab" }
    }

    fn edits(count: usize) -> Vec<Edit> {
        (0..count).map(|i| edit(&format!("/{i}"), Change::Remove)).collect()
    }

    /// The disk after a program that came so `far` and gave these results.
    fn answered(job: &Job, far: u32, error: u32, results: &[(u32, u32)]) -> Vec<u8> {
        let mut disk = job.disk();
        let mut bytes = [RESULTS.as_slice(), &job.secret].concat();
        for number in [far, error, results.len() as u32] {
            bytes.extend(number.to_le_bytes());
        }
        for (i, (became, error)) in results.iter().enumerate() {
            if i == IN_FIRST {
                bytes.resize(PAGE, 0);
            }
            bytes.extend([became.to_le_bytes(), error.to_le_bytes()].concat());
        }
        disk[..bytes.len()].copy_from_slice(&bytes);
        disk
    }

    #[test]
    fn a_job_has_all_that_the_program_needs() {
        let rewrite = Change::Rewrite { old: b"old".to_vec(), new: b"newer".to_vec() };
        let edits = [edit("/etc/fstab", rewrite)];
        let job = Job::new(&edits, ("xfs", "nouuid"), Unit::Each).unwrap();
        let disk = job.disk();
        assert_eq!(disk.len(), PAGE);
        assert_eq!(&disk[..8], JOB);
        let mut tail = vec![1, 0, 0, 0];
        tail.extend((job.bytes.len() as u32).to_le_bytes());
        tail.extend(b"\x03\0\0\0xfs\0\x06\0\0\0nouuid\0");
        tail.extend([0; 20]);
        tail.extend(b"\x0a\0\0\0/etc/fstab\0\x03\0\0\0old\0\x05\0\0\0newer\0");
        assert_eq!(job.bytes[40..], tail);
        let other = Job::new(&edits, ("xfs", "nouuid"), Unit::Each).unwrap();
        assert_ne!(job.secret, other.secret);
        assert_eq!(job.answer(&disk, &edits), Answer::Nothing);
        assert_eq!(job.answer(&answered(&other, 6, 0, &[(1, 0)]), &edits), Answer::Nothing);
        assert_eq!(job.answer(&[], &edits), Answer::Nothing);
    }

    #[test]
    fn results_are_read_from_all_pages() {
        for count in [0, 1, IN_FIRST, IN_FIRST + 1, IN_FIRST + IN_PAGE, IN_FIRST + IN_PAGE + 1] {
            let edits = edits(count);
            let job = Job::new(&edits, ("btrfs", ""), Unit::All).unwrap();
            let mut results = vec![(1, 0); count];
            if let Some(last) = results.last_mut() {
                *last = (2, ENOSPC);
            }
            let Answer::Edited(found) = job.answer(&answered(&job, 6, 0, &results), &edits) else {
                panic!("{count}")
            };
            assert_eq!(found.len(), count);
            assert_eq!(found.iter().filter(|r| r.is_err()).count(), count.min(1));
            if let Some(Err(why)) = found.last() {
                let path = &edits[count - 1].path;
                let said = "is left as it is: its filesystem has no free space (why)";
                assert_eq!(*why, format!("{path} {said}"));
            }
        }
    }

    #[test]
    fn answers_that_make_no_sense_are_failures() {
        let edits = edits(2);
        let job = Job::new(&edits, ("xfs", ""), Unit::Each).unwrap();
        let answer = |far, error, results: &[(u32, u32)]| {
            job.answer(&answered(&job, far, error, results), &edits)
        };
        let done = [(1, 0), (1, 0)];
        assert_eq!(answer(6, 0, &done), Answer::Edited(vec![Ok(()), Ok(())]));
        for bad in [
            answer(0, 0, &done),
            answer(7, 0, &done),
            answer(6, 0, &[(1, 0)]),
            answer(6, 0, &[(1, 0), (1, 0), (1, 0)]),
            answer(6, 0, &[(1, 0), (0, 0)]),
            answer(6, 0, &[(1, 0), (7, 0)]),
            answer(6, 0, &[(1, 0), (1, 5)]),
        ] {
            assert_eq!(bad, Answer::Failed("it gave an answer that makes no sense".into()));
        }
        let Answer::Failed(why) = answer(3, 117, &done) else { panic!() };
        assert!(why.starts_with("it does not mount the filesystem: "), "{why}");
        assert!(matches!(answer(4, u32::MAX, &done), Answer::Failed(_)));
        // Cut off after the head.
        let whole = answered(&job, 6, 0, &done);
        for len in 40..60 {
            assert!(!matches!(job.answer(&whole[..len], &edits), Answer::Edited(_)), "{len}");
        }
    }

    #[test]
    fn jobs_that_are_too_large_are_refused() {
        let refused = |edits: &[Edit]| {
            Job::new(edits, ("xfs", ""), Unit::All).map(|_| ()).unwrap_err().kind()
        };
        assert_eq!(refused(&edits(MAX_EDITS + 1)), ErrorKind::TooLarge);
        let content = FileContent::Bytes(vec![0; MAX_JOB]);
        let large = Change::Create { content, access: FileAccess::root(0o644) };
        assert_eq!(refused(&[edit("/large", large)]), ErrorKind::TooLarge);
        let content = FileContent::HostFile("/nonexistent/file".into());
        let missing = Change::Create { content, access: FileAccess::root(0o644) };
        assert_eq!(refused(&[edit("/missing", missing)]), ErrorKind::Io);
    }
}

//! The planner's side: asks what is in a guest.

use super::check::{
    check_boot, check_edits, check_fs_type, check_mount, check_volumes, clean, clean_all,
};
use super::question::{
    BootQuestion, EditorQuestion, EditsQuestion, FoundBoot, FoundEditor, FoundEdits, FsQuestion,
    HostBootQuestion, MAX_SOURCES, Question, SourceId,
};
use super::start::{Start, start};
use super::wire::{FromParser, MAX_READ, ToParser, WireError, decode, encode};
use crate::bytes::SharedBytes;
use crate::edit::Edit;
use crate::fs::KernelMount;
use crate::lvm::Survey;
use crate::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest time that one plan may take to examine the guest. The examining process has a shorter
/// limit of its own; this one holds if that process does not keep it.
const PLAN_TIME: Duration = Duration::from_secs(60);
/// Most bytes of an initrd that is made for the plan.
const MAX_MADE: u64 = 96 << 20;
/// Longest time that a piece of a file may take.
const READ_TIME: Duration = Duration::from_secs(30);

/// Examines a guest for one plan, in another process: what that process does with the guest's bytes
/// cannot harm this one. It is started with the first question, and again when a file of the guest
/// is read after it has ended. Clones share it.
#[derive(Clone)]
pub(in crate::plan) struct Examiner(Arc<Inner>);

impl std::fmt::Debug for Examiner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Examiner")
    }
}

struct Inner {
    sources: Mutex<Vec<Source>>,
    conversation: Mutex<Conversation>,
    start: Start,
}

/// Something that may be read for an answer.
struct Source {
    name: String,
    bytes: Arc<SharedBytes>,
}

/// The process that is asked.
#[derive(Default)]
struct Conversation {
    stream: Option<UnixStream>,
    /// How many processes there have been: files are open in one of them.
    number: u64,
    /// When planning has to end, from the first question on.
    deadline: Option<Instant>,
    /// Why the guest cannot be examined, once that is known. It is not tried again in this plan.
    failed: Option<String>,
}

impl Examiner {
    /// Nothing is started yet.
    pub(in crate::plan) fn new() -> Self {
        Self::with(start)
    }

    /// As [`new`](Self::new), with another way to start the process.
    pub(super) fn with(start: Start) -> Self {
        let (sources, conversation) = Default::default();
        Self(Arc::new(Inner { sources, conversation, start }))
    }

    /// Lets questions refer to `bytes`, called `name` in messages.
    ///
    /// # Errors
    /// `TooLarge` after a thousand.
    pub(in crate::plan) fn add(&self, name: &str, bytes: Arc<SharedBytes>) -> Result<SourceId> {
        let mut sources = self.0.sources.lock();
        if sources.len() >= MAX_SOURCES {
            return Err(Error::new(ErrorKind::TooLarge, "too many partitions for one plan"));
        }
        sources.push(Source { name: name.to_owned(), bytes });
        Ok(sources.len() as SourceId - 1)
    }

    /// The bytes of a source.
    pub(in crate::plan) fn source(&self, source: SourceId) -> Option<Arc<SharedBytes>> {
        self.0.sources.lock().get(source as usize).map(|s| Arc::clone(&s.bytes))
    }

    /// What boots from the guest.
    ///
    /// # Errors
    /// If nothing does; if the guest could not be examined.
    pub(in crate::plan) fn boot(&self, question: BootQuestion) -> Result<FoundBoot> {
        let loader = question.loader;
        let found = self.ask(&Question::Boot(question))?;
        check_boot(found, loader)
    }

    /// How a kernel of this host boots.
    ///
    /// # Errors
    /// If it does not; if it or the guest could not be examined.
    pub(in crate::plan) fn host_boot(&self, question: HostBootQuestion) -> Result<FoundBoot> {
        let loader = question.loader;
        let found = self.ask(&Question::HostBoot(question))?;
        check_boot(found, loader)
    }

    /// Whether the root filesystem has modules for a kernel; `None` if it cannot be read.
    pub(in crate::plan) fn has_modules(&self, root: SourceId, version: &str) -> Option<bool> {
        self.ask(&Question::HasModules { root, version: version.to_owned() }).ok().flatten()
    }

    /// Asks about the filesystem in `source`.
    ///
    /// # Errors
    /// Those of [`GuestFs`](crate::fs::GuestFs); if the guest could not be examined.
    pub(super) fn about_fs<T: DeserializeOwned>(
        &self,
        source: SourceId,
        question: FsQuestion,
    ) -> Result<T> {
        self.ask(&Question::Fs(source, question))
    }

    /// The bytes of the file at `path` in `source`.
    ///
    /// # Errors
    /// As [`about_fs`](Self::about_fs).
    pub(super) fn read_whole(&self, source: SourceId, path: &str, limit: usize) -> Result<Vec<u8>> {
        let question = FsQuestion::ReadWhole { path: path.to_owned(), limit };
        match self.converse(&Question::Fs(source, question), None)? {
            FromParser::Bytes(bytes) if bytes.len() <= limit => Ok(bytes),
            other => Err(self.not_bytes(other)),
        }
    }

    /// The edits that adapt a guest, the files that would be edited on other filesystems than its
    /// root, and how the kernel mounts the root, if only its driver writes to it.
    ///
    /// # Errors
    /// Errors from reading it; if the guest could not be examined.
    pub(in crate::plan) fn edits(
        &self,
        question: EditsQuestion,
    ) -> Result<(Vec<Edit>, Vec<String>, Option<KernelMount>)> {
        let found: FoundEdits = self.ask(&Question::Edits(question))?;
        let elsewhere = clean_all(found.elsewhere);
        Ok((check_edits(found.edits)?, elsewhere, check_mount(found.facts.kernel_mount)?))
    }

    /// The initrd with which the guest's own kernel edits its root filesystem, and the filesystem's
    /// type, as in mount(2).
    ///
    /// # Errors
    /// If the kernel lacks drivers; errors from reading its modules; if the guest could not be examined.
    pub(in crate::plan) fn editor(
        &self,
        question: EditorQuestion,
    ) -> Result<(Vec<u8>, &'static str)> {
        let FoundEditor { file, len, fs_type } = self.ask(&Question::Editor(question))?;
        let fs_type = check_fs_type(&fs_type)?;
        Ok((self.made(file, len)?, fs_type))
    }

    /// The logical volumes in physical volumes, which have these names in messages.
    ///
    /// # Errors
    /// If the guest could not be examined.
    pub(in crate::plan) fn volumes(&self, parts: Vec<(SourceId, String)>) -> Result<Survey> {
        let lens: Vec<u64> = {
            let sources = self.0.sources.lock();
            let len = |id: &SourceId| sources.get(*id as usize).map_or(0, |s| s.bytes.len());
            parts.iter().map(|(id, _)| len(id)).collect()
        };
        check_volumes(self.ask(&Question::Volumes(parts))?, &lens)
    }

    /// Fails if the budget of the plan is used up: what was drafted is then incomplete.
    ///
    /// # Errors
    /// The reason.
    pub(in crate::plan) fn check_budget(&self) -> Result<()> {
        self.ask(&Question::Budget)
    }

    /// The `len` bytes of a file that was made for the plan.
    ///
    /// # Errors
    /// Errors from reading it; if the guest could not be examined.
    pub(in crate::plan) fn made(&self, file: u32, len: u64) -> Result<Vec<u8>> {
        if len > MAX_MADE {
            return Err(Error::new(ErrorKind::TooLarge, "an initrd with drivers is too large"));
        }
        let number = self.number();
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < len {
            let n = (len - bytes.len() as u64).min(MAX_READ as u64) as u32;
            match self.read(number, file, bytes.len() as u64, n)? {
                Some(piece) => bytes.extend(piece),
                None => return Err(unexamined(ENDED)),
            }
        }
        Ok(bytes)
    }

    /// Bytes of a file that is open in process `number`. `None` if that process has ended.
    ///
    /// # Errors
    /// Errors from reading it; if the guest could not be examined.
    pub(super) fn read(
        &self,
        number: u64,
        file: u32,
        offset: u64,
        len: u32,
    ) -> Result<Option<Vec<u8>>> {
        let mut conversation = self.0.conversation.lock();
        if conversation.number != number || conversation.stream.is_none() {
            return Ok(None);
        }
        let question = encode(&Question::Read { file, offset, len })?;
        let deadline = Instant::now() + READ_TIME;
        match self.exchange(&mut conversation, &question, deadline) {
            Ok(FromParser::Bytes(bytes)) if bytes.len() == len as usize => Ok(Some(bytes)),
            Ok(other) => Err(self.not_bytes(other)),
            Err(_) => {
                conversation.stream = None;
                Ok(None)
            }
        }
    }

    /// Asks about the filesystem in `source` after planning, of a new process if need be. Also
    /// returns the number of the process.
    ///
    /// # Errors
    /// As [`about_fs`](Self::about_fs).
    pub(super) fn reopen<T: DeserializeOwned>(
        &self,
        source: SourceId,
        question: FsQuestion,
    ) -> Result<(T, u64)> {
        let deadline = Instant::now() + READ_TIME;
        let question = Question::Fs(source, question);
        let answer = self.converse(&question, Some(deadline))?;
        Ok((self.answer(answer)?, self.0.conversation.lock().number))
    }

    /// The number of the process that answered last.
    pub(super) fn number(&self) -> u64 {
        self.0.conversation.lock().number
    }

    fn ask<T: DeserializeOwned>(&self, question: &Question) -> Result<T> {
        let answer = self.converse(question, None)?;
        self.answer(answer)
    }

    fn answer<T: DeserializeOwned>(&self, answer: FromParser) -> Result<T> {
        let FromParser::Answer(json) = answer else { return Err(unexamined("no answer")) };
        match decode::<std::result::Result<T, WireError>>(&json) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(e)) => Err(self.error(e)),
            Err(e) => Err(unexamined(&e.to_string())),
        }
    }

    /// The error in place of bytes.
    fn not_bytes(&self, answer: FromParser) -> Error {
        match self.answer::<()>(answer) {
            Err(e) => e,
            Ok(()) => unexamined("an answer that makes no sense"),
        }
    }

    fn error(&self, error: WireError) -> Error {
        let message = clean(&error.message);
        let Some(source) = error.exhausted else { return Error::new(error.kind, message) };
        let sources = self.0.sources.lock();
        let name = sources.get(source as usize).map_or("the guest", |s| &s.name);
        Error::new(
            ErrorKind::TooLarge,
            format!(
                "{name} takes too much to examine: {message}; remove that in the guest, or boot \
                 it with --kernel and --initrd"
            ),
        )
    }

    /// Asks a question and returns the answer. Within a plan, which has no `deadline` of the
    /// caller's, a process that was lost is not replaced.
    fn converse(&self, question: &Question, deadline: Option<Instant>) -> Result<FromParser> {
        let question = encode(question)?;
        let mut conversation = self.0.conversation.lock();
        if let (None, Some(why)) = (deadline, &conversation.failed) {
            return Err(unexamined(why));
        }
        let attempts = if deadline.is_some() { 2 } else { 1 };
        let mut why = String::new();
        for _ in 0..attempts {
            if conversation.stream.is_none() {
                conversation.stream = Some((self.0.start)()?);
                conversation.number += 1;
            }
            let until = deadline.unwrap_or_else(|| {
                *conversation.deadline.get_or_insert_with(|| Instant::now() + PLAN_TIME)
            });
            match self.exchange(&mut conversation, &question, until) {
                Ok(answer) => return Ok(answer),
                Err(e) => {
                    // Closing its socket ends it.
                    conversation.stream = None;
                    why = e;
                }
            }
        }
        if deadline.is_none() {
            conversation.failed = Some(why.clone());
        }
        Err(unexamined(&why))
    }

    /// Sends `question`, and provides the bytes that the answer takes.
    fn exchange(
        &self,
        conversation: &mut Conversation,
        question: &[u8],
        deadline: Instant,
    ) -> std::result::Result<FromParser, String> {
        let Some(stream) = &conversation.stream else { return Err("it has ended".into()) };
        let lost = |e: io::Error| match e.kind() {
            io::ErrorKind::TimedOut => "it takes too long".to_owned(),
            io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => ENDED.to_owned(),
            _ => e.to_string(),
        };
        ToParser::Question(question.to_vec()).send(stream, deadline).map_err(lost)?;
        loop {
            let reply = match FromParser::receive(stream, deadline).map_err(lost)? {
                None => return Err(ENDED.into()),
                Some(FromParser::Need { source, offset, len }) => self.bytes(source, offset, len),
                Some(FromParser::NeedLen(source)) => match self.source(source) {
                    Some(bytes) => ToParser::Len(bytes.len()),
                    None => ToParser::Failed("no such partition".into()),
                },
                Some(answer) => return Ok(answer),
            };
            reply.send(stream, deadline).map_err(lost)?;
        }
    }

    fn bytes(&self, source: SourceId, offset: u64, len: u32) -> ToParser {
        let Some(source) = self.source(source) else {
            return ToParser::Failed("no such partition".into());
        };
        let end = offset.checked_add(u64::from(len));
        if len as usize > MAX_READ || end.is_none_or(|end| end > source.len()) {
            return ToParser::Failed("beyond the end of the partition".into());
        }
        let mut bytes = vec![0; len as usize];
        match source.read_at(&mut bytes, offset) {
            Ok(()) => ToParser::Bytes(bytes),
            Err(e) => ToParser::Failed(e.to_string()),
        }
    }
}

const ENDED: &str = "the process that reads its files was ended";

/// The error when there is no answer.
fn unexamined(why: &str) -> Error {
    Error::new(
        ErrorKind::Io,
        format!("the guest could not be examined: {why}; try again, or boot it with --kernel"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::question::FsFacts;
    use super::*;
    use std::io::Write;
    use std::thread::spawn;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    /// An examiner whose process is `other`, with a partition of 1000 bytes.
    fn examiner(start: Start) -> Examiner {
        let examiner = Examiner::with(start);
        let id = examiner.add("partition 1 of xvda", Arc::new(vec![7_u8; 1000])).unwrap();
        assert_eq!(id, 0);
        examiner
    }

    fn ask(examiner: &Examiner) -> Error {
        examiner.about_fs::<FsFacts>(0, FsQuestion::Facts).unwrap_err()
    }

    /// A process that sends `bytes` and ends.
    fn sends(bytes: &'static [u8]) -> Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        spawn(move || {
            let _ = ToParser::receive(&theirs, soon());
            let _ = (&theirs).write_all(bytes);
        });
        Ok(ours)
    }

    #[test]
    fn a_process_that_dies_or_lies_is_an_error() {
        let starts: [Start; 6] = [
            || Ok(UnixStream::pair().unwrap().0),
            || sends(b""),
            || sends(b"a\x04\0\0\0null"),
            || sends(b"a\x08\0\0\0[[[[[[[["),
            || sends(b"z\xff\xff\xff\xff"),
            || sends(b"b\x01\0\0\0x"),
        ];
        for (i, start) in starts.into_iter().enumerate() {
            let examiner = examiner(start);
            let e = ask(&examiner);
            assert_eq!(e.kind(), ErrorKind::Io, "{i}");
            assert!(e.to_string().starts_with("the guest could not be examined: "), "{i}: {e}");
        }
    }

    #[test]
    fn it_is_not_started_again_in_one_plan() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static STARTS: AtomicUsize = AtomicUsize::new(0);
        let examiner = examiner(|| {
            STARTS.fetch_add(1, Ordering::SeqCst);
            sends(b"")
        });
        let first = ask(&examiner).to_string();
        assert_eq!(ask(&examiner).to_string(), first);
        assert_eq!(STARTS.load(Ordering::SeqCst), 1);
        // After planning it is.
        assert!(examiner.reopen::<FsFacts>(0, FsQuestion::Facts).is_err());
        assert!(STARTS.load(Ordering::SeqCst) > 1);
    }

    /// What lies outside of the partitions is not read for it.
    #[test]
    fn only_the_partitions_are_shown() {
        fn curious() -> Result<UnixStream> {
            let (ours, theirs) = UnixStream::pair().unwrap();
            spawn(move || {
                let _ = ToParser::receive(&theirs, soon());
                let mut refused = 0;
                for (source, offset, len) in [
                    (0, 0, 1001),
                    (0, 1000, 1),
                    (0, u64::MAX, 2),
                    (1, 0, 1),
                    (u32::MAX, 0, 1),
                    (0, 0, u32::MAX),
                ] {
                    FromParser::Need { source, offset, len }.send(&theirs, soon()).unwrap();
                    let reply = ToParser::receive(&theirs, soon()).unwrap();
                    refused += u8::from(matches!(reply, Some(ToParser::Failed(_))));
                }
                FromParser::Need { source: 0, offset: 990, len: 10 }.send(&theirs, soon()).unwrap();
                let reply = ToParser::receive(&theirs, soon()).unwrap();
                let good = matches!(reply, Some(ToParser::Bytes(bytes)) if bytes == [7; 10]);
                let message = format!("{refused} refused, {good}");
                let error = WireError { kind: ErrorKind::Invalid, message, exhausted: None };
                let answer: std::result::Result<(), _> = Err(error);
                FromParser::Answer(encode(&answer).unwrap()).send(&theirs, soon()).unwrap();
            });
            Ok(ours)
        }
        assert_eq!(ask(&examiner(curious)).to_string(), "6 refused, true");
    }

    #[test]
    fn an_empty_budget_names_the_partition() {
        let examiner = examiner(super::super::start::start_thread);
        let error = WireError {
            kind: ErrorKind::TooLarge,
            message: "more than 7 words\u{1b}[2J".into(),
            exhausted: Some(0),
        };
        assert_eq!(
            examiner.error(error).to_string(),
            "partition 1 of xvda takes too much to examine: more than 7 words [2J; remove that in \
             the guest, or boot it with --kernel and --initrd"
        );
        // Not a filesystem.
        assert!(ask(&examiner).kind() != ErrorKind::Io, "{}", ask(&examiner));
    }
}

//! The examining side: answers a planner's questions until it hangs up.

use super::boot::{boot, host_boot};
use super::extra_initrd::drivers_of;
use super::extra_initrd::editing::editing_initrd;
use super::files::OpenFiles;
use super::guests::{Guests, PATIENCE, slots};
use super::question::{
    EditorQuestion, EditsQuestion, FoundEdit, FoundEditor, FoundEdits, FsFacts, FsQuestion,
    Question, SourceId,
};
use super::wire::{FromParser, ToParser, WireError, decode, encode};
use crate::adapt::propose;
use crate::edit::Edit;
use crate::fs::{GuestFs, Mounted};
use crate::lvm::{PhysicalVolume, Survey, survey};
use crate::plan::guest_tree::guest_tree;
use crate::{Error, ErrorKind, Result};
use serde::Serialize;
use std::io;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The process ends when it was asked nothing for so long. What it had open is opened again by
/// another one when it is needed.
const IDLE: Duration = Duration::from_secs(10);

/// Answers the planner at the other end of `stream`, until it hangs up or asks nothing for some
/// seconds.
///
/// # Errors
/// Errors of the socket.
pub fn answer_questions(stream: UnixStream) -> io::Result<()> {
    let stream = Rc::new(stream);
    let slots = slots();
    let guests = Guests::new(Rc::clone(&stream), &slots);
    let mut files = OpenFiles::new();
    loop {
        let question = match ToParser::receive(&stream, Instant::now() + IDLE) {
            Ok(Some(ToParser::Question(json))) => decode::<Question>(&json),
            Ok(None) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::TimedOut => return Ok(()),
            Ok(Some(_)) => return Err(io::ErrorKind::InvalidData.into()),
            Err(e) => return Err(e),
        };
        let answer = match question {
            Ok(question) => answer(&guests, &mut files, question),
            Err(e) => in_json::<()>(&guests, Err(e)),
        };
        answer.map_err(io::Error::other)?.send(&stream, Instant::now() + PATIENCE)?;
    }
}

fn answer<'a>(
    guests: &Guests<'a>,
    files: &mut OpenFiles<'a>,
    question: Question,
) -> Result<FromParser> {
    match question {
        Question::Boot(question) => in_json(guests, boot(guests, files, &question)),
        Question::HostBoot(question) => in_json(guests, host_boot(guests, files, &question)),
        Question::HasModules { root, version } => {
            in_json(guests, Ok(has_modules(guests, root, &version)))
        }
        Question::Edits(question) => in_json(guests, edits(guests, &question)),
        Question::Editor(question) => in_json(guests, editor(guests, files, &question)),
        Question::Volumes(parts) => in_json(guests, volumes(guests, &parts)),
        Question::Budget => in_json(guests, Ok(())),
        Question::Fs(source, question) => about_fs(guests, files, source, question),
        Question::Read { file, offset, len } => {
            if files.is_guests(file) {
                // Asked for when the guest boots, and each time on its own.
                guests.budget().renew();
            }
            match files.read(file, offset, len) {
                Ok(bytes) => Ok(FromParser::Bytes(bytes)),
                Err(e) => in_json::<()>(guests, Err(e)),
            }
        }
    }
}

fn about_fs<'a>(
    guests: &Guests<'a>,
    files: &mut OpenFiles<'a>,
    source: SourceId,
    question: FsQuestion,
) -> Result<FromParser> {
    let fs = match guests.fs(source) {
        Ok(fs) => fs,
        Err(e) => return in_json::<()>(guests, Err(e)),
    };
    match question {
        FsQuestion::Facts => in_json(guests, Ok(facts(fs))),
        FsQuestion::Node { path, searched } => in_json(guests, fs.node(&path, searched)),
        FsQuestion::Stat(path) => in_json(guests, fs.stat(&path)),
        FsQuestion::Lstat(path) => in_json(guests, fs.lstat(&path)),
        FsQuestion::ReadDir(path) => in_json(guests, fs.read_dir(&path)),
        FsQuestion::Canonicalize(path) => in_json(guests, fs.canonicalize(&path)),
        FsQuestion::ReadLink(path) => in_json(guests, fs.read_link(&path)),
        FsQuestion::ReadWhole { path, limit } => match fs.read(&path, limit) {
            Ok(bytes) => Ok(FromParser::Bytes(bytes)),
            Err(e) => in_json::<()>(guests, Err(e)),
        },
        FsQuestion::Open(path) => in_json(guests, files.open(fs, &path)),
    }
}

fn facts(fs: &dyn GuestFs) -> FsFacts {
    let kernel_mount = fs.kernel_mount().map(|m| (m.fs_type.to_owned(), m.options));
    FsFacts { kernel_mount, caveat: fs.caveat() }
}

/// The edits that adapt a guest.
fn edits(guests: &Guests<'_>, question: &EditsQuestion) -> Result<FoundEdits> {
    let EditsQuestion { root: (index, root), others, resolver, devices, selection } = question;
    let fs = guests.fs(*root)?;
    let open = |index: usize| {
        let (_, source) = others.iter().find(|(i, _)| *i == index)?;
        Some(Mounted::Shared(guests.fs(*source).ok()?))
    };
    let tree = guest_tree(Mounted::Shared(fs), *index, resolver, open);
    let (edits, elsewhere): (Vec<Edit>, Vec<Edit>) = propose(&tree, devices, selection)?
        .into_iter()
        .partition(|edit| tree.is_on_root(&edit.path));
    let found = |Edit { path, change, why, step }| {
        let step = str::to_owned(step);
        FoundEdit { path, change, why, step }
    };
    let edits = edits.into_iter().map(found).collect();
    let elsewhere = elsewhere.into_iter().map(|edit| edit.path).collect();
    Ok(FoundEdits { edits, elsewhere, facts: facts(fs) })
}

/// The initrd with which the guest's own kernel edits its root filesystem.
fn editor<'a>(
    guests: &Guests<'a>,
    files: &mut OpenFiles<'a>,
    question: &EditorQuestion,
) -> Result<FoundEditor> {
    let EditorQuestion { root: (index, root), others, resolver, version } = question;
    let fs = guests.fs(*root)?;
    let open = |index: usize| {
        let (_, source) = others.iter().find(|(i, _)| *i == index)?;
        Some(Mounted::Shared(guests.fs(*source).ok()?))
    };
    let tree = guest_tree(Mounted::Shared(fs), *index, resolver, open);
    let drivers = drivers_of(guests.bytes(*root)?);
    let (bytes, fs_type) = editing_initrd(&tree, version, drivers)?;
    let len = bytes.len() as u64;
    Ok(FoundEditor { file: files.made(bytes)?, len, fs_type: fs_type.to_owned() })
}

/// The logical volumes in `parts`.
fn volumes(guests: &Guests<'_>, parts: &[(SourceId, String)]) -> Result<Survey> {
    let part = |(source, name): &(SourceId, String)| Ok((name.clone(), guests.bytes(*source)?));
    let parts = parts.iter().map(part).collect::<Result<Vec<_>>>()?;
    let list: Vec<_> =
        parts.iter().map(|(name, bytes)| PhysicalVolume { name, bytes: *bytes }).collect();
    Ok(survey(&list))
}

/// Whether the root filesystem has modules for the kernel `version`; `None` if it cannot be read.
fn has_modules(guests: &Guests<'_>, root: SourceId, version: &str) -> Option<bool> {
    let fs = guests.fs(root).ok()?;
    let dirs = ["/lib/modules", "/usr/lib/modules"];
    Some(dirs.iter().any(|dir| fs.stat(&format!("{dir}/{version}")).is_ok()))
}

/// The frame for `result`. If the budget is used up, what was found is incomplete, so that is the
/// answer.
fn in_json<T: Serialize>(guests: &Guests<'_>, result: Result<T>) -> Result<FromParser> {
    let result = match guests.budget().refused() {
        Some(message) => {
            Err(WireError { kind: ErrorKind::TooLarge, message, exhausted: Some(guests.latest()) })
        }
        None => result.map_err(|e: Error| WireError {
            kind: e.kind(),
            message: e.to_string(),
            exhausted: None,
        }),
    };
    encode(&result).map(FromParser::Answer)
}

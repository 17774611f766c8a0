//! Editing a guest before anybody sees its disks: by the host's programs, or by the guest's own kernel.

use super::report::EditReport;
use crate::appliance;
use crate::edit::guest_kernel::Unit;
use crate::edit::{Edit, EditWith};
use crate::export::ExportSet;
use crate::fuse::{why_unavailable, with_private_view};
use crate::plan::{Adaptation, Plan};
use crate::{Error, ErrorKind, Result};
use nix::unistd::geteuid;
use std::os::fd::BorrowedFd;

/// What happens when some edits cannot be made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Partly {
    /// The others are made, and the report names those that are not.
    IsReported,
    /// That is an error, and as far as the editor can, none is made.
    Fails,
}

/// Who makes the edits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Editor {
    /// Programs or the kernel of this host, through files of a private mount.
    Host,
    /// The guest's own kernel.
    Guest,
}

/// Who makes the edits of `adaptation`.
///
/// # Errors
/// [`ErrorKind::Unsupported`] when the editor that the user wants cannot change a UUID.
fn editor(plan: &Plan, adaptation: &Adaptation) -> Result<Editor> {
    let is_ext = adaptation.kernel_mount.is_none();
    match plan.edit_with {
        EditWith::Kernel => Ok(Editor::Host),
        EditWith::Guest if adaptation.uuid.is_some() => Err(Error::new(
            ErrorKind::Unsupported,
            "--root-uuid is done by e2fsprogs; leave out --edit-with guest",
        )),
        EditWith::Guest => Ok(Editor::Guest),
        EditWith::Auto if adaptation.uuid.is_some() => Ok(Editor::Host),
        EditWith::Auto if is_ext && !adaptation.inline_files && why_unavailable().is_none() => {
            Ok(Editor::Host)
        }
        EditWith::Auto => Ok(Editor::Guest),
    }
}

/// Why the edits of `plan` will not be made on this host, as far as this is known without trying;
/// `None` if they will be, or if there are none.
pub fn why_not_edited(plan: &Plan) -> Option<String> {
    let adaptation = plan.adaptation.as_ref().ok()?.as_ref()?;
    let by_host = || {
        if let Some(reason) = why_unavailable() {
            return Some(format!("they need FUSE, and {reason}"));
        }
        let mount = adaptation.kernel_mount.as_ref().filter(|_| !geteuid().is_root())?;
        Some(format!("only root can edit an {} filesystem with the host's kernel", mount.fs_type))
    };
    match editor(plan, adaptation) {
        Ok(Editor::Host) => by_host(),
        Ok(Editor::Guest) => appliance::why_impossible(plan, adaptation).map(|e| e.to_string()),
        Err(e) => Some(e.to_string()),
    }
}

/// Make `plan`'s edits in the disks of `set`, which nobody else uses yet. The machine of the guest's
/// kernel ends when the other end of the socket `wanted` is closed.
///
/// # Errors
/// Why the guest cannot be adapted, from planning or from making the edits.
pub fn adapt(
    plan: &Plan,
    set: &ExportSet,
    partly: Partly,
    wanted: Option<BorrowedFd<'_>>,
) -> Result<EditReport> {
    let adaptation = match &plan.adaptation {
        Ok(Some(adaptation)) => adaptation,
        Ok(None) => return Ok(EditReport::default()),
        Err(e) => return Err(Error::new(e.kind(), e.to_string())),
    };
    // What the guest cannot write to is edited all the same.
    let _unlocked: Vec<_> = plan.disks.iter().map(|planned| planned.disk.unlock()).collect();
    match editor(plan, adaptation)? {
        Editor::Host => {
            with_private_view(ExportSet::private(set.files.clone()), |view| {
                adaptation.apply(&view.open_writable(&adaptation.file)?)
            })?;
            Ok(EditReport::planned(plan))
        }
        Editor::Guest => by_guest(plan, adaptation, set, (partly, wanted)),
    }
}

fn by_guest(
    plan: &Plan,
    adaptation: &Adaptation,
    set: &ExportSet,
    (partly, wanted): (Partly, Option<BorrowedFd<'_>>),
) -> Result<EditReport> {
    let unit = match partly {
        Partly::IsReported => Unit::Each,
        Partly::Fails => Unit::All,
    };
    let results = appliance::edit(plan, adaptation, set, unit, wanted);
    set.flush().map_err(|e| Error::io("the last writes could not be stored", e))?;
    let (mut made, mut left_out) = (Vec::<&Edit>::new(), Vec::new());
    for (edit, result) in adaptation.edits.iter().zip(results?) {
        match result {
            Ok(()) => made.push(edit),
            Err(why) => left_out.push(why),
        }
    }
    match left_out.first() {
        Some(why) if partly == Partly::Fails => {
            let own = left_out.iter().find(|why| !why.contains("belongs to it"));
            Err(Error::new(ErrorKind::Io, own.unwrap_or(why).as_str()))
        }
        _ => Ok(EditReport { left_out, ..EditReport::made(made.into_iter()) }),
    }
}

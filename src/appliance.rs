//! Edits by the guest's own kernel, in an appliance: a throwaway QEMU without network and firmware
//! settings, which boots the kernel that the guest boots, with its modules and a program of ours.
//!
//! ```text
//! QEMU: guest's kernel ── editor.c ──▶ vda ──NBD──▶ this process: a partition through the overlay
//!                             └──────▶ vdb ──────▶ memory: the job, then the results
//! ```
//!
//! The host's kernel mounts nothing, so neither root nor FUSE is needed, and a hostile filesystem meets
//! the kernel of its own guest, in a machine. That machine has no file of this host: descriptors of its
//! kernel, initrd and second disk, and a socket. `edit/guest_kernel` describes job and results.

mod console;
mod machine;

use crate::edit::guest_kernel::{Answer, EditResult, Job, Unit};
use crate::export::ExportSet;
use crate::plan::{Adaptation, GuestKernel, Plan};
use crate::qemu::{Accel, find_qemu, probe};
use crate::text::in_a_line;
use crate::{Error, ErrorKind, Result};
use machine::{Ended, Machine, Outcome, account};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

/// How long the appliance may take by default with KVM, and without, where it needs some 10 s.
const TIME_KVM: Duration = Duration::from_secs(60);
const TIME_TCG: Duration = Duration::from_secs(300);
/// How long the test of KVM may take.
const KVM_TEST: Duration = Duration::from_secs(2);

/// Why the guest's own kernel cannot make the edits of `adaptation`, as far as this is known without
/// trying; `None` if it seems that it can.
pub fn why_impossible(plan: &Plan, adaptation: &Adaptation) -> Option<Error> {
    qemu().err().or_else(|| plan.guest_kernel(adaptation).err())
}

fn qemu() -> Result<PathBuf> {
    find_qemu().ok_or_else(|| {
        let what = "the guest's own kernel edits it in QEMU, which is not there; install the package \
                    qemu-system-x86";
        Error::new(ErrorKind::NotFound, what)
    })
}

/// Make the edits of `adaptation` in its file of `set`, those of one `unit` completely or not at all;
/// returns what became of each. The work ends when the other end of the socket `wanted` is closed.
///
/// # Errors
/// When nothing was edited, or it is not known what: without QEMU or a kernel with drivers, when the
/// kernel does not mount the filesystem, when its writes cannot be stored or are far more than the edits
/// need, and when it takes too long.
pub fn edit(
    plan: &Plan,
    adaptation: &Adaptation,
    set: &ExportSet,
    unit: Unit,
    wanted: Option<BorrowedFd<'_>>,
) -> Result<Vec<EditResult>> {
    let program = qemu()?;
    let GuestKernel { name, kernel, initrd, fs_type, options } = plan.guest_kernel(adaptation)?;
    let job = Job::new(&adaptation.edits, (&fs_type, &options), unit)?;
    // Without KVM there is more time, so it must be known first.
    let (accel, run_as) = account(probe(&program, KVM_TEST).accel);
    let default = if accel == Accel::Kvm { TIME_KVM } else { TIME_TCG };
    let time = plan.edit_time.unwrap_or(default);
    let machine = Machine { program, accel, run_as, kernel, initrd, time, wanted };
    let Outcome { ended, disk, unstored } = machine.run(set, &adaptation.file, &job)?;
    let failed = |why: &str| {
        let what = format!(
            "the guest's own kernel ({name}) did not edit it: {}; --adapt none leaves it as it is, and \
             --edit-with kernel edits it with the host's",
            in_a_line(why)
        );
        Err(Error::new(ErrorKind::Io, what))
    };
    let said = |why: &str| match ended.complaint() {
        Some(complaint) => format!("{why} ({complaint})"),
        None => why.to_owned(),
    };
    if let Some(e) = unstored {
        return failed(&format!(
            "its writes could not be stored, and it is not known what is edited: {e}"
        ));
    }
    match (job.answer(&disk, &adaptation.edits), &ended) {
        (Answer::Edited(results), _) => Ok(results),
        (Answer::Failed(why), _) => failed(&said(&why)),
        (Answer::Nothing, Ended::TimedOut(_)) => {
            let secs = time.as_secs();
            failed(&said(&format!(
                "it was stopped after {secs} s (--edit-time), and it is not known what is edited"
            )))
        }
        (Answer::Nothing, Ended::Unwanted(_)) => failed("it was stopped"),
        (Answer::Nothing, Ended::Exited(_)) => failed(&said("it ended without an answer")),
    }
}

//! What a report on a guest holds.

use super::kernels::KernelReport;
use super::partitions::DiskReport;
use crate::edit::Edit;
use crate::guest::about::{
    Distribution, FstabEntry, Gettys, Init, InstalledCloudInit, Interfaces, RootAccount, Tool,
};
use serde::Serialize;

/// All that is known of a guest.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The guest's name: the config's, else the image's.
    pub name: String,
    /// How it comes out.
    pub verdict: Verdict,
    /// Its disks as they would be mounted.
    pub disks: Vec<DiskReport>,
    /// What its root filesystem tells; `None` when that cannot be read.
    pub guest: Option<GuestReport>,
    /// Its boot menu; `None` without one.
    pub menu: Option<MenuReport>,
    /// Its kernels: first the one that boots.
    pub kernels: Vec<KernelReport>,
    /// The kernel's command line as the guest has it, and as it would boot.
    pub command_line: Option<CommandLine>,
    /// What was checked.
    pub checks: Vec<Check>,
    /// What would be edited in the guest.
    pub edits: Vec<EditReport>,
    /// What else a user should know.
    pub notes: Vec<String>,
}

/// What the root filesystem tells.
#[derive(Debug, Serialize)]
pub struct GuestReport {
    /// Name of the partition's file in a mount.
    pub partition: String,
    /// `None` when it says nothing of itself.
    pub distribution: Option<Distribution>,
    /// As `uname -m` says it.
    pub architecture: Option<String>,
    /// `None` when there is no init.
    pub init: Option<Init>,
    /// What it calls itself.
    pub hostname: Option<String>,
    /// The entries of `/etc/fstab`.
    pub fstab: Vec<FstabEntry>,
    /// What the network configuration names.
    pub network: Interfaces,
    /// Where somebody can log in.
    pub console: Gettys,
    /// Whether root has a password.
    pub root_account: RootAccount,
    /// Tools of hypervisors.
    pub tools: Vec<Tool>,
    /// `None` when it is not installed.
    pub cloud_init: Option<InstalledCloudInit>,
}

/// The boot menu.
#[derive(Debug, Serialize)]
pub struct MenuReport {
    /// Where it is, in the guest.
    pub path: String,
    /// What grammar it has.
    pub format: &'static str,
    /// Its entries, numbered as `--entry` takes them.
    pub entries: Vec<EntryReport>,
}

/// An entry of the boot menu.
#[derive(Debug, Serialize)]
pub struct EntryReport {
    /// Its title; `A>B` in a submenu.
    pub title: String,
    /// The kernel as the menu names it; empty when the entry starts no Linux.
    pub kernel: String,
    /// Whether it would boot.
    pub default: bool,
    /// Whether it starts a hypervisor.
    pub hypervisor: bool,
}

/// The kernel's command line.
#[derive(Debug, Serialize)]
pub struct CommandLine {
    /// As the guest or its config has it; `None` when the kernel is none of the guest's menu.
    pub guest: Option<String>,
    /// As it would boot.
    pub boots: String,
    /// What was changed, and why.
    pub changes: Vec<String>,
}

/// An edit.
#[derive(Debug, Serialize)]
pub struct EditReport {
    /// The path in the guest.
    pub path: String,
    /// What changes.
    pub why: String,
    /// The step that wants it.
    pub step: &'static str,
}

impl From<&Edit> for EditReport {
    fn from(edit: &Edit) -> Self {
        Self { path: edit.path.clone(), why: edit.why.clone(), step: edit.step }
    }
}

/// Whether the guest boots on KVM.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// As it is.
    Boots,
    /// With what synthdisk changes in the overlay or on the command line.
    BootsWithEdits,
    /// Not as it is.
    #[default]
    DoesNotBoot,
}

/// The answer, and why.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verdict {
    /// In a word, for scripts.
    pub answer: Answer,
    /// In a sentence, for a person.
    pub text: String,
    /// What the user can do about it; `None` when there is nothing to be done.
    pub advice: Option<String>,
}

/// A check and how it came out.
#[derive(Debug, Serialize)]
pub struct Check {
    /// What was looked at, in a word or two; stable, for scripts.
    pub name: &'static str,
    /// How it came out.
    pub outcome: Outcome,
    /// What was seen, for a person.
    pub detail: String,
}

/// How a check came out.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Nothing to do.
    Ok,
    /// synthdisk fixes it, in the overlay or on the command line.
    Fixed,
    /// It works, but needs attention.
    Warn,
    /// It keeps the guest from booting.
    Fail,
}

impl Outcome {
    /// The word for it, in text and JSON alike.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Fixed => "fixed",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

//! The data of a report on a guest.

use super::kernels::KernelReport;
use super::partitions::{DiskReport, VolumeReport};
use crate::edit::Edit;
use crate::guest::about::{
    Distribution, FstabEntry, Gettys, Init, InstalledCloudInit, Interfaces, RootAccount, Tool,
};
use serde::Serialize;

/// Everything that is known about a guest.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The guest's name: from the config, else from the image.
    pub name: String,
    /// The overall result.
    pub verdict: Verdict,
    /// Its disks as they would be mounted.
    pub disks: Vec<DiskReport>,
    /// The logical volumes on them that can be read.
    pub volumes: Vec<VolumeReport>,
    /// What its root filesystem shows; `None` when that cannot be read.
    pub guest: Option<GuestReport>,
    /// Its boot menu; `None` without one.
    pub menu: Option<MenuReport>,
    /// Its kernels; the one that boots comes first.
    pub kernels: Vec<KernelReport>,
    /// The kernel's command line, as the guest has it and as it would boot.
    pub command_line: Option<CommandLine>,
    /// The checks and their outcomes.
    pub checks: Vec<Check>,
    /// What would be edited in the guest.
    pub edits: Vec<EditReport>,
    /// Other things that a user should know.
    pub notes: Vec<String>,
}

/// What the root filesystem shows.
#[derive(Debug, Serialize)]
pub struct GuestReport {
    /// Name of the partition's file in a mount.
    pub partition: String,
    /// `None` when the guest does not identify it.
    pub distribution: Option<Distribution>,
    /// As `uname -m` prints it.
    pub architecture: Option<String>,
    /// `None` when no init was found.
    pub init: Option<Init>,
    /// The guest's own hostname.
    pub hostname: Option<String>,
    /// The entries of `/etc/fstab`.
    pub fstab: Vec<FstabEntry>,
    /// The interfaces that the network configuration names.
    pub network: Interfaces,
    /// Where users can log in.
    pub console: Gettys,
    /// Whether root has a password.
    pub root_account: RootAccount,
    /// Installed tools of hypervisors.
    pub tools: Vec<Tool>,
    /// Filters of LVM that reject the disk as it is on KVM.
    pub lvm_filters: Vec<&'static str>,
    /// `None` when it is not installed.
    pub cloud_init: Option<InstalledCloudInit>,
}

/// The boot menu.
#[derive(Debug, Serialize)]
pub struct MenuReport {
    /// Its path in the guest.
    pub path: String,
    /// Its format.
    pub format: &'static str,
    /// Its entries, numbered as `--entry` takes them.
    pub entries: Vec<EntryReport>,
}

/// An entry of the boot menu.
#[derive(Debug, Serialize)]
pub struct EntryReport {
    /// Its title; `A>B` in a submenu.
    pub title: String,
    /// The kernel as the menu names it; empty when the entry does not start Linux.
    pub kernel: String,
    /// Whether it would boot.
    pub default: bool,
    /// Whether it starts a hypervisor.
    pub hypervisor: bool,
}

/// The kernel's command line.
#[derive(Debug, Serialize)]
pub struct CommandLine {
    /// As the guest or its config has it; `None` when the kernel is not in the guest's menu.
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
    /// What changes, and why.
    pub why: String,
    /// The step that makes it.
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
    /// The guest boots unchanged.
    Boots,
    /// It boots with what synthdisk changes in the overlay or on the command line.
    BootsWithEdits,
    /// Whether it boots cannot be told.
    Unknown,
    /// It does not boot unless the user changes something.
    #[default]
    DoesNotBoot,
}

/// The answer, and why.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verdict {
    /// In one word, for scripts.
    pub answer: Answer,
    /// In one sentence, for a person.
    pub text: String,
    /// What the user can do about it; `None` when there is nothing to do.
    pub advice: Option<String>,
}

/// A check and its outcome.
#[derive(Debug, Serialize)]
pub struct Check {
    /// What was checked, in a word or two; stable, for scripts.
    pub name: &'static str,
    /// The outcome.
    pub outcome: Outcome,
    /// What was found, for a person.
    pub detail: String,
}

/// The outcome of a check.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Nothing to do.
    Ok,
    /// synthdisk fixes it, in the overlay or on the command line.
    Fixed,
    /// It works, but needs attention.
    Warn,
    /// Whether it keeps the guest from booting is not known.
    Unknown,
    /// It keeps the guest from booting.
    Fail,
}

impl Outcome {
    /// The word for it, the same in text and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Fixed => "fixed",
            Self::Warn => "warn",
            Self::Unknown => "unknown",
            Self::Fail => "fail",
        }
    }
}

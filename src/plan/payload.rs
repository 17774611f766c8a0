//! What boots: kernel, initrds and command line, from this host or from inside the guest.

use super::extra_initrd::{self, Look, look_into, remedy};
use super::guest::GuestWish;
use super::guest_files;
use super::hardware::Hardware;
use super::roots::CmdlineRules;
use crate::adapt::DRIVERS;
use crate::bytes::ReadAt;
use crate::disk::Source;
use crate::image::{Image, RawImage};
use crate::loader::linux::HEAD_BYTES;
use crate::loader::{KernelKind, LoaderKind, Payload, PayloadFile, SetupHeader};
use crate::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What boots: what the loader loads, and what to say of it.
#[derive(Clone, Debug)]
pub(super) struct PlannedBoot {
    pub(super) payload: Payload,
    pub(super) summary: BootSummary,
}

/// What will boot, for a person.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct BootSummary {
    /// Title of the boot entry, or where the kernel is from.
    pub title: String,
    /// The kernel: where it is, and its version.
    pub kernel: String,
    /// The kernel's version, as `uname -r` says it.
    pub kernel_version: Option<String>,
    /// The initrds, in order.
    pub initrds: Vec<String>,
    /// The command line as the kernel gets it.
    pub cmdline: String,
    /// What was changed in the guest's command line, and what else a user should know.
    pub notes: Vec<String>,
    /// The machine that the guest has drivers for.
    pub hardware: Hardware,
    /// Whether the first initrd is ours and brings drivers that the guest's lacks.
    pub extra_initrd: bool,
    /// What a user must know: the guest may not boot everywhere.
    pub warnings: Vec<String>,
}

/// The payload made of files of this host.
///
/// # Errors
/// Those of opening the files; [`ErrorKind::Unsupported`] and [`ErrorKind::Corrupt`] for a file
/// that is no bootable kernel.
pub(super) fn from_host(
    kernel_path: &Path,
    initrds: &[PathBuf],
    cmdline: &str,
    rules: &CmdlineRules,
    loader: LoaderKind,
    candidates: impl IntoIterator<Item = Candidate<impl ReadAt + Clone + Send + 'static>>,
) -> Result<PlannedBoot> {
    let kernel = host_file(kernel_path)?;
    let mut head = vec![0; kernel.len().min(HEAD_BYTES as u64) as usize];
    kernel
        .read_at(&mut head, 0)
        .map_err(|e| Error::io(format!("cannot read {}", kernel_path.display()), e))?;
    let header = check_kernel(&head, &kernel_path.display().to_string())?;
    let initrds = initrds.iter().map(|p| host_file(p)).collect::<Result<Vec<_>>>()?;
    let (adapted, changes) = rules.adapt(cmdline, !initrds.is_empty(), None);
    let root = rules.root_index(&adapted);
    let root = candidates.into_iter().find(|(index, _)| Some(*index) == root).map(|(_, r)| r);
    let habits = root.clone().map(guest_files::habits_of).unwrap_or_default();
    let (adapted, _) = rules.with_habits(adapted, &habits, !initrds.is_empty());
    let describe = |image: &Arc<RawImage>| image.path().display().to_string();
    let file = |image: Arc<RawImage>| PayloadFile {
        origin: describe(&image),
        len: image.len(),
        identity: Vec::new(),
        source: Source::Image { image, offset: 0 },
    };
    let summary = BootSummary {
        title: "a kernel of this host".into(),
        kernel: kernel_text(&describe(&kernel), &header),
        kernel_version: version_of(&header),
        initrds: initrds.iter().map(describe).collect(),
        cmdline: adapted,
        // Without words of the user's or the config's there is nothing that could have changed.
        notes: if cmdline.is_empty() { Vec::new() } else { changes },
        ..BootSummary::default()
    };
    let initrds = initrds.into_iter().map(file).collect();
    let drivers = root.clone().and_then(|r| look_into(r, summary.kernel_version.as_deref(), None));
    let files = (file(kernel), initrds);
    finish(files, &header, summary, rules, loader, drivers.zip(root))
}

/// The payload, with drivers that the guest lacks added to it: `drivers` is what is known of them,
/// and how to read the root filesystem.
fn finish(
    (kernel, mut initrds): (PayloadFile, Vec<PayloadFile>),
    header: &SetupHeader,
    mut summary: BootSummary,
    rules: &CmdlineRules,
    loader: LoaderKind,
    drivers: Option<(Look, impl ReadAt + Send + 'static)>,
) -> Result<PlannedBoot> {
    if let Some((look, root)) = drivers.filter(|_| rules.selection.has(DRIVERS)) {
        let room = cmdline_max(header, loader).saturating_sub(summary.cmdline.len());
        let extra = rules.replace.is_none() && room >= extra_initrd::PARAMETER_MAX;
        let remedy = remedy(&look, root, &initrds, &summary.cmdline, extra);
        summary.hardware = remedy.hardware;
        summary.warnings.extend(remedy.warning);
        if let Some(initrd) = remedy.initrd {
            summary.cmdline = remedy.cmdline;
            summary.extra_initrd = true;
            summary.initrds.insert(0, initrd.origin.clone());
            initrds.insert(0, initrd);
        }
    }
    check_cmdline(&summary.cmdline, cmdline_max(header, loader))?;
    let payload = Payload { kernel, initrds, cmdline: summary.cmdline.clone() };
    if let Some(limits) = loader.limits() {
        payload.check(&limits, loader.name())?;
    }
    Ok(PlannedBoot { payload, summary })
}

fn host_file(path: &Path) -> Result<Arc<RawImage>> {
    RawImage::open(path).map(Arc::new)
}

/// A partition that may hold the boot configuration: its index among the rules' partitions, and
/// how to read it.
pub(super) type Candidate<R> = (usize, R);

/// The payload that the guest's own boot configuration names: that of the first of `candidates`
/// which has one. Its root filesystem may be one of `others`.
///
/// # Errors
/// What the first candidate gave when none has a kernel: [`ErrorKind::NotFound`] when it has none,
/// else what reading its filesystem gave.
pub(super) fn from_guest<R: ReadAt + Clone + Send + 'static>(
    candidates: &[Candidate<R>],
    others: &[Candidate<R>],
    wish: &GuestWish,
    rules: &CmdlineRules,
    loader: LoaderKind,
) -> Result<PlannedBoot> {
    let all = [candidates, others].concat();
    let mut first_error = None;
    for (index, reader) in candidates {
        match from_partition(*index, reader, &all, wish, rules, loader) {
            Ok(payload) => return Ok(payload),
            Err(e) => drop(first_error.get_or_insert(e)),
        }
    }
    let nothing =
        || Error::new(ErrorKind::NotFound, "no partition holds a kernel that can be read");
    Err(first_error.unwrap_or_else(nothing))
}

fn from_partition<R: ReadAt + Clone + Send + 'static>(
    index: usize,
    reader: &R,
    all: &[Candidate<R>],
    wish: &GuestWish,
    rules: &CmdlineRules,
    loader: LoaderKind,
) -> Result<PlannedBoot> {
    let opened = guest_files::open(reader.clone(), wish)?;
    let boot = opened.boot;
    let header = check_kernel(&opened.kernel_head, &boot.kernel)?;
    let likely_root = opened.is_root.then_some(index);
    let (cmdline, mut changes) = rules.adapt(&boot.cmdline, !boot.initrds.is_empty(), likely_root);
    let version = version_of(&header);
    let (habits, drivers) = match rules.root_index(&cmdline) {
        // A separate /boot says nothing of the network and the drivers; its root does.
        Some(root) if root != index => {
            let root = all.iter().find(|(i, _)| *i == root).map(|(_, reader)| reader.clone());
            let look = |r: R| Some((look_into(r.clone(), version.as_deref(), opened.made)?, r));
            (root.clone().map(guest_files::habits_of).unwrap_or_default(), root.and_then(look))
        }
        _ => (opened.habits, opened.drivers.zip(Some(reader.clone()))),
    };
    let (cmdline, whys) = rules.with_habits(cmdline, &habits, !boot.initrds.is_empty());
    changes.extend(whys);
    let mut files = opened.files.into_iter();
    let kernel = files
        .next()
        .ok_or_else(|| Error::new(ErrorKind::NotFound, "the guest's boot entry has no kernel"))?;
    let summary = BootSummary {
        title: boot.title,
        kernel: kernel_text(&boot.kernel, &header),
        kernel_version: version,
        initrds: boot.initrds,
        cmdline,
        notes: boot.notes.into_iter().chain(changes).collect(),
        ..BootSummary::default()
    };
    finish((kernel, files.collect()), &header, summary, rules, loader, drivers)
}

/// The version of the kernel that starts with `head`, as `uname -r` says it.
pub(super) fn kernel_version(head: &[u8]) -> Option<String> {
    version_of(&KernelKind::detect(head).and_then(KernelKind::bootable).ok()?)
}

fn check_kernel(head: &[u8], name: &str) -> Result<SetupHeader> {
    KernelKind::detect(head)
        .and_then(KernelKind::bootable)
        .map_err(|e| Error::new(e.kind(), format!("{name} cannot be booted: {e}")))
}

/// Longest command line in bytes, without its NUL, that both the kernel and the loader take.
fn cmdline_max(header: &SetupHeader, loader: LoaderKind) -> usize {
    let most = loader.limits().map_or(usize::MAX, |limits| limits.cmdline);
    (header.cmdline_size as usize).min(most)
}

fn check_cmdline(cmdline: &str, most: usize) -> Result<()> {
    if cmdline.len() > most {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("the command line has {} bytes; this kernel takes {most}", cmdline.len()),
        ));
    }
    Ok(())
}

/// The rest of the string says who built it and when.
fn version_of(header: &SetupHeader) -> Option<String> {
    let version = header.kernel_version.as_deref()?.split(' ').next()?;
    Some(version.to_owned())
}

fn kernel_text(name: &str, header: &SetupHeader) -> String {
    match version_of(header) {
        Some(version) => format!("{name} (Linux {version})"),
        None => name.to_owned(),
    }
}

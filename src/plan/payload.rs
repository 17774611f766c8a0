//! What boots: kernel, initrds and command line, from this host or from inside the guest.

use super::extra_initrd::{self, DriverSurvey, remedy, survey_root};
use super::guest_files;
use super::menu_rules::{kernel_names, menu_rules};
use super::root_resolver::RootResolver;
use super::types::{BootSummary, Candidate, GuestBootRequest, PlannedBoot};
use crate::adapt::DRIVERS;
use crate::bytes::ReadAt;
use crate::disk::Source;
use crate::image::{Image, RawImage};
use crate::loader::linux::HEAD_BYTES;
use crate::loader::{KernelKind, LoaderKind, MenuRules, Payload, PayloadFile, SetupHeader};
use crate::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The payload from files of this host.
///
/// # Errors
/// Errors from opening the files; [`ErrorKind::Unsupported`] and [`ErrorKind::Corrupt`] for a file
/// that is not a bootable kernel.
pub(super) fn from_host(
    kernel_path: &Path,
    initrds: &[PathBuf],
    cmdline: &str,
    resolver: &RootResolver,
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
    let (adapted, changes) = resolver.adapt(cmdline, !initrds.is_empty(), None);
    let root = resolver.root_index(&adapted);
    let root = candidates.into_iter().find(|(index, _)| Some(*index) == root).map(|(_, r)| r);
    let settings = root.clone().map(guest_files::legacy_settings_of).unwrap_or_default();
    let (adapted, _) = resolver.with_legacy_settings(adapted, &settings, !initrds.is_empty());
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
        kernel_version: header.release().map(str::to_owned),
        initrds: initrds.iter().map(describe).collect(),
        cmdline: adapted,
        // An empty command line, from neither the user nor the config, cannot have been changed.
        notes: if cmdline.is_empty() { Vec::new() } else { changes },
        ..BootSummary::default()
    };
    let initrds = initrds.into_iter().map(file).collect();
    let drivers =
        root.clone().and_then(|r| survey_root(r, summary.kernel_version.as_deref(), None));
    let payload = Payload {
        kernel: file(kernel),
        initrds,
        cmdline: String::new(),
        menu: MenuRules::default(),
    };
    finish(payload, &header, summary, resolver, loader, drivers.zip(root))
}

/// `payload` with the command line of `summary` and with drivers that the guest lacks. `drivers` is
/// their survey and a reader for the root filesystem.
fn finish(
    mut payload: Payload,
    header: &SetupHeader,
    mut summary: BootSummary,
    resolver: &RootResolver,
    loader: LoaderKind,
    drivers: Option<(DriverSurvey, impl ReadAt + Send + 'static)>,
) -> Result<PlannedBoot> {
    if let Some((survey, root)) = drivers.filter(|_| resolver.selection.has(DRIVERS)) {
        let room = cmdline_max(header, loader).saturating_sub(summary.cmdline.len());
        let extra = resolver.replace.is_none() && room >= extra_initrd::PARAMETER_MAX;
        let remedy = remedy(&survey, root, &payload.initrds, &summary.cmdline, extra);
        summary.hardware = remedy.hardware;
        summary.warnings.extend(remedy.warning);
        if let Some(initrd) = remedy.initrd {
            summary.cmdline = remedy.cmdline;
            summary.extra_initrd = true;
            summary.initrds.insert(0, initrd.origin.clone());
            payload.initrds.insert(0, initrd);
        }
    }
    check_cmdline(&summary.cmdline, cmdline_max(header, loader))?;
    if !summary.extra_initrd {
        payload.menu.drivers_for.clear();
    }
    payload.cmdline = summary.cmdline.clone();
    if let Some(limits) = loader.limits() {
        payload.check(&limits, loader.name())?;
    }
    Ok(PlannedBoot { payload, summary })
}

fn host_file(path: &Path) -> Result<Arc<RawImage>> {
    RawImage::open(path).map(Arc::new)
}

/// The payload that the guest's own boot configuration names: that of the first of `candidates`
/// that has one. Its root filesystem may be one of `others`.
///
/// # Errors
/// If no candidate has a kernel, the error of the first one: [`ErrorKind::NotFound`] if it has
/// none, otherwise the error from reading its filesystem.
pub(super) fn from_guest<R: ReadAt + Clone + Send + 'static>(
    candidates: &[Candidate<R>],
    others: &[Candidate<R>],
    request: &GuestBootRequest,
    resolver: &RootResolver,
    loader: LoaderKind,
) -> Result<PlannedBoot> {
    let all = [candidates, others].concat();
    let mut first_error = None;
    for (index, reader) in candidates {
        match from_partition(*index, reader, &all, request, resolver, loader) {
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
    request: &GuestBootRequest,
    resolver: &RootResolver,
    loader: LoaderKind,
) -> Result<PlannedBoot> {
    let opened = guest_files::open(reader.clone(), request)?;
    let boot = opened.boot;
    let header = check_kernel(&opened.kernel_head, &boot.kernel)?;
    let likely_root = opened.is_root.then_some(index);
    let (cmdline, mut changes) =
        resolver.adapt(&boot.cmdline, !boot.initrds.is_empty(), likely_root);
    let version = header.release().map(str::to_owned);
    let (settings, drivers) = match resolver.root_index(&cmdline) {
        // A separate /boot has no information about the network and the drivers, but its root has.
        Some(root) if root != index => {
            let root = all.iter().find(|(i, _)| *i == root).map(|(_, reader)| reader.clone());
            let look = |r: R| Some((survey_root(r.clone(), version.as_deref(), opened.made)?, r));
            (
                root.clone().map(guest_files::legacy_settings_of).unwrap_or_default(),
                root.and_then(look),
            )
        }
        _ => (opened.settings, opened.drivers.zip(Some(reader.clone()))),
    };
    let (cmdline, whys) =
        resolver.with_legacy_settings(cmdline, &settings, !boot.initrds.is_empty());
    changes.extend(whys);
    let menu = menu_rules(&boot, &cmdline, index, request, resolver, &settings);
    let menu = MenuRules { drivers_for: kernel_names(&boot), ..menu };
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
    let payload = Payload { kernel, initrds: files.collect(), cmdline: String::new(), menu };
    finish(payload, &header, summary, resolver, loader, drivers)
}

fn check_kernel(head: &[u8], name: &str) -> Result<SetupHeader> {
    KernelKind::detect(head)
        .and_then(KernelKind::bootable)
        .map_err(|e| Error::new(e.kind(), format!("{name} cannot be booted: {e}")))
}

/// Longest command line in bytes, without its NUL, that both the kernel and the loader accept.
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

fn kernel_text(name: &str, header: &SetupHeader) -> String {
    match header.release() {
        Some(version) => format!("{name} (Linux {version})"),
        None => name.to_owned(),
    }
}

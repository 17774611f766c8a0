//! What boots: kernel, initrds and command line, from this host or from inside the guest.

use super::examine::{
    BootQuestion, Examiner, FileOrigin, FoundBoot, FoundFile, HostBootQuestion, HostFile, Place,
    SourceId, ThroughFile,
};
use super::root_resolver::RootResolver;
use super::types::PlannedBoot;
use crate::bytes::ReadAt;
use crate::disk::Source;
use crate::image::{Image, RawImage};
use crate::loader::{FirmwareSet, LoaderKind, Payload, PayloadFile};
use crate::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files of this host, by the source through which they are examined.
type HostImages = Vec<(SourceId, Arc<RawImage>)>;

/// The payload from files of this host.
///
/// # Errors
/// Errors from opening the files; [`ErrorKind::Unsupported`] and [`ErrorKind::Corrupt`] for a file
/// that is not a bootable kernel.
pub(super) fn from_host(
    examiner: &Examiner,
    (kernel, initrds): (&Path, &[PathBuf]),
    cmdline: &str,
    resolver: &RootResolver,
    (loader, firmware): (LoaderKind, FirmwareSet),
    candidates: &[Place],
) -> Result<PlannedBoot> {
    let mut images = HostImages::new();
    let mut open = |path: &Path| {
        let image = Arc::new(RawImage::open(path)?);
        let name = image.path().display().to_string();
        let bytes: Arc<RawImage> = Arc::clone(&image);
        let source = examiner.add(&name, bytes)?;
        images.push((source, image));
        Ok(HostFile { name, source })
    };
    let question = HostBootQuestion {
        kernel: open(kernel)?,
        initrds: initrds.iter().map(|path| open(path)).collect::<Result<_>>()?,
        cmdline: cmdline.to_owned(),
        candidates: candidates.to_vec(),
        resolver: resolver.clone(),
        loader,
        firmware,
    };
    planned(examiner, examiner.host_boot(question)?, &images, loader)
}

/// The payload that the guest's own boot configuration names: that of the first candidate that has
/// one.
///
/// # Errors
/// If no candidate has a kernel, the error of the first one: [`ErrorKind::NotFound`] if it has
/// none, otherwise the error from reading its filesystem.
pub(super) fn from_guest(examiner: &Examiner, question: BootQuestion) -> Result<PlannedBoot> {
    let loader = question.loader;
    planned(examiner, examiner.boot(question)?, &HostImages::new(), loader)
}

/// The payload that was found.
fn planned(
    examiner: &Examiner,
    found: FoundBoot,
    images: &HostImages,
    loader: LoaderKind,
) -> Result<PlannedBoot> {
    let mut files = Vec::new();
    for file in &found.files {
        files.push(PayloadFile {
            origin: file.origin.clone(),
            len: file.len,
            identity: match file.from {
                FileOrigin::Host(_) => Vec::new(),
                FileOrigin::Guest { .. } | FileOrigin::Made(_) => file.identity.to_vec(),
            },
            source: source(examiner, file, images)?,
        });
    }
    let mut files = files.into_iter();
    let kernel = files
        .next()
        .ok_or_else(|| Error::new(ErrorKind::NotFound, "the guest's boot entry has no kernel"))?;
    let cmdline = found.summary.cmdline.clone();
    let payload = Payload { kernel, initrds: files.collect(), cmdline, menu: found.menu };
    if let Some(limits) = loader.limits() {
        payload.check(&limits, loader.name())?;
    }
    Ok(PlannedBoot { payload, summary: found.summary })
}

/// Where the bytes of a file are.
fn source(examiner: &Examiner, file: &FoundFile, images: &HostImages) -> Result<Source> {
    Ok(match &file.from {
        FileOrigin::Guest { source, path } => {
            Source::File(Arc::new(ThroughFile::new(examiner, file, *source, path)))
        }
        FileOrigin::Made(open) => Source::Bytes(examiner.made(*open, file.len)?.into()),
        FileOrigin::Host(source) => {
            let image = images.iter().find(|(id, _)| id == source);
            let unknown = || Error::new(ErrorKind::Corrupt, "a file that was not named");
            let image = Arc::clone(&image.ok_or_else(unknown)?.1);
            if image.len() != file.len {
                return Err(unknown());
            }
            Source::Image { image, offset: 0 }
        }
    })
}

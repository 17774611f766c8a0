//! Writing the disks of a mount that another process serves.

use super::args::ResultArgs;
use super::planned::frozen_kernel;
use crate::finalize::{
    Contents, Destination, Input, LiveSnapshot, OpenFile, OutputFormat, Pending, Reflink, Request,
    check_room, choose_live, open_live_disk, write_converted, write_raw, writer_of,
};
use crate::fuse::LiveMount;
use crate::text::in_a_line;
use crate::{Error, ErrorKind, Result};
use std::fs::File;
use std::sync::Arc;

/// Write disks of the mount `live`.
///
/// # Errors
/// [`ErrorKind::Busy`] when one is being written to, unless forced; errors from reading and
/// writing.
pub(super) fn write_live(
    live: &LiveMount,
    result: &ResultArgs,
    request: &Request<'_>,
) -> Result<Vec<Pending>> {
    if result.reflink == Reflink::Always {
        let what = "a mount's disk has no blocks to share; name the images and the overlay (end the \
                    mount first), or leave out --reflink always";
        return Err(Error::new(ErrorKind::Unsupported, what));
    }
    let status = &live.status;
    let outputs = choose_live(live, &result.wanted(), request.force)?;
    // All snapshots are taken before the first is read, so that they show almost the same moment.
    let mut sources = Vec::new();
    for output in outputs {
        let file = match result.partition {
            None => output.disk.clone(),
            Some(number) => output.partition_file(number, |file| live.open(file).is_ok())?,
        };
        let shown = live.dir.join(&file);
        let shown = shown.display();
        let source = match writer_of(live, &output.disk)? {
            // A program may start to write, so a snapshot is taken if possible: only one can exist
            // at a time. Without one, the disk itself shows the same, because nothing writes to it
            // now.
            None => match LiveSnapshot::take(live, &file) {
                Ok(snapshot) => LiveSource::Snapshot(Arc::new(snapshot)),
                Err(_) => LiveSource::Still(open_live_disk(live, &file)?),
            },
            Some(writer) if !request.force => {
                let what = format!(
                    "{shown} may change meanwhile: {writer}; end it first, or use --force for a \
                     crash-consistent snapshot"
                );
                return Err(Error::new(ErrorKind::Busy, what));
            }
            Some(writer) => {
                if !request.quiet {
                    eprintln!(
                        "note:    {shown} is a crash-consistent snapshot: {}",
                        in_a_line(&writer)
                    );
                }
                LiveSource::Snapshot(Arc::new(LiveSnapshot::take(live, &file)?))
            }
        };
        sources.push((source, output.target));
    }
    if result.takes_all(None) && !request.force {
        let all =
            sources.iter().map(|(source, _)| source.contents()).collect::<Result<Vec<_>>>()?;
        let all = all.iter().map(|file| file as &dyn Contents);
        check_room(all.zip(sources.iter().map(|(_, target)| target)))?;
    }
    let write = |(source, target): (LiveSource, Destination)| source.write(target, request);
    let written = sources.into_iter().map(write).collect::<Result<_>>()?;
    let frozen = status.bootloader.as_deref().and_then(frozen_kernel);
    if let Some(what) = frozen.filter(|_| !request.quiet && result.partition.is_none()) {
        eprintln!("warning: {what}");
    }
    Ok(written)
}

/// A file of a mount, and the way to read it.
enum LiveSource {
    /// The file itself, which nothing writes to.
    Still(File),
    /// The file as it was at one moment.
    Snapshot(Arc<LiveSnapshot>),
}

impl LiveSource {
    /// Its bytes, through the same open file.
    fn contents(&self) -> Result<OpenFile> {
        let failed = |e| Error::io("cannot read the disk", e);
        match self {
            Self::Still(file) => OpenFile::new(file.try_clone().map_err(failed)?).map_err(failed),
            Self::Snapshot(snapshot) => snapshot.contents(),
        }
    }

    fn write(self, target: Destination, request: &Request<'_>) -> Result<Pending> {
        let raw = request.conversion.format == OutputFormat::Raw;
        match self {
            Self::Still(file) if raw => {
                let file = OpenFile::new(file).map_err(|e| Error::io("cannot read the disk", e))?;
                write_raw(&Input::File(file), target, request)
            }
            Self::Still(file) => write_converted(&file, target, false, request),
            Self::Snapshot(snapshot) => {
                let written = if raw {
                    write_raw(&Input::File(snapshot.contents()?), target, request)
                } else {
                    snapshot.with_file(|file| write_converted(file, target, true, request))
                };
                written.map_err(|e| snapshot.explain(e))
            }
        }
    }
}

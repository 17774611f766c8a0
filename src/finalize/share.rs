//! Sharing blocks with images and overlays, and determining what remains to be copied.

use super::contents::{Contents, ReflinkSource};
use super::errors::{cannot_read, cannot_write, check_stop};
use super::options::{CopyOptions, Reflink};
use super::reflink::{cannot_share, clone_range};
use crate::{Error, ErrorKind, Result};
use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};

/// What was shared, and what remains to be copied.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    /// Bytes that are shared.
    pub(super) shared: u64,
    /// Data that remains to be copied: sorted, disjoint, adjacent ranges merged.
    pub(super) rest: Vec<Range<u64>>,
}

impl Sharing {
    /// Add the data of `range` to what remains to be copied.
    fn copy(&mut self, contents: &dyn Contents, range: Range<u64>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let found = contents.extent_at(at).map_err(cannot_read)?;
            let end = found.end.min(range.end);
            if found.data {
                self.rest.push(at..end);
            }
            at = end;
        }
        Ok(())
    }

    /// Merge adjacent ranges, so that a copy is split only at piece boundaries.
    fn coalesce(&mut self) {
        self.rest.dedup_by(|next, last| {
            let joins = last.end == next.start;
            if joins {
                last.end = next.end;
            }
            joins
        });
    }
}

/// Share all blocks that can be shared.
///
/// # Errors
/// [`ErrorKind::Unsupported`] when a block must be shared but cannot be; errors of the system
/// calls; the error of a raised `stop`.
pub(super) fn share(
    contents: &dyn Contents,
    target: &File,
    options: &CopyOptions<'_>,
) -> Result<Sharing> {
    let mut sharing = Sharing::default();
    let block = block_size(target);
    // A source file that cannot share one piece cannot share the next one either.
    let mut refusing: Vec<RawFd> = Vec::new();
    let mut at = 0;
    while at < contents.len() {
        check_stop(options.stop)?;
        let (source, end) = contents.reflink_source_at(at).map_err(cannot_read)?;
        let range = at..end;
        at = end;
        let (file, from) = match &source {
            ReflinkSource::Zeros => continue,
            ReflinkSource::File(file, from) => (Some(*file), *from),
            ReflinkSource::Image(image, from) => (image.plain_file(), *from),
            ReflinkSource::None => (None, 0),
        };
        let wanted = |file: &&File| {
            options.reflink != Reflink::Never && !refusing.contains(&file.as_raw_fd())
        };
        let Some(file) = file.filter(wanted) else {
            sharing.copy(contents, range)?;
            continue;
        };
        // Only whole blocks; the partial blocks at both ends are copied.
        let start = range.start.next_multiple_of(block).min(range.end);
        let stop = (range.end - range.end % block).max(start);
        let source = from + (start - range.start);
        let refused = if start == stop {
            None
        } else if source % block != 0 {
            Some(format!(
                "byte {start} of the disk lies at byte {source} of its source, and the two differ \
                 within a block of {block} bytes; see --align"
            ))
        } else {
            match clone_range(file, source, target, start, stop - start) {
                Ok(()) => None,
                Err(e) if cannot_share(&e) => Some(e.to_string()),
                Err(e) => return Err(cannot_write(options.name, e)),
            }
        };
        match refused {
            None => {
                sharing.shared += stop - start;
                sharing.copy(contents, range.start..start)?;
                sharing.copy(contents, stop..range.end)?;
            }
            Some(why) if options.reflink == Reflink::Always => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!(
                        "{} cannot share blocks with its sources ({why}); --reflink auto copies",
                        options.name
                    ),
                ));
            }
            Some(_) => {
                if source % block == 0 {
                    refusing.push(file.as_raw_fd());
                }
                sharing.copy(contents, range)?;
            }
        }
    }
    sharing.coalesce();
    Ok(sharing)
}

/// Bytes per block of the filesystem that `file` is on.
fn block_size(file: &File) -> u64 {
    let about = nix::sys::statvfs::fstatvfs(file);
    about.map_or(4096, |s| s.fragment_size().max(512))
}

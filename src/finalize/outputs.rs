//! Which disks are written, and where to.

use super::access::SourceAccess;
use super::destination::{Destination, Existing};
use super::formats::OutputFormat;
use super::identity::refuse_sources;
use crate::fuse::LiveMount;
use crate::plan::partition_file_name;
use crate::{Error, ErrorKind, Result};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What is to be written, and where to.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The file or device of the first disk, or a directory for all.
    pub output: &'a Path,
    /// The format of the files.
    pub format: OutputFormat,
    /// The only disk that is written, named as in the guest or as in a mount.
    pub disk: Option<&'a str>,
    /// The only partition that is written, of the first disk.
    pub partition: Option<u32>,
}

/// A disk of the guest.
#[derive(Clone, Debug)]
pub struct OutputDisk {
    /// Its name in a mount.
    pub file: String,
    /// The guest's name for it under Xen.
    vdev: String,
    cdrom: bool,
}

/// A disk that is to be written.
#[derive(Debug)]
pub struct Output {
    /// Its index among the guest's disks.
    pub index: usize,
    /// Its name in a mount.
    pub disk: String,
    /// Where it is written.
    pub target: Destination,
}

impl OutputDisk {
    /// A disk with the name `file` in a mount, and the name `vdev` under Xen.
    pub fn new(file: String, vdev: String, cdrom: bool) -> Self {
        Self { file, vdev, cdrom }
    }

    /// Its name in a mount without `.raw`.
    fn stem(&self) -> &str {
        self.file.strip_suffix(".raw").unwrap_or(&self.file)
    }

    fn is_called(&self, name: &str) -> bool {
        name == self.vdev || name == self.file || name == self.stem()
    }
}

/// The outputs that are `wanted`, in the order of `disks`. None of them is one of `sources` or
/// less restricted in access than `access` says.
///
/// # Errors
/// [`ErrorKind::NotFound`] for a disk that does not exist; those of [`refuse_sources`] and
/// [`Destination::examine`].
pub fn choose(
    disks: &[OutputDisk],
    wanted: &Wanted<'_>,
    sources: &[PathBuf],
    access: &SourceAccess,
    force: bool,
) -> Result<Vec<Output>> {
    let all = disks.iter().enumerate();
    let mut chosen: Vec<(usize, &OutputDisk)> = match wanted.disk {
        Some(name) => all.filter(|(_, d)| d.is_called(name)).collect(),
        // A CD is a complete image already.
        None => all.filter(|(_, d)| !d.cdrom).collect(),
    };
    if wanted.partition.is_some() {
        chosen.truncate(1);
    }
    if chosen.is_empty() {
        let names: Vec<&str> = disks.iter().map(|d| d.vdev.as_str()).collect();
        let which = wanted.disk.unwrap_or("to write");
        let what = format!("there is no disk {which}; the guest has {}", names.join(", "));
        return Err(Error::new(ErrorKind::NotFound, what));
    }
    let existing = if force { Existing::Replace } else { Existing::Keep };
    let several = chosen.len() > 1;
    let mut outputs = Vec::new();
    for (place, (index, disk)) in chosen.into_iter().enumerate() {
        let path = path_for(wanted, disk, place);
        // This check comes first, so that --force cannot bypass it.
        refuse_sources(&path, sources)?;
        let target = Destination::examine(&path, existing, access.clone())?;
        if several && matches!(target, Destination::Device(_)) {
            let what = format!("{} takes one disk; name it with --disk", path.display());
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        outputs.push(Output { index, disk: disk.file.clone(), target });
    }
    Ok(outputs)
}

/// The outputs that are `wanted` of the disks of `live`; its images, overlays and files are no outputs.
///
/// # Errors
/// As [`choose`].
pub fn choose_live(live: &LiveMount, wanted: &Wanted<'_>, force: bool) -> Result<Vec<Output>> {
    let status = &live.status;
    let disks: Vec<_> = status
        .disks
        .iter()
        .map(|d| OutputDisk::new(d.file.clone(), d.vdev.clone(), d.cdrom))
        .collect();
    let mut sources = status.images.clone();
    sources.extend(status.overlays.iter().cloned());
    let access = SourceAccess::of(&sources);
    sources.extend(disks.iter().map(|d| live.dir.join(&d.file)));
    choose(&disks, wanted, &sources, &access, force)
}

/// The output path of `disk`, which is number `place` (from 0) of the disks that are written.
fn path_for(wanted: &Wanted<'_>, disk: &OutputDisk, place: usize) -> PathBuf {
    let output = wanted.output;
    let named_dir = output.as_os_str().as_encoded_bytes().ends_with(b"/");
    if named_dir || output.is_dir() {
        let part = wanted.partition.map_or(String::new(), |number| format!("-part{number}"));
        return output.join(format!("{}{part}.{}", disk.stem(), wanted.format.extension()));
    }
    if place == 0 { output.to_path_buf() } else { beside(output, disk.stem()) }
}

/// `web1-b.raw` for `web1.raw` and `disk-b`.
fn beside(output: &Path, stem: &str) -> PathBuf {
    let suffix = stem.strip_prefix("disk-").unwrap_or(stem);
    let mut name = OsString::from(output.file_stem().unwrap_or_default());
    name.push("-");
    name.push(suffix);
    if let Some(extension) = output.extension() {
        name.push(".");
        name.push(extension);
    }
    output.with_file_name(name)
}

impl Output {
    /// The file of partition `number` in a mount, if the mount shows it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if it does not.
    pub fn partition_file(&self, number: u32, exists: impl FnOnce(&str) -> bool) -> Result<String> {
        let file = partition_file_name(&self.disk, number);
        if exists(&file) { Ok(file) } else { Err(no_partition(&self.disk, number)) }
    }
}

/// The error for a partition that a disk does not have.
pub fn no_partition(disk: &str, number: u32) -> Error {
    let what = format!("{disk} has no partition {number}; `synthdisk map` lists what it has");
    Error::new(ErrorKind::NotFound, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_disks_go_beside_the_first() {
        for (output, stem, expected) in [
            ("/x/web1.raw", "disk-b", "/x/web1-b.raw"),
            ("web1", "disk-c", "web1-c"),
            ("web1.raw", "cidata", "web1-cidata.raw"),
            ("/x/web1.tar.qcow2", "disk-aa", "/x/web1.tar-aa.qcow2"),
        ] {
            assert_eq!(beside(Path::new(output), stem), Path::new(expected));
        }
    }
}

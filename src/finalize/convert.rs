//! Other formats, written by the host's `qemu-img`.
//!
//! These are QEMU's formats, and QEMU writes them best: `imago` writes only qcow2, and neither VHD,
//! VHDX nor compressed clusters.

use super::destination::OutputPath;
use super::formats::{Conversion, OutputFormat};
use super::hidden::HiddenDir;
use super::progress::Progress;
use super::qemu_img::QemuImg;
use super::verify::forget;
use super::writeback;
use crate::process::{Inherited, Stop};
use crate::{Error, Result};
use nix::fcntl::OFlag;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::Path;

/// A file written by qemu-img that does not have its final name yet. It is removed when dropped,
/// and when the process is killed.
#[derive(Debug)]
pub struct Converted {
    output: OutputPath,
    file: File,
    hidden: HiddenDir,
}

impl Converted {
    /// The file, open for reading.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The final name of the file.
    pub fn output(&self) -> &OutputPath {
        &self.output
    }

    /// Flush it to storage, and drop it from the page cache, if possible, so that it is next read
    /// from storage.
    ///
    /// # Errors
    /// Errors of the system calls.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| self.output.failed(e))?;
        forget(&self.file);
        Ok(())
    }

    /// Flush it to storage and give it its final name.
    ///
    /// # Errors
    /// As [`super::NewFile::publish`].
    pub fn publish(self) -> Result<()> {
        self.file.sync_all().map_err(|e| self.output.failed(e))?;
        self.output.take_name(&self.hidden, self.output.name())
    }
}

/// Conversion options.
#[derive(Clone, Copy, Debug)]
pub struct ConvertOptions<'a> {
    /// Do not print progress.
    pub quiet: bool,
    /// Whether the disk is in a mount that only this process uses.
    pub private: bool,
    /// The result's name in messages.
    pub name: &'a str,
    /// Stops the conversion when raised.
    pub stop: &'a Stop,
}

/// Write the `len` bytes of `source`, a raw disk, to a file for `output`.
///
/// # Errors
/// [`crate::ErrorKind::NotFound`] without qemu-img; errors reported by qemu-img; the error of
/// `stop`.
pub fn convert(
    source: &File,
    len: u64,
    output: OutputPath,
    conversion: &Conversion,
    options: &ConvertOptions<'_>,
) -> Result<Converted> {
    let hidden = HiddenDir::beside(&output)?;
    // Created under its final name, because a VMDK also stores the name inside.
    let name = output.name();
    let disk = Inherited::new(source).map_err(|e| output.failed(e))?;
    let dir = Inherited::new(&hidden).map_err(|e| output.failed(e))?;
    let mut words: Vec<OsString> = ["convert", "-p", "-f", "raw", "-O"].map(Into::into).into();
    words.push(conversion.format.name().into());
    for option in conversion.all_options() {
        words.extend(["-o".into(), option.into()]);
    }
    if conversion.compress {
        words.push("-c".into());
    }
    // Direct I/O avoids another copy in the page cache and does not fill the cache. It cannot be
    // used for writing compressed clusters and the metadata of other formats, which are smaller
    // than its unit.
    if options.private {
        words.extend(["-T", "none"].map(Into::into));
    }
    if conversion.format == OutputFormat::Qcow2 && !conversion.compress && takes_direct(&hidden) {
        words.extend(["-t", "none"].map(Into::into));
    }
    words.extend(["--".into(), disk.path().into(), dir.path().join(name).into()]);
    // Has no effect until qemu-img has created the file.
    let told = || {
        if let Ok(file) = hidden.open_file(name, OFlag::O_RDONLY) {
            writeback::begin_all(&file);
        }
    };
    qemu_img("writing", &words, [&disk.path(), &dir.path()], len, options, told)?;
    let file = hidden.open_file(name, OFlag::O_RDONLY).map_err(|e| output.failed(e))?;
    output.access().restrict(&file).map_err(|e| output.failed(e))?;
    Ok(Converted { output, file, hidden })
}

/// Let qemu-img compare the `len` bytes of `source` with the file `converted` of `format`.
///
/// # Errors
/// [`crate::ErrorKind::Corrupt`] when they differ; errors as for [`convert`].
pub fn compare(
    source: &File,
    len: u64,
    converted: &Converted,
    format: OutputFormat,
    options: &ConvertOptions<'_>,
) -> Result<()> {
    let failed = |e| Error::io("cannot read the disk", e);
    let disk = Inherited::new(source).map_err(failed)?;
    let dir = Inherited::new(&converted.hidden).map_err(failed)?;
    let mut words: Vec<OsString> = ["compare", "-p", "-f", "raw", "-F"].map(Into::into).into();
    words.push(format.name().into());
    let path = dir.path().join(converted.output.name());
    words.extend(["--".into(), disk.path().into(), path.into()]);
    qemu_img("verifying", &words, [&disk.path(), &dir.path()], len, options, || ())
}

/// Run qemu-img with `words` on a disk of `len` bytes, and show its progress as `doing` the result.
/// `files` are those that it may use; `told` is called after each report of progress.
fn qemu_img(
    doing: &str,
    words: &[OsString],
    files: [&Path; 2],
    len: u64,
    options: &ConvertOptions<'_>,
    told: impl Fn() + Send,
) -> Result<()> {
    let progress = Progress::new(format!("{doing} {}", options.name), len, options.quiet);
    let run = QemuImg {
        words,
        files: &files,
        progress: &progress,
        len,
        name: options.name,
        stop: options.stop,
    };
    run.run(told)
}

/// Whether files in `dir` can be written with direct I/O.
fn takes_direct(dir: &HiddenDir) -> bool {
    let name = OsStr::new("direct");
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_DIRECT;
    let opened = dir.open_file(name, flags);
    // Some filesystems create the file and then fail to open it with O_DIRECT.
    let _ = unlinkat(dir, name, UnlinkatFlags::NoRemoveDir);
    opened.is_ok()
}

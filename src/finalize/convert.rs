//! Other formats, written by the host's `qemu-img`.
//!
//! The formats are QEMU's own, and QEMU writes them best; `imago` writes qcow2 only, and neither
//! VHD, VHDX nor compressed clusters.

use super::destination::OutputPath;
use super::formats::{Conversion, OutputFormat};
use super::hidden::HiddenDir;
use super::progress::Progress;
use super::qemu_img::qemu_img;
use super::verify::forget;
use super::writeback;
use crate::process::{Inherited, Stop};
use crate::{Error, Result};
use nix::fcntl::OFlag;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::{OsStr, OsString};
use std::fs::File;

/// A file that qemu-img has written, without its name yet. It is gone when dropped, and when the
/// process is killed.
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

    /// The name that it is going to have.
    pub fn output(&self) -> &OutputPath {
        &self.output
    }

    /// Bring it to storage, and have whoever reads it next read it from there, where possible.
    ///
    /// # Errors
    /// The system calls'.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| self.output.failed(e))?;
        forget(&self.file);
        Ok(())
    }

    /// Bring it to storage and give it its name.
    ///
    /// # Errors
    /// As [`super::NewFile::publish`].
    pub fn publish(self) -> Result<()> {
        self.file.sync_all().map_err(|e| self.output.failed(e))?;
        self.output.take_name(&self.hidden, self.output.name())
    }
}

/// How to convert.
#[derive(Clone, Copy, Debug)]
pub struct ConvertOptions<'a> {
    /// Print no progress.
    pub quiet: bool,
    /// Whether the disk is in a mount that only this process uses.
    pub private: bool,
    /// The result's name in messages.
    pub name: &'a str,
    /// Ends the conversion when raised.
    pub stop: &'a Stop,
}

/// Write the `len` bytes of `source`, a raw disk, to a file for `output`.
///
/// # Errors
/// [`crate::ErrorKind::NotFound`] without qemu-img, else what it says; that of `stop`.
pub fn convert(
    source: &File,
    len: u64,
    output: OutputPath,
    conversion: &Conversion,
    options: &ConvertOptions<'_>,
) -> Result<Converted> {
    let hidden = HiddenDir::beside(&output)?;
    // Under its own name, which a VMDK repeats inside.
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
    // Past the page cache, which would copy everything once more and fill up with it. Compressed
    // clusters and other formats' metadata are smaller than the unit that can be written past it.
    if options.private {
        words.extend(["-T", "none"].map(Into::into));
    }
    if conversion.format == OutputFormat::Qcow2 && !conversion.compress && takes_direct(&hidden) {
        words.extend(["-t", "none"].map(Into::into));
    }
    words.extend(["--".into(), disk.path().into(), dir.path().join(name).into()]);
    let progress = Progress::new(format!("writing {}", options.name), len, options.quiet);
    // Does nothing until qemu-img has created the file.
    let told = || {
        if let Ok(file) = hidden.open_file(name, OFlag::O_RDONLY) {
            writeback::begin_all(&file);
        }
    };
    qemu_img(&words, &progress, len, options.name, options.stop, told)?;
    let file = hidden.open_file(name, OFlag::O_RDONLY).map_err(|e| output.failed(e))?;
    output.access().restrict(&file).map_err(|e| output.failed(e))?;
    Ok(Converted { output, file, hidden })
}

/// Have qemu-img compare the `len` bytes of `source` with the file `converted` of `format`.
///
/// # Errors
/// [`crate::ErrorKind::Corrupt`] when they differ; as [`convert`].
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
    let progress = Progress::new(format!("verifying {}", options.name), len, options.quiet);
    qemu_img(&words, &progress, len, options.name, options.stop, || ())
}

/// Whether files in `dir` can be written past the page cache.
fn takes_direct(dir: &HiddenDir) -> bool {
    let name = OsStr::new("direct");
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_DIRECT;
    let opened = dir.open_file(name, flags);
    // Some filesystems create the file and then cannot open it like that.
    let _ = unlinkat(dir, name, UnlinkatFlags::NoRemoveDir);
    opened.is_ok()
}

//! Writes one result, from its first byte to its final name.

use super::contents::{Contents, DiskRange, OpenFile};
use super::convert::{ConvertOptions, Converted, compare, convert};
use super::copy::{Copied, to_device, to_file};
use super::destination::{Destination, allocated};
use super::device::BlockDevice;
use super::formats::{Conversion, OutputFormat};
use super::new_file::NewFile;
use super::options::{CopyOptions, Reflink};
use super::verify::{sha256, verify};
use crate::process::Stop;
use crate::{Error, ErrorKind, Result};
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Output options.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The format and its options.
    pub conversion: &'a Conversion,
    /// Whether blocks are shared.
    pub reflink: Reflink,
    /// Read back and compare.
    pub verify: bool,
    /// Compute the SHA-256 of the file.
    pub checksum: bool,
    /// Overwrite data on a device, and write even if there may be too little space.
    pub force: bool,
    /// Do not print progress.
    pub quiet: bool,
    /// Stops the writing when raised.
    pub stop: &'a Stop,
}

/// The bytes to write.
#[derive(Debug)]
pub enum Input {
    /// A disk of this process, or a part of it.
    Disk(DiskRange),
    /// A file of a mount.
    File(OpenFile),
}

impl Input {
    /// The bytes.
    pub fn contents(&self) -> &dyn Contents {
        match self {
            Self::Disk(range) => range,
            Self::File(file) => file,
        }
    }
}

/// A result without its final name. A file is removed when this is dropped; a device keeps its
/// bytes.
#[derive(Debug)]
pub struct Pending {
    pub(super) result: Unnamed,
    pub(super) written: Written,
    pub(super) started: Instant,
}

#[derive(Debug)]
pub(super) enum Unnamed {
    File(NewFile),
    Converted(Converted),
    Device(BlockDevice),
}

/// A result that was written.
#[derive(Clone, Debug)]
pub struct Written {
    /// The file or device.
    pub path: PathBuf,
    /// Its format.
    pub format: OutputFormat,
    /// Length of the disk in bytes.
    pub disk_len: u64,
    /// Length of the file in bytes; for a device, the length of the disk on it.
    pub len: u64,
    /// Bytes of storage that the file uses, including shared blocks; `None` for a device.
    pub allocated: Option<u64>,
    /// How the bytes were stored in the file; `None` for formats written by qemu-img.
    pub copied: Option<Copied>,
    /// SHA-256 of the file in hexadecimal, if requested.
    pub sha256: Option<String>,
    /// Whether it was read back and compared with the disk.
    pub verified: bool,
    /// How long it took.
    pub took: Duration,
}

/// Write `input` as raw bytes to `destination`.
///
/// # Errors
/// Errors of [`to_file`], [`to_device`], [`verify`] and [`sha256`].
pub fn write_raw(
    input: &Input,
    destination: Destination,
    request: &Request<'_>,
) -> Result<Pending> {
    let started = Instant::now();
    let contents = input.contents();
    let (path, len) = (destination.path(), contents.len());
    let name = path.display().to_string();
    let options = CopyOptions {
        reflink: request.reflink,
        force: request.force,
        quiet: request.quiet,
        name: &name,
        stop: request.stop,
    };
    let (result, copied) = match destination {
        Destination::File(output) => {
            let room = output.room();
            let new = NewFile::create(output)?;
            let copied = to_file(contents, new.file(), room, &options)?;
            (Unnamed::File(new), copied)
        }
        Destination::Device(_) if request.reflink == Reflink::Always => {
            let what = format!("{name} is a block device, which shares no blocks with files");
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        Destination::Device(path) => {
            let device = BlockDevice::open(&path, len, request.force)?;
            let copied = to_device(contents, device.file(), &options)?;
            (Unnamed::Device(device), copied)
        }
    };
    let file = match &result {
        Unnamed::File(new) => new.file(),
        Unnamed::Device(device) => device.file(),
        Unnamed::Converted(_) => {
            return Err(Error::new(ErrorKind::Invalid, "raw bytes are not converted"));
        }
    };
    file.sync_all().map_err(|e| Error::io(format!("cannot write {name}"), e))?;
    if request.verify {
        verify(contents, file, &name, request.quiet, request.stop)?;
    }
    let sum = request.checksum.then(|| sha256(file, len, &name, request.quiet, request.stop));
    let written = Written {
        path,
        format: OutputFormat::Raw,
        disk_len: len,
        len,
        allocated: allocated(file),
        copied: Some(copied),
        sha256: sum.transpose()?,
        verified: request.verify,
        took: Duration::ZERO,
    };
    Ok(Pending { result, written, started })
}

/// Write `source`, a raw disk in a mount, in another format. `private` means that only this process
/// uses the mount.
///
/// # Errors
/// Errors of [`convert`], [`compare`] and [`sha256`].
pub fn write_converted(
    source: &File,
    destination: Destination,
    private: bool,
    request: &Request<'_>,
) -> Result<Pending> {
    let started = Instant::now();
    let output = match destination {
        Destination::File(output) => output,
        Destination::Device(path) => {
            let what =
                format!("{} is a block device, which takes --format raw only", path.display());
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
    };
    let format = request.conversion.format;
    let path = output.path();
    let name = path.display().to_string();
    let disk_len = source.metadata().map_err(|e| Error::io("cannot read the disk", e))?.len();
    let options = ConvertOptions { quiet: request.quiet, private, name: &name, stop: request.stop };
    let converted = convert(source, disk_len, output, request.conversion, &options)?;
    if request.verify {
        // Without this, the page cache would be compared, not what is on storage.
        converted.sync()?;
        compare(source, disk_len, &converted, format, &options)?;
    }
    let failed = |e| Error::io(format!("cannot read {name} back"), e);
    let file = converted.file();
    let len = file.metadata().map_err(failed)?.len();
    let sum = request.checksum.then(|| sha256(file, len, &name, request.quiet, request.stop));
    let written = Written {
        path,
        format,
        disk_len,
        len,
        allocated: allocated(file),
        copied: None,
        sha256: sum.transpose()?,
        verified: request.verify,
        took: Duration::ZERO,
    };
    Ok(Pending { result: Unnamed::Converted(converted), written, started })
}

impl Pending {
    /// Give it its final name.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when another file has taken the name; errors of the system calls.
    pub fn publish(self) -> Result<Written> {
        match self.result {
            Unnamed::File(new) => new.publish()?,
            Unnamed::Converted(converted) => converted.publish()?,
            // A device has its name already.
            Unnamed::Device(_) => {}
        }
        Ok(Written { took: self.started.elapsed(), ..self.written })
    }
}

//! Other formats, written by the host's `qemu-img`.
//!
//! The formats are QEMU's own and so is the best writer of them; `imago` writes qcow2 alone, and
//! neither VHD, VHDX nor compressed clusters.

use super::check::forget;
use super::progress::Progress;
use super::qemu_img::qemu_img;
use super::target::Place;
use super::writeback;
use crate::process::{Inherited, Stop, Sweeper};
use crate::{Error, ErrorKind, Result};
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// File format of the result.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum Format {
    /// The bytes as they are
    #[default]
    Raw,
    /// QEMU's own
    Qcow2,
    /// VHD: Hyper-V, Azure, XenServer
    #[value(alias = "vhd")]
    Vpc,
    /// Hyper-V
    Vhdx,
    /// VMware
    Vmdk,
}

impl Format {
    /// The format that a file's name stands for; raw when it stands for none.
    pub fn of_name(path: &Path) -> Self {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "qcow2" => Self::Qcow2,
            "vhd" | "vpc" => Self::Vpc,
            "vhdx" => Self::Vhdx,
            "vmdk" => Self::Vmdk,
            _ => Self::Raw,
        }
    }

    /// What qemu-img calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vpc => "vpc",
            Self::Vhdx => "vhdx",
            Self::Vmdk => "vmdk",
        }
    }

    /// What files of this format are called at their end.
    pub fn extension(self) -> &'static str {
        if self == Self::Vpc { "vhd" } else { self.name() }
    }
}

/// A format with its options.
#[derive(Clone, Debug, Default)]
pub struct Conversion {
    /// The format.
    pub format: Format,
    /// Compress.
    pub compress: bool,
    /// Options of the format, `key=value`, as `qemu-img -o` takes them.
    pub options: Vec<String>,
}

impl Conversion {
    /// Refuse what no format takes, before any work is done.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`].
    pub fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::new(ErrorKind::Usage, what));
        let name = self.format.name();
        if self.format == Format::Raw && !self.options.is_empty() {
            return wrong("--format raw has no options; leave out -O".into());
        }
        if self.compress && !matches!(self.format, Format::Qcow2 | Format::Vmdk) {
            return wrong(format!("--format {name} cannot be compressed; qcow2 and vmdk can"));
        }
        let mut pairs = self.options.iter().flat_map(|o| o.split(','));
        if let Some(bad) = pairs.find(|pair| !pair.contains('=')) {
            return wrong(format!("-O {bad} is not of the form key=value"));
        }
        if self.option("backing_file").is_some() {
            return wrong("-O backing_file makes a delta; finalize --delta is for that".into());
        }
        if let Some(kind) = self.option("subformat") {
            let several = ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"];
            if self.format == Format::Vmdk && several.contains(&kind) {
                return wrong(format!(
                    "-O subformat={kind} makes several files; monolithicSparse and \
                     streamOptimized make one"
                ));
            }
        }
        Ok(())
    }

    /// The value of an option, if it was given.
    fn option(&self, key: &str) -> Option<&str> {
        let mut pairs = self.options.iter().flat_map(|o| o.split(','));
        pairs
            .rfind(|pair| pair.split_once('=').is_some_and(|(k, _)| k == key))?
            .split_once('=')
            .map(|(_, value)| value)
    }

    /// Options for qemu-img, ours among them.
    fn all_options(&self) -> Vec<String> {
        let mut all = self.options.clone();
        // Else the size is rounded to what a CHS geometry can say, and the disk is another one.
        if self.format == Format::Vpc && self.option("force_size").is_none() {
            all.push("force_size=on".into());
        }
        if self.format == Format::Vmdk && self.compress && self.option("subformat").is_none() {
            all.push("subformat=streamOptimized".into());
        }
        all
    }
}

/// A file that qemu-img has written, without its name yet.
#[derive(Debug)]
pub struct Converted {
    place: Place,
    path: PathBuf,
    /// Takes the directory away in which the file is.
    _sweeper: Sweeper,
}

impl Converted {
    /// Where it is now.
    pub fn path(&self) -> &PathBuf {
        &self.path
    }

    /// Where it is going to be.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Bring it to storage, and have whoever reads it next read it from there, as far as that can
    /// be.
    ///
    /// # Errors
    /// The system calls'.
    pub fn sync(&self) -> Result<()> {
        let failed = |e| Error::io(format!("cannot write {}", self.place.path().display()), e);
        let file = File::open(&self.path).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        forget(&file);
        Ok(())
    }

    /// Bring it to storage and give it its name.
    ///
    /// # Errors
    /// As [`super::NewFile::publish`].
    pub fn publish(self) -> Result<()> {
        let failed = |e| Error::io(format!("cannot write {}", self.place.path().display()), e);
        File::open(&self.path).and_then(|file| file.sync_all()).map_err(failed)?;
        self.place.take_name(&self.path)
    }
}

/// Who tells and who stops.
#[derive(Clone, Copy, Debug)]
pub struct ConvertOptions<'a> {
    /// Tell nothing on the way.
    pub quiet: bool,
    /// Only this process has the disk, in a mount of its own.
    pub private: bool,
    /// What the result is called when telling.
    pub name: &'a str,
    /// Raised to end it.
    pub stop: &'a Stop,
}

/// Write the `len` bytes of `source`, a raw disk, to a file for `place`.
///
/// # Errors
/// [`ErrorKind::NotFound`] without qemu-img, else what it says; that of `stop`.
pub fn convert(
    source: &File,
    len: u64,
    place: Place,
    conversion: &Conversion,
    options: &ConvertOptions<'_>,
) -> Result<Converted> {
    let dir = place.temporary();
    let sweeper = Sweeper::start(None, Some(&dir))?;
    let failed = |e| Error::io(format!("cannot write {}", place.path().display()), e);
    DirBuilder::new().mode(0o700).create(&dir).map_err(failed)?;
    // Its own name: a VMDK repeats it inside.
    let path = dir.join(&place.name);
    let inherited = Inherited::new(source).map_err(failed)?;
    let mut words: Vec<OsString> = ["convert", "-p", "-f", "raw", "-O"].map(Into::into).into();
    words.push(conversion.format.name().into());
    for option in conversion.all_options() {
        words.extend(["-o".into(), option.into()]);
    }
    if conversion.compress {
        words.push("-c".into());
    }
    // Past the page cache, which would have everything copied once more and be full of it. Compressed
    // clusters and the other formats' metadata are smaller than what can be written past it.
    if options.private {
        words.extend(["-T", "none"].map(Into::into));
    }
    if conversion.format == Format::Qcow2 && !conversion.compress && takes_direct(&dir) {
        words.extend(["-t", "none"].map(Into::into));
    }
    words.extend(["--".into(), inherited.path().into(), path.clone().into()]);
    let progress = Progress::new(format!("writing {}", options.name), len, options.quiet);
    // Before qemu-img has made the file there is nothing to begin with.
    let told = || {
        if let Ok(file) = File::open(&path) {
            writeback::begin_all(&file);
        }
    };
    qemu_img(&words, &progress, len, options.name, options.stop, told)?;
    drop(inherited);
    // Not open to more than the sources are; qemu-img has heeded the umask.
    let mode = fs::metadata(&path).map_err(failed)?.permissions().mode() & place.mode;
    fs::set_permissions(&path, Permissions::from_mode(mode)).map_err(failed)?;
    Ok(Converted { place, path, _sweeper: sweeper })
}

/// Have qemu-img compare the `len` bytes of `source` with the file at `path`.
///
/// # Errors
/// [`ErrorKind::Corrupt`] when they differ; as [`convert`].
pub fn compare(
    source: &File,
    len: u64,
    path: &Path,
    format: Format,
    options: &ConvertOptions<'_>,
) -> Result<()> {
    let inherited = Inherited::new(source).map_err(|e| Error::io("cannot read the disk", e))?;
    let mut words: Vec<OsString> = ["compare", "-p", "-f", "raw", "-F"].map(Into::into).into();
    words.push(format.name().into());
    words.extend(["--".into(), inherited.path().into(), path.into()]);
    let progress = Progress::new(format!("verifying {}", options.name), len, options.quiet);
    qemu_img(&words, &progress, len, options.name, options.stop, || ())
}

/// Whether files in `dir`, which is ours, can be written past the page cache.
fn takes_direct(dir: &Path) -> bool {
    let path = dir.join("direct");
    let mut options = OpenOptions::new();
    let opened = options.write(true).create_new(true).custom_flags(libc::O_DIRECT).open(&path);
    // Some filesystems make the file and then cannot open it like that.
    let _ = fs::remove_file(&path);
    opened.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversion(format: Format, compress: bool, options: &[&str]) -> Conversion {
        Conversion { format, compress, options: options.iter().map(|o| (*o).into()).collect() }
    }

    #[test]
    fn what_no_format_takes_is_refused() {
        for (format, compress, options) in [
            (Format::Raw, false, &["size=1"][..]),
            (Format::Raw, true, &[]),
            (Format::Vpc, true, &[]),
            (Format::Vhdx, true, &[]),
            (Format::Qcow2, false, &["cluster_size"]),
            (Format::Qcow2, false, &["lazy_refcounts=on,backing_file=x"]),
            (Format::Vmdk, false, &["subformat=twoGbMaxExtentSparse"]),
        ] {
            let e = conversion(format, compress, options).check().unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Usage, "{format:?} {options:?}");
        }
        conversion(Format::Qcow2, true, &["cluster_size=2M,compression_type=zstd"])
            .check()
            .unwrap();
    }

    #[test]
    fn options_that_keep_the_disk_are_added() {
        let all = |c: Conversion| c.all_options();
        assert_eq!(all(conversion(Format::Vpc, false, &[])), ["force_size=on"]);
        let fixed = ["subformat=fixed,force_size=off"];
        assert_eq!(all(conversion(Format::Vpc, false, &fixed)), fixed);
        let compressed = conversion(Format::Vmdk, true, &[]);
        assert_eq!(all(compressed), ["subformat=streamOptimized"]);
    }
}

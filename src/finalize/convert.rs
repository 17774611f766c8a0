//! Other formats, written by the host's `qemu-img`.
//!
//! The formats are QEMU's own and so is the best writer of them; `imago` writes qcow2 alone, and
//! neither VHD, VHDX nor compressed clusters.

use super::copy::check;
use super::progress::Progress;
use super::sweep::Sweeper;
use super::target::Place;
use crate::run::{Stop, bound};
use crate::{Error, ErrorKind, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

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
    /// Read although somebody has it open for writing.
    pub shared: bool,
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
    let inherited = inherited(source).map_err(failed)?;
    let mut words: Vec<OsString> = ["convert", "-p", "-f", "raw", "-O"].map(Into::into).into();
    words.push(conversion.format.name().into());
    for option in conversion.all_options() {
        words.extend(["-o".into(), option.into()]);
    }
    if conversion.compress {
        words.push("-c".into());
    }
    if options.shared {
        words.push("-U".into());
    }
    words.push("--".into());
    words.push(path_in_child(&inherited));
    words.push(path.clone().into());
    let progress = Progress::new(format!("writing {}", options.name), len, options.quiet);
    qemu_img(&words, &progress, len, options)?;
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
    let inherited = inherited(source).map_err(|e| Error::io("cannot read the disk", e))?;
    let mut words: Vec<OsString> = ["compare", "-p", "-f", "raw", "-F"].map(Into::into).into();
    words.push(format.name().into());
    if options.shared {
        words.push("-U".into());
    }
    words.extend(["--".into(), path_in_child(&inherited), path.into()]);
    let progress = Progress::new(format!("verifying {}", options.name), len, options.quiet);
    qemu_img(&words, &progress, len, options)
}

/// The same open file, with a descriptor that a child inherits.
fn inherited(file: &File) -> io::Result<OwnedFd> {
    // Unlike `try_clone`, this does not mark it as closed in children.
    Ok(nix::unistd::dup(file)?)
}

fn path_in_child(inherited: &OwnedFd) -> OsString {
    format!("/proc/self/fd/{}", inherited.as_raw_fd()).into()
}

/// Run qemu-img, which tells of `len` bytes by percent, to its end or that of `options.stop`.
fn qemu_img(
    words: &[OsString],
    progress: &Progress,
    len: u64,
    options: &ConvertOptions<'_>,
) -> Result<()> {
    let failed = |e| Error::io("cannot run qemu-img", e);
    let program = find_qemu_img()?;
    let mut child = bound(program.as_os_str(), Signal::SIGKILL)?
        .args(words)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let watched = watch(&mut child, options.stop, |percent| {
        progress.set((percent / 100.0 * len as f64) as u64);
    });
    if watched.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(failed)?;
    let (said, complaint) = watched?;
    // Ctrl-C reaches qemu-img as well, perhaps first.
    check(options.stop)?;
    if status.success() {
        return Ok(());
    }
    if status.code() == Some(1) && words.first().is_some_and(|w| w == "compare") {
        let said = last_line(&said).unwrap_or("they are not identical");
        let what = format!("{} differs from the disk: {said}", options.name);
        return Err(Error::new(ErrorKind::Corrupt, what));
    }
    let complaint = last_line(&complaint).unwrap_or("it says nothing");
    let complaint = complaint.strip_prefix("qemu-img: ").unwrap_or(complaint);
    let kind =
        if complaint.contains("No space left") { ErrorKind::TooLarge } else { ErrorKind::Io };
    Err(Error::new(kind, format!("qemu-img cannot write {}: {complaint}", options.name)))
}

fn last_line(text: &str) -> Option<&str> {
    text.lines().map(str::trim).rfind(|line| !line.is_empty())
}

/// The path of qemu-img.
fn find_qemu_img() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("qemu-img")).find(|p| p.is_file());
    found.ok_or_else(|| {
        Error::new(
            ErrorKind::NotFound,
            "formats other than raw are written by qemu-img, which is not there; install the \
             package qemu-utils (Debian, Ubuntu) or qemu-img (Fedora, SUSE, Arch)",
        )
    })
}

/// Read what the child says until it closes its outputs, or `stop` is raised: both outputs, but for
/// percents, which go to `told`.
fn watch(child: &mut Child, stop: &Stop, told: impl Fn(f64)) -> Result<(String, String)> {
    let failed = |e| Error::io("cannot listen to qemu-img", e);
    let (mut output, mut errors) = (child.stdout.take(), child.stderr.take());
    let (mut said, mut complained) = (Vec::new(), Vec::new());
    let mut buffer = [0; 4096];
    while output.is_some() || errors.is_some() {
        let ready = |fd: BorrowedFd<'_>, others: [Option<BorrowedFd<'_>>; 2]| {
            let mut fds = vec![PollFd::new(fd, PollFlags::POLLIN)];
            fds.extend(others.iter().flatten().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)));
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(e) => return Err(failed(e.into())),
            }
            let mut ready = fds.iter().map(|fd| fd.any().unwrap_or(true));
            let first = ready.next().unwrap_or(false);
            let rest = others.map(|fd| fd.is_some() && ready.next().unwrap_or(false));
            Ok((first, rest))
        };
        let others = [output.as_ref().map(AsFd::as_fd), errors.as_ref().map(AsFd::as_fd)];
        let (stopped, [out, err]) = ready(stop.as_fd(), others)?;
        if stopped {
            return Err(stop.error());
        }
        if out {
            let n = output.as_mut().map_or(Ok(0), |o| o.read(&mut buffer)).map_err(failed)?;
            if n == 0 {
                output = None;
            }
            // Percents replace each other on one line: `    (12.34/100%)\r`.
            for byte in &buffer[..n] {
                match byte {
                    b'\r' => {
                        percent(&said).into_iter().for_each(&told);
                        said.clear();
                    }
                    _ if said.len() < 4096 => said.push(*byte),
                    _ => {}
                }
            }
        }
        if err {
            let n = errors.as_mut().map_or(Ok(0), |e| e.read(&mut buffer)).map_err(failed)?;
            if n == 0 {
                errors = None;
            }
            if complained.len() < 64 << 10 {
                complained.extend_from_slice(&buffer[..n]);
            }
        }
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((text(&said), text(&complained)))
}

/// The number in `    (12.34/100%)`.
fn percent(line: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(line).ok()?.trim();
    let percent: f64 = text.strip_prefix('(')?.strip_suffix("/100%)")?.parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent)
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

    #[test]
    fn percents_are_read() {
        assert_eq!(percent(b"    (12.34/100%)"), Some(12.34));
        for bad in [&b""[..], b"Images are identical.", b"(x/100%)", b"(nan/100%)", b"(1e9/100%)"] {
            assert_eq!(percent(bad), None);
        }
    }
}

//! Disk specs: one string of a config's `disk` list.
//!
//! Source: xl-disk-configuration(5), and Xen's own scanner (`libxlu_disk_l.l`) for details that the
//! manual does not define. No file is accessed: a [`DiskSpec`] only contains what the config says.

use std::path::{Path, PathBuf};

use super::lexer::{clip, error_at};
use super::notes::Note;
use super::vdev::parse_vdev;
use crate::device_name::DeviceName;
use crate::remote::RemoteUrl;
use crate::{Error, ErrorKind, Result};

/// The format of an image, "format" in xl-disk-configuration(5).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum DiskFormat {
    /// The bytes of the disk, in a file or a block device.
    #[default]
    Raw,
    /// QEMU's first copy-on-write format.
    Qcow,
    /// QEMU's copy-on-write format.
    Qcow2,
    /// Microsoft's virtual hard disk.
    Vhd,
    /// QEMU's enhanced disk.
    Qed,
}

impl DiskFormat {
    /// Its name in a config.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow => "qcow",
            Self::Qcow2 => "qcow2",
            Self::Vhd => "vhd",
            Self::Qed => "qed",
        }
    }
}

/// The guest's access, "access" in xl-disk-configuration(5).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// `r` or `ro`, and every cdrom.
    ReadOnly,
    /// `w` or `rw`, and xm's `w!` (write even if another guest also writes).
    ReadWrite,
}

/// One disk spec.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DiskSpec {
    /// Where the bytes are; `None` for an empty cdrom drive.
    pub target: Option<PathBuf>,
    /// Where the bytes are if `target` doesn't exist: a relative path is relative to the config's
    /// directory or to `/dev`, and which one depends on the host's files.
    pub target_alternative: Option<PathBuf>,
    /// The image's format.
    pub format: DiskFormat,
    /// The disk, or partition of a disk, that the guest sees.
    pub vdev: DeviceName,
    /// Whether the guest may write.
    pub access: Access,
    /// Whether it is a cdrom drive.
    pub cdrom: bool,
    /// The dom0 program that would provide the target (`script=`, `iscsi:`, `nbd:`, `drbd:`). The
    /// target is then that program's argument, not a path.
    pub script: Option<String>,
    /// `discard` or `no-discard`, if either is given.
    pub discard: Option<bool>,
    /// The target was marked as a block device (`phy:` or `backendtype=phy`).
    pub block_device: bool,
    /// Length of the disk in bytes, if it is known without the image: in an XVA.
    pub size: Option<u64>,
    /// The config's line, from 1; 0 in an XVA.
    pub line: u32,
    /// Notes on parts of the spec that can't be honoured.
    pub notes: Vec<Note>,
}

impl DiskSpec {
    /// Parses `spec`, from `line` of its config. The target remains as written; see
    /// [`DiskSpec::resolve`].
    ///
    /// # Errors
    /// `Corrupt` for specs that xl refuses, `Unsupported` for device numbers of unknown families.
    pub fn parse(spec: &str, line: u32) -> Result<Self> {
        let at = |e: Error| error_at(e.kind(), line, format!("disk '{}': {e}", clip(spec)));
        Scan::new(line).run(spec).map_err(at)
    }

    /// Makes a relative target absolute: below `/dev` if it is marked as a block device, otherwise
    /// below `base`, the config's directory. The other path becomes the alternative.
    pub fn resolve(&mut self, base: &Path) {
        let Some(target) = &self.target else { return };
        let is_url = RemoteUrl::of_path(target).is_some();
        if target.is_absolute() || is_url || self.script.is_some() {
            return;
        }
        let (below_dev, below_base) = (Path::new("/dev").join(target), base.join(target));
        let (first, second) =
            if self.block_device { (below_dev, below_base) } else { (below_base, below_dev) };
        self.target = Some(first);
        self.target_alternative = Some(second);
    }
}

fn corrupt(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, what)
}

/// The parts of a spec that have been read so far.
struct Scan {
    line: u32,
    target: Option<String>,
    format: Option<DiskFormat>,
    /// Whether the format's position was given, even if empty.
    format_set: bool,
    vdev: Option<String>,
    access: Option<Access>,
    access_set: bool,
    cdrom: bool,
    script: Option<String>,
    discard: Option<bool>,
    block_device: bool,
    old_prefix: bool,
    notes: Vec<Note>,
}

impl Scan {
    fn new(line: u32) -> Self {
        Self {
            line,
            target: None,
            format: None,
            format_set: false,
            vdev: None,
            access: None,
            access_set: false,
            cdrom: false,
            script: None,
            discard: None,
            block_device: false,
            old_prefix: false,
            notes: Vec::new(),
        }
    }

    fn run(mut self, spec: &str) -> Result<DiskSpec> {
        let mut rest = spec;
        loop {
            rest = rest.trim_start_matches([' ', '\t', '\n']);
            if rest.is_empty() {
                break;
            }
            if let Some(target) = rest.strip_prefix("target=") {
                let target = target.strip_suffix(',').unwrap_or(target);
                set(&mut self.target, "target", target)?;
                break;
            }
            if let Some((prefix, after)) = old_prefix(rest) {
                self.prefix(prefix)?;
                rest = after;
                continue;
            }
            let (word, after) = rest.split_once(',').unwrap_or((rest, ""));
            rest = after;
            let word = word.trim_end_matches([' ', '\t', '\n']);
            match word.split_once('=') {
                Some((key, value)) => self.keyed(key, value)?,
                None if self.flag(word) => {}
                None => self.positional(word)?,
            }
        }
        self.finish()
    }

    fn note(&mut self, message: impl Into<String>) {
        Note::add(&mut self.notes, self.line, "disk", message);
    }

    /// Applies a deprecated prefix, given without its colon.
    fn prefix(&mut self, prefix: &str) -> Result<()> {
        match prefix {
            "raw" | "qcow" | "qcow2" | "vhd" => self.set_format(prefix)?,
            "iscsi" | "nbd" | "enbd" | "drbd" => {
                set(&mut self.script, "script", &format!("block-{prefix}"))?;
            }
            "phy" => self.block_device = true,
            "tapdisk" | "tap" | "tap2" | "aio" | "ioemu" | "file" => {}
            other => return Err(corrupt(format!("unknown prefix '{}:'", clip(other)))),
        }
        self.old_prefix = true;
        Ok(())
    }

    fn keyed(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "format" => self.set_format(value),
            "vdev" => self.set_vdev(value),
            "access" => self.set_access(value),
            "devtype" => self.set_devtype(value),
            "script" => set(&mut self.script, "script", value),
            "backendtype" | "type" => {
                match value {
                    "phy" => self.block_device = true,
                    "" | "tap" | "qdisk" | "file" => {}
                    "standalone" | "other" => self.note(format!("backendtype={value} is ignored")),
                    other => {
                        return Err(corrupt(format!("unknown backendtype '{}'", clip(other))));
                    }
                }
                Ok(())
            }
            "backend" => {
                if !matches!(value, "" | "0" | "Domain-0" | "dom0") {
                    let domain = clip(value);
                    self.note(format!(
                        "backend={domain} is ignored: the image must be on this host"
                    ));
                }
                Ok(())
            }
            "colo-host" | "colo-port" | "colo-export" | "active-disk" | "hidden-disk" => {
                self.note(format!("{key}= is ignored: COLO replication is not supported"));
                Ok(())
            }
            "specification" | "transport" | "grant_usage" | "trusted" => Ok(()),
            _ => Err(corrupt(format!(
                "'{}=' is not a disk parameter; write a target that contains '=' last, as target=…",
                clip(key)
            ))),
        }
    }

    /// Applies `word` if it is a flag; returns false if it is not.
    fn flag(&mut self, word: &str) -> bool {
        match word {
            "cdrom" => self.cdrom = true,
            "discard" => self.discard = Some(true),
            "no-discard" => self.discard = Some(false),
            "colo" => self.note("colo is ignored: COLO replication is not supported"),
            "direct-io-safe" | "no-colo" | "removable" => {}
            _ => return false,
        }
        true
    }

    fn positional(&mut self, word: &str) -> Result<()> {
        if self.target.is_none() {
            self.target = Some(word.into());
        } else if !self.old_prefix && !self.format_set {
            // xend's spec for an empty cdrom, ",hdc:cdrom,r", has no format.
            if self.target.as_deref() == Some("") && word.contains(':') {
                self.format_set = true;
                self.set_vdev(word)?;
            } else {
                self.set_format(word)?;
            }
        } else if self.vdev.is_none() {
            self.set_vdev(word)?;
        } else if !self.access_set {
            self.set_access(word)?;
        } else {
            return Err(corrupt(format!("too many parameters: '{}'", clip(word))));
        }
        Ok(())
    }

    fn set_format(&mut self, value: &str) -> Result<()> {
        let format = match value {
            "" | "raw" | "empty" => DiskFormat::Raw,
            "qcow" => DiskFormat::Qcow,
            "qcow2" => DiskFormat::Qcow2,
            "vhd" => DiskFormat::Vhd,
            "qed" => DiskFormat::Qed,
            other => {
                return Err(corrupt(format!(
                    "unknown format '{}'; xl knows raw, qcow, qcow2, vhd and qed",
                    clip(other)
                )));
            }
        };
        if self.format.is_some_and(|old| old != format) {
            return Err(corrupt("two different formats"));
        }
        self.format_set = true;
        if !value.is_empty() {
            self.format = Some(format);
        }
        Ok(())
    }

    /// `vdev`, or the old `vdev:devtype`.
    fn set_vdev(&mut self, value: &str) -> Result<()> {
        let (name, devtype) = match value.rsplit_once(':') {
            Some((name, devtype)) => (name, Some(devtype)),
            None => (value, None),
        };
        set(&mut self.vdev, "vdev", name)?;
        devtype.map_or(Ok(()), |devtype| self.set_devtype(devtype))
    }

    fn set_devtype(&mut self, value: &str) -> Result<()> {
        self.cdrom = match value {
            "cdrom" => true,
            "disk" | "" => false,
            other => return Err(corrupt(format!("unknown device type '{}'", clip(other)))),
        };
        Ok(())
    }

    fn set_access(&mut self, value: &str) -> Result<()> {
        let access = match value {
            "" => None,
            "r" | "ro" => Some(Access::ReadOnly),
            "w" | "rw" | "w!" | "rw!" | "!" => Some(Access::ReadWrite),
            other => {
                return Err(corrupt(format!(
                    "unknown access '{}'; xl knows r, ro, w and rw",
                    clip(other)
                )));
            }
        };
        if self.access.is_some() && self.access != access {
            return Err(corrupt("two different kinds of access"));
        }
        self.access_set = true;
        self.access = access;
        Ok(())
    }

    fn finish(mut self) -> Result<DiskSpec> {
        let vdev = match self.vdev.as_deref() {
            None | Some("") => {
                return Err(corrupt(
                    "no vdev; name the guest's device, as in '/path/disk.img,raw,xvda,rw'",
                ));
            }
            Some(name) => parse_vdev(name)?,
        };
        let target = self.target.take().filter(|t| !t.is_empty());
        if target.is_none() && !self.cdrom {
            return Err(corrupt(format!("no target for {vdev}; only a cdrom drive can be empty")));
        }
        if target.as_deref().is_some_and(|t| t.contains('\0')) {
            return Err(corrupt("a NUL byte in the target"));
        }
        let script = self.script.take().filter(|s| !s.is_empty());
        if let Some(script) = &script {
            let script = clip(script);
            self.note(format!(
                "{vdev} needs the dom0 program '{script}', which is not run: provide a file or a \
                 block device on this host and name it as the target"
            ));
        }
        let access = match self.access {
            _ if self.cdrom => Access::ReadOnly,
            Some(access) => access,
            None => Access::ReadWrite,
        };
        Ok(DiskSpec {
            target: target.map(PathBuf::from),
            target_alternative: None,
            format: self.format.unwrap_or_default(),
            vdev,
            access,
            cdrom: self.cdrom,
            script,
            discard: self.discard,
            block_device: self.block_device,
            size: None,
            line: self.line,
            notes: self.notes,
        })
    }
}

/// Sets a string that may be set only once; an empty value counts as unset.
fn set(slot: &mut Option<String>, name: &str, value: &str) -> Result<()> {
    if slot.as_deref().is_some_and(|old| !old.is_empty()) {
        return Err(corrupt(format!("{name} is given twice")));
    }
    *slot = Some(value.into());
    Ok(())
}

/// Splits `phy:/dev/x` into `phy` and `/dev/x`. A known prefix is accepted before any text; an
/// unknown one (which xl refuses) only if the text after it can't be a device type, as in
/// `hdc:cdrom`.
fn old_prefix(rest: &str) -> Option<(&str, &str)> {
    const KNOWN: &[&str] = &[
        "raw", "qcow", "qcow2", "vhd", "iscsi", "nbd", "enbd", "drbd", "tapdisk", "tap", "tap2",
        "aio", "ioemu", "file", "phy",
    ];
    let end = rest.find(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit())?;
    let (prefix, after) = (&rest[..end], rest[end..].strip_prefix(':')?);
    if !prefix.starts_with(|c: char| c.is_ascii_lowercase()) {
        return None;
    }
    // The target is a URL.
    if after.starts_with("//") && matches!(prefix, "http" | "https" | "nbd" | "nbds") {
        return None;
    }
    let unknown = !after.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    (KNOWN.contains(&prefix) || unknown).then_some((prefix, after))
}

//! The settings of a config that define a guest.
//!
//! Source: xl.cfg(5); `docs/domu-configs.md` lists which settings are honoured, reported and
//! ignored.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::boot::{self, BootMethod, Bootloader, BootloaderKind, GuestKind, KernelFiles};
use super::config::{Assignment, Config, ListItem, MAX_CONFIG_BYTES, Value};
use super::disk::DiskSpec;
use super::layout::{self, GuestDisk};
use super::lexer::{clip, error_at};
use super::notes::{self, Note};
use super::vif::Vif;
use crate::image::Xva;
use crate::{Error, ErrorKind, Result};

/// Maximum length of a disk or network spec, in bytes: a path and its parameters.
const MAX_SPEC_BYTES: usize = 8192;

/// A domU as its config describes it.
#[derive(Clone, Debug)]
pub struct DomainConfig {
    /// `name`.
    pub name: Option<String>,
    /// `uuid`, as written.
    pub uuid: Option<String>,
    /// `memory` in MiB.
    pub memory_mib: Option<u64>,
    /// `maxmem` in MiB.
    pub maxmem_mib: Option<u64>,
    /// `vcpus`: the number that is online at start.
    pub vcpus: Option<u32>,
    /// `maxvcpus`.
    pub maxvcpus: Option<u32>,
    /// `type`, or the older `builder`.
    pub kind: GuestKind,
    /// `disk`, in the order written, with targets resolved.
    pub disks: Vec<DiskSpec>,
    /// `vif`, in the order written.
    pub vifs: Vec<Vif>,
    /// `kernel`, a dom0 path; `None` if it is a pvgrub or hvmloader, or if `bootloader` is set.
    pub kernel: Option<PathBuf>,
    /// `ramdisk`, likewise.
    pub ramdisk: Option<PathBuf>,
    /// `root`, without `root=`.
    pub root: Option<String>,
    /// `extra`.
    pub extra: Option<String>,
    /// `cmdline`, which overrides `root` and `extra`.
    pub cmdline: Option<String>,
    /// `bootloader` with its arguments, or a `kernel` or `firmware` that is a pvgrub.
    pub bootloader: Option<Bootloader>,
    /// `firmware` or the older `bios`, as written.
    pub firmware: Option<String>,
    /// `boot`: letters `c` (disk), `d` (cdrom), `n` (network) in the order to try.
    pub boot_order: Option<String>,
    /// `serial`, as written: `pty` or a QEMU character device.
    pub serial: Vec<String>,
    /// Whether a display was requested: `vnc`, `sdl`, `spice` or `vfb`.
    pub graphic: bool,
    /// `localtime`: the clock shows the host's local time, not UTC.
    pub localtime: bool,
    /// `on_poweroff`.
    pub on_poweroff: Option<String>,
    /// `on_reboot`.
    pub on_reboot: Option<String>,
    /// `on_crash`.
    pub on_crash: Option<String>,
    /// Notes on settings that can't be honoured, by line.
    pub notes: Vec<Note>,
    /// The directory to which paths are relative.
    pub base_dir: PathBuf,
}

impl DomainConfig {
    /// Reads a config of at most 1 MiB, or the description of the guest in an XVA.
    ///
    /// # Errors
    /// `Io` if it can't be read, otherwise as [`DomainConfig::parse_bytes`] or
    /// [`DomainConfig::parse_ova`]; all errors name the file.
    pub fn load(path: &Path) -> Result<Self> {
        if Xva::is_meant(path) {
            return Self::parse_ova(&Xva::description_in(path)?)
                .map_err(|e| Error::with_source(e.kind(), path.display().to_string(), e));
        }
        let io = |e| Error::io(format!("cannot read the domU config {}", path.display()), e);
        let file = File::open(path).map_err(io)?;
        let mut bytes = Vec::new();
        file.take(MAX_CONFIG_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
        let absolute = std::path::absolute(path).map_err(io)?;
        let base = absolute.parent().unwrap_or(Path::new("/"));
        Self::parse_bytes(&bytes, base)
            .map_err(|e| Error::new(e.kind(), format!("{}: {e}", path.display())))
    }

    /// Parses a config's text; relative paths are relative to `base_dir`.
    ///
    /// # Errors
    /// As [`DomainConfig::parse_bytes`].
    pub fn parse(text: &str, base_dir: &Path) -> Result<Self> {
        Self::parse_bytes(text.as_bytes(), base_dir)
    }

    /// Parses a config's bytes; relative paths are relative to `base_dir`.
    ///
    /// # Errors
    /// `TooLarge` above 1 MiB, `Unsupported` for Python, `Corrupt` for a syntax error in the config
    /// or in a disk or network spec. Each error names the line.
    pub fn parse_bytes(bytes: &[u8], base_dir: &Path) -> Result<Self> {
        let config = Config::parse_bytes(bytes)?;
        Reader { config: &config, notes: Vec::new() }.domain(base_dir)
    }

    /// The disks that the guest sees, by number. Partitions keep the guest's numbering.
    ///
    /// # Errors
    /// `Invalid` if a device is named twice, if a disk is given both as a whole and in partitions,
    /// or if two device families name the same disk (`xvda1` and `sda2`); the message says which.
    pub fn layout(&self) -> Result<Vec<GuestDisk<'_>>> {
        layout::group(&self.disks)
    }

    /// The kernel command line that xl would generate: `cmdline`, or `root=ROOT EXTRA`.
    pub fn command_line(&self) -> Option<String> {
        if self.cmdline.is_some() {
            return self.cmdline.clone();
        }
        match (&self.root, &self.extra) {
            (Some(root), Some(extra)) => Some(format!("root={root} {extra}")),
            (Some(root), None) => Some(format!("root={root}")),
            (None, extra) => extra.clone(),
        }
    }

    /// Where the kernel comes from. A boot loader takes precedence over `kernel`, as in libxl.
    pub fn boot_method(&self) -> BootMethod<'_> {
        if let Some(loader) = &self.bootloader {
            // For pvgrub, `extra` is the path of its menu, not part of a command line.
            let append = match loader.kind {
                BootloaderKind::Pvgrub => None,
                _ => loader.args.clone().or_else(|| self.command_line()),
            };
            return BootMethod::GuestConfig {
                entry: loader.entry.clone(),
                kernel: loader.kernel.clone(),
                ramdisk: loader.ramdisk.clone(),
                append,
            };
        }
        match &self.kernel {
            Some(kernel) => BootMethod::Kernel {
                kernel,
                ramdisk: self.ramdisk.as_deref(),
                command_line: self.command_line().unwrap_or_default(),
            },
            None if self.kind == GuestKind::Hvm => BootMethod::Firmware,
            None => BootMethod::Unspecified,
        }
    }
}

struct Reader<'a> {
    config: &'a Config,
    notes: Vec<Note>,
}

impl<'a> Reader<'a> {
    fn domain(mut self, base: &Path) -> Result<DomainConfig> {
        let mut disks = Vec::new();
        for (line, spec) in self.specs("disk")? {
            let mut disk = DiskSpec::parse(spec, line)?;
            disk.resolve(base);
            for note in &disk.notes {
                self.note(note.line, &note.key, &note.message);
            }
            disks.push(disk);
        }
        let mut vifs = Vec::new();
        for (line, spec) in self.specs("vif")? {
            vifs.push(Vif::parse(spec, line, &mut self.notes)?);
        }
        let kind = self.kind()?;
        let (kernel, ramdisk, bootloader) = self.boot(kind, base)?;
        let cmdline = self.text("cmdline")?;
        let (root, extra) = (self.text("root")?, self.text("extra")?);
        if cmdline.is_some() {
            for key in ["root", "extra"] {
                if let Some(a) = self.config.get(key).filter(|a| a.value.as_str() != Some("")) {
                    self.note(a.line, key, "is ignored because 'cmdline' is set, as in xl");
                }
            }
        }
        let (memory_mib, maxmem_mib) = (self.number("memory")?, self.number("maxmem")?);
        let (vcpus, maxvcpus) = (self.count("vcpus")?, self.count("maxvcpus")?);
        let firmware = self.firmware()?;
        notes::collect(self.config, &mut self.notes);
        Ok(DomainConfig {
            name: self.text("name")?,
            uuid: self.text("uuid")?,
            memory_mib,
            maxmem_mib,
            vcpus,
            maxvcpus,
            kind,
            disks,
            vifs,
            kernel,
            ramdisk,
            root,
            extra,
            cmdline,
            bootloader,
            firmware,
            boot_order: self.text("boot")?,
            serial: self.texts("serial")?,
            graphic: ["vnc", "sdl", "spice", "vfb"].iter().any(|key| self.is_on(key)),
            localtime: self.is_on("localtime"),
            on_poweroff: self.text("on_poweroff")?,
            on_reboot: self.text("on_reboot")?,
            on_crash: self.text("on_crash")?,
            notes: self.notes,
            base_dir: base.into(),
        })
    }

    fn note(&mut self, line: u32, key: &str, message: impl Into<String>) {
        Note::add(&mut self.notes, line, key, message);
    }

    /// A setting that is a string or number; an empty one counts as unset.
    fn setting(&self, key: &str) -> Result<Option<(&'a Assignment, &'a str)>> {
        let Some(a) = self.config.get(key) else { return Ok(None) };
        match a.value.as_str() {
            Some("") => Ok(None),
            Some(text) => Ok(Some((a, text))),
            None => {
                let what = format!("'{key}' must be a single value, not a list");
                Err(error_at(ErrorKind::Corrupt, a.line, what))
            }
        }
    }

    fn text(&self, key: &str) -> Result<Option<String>> {
        Ok(self.setting(key)?.map(|(_, text)| text.to_owned()))
    }

    fn number(&self, key: &str) -> Result<Option<u64>> {
        let Some((a, text)) = self.setting(key)? else { return Ok(None) };
        match a.value.as_u64() {
            Some(n) => Ok(Some(n)),
            None => {
                let what = format!("'{key}' must be a number, not '{}'", clip(text));
                Err(error_at(ErrorKind::Corrupt, a.line, what))
            }
        }
    }

    fn count(&self, key: &str) -> Result<Option<u32>> {
        let Some(n) = self.number(key)? else { return Ok(None) };
        match u32::try_from(n) {
            Ok(n) if (1..=4096).contains(&n) => Ok(Some(n)),
            _ => {
                let line = self.config.get(key).map_or(0, |a| a.line);
                let what = format!("'{key}' must be between 1 and 4096, not {n}");
                Err(error_at(ErrorKind::Corrupt, line, what))
            }
        }
    }

    fn is_on(&self, key: &str) -> bool {
        self.config.get(key).is_some_and(|a| match &a.value {
            Value::List(items) => !items.is_empty(),
            value => value.as_u64().is_some_and(|n| n != 0),
        })
    }

    /// A list of strings with their lines; a single string counts as a list with one element.
    fn specs(&self, key: &str) -> Result<Vec<(u32, &'a str)>> {
        let Some(a) = self.config.get(key) else { return Ok(Vec::new()) };
        let mut out = Vec::new();
        match &a.value {
            Value::List(items) => {
                for ListItem { line, value } in items {
                    let Value::String(text) = value else {
                        let what = format!("'{key}' must be a list of strings in quotes");
                        return Err(error_at(ErrorKind::Corrupt, *line, what));
                    };
                    out.push((*line, text.as_str()));
                }
            }
            value => {
                out.extend(value.as_str().filter(|text| !text.is_empty()).map(|t| (a.line, t)))
            }
        }
        if let Some((line, _)) = out.iter().find(|(_, text)| text.len() > MAX_SPEC_BYTES) {
            let what = format!("a '{key}' spec is too long (limit {MAX_SPEC_BYTES} bytes)");
            return Err(error_at(ErrorKind::TooLarge, *line, what));
        }
        Ok(out)
    }

    fn texts(&self, key: &str) -> Result<Vec<String>> {
        Ok(self.specs(key)?.into_iter().map(|(_, text)| text.to_owned()).collect())
    }

    fn kind(&self) -> Result<GuestKind> {
        let Some((a, text)) = self.setting("type")? else {
            let builder = self.text("builder")?;
            let hvm = builder.is_some_and(|b| b.starts_with("hvm"));
            return Ok(match (hvm, self.is_on("pvh")) {
                (true, _) => GuestKind::Hvm,
                (false, true) => GuestKind::Pvh,
                (false, false) => GuestKind::Pv,
            });
        };
        match text {
            "pv" => Ok(GuestKind::Pv),
            "hvm" => Ok(GuestKind::Hvm),
            "pvh" => Ok(GuestKind::Pvh),
            other => {
                let what = format!("'type' must be pv, pvh or hvm, not '{}'", clip(other));
                Err(error_at(ErrorKind::Corrupt, a.line, what))
            }
        }
    }

    fn firmware(&mut self) -> Result<Option<String>> {
        for key in ["firmware", "bios"] {
            let Some((a, text)) = self.setting(key)? else { continue };
            match text {
                "bios" | "seabios" | "rombios" => {}
                other if boot::is_pvgrub(other) => {}
                "uefi" | "ovmf" => {
                    let message = "UEFI is not supported: the guest boots with SeaBIOS";
                    self.note(a.line, key, message);
                }
                other => {
                    let what = format!(
                        "the firmware '{}' is not used: the guest boots with SeaBIOS",
                        clip(other)
                    );
                    self.note(a.line, key, what);
                }
            }
            return Ok(Some(text.to_owned()));
        }
        Ok(None)
    }

    #[allow(clippy::type_complexity)]
    fn boot(
        &mut self,
        kind: GuestKind,
        base: &Path,
    ) -> Result<(Option<PathBuf>, Option<PathBuf>, Option<Bootloader>)> {
        let mut files =
            KernelFiles { kernel: self.text("kernel")?, ramdisk: self.text("ramdisk")? };
        let mut loader = self.text("bootloader")?.map(|program| Bootloader::of_program(&program));
        if kind == GuestKind::Hvm && loader.is_some() {
            let line = self.config.get("bootloader").map_or(0, |a| a.line);
            self.note(line, "bootloader", "is ignored: an HVM guest boots from its disk");
            loader = None;
        }
        if let Some(loader) = &mut loader {
            // libxl passes these to the boot loader, which looks them up inside the guest.
            loader.kernel = files.kernel.take();
            loader.ramdisk = files.ramdisk.take();
        } else if let Some(grub) = files.kernel.take_if(|kernel| boot::is_pvgrub(kernel)) {
            loader = Some(Bootloader::new(&grub, BootloaderKind::Pvgrub));
            files.ramdisk = None;
        } else if files.kernel.as_deref().is_some_and(boot::is_hvmloader) {
            files = KernelFiles::default();
        } else if let Some(grub) = self.text("firmware")?.filter(|f| boot::is_pvgrub(f)) {
            loader = Some(Bootloader::new(&grub, BootloaderKind::Pvgrub));
            files = KernelFiles::default();
        }
        let mut args = Vec::new();
        for key in ["bootargs", "bootloader_args"] {
            match self.config.get(key).map(|a| &a.value) {
                Some(Value::List(_)) => args.extend(self.texts(key)?),
                Some(value) => args.extend(boot::split_words(value.as_str().unwrap_or_default())),
                None => {}
            }
        }
        if let Some(loader) = &mut loader {
            loader.take_args(args);
            if loader.kind == BootloaderKind::Other {
                let line = self.config.get("bootloader").map_or(0, |a| a.line);
                let what = format!(
                    "'{}' is not run: the guest's own boot config is read, as pygrub does",
                    clip(&loader.program)
                );
                self.note(line, "bootloader", what);
            }
        }
        let (kernel, ramdisk) = files.resolved(base);
        Ok((kernel, ramdisk, loader))
    }
}

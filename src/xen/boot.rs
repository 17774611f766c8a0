//! The boot settings of a config: guest type, kernel, boot loader and its arguments.
//!
//! Source: xl.cfg(5) "Direct Kernel Boot", "Non direct Kernel Boot" and "bootloader"; pygrub's
//! options.

use std::path::{Path, PathBuf};

/// The guest type, xl.cfg(5) "Selecting Guest Type".
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum GuestKind {
    /// Paravirtual, Xen's default.
    #[default]
    Pv,
    /// Fully virtual, with firmware.
    Hvm,
    /// Paravirtual in a hardware container.
    Pvh,
}

/// The dom0 program, or the loader in the guest, that selects a kernel in the guest's filesystem.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BootloaderKind {
    /// pygrub in the dom0.
    Pygrub,
    /// GRUB in the guest: pv-grub, pvgrub32/64, GRUB's own Xen port.
    Pvgrub,
    /// Another program, which is assumed to read the guest's boot config.
    Other,
}

/// `bootloader` and `bootloader_args` (`bootargs` in xm).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Bootloader {
    /// The kind of loader.
    pub kind: BootloaderKind,
    /// The program, or pvgrub's kernel, as written in the config.
    pub program: String,
    /// `--entry=`: a number from 0 or a title.
    pub entry: Option<String>,
    /// `--kernel=`: a path inside the guest.
    pub kernel: Option<String>,
    /// `--ramdisk=`: a path inside the guest.
    pub ramdisk: Option<String>,
    /// `--args=`: appended to the kernel's command line.
    pub args: Option<String>,
    /// Other arguments, which don't affect what is booted.
    pub other_args: Vec<String>,
}

impl Bootloader {
    pub(super) fn new(program: &str, kind: BootloaderKind) -> Self {
        Self {
            kind,
            program: program.into(),
            entry: None,
            kernel: None,
            ramdisk: None,
            args: None,
            other_args: Vec::new(),
        }
    }

    pub(super) fn of_program(program: &str) -> Self {
        let name = file_name(program);
        let kind = if name.contains("pygrub") {
            BootloaderKind::Pygrub
        } else if is_pvgrub(program) {
            BootloaderKind::Pvgrub
        } else {
            BootloaderKind::Other
        };
        Self::new(program, kind)
    }

    /// Parses pygrub's options, as `--entry=1` or as `--entry` `1`.
    pub(super) fn take_args(&mut self, args: impl IntoIterator<Item = String>) {
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let (name, value) = match arg.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (arg.as_str(), None),
            };
            let slot = match name {
                "--entry" => &mut self.entry,
                "--kernel" => &mut self.kernel,
                "--ramdisk" => &mut self.ramdisk,
                "--args" => &mut self.args,
                _ => {
                    self.other_args.push(arg);
                    continue;
                }
            };
            *slot = value.or_else(|| args.next()).or_else(|| slot.take());
        }
    }
}

/// Splits an argument string at white space, honouring quotes as a shell does. xl ignores quotes,
/// but configs written for xm, which honoured them, use them for titles with spaces.
pub(super) fn split_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in text.chars() {
        match quote {
            Some(q) if c == q => quote = None,
            Some(_) => word.get_or_insert_default().push(c),
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            None => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Whether `kernel` is GRUB for Xen guests: pv-grub-x86_64.gz, pvgrub64.bin, grub-x86_64-xen.bin.
pub(super) fn is_pvgrub(kernel: &str) -> bool {
    let name = file_name(kernel);
    name.starts_with("pv-grub")
        || name.starts_with("pvgrub")
        || (name.starts_with("grub") && name.contains("xen"))
}

/// Whether `kernel` is Xen's firmware loader, which old HVM configs specify as their kernel.
pub(super) fn is_hvmloader(kernel: &str) -> bool {
    file_name(kernel) == "hvmloader"
}

/// Where the kernel comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum BootMethod<'a> {
    /// A kernel file of the dom0.
    Kernel {
        /// The kernel.
        kernel: &'a Path,
        /// The initial RAM disk.
        ramdisk: Option<&'a Path>,
        /// The whole command line.
        command_line: String,
    },
    /// The guest's own boot config, as read by pygrub and pvgrub.
    GuestConfig {
        /// The entry, a number from 0 or a title, instead of the config's default.
        entry: Option<String>,
        /// A kernel inside the guest, instead of the entry's.
        kernel: Option<String>,
        /// A RAM disk inside the guest, instead of the entry's.
        ramdisk: Option<String>,
        /// What pygrub appends to the entry's command line.
        append: Option<String>,
    },
    /// The boot loader on the guest's first disk, started by firmware (HVM).
    Firmware,
    /// Not specified in the config.
    Unspecified,
}

/// `kernel` and `ramdisk`: dom0 paths for direct kernel boot, guest paths if a boot loader looks
/// them up in the guest.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct KernelFiles {
    pub(super) kernel: Option<String>,
    pub(super) ramdisk: Option<String>,
}

impl KernelFiles {
    pub(super) fn resolved(&self, base: &Path) -> (Option<PathBuf>, Option<PathBuf>) {
        let join = |p: &Option<String>| p.as_ref().map(|p| base.join(p));
        (join(&self.kernel), join(&self.ramdisk))
    }
}

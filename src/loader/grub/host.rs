//! The GRUB of this host: where it is, and the core image that `grub-mkimage` makes of it.

use crate::process::{Inherited, clean_environment, find_program};
use crate::text::in_a_line;
use crate::{Error, ErrorKind, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A kind of firmware that GRUB is made for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Platform {
    /// GRUB's name, in its options and directories.
    name: &'static str,
    machines: &'static str,
    /// The packages with its modules, by distribution.
    packages: [&'static str; 2],
    /// Modules that only this platform has.
    modules: &'static [&'static str],
    /// The line that sets `synthdisk_disk` to the disk that the firmware booted from.
    find_disk: &'static str,
}

/// A PC's BIOS.
pub(super) const BIOS: Platform = Platform {
    name: "i386-pc",
    machines: "BIOS machines",
    packages: ["grub-pc-bin", "grub2-pc-modules"],
    modules: &["biosdisk"],
    find_disk: "set synthdisk_disk=$root",
};
/// 64-bit UEFI.
pub(super) const UEFI: Platform = Platform {
    name: "x86_64-efi",
    machines: "UEFI machines",
    packages: ["grub-efi-amd64-bin", "grub2-efi-x64-modules"],
    modules: &[],
    // GRUB's root is a partition of it.
    find_disk: "regexp --set=1:synthdisk_disk '^([^,]*)' $root",
};

/// The tool's names: Fedora, RHEL and SUSE have the second.
const MKIMAGE: [&str; 2] = ["grub-mkimage", "grub2-mkimage"];
/// Where distributions keep the modules of all platforms.
const MODULE_DIRS: [&str; 6] = [
    "/usr/lib/grub",
    "/usr/lib/grub2",
    "/usr/share/grub2",
    "/usr/share/grub",
    "/usr/local/lib/grub",
    "/usr/lib64/grub",
];
/// The module that the script loads late; a core image with it could not start guests
/// (`docs/grub.md`).
const LATE: &str = "linux";
/// Largest file of GRUB that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// Modules of the core image on all platforms, besides those that `linux` depends on: what our script
/// and the menus of distributions use. Commands for which the script has functions are left out.
/// `gzio` comes before `normal`, which would otherwise look for it on the disk.
const MODULES: [&str; 43] = [
    "part_msdos",
    "part_gpt",
    "ext2",
    "xfs",
    "btrfs",
    "fat",
    "lvm",
    "mdraid09",
    "mdraid1x",
    "gzio",
    "xzio",
    "lzopio",
    "normal",
    "configfile",
    "echo",
    "test",
    "true",
    "regexp",
    "search",
    "search_fs_uuid",
    "search_fs_file",
    "search_label",
    "loadenv",
    "serial",
    "terminal",
    "terminfo",
    "all_video",
    "font",
    "gettext",
    "gfxterm",
    "gfxterm_background",
    "gfxmenu",
    "png",
    "jpeg",
    "minicmd",
    "sleep",
    "probe",
    "syslinuxcfg",
    "password_pbkdf2",
    "help",
    "ls",
    "cat",
    "keystatus",
];
/// Modules that only some versions have: Fedora's and GRUB 2.14's reader of boot loader entries, and
/// what Fedora's menus load.
const OPTIONAL: [&str; 2] = ["blscfg", "increment"];

/// GRUB for a platform, as installed on this host.
#[derive(Debug)]
pub(super) struct Host {
    platform: Platform,
    mkimage: PathBuf,
    modules: PathBuf,
}

impl Host {
    /// # Errors
    /// [`ErrorKind::NotFound`] with the packages to install.
    pub(super) fn find(platform: Platform) -> Result<Self> {
        let [debian, fedora] = platform.packages;
        let missing = |what: &str| {
            let what = format!(
                "--bootloader grub needs {what}; install grub-common and {debian} (Debian, \
                 Ubuntu), grub2-tools and {fedora} (Fedora, RHEL) or grub (Arch)"
            );
            Error::new(ErrorKind::NotFound, what)
        };
        let mkimage = MKIMAGE.iter().find_map(|name| find_program(name));
        let mkimage = mkimage.ok_or_else(|| missing("grub-mkimage"))?;
        // Distributions without /usr/lib have the modules next to the program.
        let beside = mkimage.canonicalize().ok();
        let beside =
            beside.as_deref().and_then(|file| Some(file.parent()?.parent()?.join("lib/grub")));
        let dirs = MODULE_DIRS.iter().map(PathBuf::from).chain(beside);
        let mut dirs = dirs.map(|dir| dir.join(platform.name));
        let modules = dirs.find(|dir| dir.join("moddep.lst").is_file());
        let modules =
            modules.ok_or_else(|| missing(&format!("GRUB's modules for {}", platform.machines)))?;
        Ok(Self { platform, mkimage, modules })
    }

    /// The boot image.
    ///
    /// # Errors
    /// Errors from reading it.
    pub(super) fn boot_image(&self) -> Result<Vec<u8>> {
        self.read("boot.img")
    }

    /// The module that loads Linux.
    ///
    /// # Errors
    /// Errors from reading it.
    pub(super) fn linux_module(&self) -> Result<Vec<u8>> {
        self.read(&format!("{LATE}.mod"))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.modules.join(name);
        let failed = |e| Error::io(format!("cannot read {}", path.display()), e);
        let len = std::fs::metadata(&path).map_err(failed)?.len();
        if len > MAX_FILE {
            let what = format!("{} has {len} bytes, too many for GRUB", path.display());
            return Err(Error::new(ErrorKind::TooLarge, what));
        }
        std::fs::read(&path).map_err(failed)
    }

    /// A core image that executes the script in the sectors `script` of the disk, in GRUB's notation;
    /// for UEFI, an EFI application. The same GRUB makes the same bytes each time.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] with the tool's message; [`ErrorKind::Unsupported`] for a GRUB without a
    /// module that is needed.
    pub(super) fn core_image(&self, script: &str) -> Result<Vec<u8>> {
        let listed = self.read("moddep.lst")?;
        let modules = core_modules(self.platform, &String::from_utf8_lossy(&listed))?;
        let failed = |e| Error::io(format!("cannot run {}", self.mkimage.display()), e);
        let mut config = tempfile::tempfile().map_err(failed)?;
        config.write_all(early_config(self.platform, script).as_bytes()).map_err(failed)?;
        let config = Inherited::new(&config).map_err(failed)?;
        // The tool flushes its output to storage, which fails on a pipe.
        let mut image = tempfile::tempfile().map_err(failed)?;
        let output = Inherited::new(&image).map_err(failed)?;
        let mut command = Command::new(&self.mkimage);
        clean_environment(&mut command)
            .args(["--format", self.platform.name, "--prefix", "/synthdisk"])
            .arg("--directory")
            .arg(&self.modules)
            .arg("--config")
            .arg(config.path())
            .arg("--output")
            .arg(output.path())
            .args(modules)
            .stdin(Stdio::null());
        let done = command.output().map_err(failed)?;
        let mut core = Vec::new();
        image.read_to_end(&mut core).map_err(failed)?;
        if done.status.success() && !core.is_empty() {
            return Ok(core);
        }
        let said = String::from_utf8_lossy(&done.stderr);
        let said = said.lines().next().unwrap_or("no error message");
        let what = format!("{} failed: {}", name_of(&self.mkimage), in_a_line(said));
        Err(Error::new(ErrorKind::Io, what))
    }
}

fn name_of(program: &Path) -> String {
    program.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What the core image executes first.
fn early_config(platform: Platform, script: &str) -> String {
    format!("{}\nnormal ($synthdisk_disk){script}\n", platform.find_disk)
}

/// The modules of the core image, given GRUB's list of dependencies (moddep.lst).
fn core_modules(platform: Platform, dependencies: &str) -> Result<Vec<String>> {
    let wanted = || platform.modules.iter().chain(&MODULES);
    let parse = |line: &'_ str| {
        let (name, needs) = line.split_once(':')?;
        let needs: Vec<String> = needs.split_ascii_whitespace().map(str::to_owned).collect();
        Some((name.trim().to_owned(), needs))
    };
    let needs: BTreeMap<String, Vec<String>> = dependencies.lines().filter_map(parse).collect();
    if let Some(name) = wanted().chain([&LATE]).find(|name| !needs.contains_key(**name)) {
        let what = format!("the host's GRUB has no module {name}; update it");
        return Err(Error::new(ErrorKind::Unsupported, what));
    }
    let needs_late = |name: &str| closure(name, &needs).contains(LATE);
    if let Some(name) = wanted().find(|name| needs_late(name)) {
        let what = format!("the module {name} of the host's GRUB requires the module {LATE}");
        return Err(Error::new(ErrorKind::Unsupported, what));
    }
    let optional = OPTIONAL.iter().filter(|name| needs.contains_key(**name) && !needs_late(name));
    let listed = wanted().chain(optional).map(|name| (*name).to_owned());
    let late = closure(LATE, &needs).into_iter().filter(|name| *name != LATE);
    Ok(listed.chain(late.map(str::to_owned)).collect())
}

/// The module `name` and all that it needs.
fn closure<'a>(name: &'a str, needs: &'a BTreeMap<String, Vec<String>>) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut open = vec![name];
    while let Some(name) = open.pop() {
        if found.insert(name) {
            open.extend(needs.get(name).into_iter().flatten().map(String::as_str));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list in which no module of ours needs another.
    fn list(change: impl Fn(&str) -> Option<String>) -> String {
        let names = BIOS.modules.iter().chain(&MODULES).chain([&LATE]);
        names.filter_map(|name| change(name)).fold(String::new(), |list, line| list + &line + "\n")
    }

    #[test]
    fn linux_is_never_in_the_core_image() {
        let plain = |name: &str| Some(format!("{name}:"));
        let modules = |list: &str| core_modules(UEFI, list);
        assert_eq!(modules(&list(plain)).unwrap(), MODULES);
        let bios = core_modules(BIOS, &list(plain)).unwrap();
        assert_eq!(
            (bios[0].as_str(), &bios[1..]),
            ("biosdisk", &modules(&list(plain)).unwrap()[..])
        );
        let with_needs = list(plain).replace("linux:", "linux: normal boot\nboot: mmap\nmmap:");
        let found = modules(&with_needs).unwrap();
        assert_eq!(found[MODULES.len()..], ["boot", "mmap", "normal"]);
        assert!(!found.iter().any(|name| name == LATE));
        let fedora = list(plain) + "blscfg: extcmd normal\nversion: linux16\nlinux16: linux\n";
        assert_eq!(modules(&fedora).unwrap()[MODULES.len()..], ["blscfg"]);
    }

    #[test]
    fn another_grub_is_refused_by_name() {
        let said = |list: &str| core_modules(BIOS, list).unwrap_err().to_string();
        let without = list(|name| (name != "regexp").then(|| format!("{name}:")));
        assert_eq!(said(&without), "the host's GRUB has no module regexp; update it");
        let circle = list(|name| {
            Some(if name == "probe" { "probe: x\nx: linux".into() } else { format!("{name}:") })
        });
        let expected = "the module probe of the host's GRUB requires the module linux";
        assert_eq!(said(&circle), expected);
        assert!(core_modules(UEFI, "").is_err());
    }
}

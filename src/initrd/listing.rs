//! The contents of an initrd: names, and the contents of a few small files.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::entry::InitrdEntry;
use super::generator::Generator;
use super::limits;
use crate::fs::{Budget, Cost};

/// What to find; when all of it was seen, reading stops: the generator, and the drivers unless the
/// generator is one that is trusted to add them.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    pub(super) version: String,
    pub(super) drivers: BTreeSet<String>,
    pub(super) trusted: Option<Generator>,
    /// The generator, once it was seen.
    generator: Option<Generator>,
}

impl Wanted {
    pub(super) fn new(version: &str, drivers: &[&str], trusted: Option<Generator>) -> Self {
        let drivers = drivers.iter().map(|d| (*d).to_owned()).collect();
        Self { version: version.to_owned(), drivers, trusted, generator: None }
    }

    fn is_found(&self) -> bool {
        let trusts = self.trusted.is_some() && self.trusted == self.generator;
        self.generator.is_some() && (self.drivers.is_empty() || trusts)
    }
}

/// Collects the contents of the archives. Later entries replace earlier ones, as in the kernel.
pub(super) struct Listing<'b> {
    /// By path, without a leading slash.
    pub(super) entries: BTreeMap<String, InitrdEntry>,
    pub(super) kept: BTreeMap<String, Vec<u8>>,
    /// Names of the drivers in lib/modules, by kernel version.
    pub(super) drivers: BTreeMap<String, BTreeSet<String>>,
    /// Number of entries other than directories, and how many of them only the kernel uses.
    pub(super) files: u64,
    pub(super) early_files: u64,
    wanted: Option<Wanted>,
    kept_bytes: u64,
    name_bytes: usize,
    budget: &'b Budget,
}

impl<'b> Listing<'b> {
    pub(super) fn new(wanted: Option<Wanted>, budget: &'b Budget) -> Self {
        Self {
            entries: BTreeMap::new(),
            kept: BTreeMap::new(),
            drivers: BTreeMap::new(),
            files: 0,
            early_files: 0,
            wanted,
            kept_bytes: 0,
            name_bytes: 0,
            budget,
        }
    }

    /// Whether to keep the contents of this file.
    pub(super) fn keeps(&self, name: &[u8], len: u64) -> bool {
        let name = normal(name);
        let file = name.rsplit('/').next().unwrap_or_default();
        let wanted = name.starts_with("conf/")
            || name == "etc/initrd-release"
            || name == "VERSION"
            || name == "init"
            || (file == "build-parameter.txt" && name.contains("dracut/"))
            || (matches!(file, "modules.dep" | "modules.builtin") && name.contains("lib/modules/"));
        wanted && len <= limits::KEPT_FILE && self.kept_bytes + len <= limits::KEPT
    }

    pub(super) fn keep(&mut self, name: &[u8], bytes: Vec<u8>) {
        self.kept_bytes += bytes.len() as u64;
        self.kept.insert(normal(name), bytes);
    }

    /// Adds an entry; returns `true` when everything that is wanted was seen.
    ///
    /// # Errors
    /// An exceeded limit.
    pub(super) fn add(&mut self, name: &[u8], entry: InitrdEntry) -> io::Result<bool> {
        let name = normal(name);
        if name.is_empty() {
            return Ok(false);
        }
        self.budget.charge(Cost::Entries, 1).map_err(io::Error::other)?;
        let target = if let InitrdEntry::Symlink(target) = &entry { target.len() } else { 0 };
        self.name_bytes += name.len() + target;
        if self.entries.len() >= limits::ENTRIES || self.name_bytes > limits::NAMES {
            return Err(io::Error::other("it has too many files"));
        }
        if entry != InitrdEntry::Dir {
            self.files += 1;
            self.early_files += u64::from(is_early(&name));
        }
        if let Some((version, driver)) = driver_of(&name) {
            if let Some(wanted) = self.wanted.as_mut().filter(|w| w.version == version) {
                wanted.drivers.remove(&driver);
            }
            self.drivers.entry(version.to_owned()).or_default().insert(driver);
        } else if let Some(version) = version_of(&name) {
            self.drivers.entry(version.to_owned()).or_default();
        }
        let is_marker = Generator::is_marker(&name);
        self.entries.insert(name, entry);
        let Some(wanted) = &mut self.wanted else { return Ok(false) };
        if is_marker && wanted.generator.is_none() {
            let generator = Generator::of(&self.entries);
            wanted.generator = Some(generator).filter(|g| *g != Generator::Other);
        }
        Ok(wanted.is_found())
    }
}

/// A path without `.`, empty components or a leading slash.
fn normal(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    let parts: Vec<&str> = name.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    parts.join("/")
}

/// Whether the kernel itself looks for this file before it unpacks anything: microcode and ACPI
/// tables. `early_cpio` is dracut's marker in such an archive.
fn is_early(path: &str) -> bool {
    path.starts_with("kernel/x86/microcode/")
        || path.starts_with("kernel/firmware/acpi/")
        || path == "early_cpio"
}

/// The part of `path` after `lib/modules/`.
fn below_modules(path: &str) -> Option<&str> {
    path.strip_prefix("usr/").unwrap_or(path).strip_prefix("lib/modules/")
}

fn version_of(path: &str) -> Option<&str> {
    below_modules(path)?.split('/').next().filter(|v| !v.is_empty())
}

/// Kernel version and driver name, if `path` is a module.
fn driver_of(path: &str) -> Option<(&str, String)> {
    let (version, rest) = below_modules(path)?.split_once('/')?;
    Some((version, module_name(rest)?))
}

/// The driver name of a module file: `virtio_blk` for `drivers/block/virtio-blk.ko.xz`; `None` for
/// any other file.
pub(crate) fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let stem = ["", ".xz", ".zst", ".gz"]
        .iter()
        .find_map(|packed| file.strip_suffix(packed)?.strip_suffix(".ko"))?;
    // The name is also printed.
    let plain = !stem.is_empty() && stem.bytes().all(|b| b.is_ascii_graphic());
    plain.then(|| stem.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(normal(b"./usr//lib/./x"), "usr/lib/x");
        assert_eq!(normal(b"."), "");
        assert_eq!(
            driver_of("usr/lib/modules/6.1/kernel/drivers/block/xen-blkfront.ko.xz"),
            Some(("6.1", "xen_blkfront".into()))
        );
        assert_eq!(driver_of("lib/modules/6.1/modules.dep"), None);
        assert_eq!(version_of("lib/modules/6.1/modules.dep"), Some("6.1"));
        assert_eq!(version_of("lib/modules"), None);
        for (file, name) in [
            ("a-b.ko", Some("a_b")),
            ("x/ahci.ko.gz", Some("ahci")),
            ("nvme.ko.zst", Some("nvme")),
            ("nvme.ko.lz", None),
            (".ko", None),
            ("a\u{1b}[2J.ko", None),
            ("ko", None),
        ] {
            assert_eq!(module_name(file).as_deref(), name, "{file}");
        }
    }
}

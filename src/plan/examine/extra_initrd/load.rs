//! Modules that a program of ours loads from an initrd.

use super::cpio::Archive;
use super::insmod::WordSize;
use crate::guest::drivers::Modules;
use crate::{Error, ErrorKind, Result};

/// Directory of our files in an initrd. No guest's initrd has such a directory.
pub(super) const DIR: &str = "synthdisk";
/// Maximum bytes of all modules together; virtio's need about 200 kB.
const MAX_MODULES: usize = 64 << 20;
/// The drivers without which a virtio disk is not detected: name and configuration option.
pub(super) const NEEDED: [(&str, &str); 2] =
    [("virtio_pci", "VIRTIO_PCI"), ("virtio_blk", "VIRTIO_BLK")];

/// Modules in an initrd.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    /// Their names.
    pub(super) names: Vec<String>,
    /// Their absolute paths in the initrd, in the order in which they are loaded.
    pub(super) paths: Vec<String>,
    /// The word size of their kernel; `None` without modules.
    pub(super) bits: Option<WordSize>,
}

/// Adds the modules at `paths` in the guest to `archive`, each once.
///
/// # Errors
/// Errors from reading the modules; [`ErrorKind::TooLarge`] for more than 64 MiB.
pub(super) fn add_modules(
    archive: &mut Archive,
    modules: &Modules<'_>,
    paths: Vec<String>,
) -> Result<Loaded> {
    let mut out = Loaded::default();
    let mut total = 0;
    for path in paths {
        let name = crate::initrd::module_name(&path).unwrap_or_default();
        if out.names.contains(&name) {
            continue;
        }
        let module = modules.load(&path)?;
        total += module.len();
        if total > MAX_MODULES {
            return Err(Error::new(ErrorKind::TooLarge, "the guest's modules are too large"));
        }
        out.bits = Some(WordSize::of_module(&module)?);
        archive.file(&format!("{DIR}/{name}.ko"), 0o644, &module)?;
        out.paths.push(format!("/{DIR}/{name}.ko"));
        out.names.push(name);
    }
    Ok(out)
}

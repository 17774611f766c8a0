//! Installed kernels, whether or not a menu names them.

use super::files::regular;
use crate::bootmenu::version::debian_cmp;
use crate::fs::GuestFs;
use crate::{ErrorKind, Result};
use std::cmp::Ordering;

/// A kernel in /boot or /, and its initrd.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Installed {
    /// Its file name.
    pub name: String,
    /// Its path without symlinks.
    pub path: String,
    /// The version in its name; empty for a link.
    pub version: String,
    /// The initrd's path without symlinks.
    pub initrd: Option<String>,
}

/// The names of kernel files, before the version.
const KERNEL_NAMES: [&str; 4] = ["vmlinuz", "bzImage", "kernel", "linux"];
/// The name of an initrd before and after its version.
const INITRD_NAMES: [(&str, &str); 7] = [
    ("initrd.img", ""),
    ("initramfs", ".img"),
    ("initrd", ""),
    ("initrd", ".img"),
    ("initramfs", ""),
    ("initrd", ".gz"),
    ("initramfs-genkernel-x86_64", ""),
];

/// At most `most` kernels in /boot and /, newest first, with rescue kernels and `.old` ones last. A
/// link to a kernel comes before all versions: it is the distribution's choice.
///
/// # Errors
/// Errors from reading the guest.
pub fn installed(fs: &dyn GuestFs, most: usize) -> Result<Vec<Installed>> {
    struct Found {
        dir: &'static str,
        name: String,
        version: String,
        rank: u8,
    }
    let mut found: Vec<Found> = Vec::new();
    for (dir, list) in [("/boot", "/boot"), ("", "/")] {
        let names = match fs.read_dir(list) {
            Ok(names) => names,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Invalid) => continue,
            Err(e) => return Err(e),
        };
        for name in names {
            if let Some((version, rank)) = kernel_version(&name) {
                found.push(Found { dir, version: version.to_owned(), rank, name });
            }
        }
    }
    // Best first. Ties are broken by name, so that the choice is deterministic.
    found.sort_by(|a, b| {
        let by_version = || match (a.version.is_empty(), b.version.is_empty()) {
            // A name without a version is a link to the kernel that the distribution chose.
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            _ => debian_cmp(&b.version, &a.version),
        };
        a.rank.cmp(&b.rank).then_with(by_version).then_with(|| a.name.cmp(&b.name))
    });
    let mut out = Vec::new();
    for kernel in found {
        // Each kernel costs a dozen lookups in a directory.
        if out.len() == most {
            break;
        }
        let Some(path) = regular(fs, &format!("{}/{}", kernel.dir, kernel.name))? else { continue };
        // The initrd has the version of the link's target.
        let real = path.rsplit('/').next().unwrap_or_default();
        let real = kernel_version(real).map_or("", |(version, _)| version);
        let mut initrd = None;
        'search: for version in [kernel.version.as_str(), real] {
            for (front, back) in INITRD_NAMES {
                let dash = if version.is_empty() { "" } else { "-" };
                let name = format!("{}/{front}{dash}{version}{back}", kernel.dir);
                initrd = regular(fs, &name)?;
                if initrd.is_some() {
                    break 'search;
                }
            }
        }
        out.push(Installed { name: kernel.name, path, version: kernel.version, initrd });
    }
    Ok(out)
}

/// The version in a kernel's file name, and a rank (lower is better); `None` if it is not a kernel.
fn kernel_version(name: &str) -> Option<(&str, u8)> {
    const NO_KERNEL: [&str; 7] = [".hmac", ".sig", ".img", ".gz", ".conf", ".efi", ".xz"];
    let (prefix, rest) = KERNEL_NAMES.iter().find_map(|p| Some((*p, name.strip_prefix(p)?)))?;
    if NO_KERNEL.iter().any(|s| rest.ends_with(s)) || rest.contains(".dpkg-") {
        return None;
    }
    let version = match rest.strip_prefix('-') {
        Some(version) => version,
        // "kernel" and "linux" without a version are too common as directory names and the like.
        None if matches!(prefix, "kernel" | "linux") => return None,
        None if rest.is_empty() || rest == ".old" => rest,
        None => return None,
    };
    let rank = if rest.ends_with(".old") {
        2
    } else if rest.contains("rescue") {
        3
    } else {
        u8::from(prefix == "linux")
    };
    Some((version, rank))
}

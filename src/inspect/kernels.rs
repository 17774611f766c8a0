//! The guest's kernels: their format, their drivers, and the contents of their initrds.

use crate::fs::GuestFs;
use crate::guest::drivers::KernelDrivers;
use crate::guest::select::{Boot, Installed, installed};
use crate::initrd::Initrd;
use crate::loader::KernelKind;
use crate::loader::linux::HEAD_BYTES;
use crate::{Error, ErrorKind, Result};
use serde::Serialize;

/// A kernel.
#[derive(Debug, Serialize)]
pub struct KernelReport {
    /// Its path in the guest.
    pub path: String,
    /// Its version, as `uname -r` would print it.
    pub version: Option<String>,
    /// The format of its file.
    pub format: KernelFormat,
    /// Why it cannot boot on KVM; `None` when it can.
    pub problem: Option<String>,
    /// Whether it is the one that boots.
    pub default: bool,
    /// Its initrds.
    pub initrds: Vec<InitrdReport>,
    /// Its drivers, and where they are.
    pub drivers: KernelDrivers,
}

/// The format of a kernel's file.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KernelFormat {
    /// A kernel that every PC boots.
    Bzimage,
    /// A kernel that only Xen starts, as a paravirtualised guest.
    PvOnly,
    /// Not a kernel, or a damaged one.
    Unknown,
}

/// An initrd.
#[derive(Debug, Serialize)]
pub struct InitrdReport {
    /// Its path in the guest.
    pub path: String,
    /// Length in bytes.
    pub size: u64,
    /// Its contents; `None` when it cannot be read.
    pub contents: Option<Initrd>,
}

/// Maximum number of kernels that are examined: a guest may never have removed one.
const MOST: usize = 20;

/// The kernels in `fs`, the one that boots first; `root` contains their modules.
pub(super) fn kernels(
    fs: &dyn GuestFs,
    root: Option<&dyn GuestFs>,
    boot: Option<&Boot>,
    notes: &mut Vec<String>,
) -> Vec<KernelReport> {
    let mut all: Vec<(String, Vec<String>)> = Vec::new();
    all.extend(boot.map(|b| (b.kernel.clone(), b.initrds.clone())));
    for Installed { path, initrd, .. } in installed(fs, MOST).unwrap_or_default() {
        if all.iter().all(|(other, _)| *other != path) {
            all.push((path, initrd.into_iter().collect()));
        }
    }
    if all.len() >= MOST {
        notes.push(format!("only {MOST} of the kernels were looked at"));
    }
    let default = boot.map(|b| b.kernel.as_str());
    all.iter()
        .map(|(path, initrds)| kernel(fs, root, path, initrds, default == Some(path.as_str())))
        .collect()
}

fn kernel(
    fs: &dyn GuestFs,
    root: Option<&dyn GuestFs>,
    path: &str,
    initrds: &[String],
    default: bool,
) -> KernelReport {
    let kind = head(fs, path).and_then(|head| KernelKind::detect(&head));
    let format = match &kind {
        Ok(KernelKind::BzImage(_)) => KernelFormat::Bzimage,
        Ok(KernelKind::Elf | KernelKind::Gzip) => KernelFormat::PvOnly,
        Ok(KernelKind::Unknown) | Err(_) => KernelFormat::Unknown,
    };
    let header = kind.and_then(KernelKind::bootable);
    let problem = header.as_ref().err().map(ToString::to_string);
    let told = header.ok().and_then(|h| h.kernel_version);
    let told = told.and_then(|text| text.split(' ').next().map(str::to_owned));
    // The file name usually ends with the version.
    let named = || {
        let name = path.rsplit('/').next()?;
        let version = name.split_once('-')?.1;
        Some(version.to_owned()).filter(|v| v.starts_with(|c: char| c.is_ascii_digit()))
    };
    let version = told.or_else(named);
    let initrds: Vec<InitrdReport> = initrds.iter().map(|path| initrd(fs, path)).collect();
    let joined = join(initrds.iter().filter_map(|i| i.contents.as_ref()));
    let text = version.as_deref().unwrap_or_default();
    let drivers = KernelDrivers::look(root.unwrap_or(fs), text, joined.as_ref());
    KernelReport { path: path.into(), version, format, problem, default, initrds, drivers }
}

/// What Linux sees: the initrds concatenated.
fn join<'a>(initrds: impl Iterator<Item = &'a Initrd>) -> Option<Initrd> {
    initrds.cloned().reduce(|mut all, next| {
        all.join(next);
        all
    })
}

fn initrd(fs: &dyn GuestFs, path: &str) -> InitrdReport {
    let read = || -> Result<(u64, Initrd)> {
        let mut file = fs.open(path)?;
        Ok((file.len(), Initrd::read(&mut *file, fs.budget())?))
    };
    match read() {
        Ok((size, contents)) => InitrdReport { path: path.into(), size, contents: Some(contents) },
        Err(_) => InitrdReport { path: path.into(), size: 0, contents: None },
    }
}

fn head(fs: &dyn GuestFs, path: &str) -> Result<Vec<u8>> {
    let mut file = fs.open(path)?;
    let mut head = vec![0; (file.len().min(HEAD_BYTES as u64)) as usize];
    let mut done = 0;
    while done < head.len() {
        match file.read_at(&mut head[done..], done as u64)? {
            0 => return Err(Error::new(ErrorKind::Corrupt, format!("{path} ends too early"))),
            n => done += n,
        }
    }
    Ok(head)
}

//! Facts about a guest's system, read from its own files.

mod accounts;
mod architecture;
mod configured;
mod distribution;
mod hostname;
mod init;
mod lvm;
mod tools;

pub use accounts::{RootAccount, root_account};
pub use architecture::architecture;
pub use configured::{FstabEntry, Gettys, Interfaces, fstab, gettys, interfaces};
pub use distribution::{Distribution, distribution};
pub use hostname::hostname;
pub use init::{Init, init};
pub use lvm::lvm_filters;
pub use tools::{Hypervisor, InstalledCloudInit, Tool, cloud_init, tools};

use crate::fs::GuestFs;

/// Files larger than this many bytes are not configuration.
const MAX_FILE: usize = 256 << 10;

/// The text of a file; `None` if it is missing or too large.
fn text(root: &dyn GuestFs, path: &str) -> Option<String> {
    let bytes = root.read(path, MAX_FILE).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The lines of a file that are neither empty nor comments.
fn lines(root: &dyn GuestFs, path: &str) -> Vec<String> {
    let text = text(root, path).unwrap_or_default();
    let lines = text.lines().map(str::trim);
    lines.filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned).collect()
}

/// The paths of the files directly in a directory, at most a hundred.
fn files(root: &dyn GuestFs, dir: &str) -> Vec<String> {
    let names = root.read_dir(dir).unwrap_or_default();
    names.iter().take(100).map(|name| format!("{dir}/{name}")).collect()
}

//! Finding programs on the host.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The path of the program `name` in the first of `dirs` that has it; otherwise `name` itself,
/// which is then looked up in PATH.
pub fn find_tool(name: &str, dirs: &[&str]) -> OsString {
    let found = dirs.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.exists());
    found.map_or_else(|| name.into(), PathBuf::into_os_string)
}

/// The program `name` in PATH.
pub fn find_in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|p| p.is_file())
}

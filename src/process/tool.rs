//! Finding programs on the host.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where programs are looked for first; for root, nowhere else.
const DIRS: [&str; 6] =
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin", "/usr/local/sbin"];

/// Variables that reach programs started by root: those that open a window need them, and temporary
/// files go where the user wants them.
const KEPT: [&str; 6] =
    ["HOME", "DISPLAY", "XAUTHORITY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "TMPDIR"];

/// The program `name`, as an absolute path: from the system's directories, else, unless root asks, from
/// PATH.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").filter(|_| !is_root());
    find_in(name, path.as_deref().unwrap_or_default().into())
}

/// As [`find_program`], with the directories of `path` after the system's.
fn find_in(name: &str, path: OsString) -> Option<PathBuf> {
    let system = DIRS.iter().map(PathBuf::from);
    // An empty or relative entry means the working directory, which may be anybody's.
    let own = std::env::split_paths(&path).filter(|dir| dir.is_absolute()).collect::<Vec<_>>();
    system.chain(own).map(|dir| dir.join(name)).find(|file| is_program(file))
}

/// Whether `path` is a file that can be started.
pub fn is_program(path: &Path) -> bool {
    path.is_file() && nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok()
}

/// Give `command` a clean environment if this is root: a fixed PATH, the C locale and the variables of `KEPT`.
pub fn clean_environment(command: &mut Command) -> &mut Command {
    if is_root() {
        command.env_clear().env("PATH", DIRS.join(":")).env("LANG", "C");
        let kept = KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        command.envs(kept);
    }
    command
}

/// The path of the program `name` in the first of `dirs` that has it; otherwise `name` itself,
/// which is then looked up in PATH.
pub fn find_tool(name: &str, dirs: &[&str]) -> OsString {
    let found = dirs.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.exists());
    found.map_or_else(|| name.into(), PathBuf::into_os_string)
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_systems_programs_come_first() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["sh", "synthdisk-test-tool", "not-executable"] {
            let file = dir.path().join(name);
            std::fs::write(&file, "#!/bin/sh\n").unwrap();
            let mode = if name.starts_with("not") { 0o644 } else { 0o755 };
            std::fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        }
        let path = || dir.path().as_os_str().to_owned();
        assert_eq!(find_in("sh", path()), Some("/usr/bin/sh".into()));
        let own = dir.path().join("synthdisk-test-tool");
        assert_eq!(find_in("synthdisk-test-tool", path()), Some(own));
        assert_eq!(find_in("not-executable", path()), None);
        assert_eq!(find_in("synthdisk-test-tool", "".into()), None);
        assert_eq!(find_in("synthdisk-test-tool", ".:relative".into()), None);
        if is_root() {
            assert_eq!(find_program("synthdisk-test-tool"), None);
        }
    }

    #[test]
    fn roots_programs_get_a_clean_environment() {
        let mut command = Command::new("/usr/bin/env");
        command.env("LD_PRELOAD", "/evil.so").env("PATH", "/evil");
        let out = clean_environment(&mut command).output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let expected = is_root();
        assert_eq!(!text.contains("evil"), expected, "{text}");
        assert_eq!(text.contains("LANG=C\n"), expected, "{text}");
    }
}

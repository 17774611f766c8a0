//! Finding UEFI firmware on this host by the descriptions that its packages install for QEMU.
//!
//! Source: QEMU's `docs/interop/firmware.json`.

use super::machine::{Board, Firmware, FlashFile};
use crate::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The firmware of a machine, without its files.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FirmwareKind {
    /// SeaBIOS.
    #[default]
    Bios,
    /// 64-bit UEFI without Secure Boot.
    Uefi,
}

/// Directories with descriptions for all users; a file in a later one hides those of the same name
/// in earlier ones.
const DIRS: [&str; 3] =
    ["/usr/share/qemu/firmware", "/usr/local/share/qemu/firmware", "/etc/qemu/firmware"];
/// Longest description in bytes.
const MAX_DESCRIPTION: u64 = 1 << 20;
/// Features that a machine of ours does not offer, or that refuse unsigned programs.
const UNSUITABLE: [&str; 2] = ["requires-smm", "enrolled-keys"];

impl FirmwareKind {
    /// The firmware with its files, for a machine with `board`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] with the package to install.
    pub fn find(self, board: Board) -> Result<Firmware> {
        match self {
            Self::Bios => Ok(Firmware::Bios),
            Self::Uefi => find_uefi(&directories(), board).ok_or_else(|| {
                let what = "no UEFI firmware for QEMU found (no description in \
                            /usr/share/qemu/firmware fits this machine); install the package ovmf \
                            (Debian, Ubuntu) or edk2-ovmf (Fedora, RHEL, Arch)";
                Error::new(ErrorKind::NotFound, what)
            }),
        }
    }
}

/// The directories with descriptions, the user's own last.
fn directories() -> Vec<PathBuf> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let config = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")));
    let own = config.map(|dir| dir.join("qemu/firmware"));
    DIRS.iter().map(PathBuf::from).chain(own).collect()
}

/// The first firmware by file name, which states its priority, that fits.
fn find_uefi(dirs: &[PathBuf], board: Board) -> Option<Firmware> {
    let mut files = BTreeMap::new();
    for dir in dirs {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let found = entries.map(|entry| entry.path());
        let json = found.filter(|path| path.extension().is_some_and(|e| e == "json"));
        files.extend(json.filter_map(|path| Some((path.file_name()?.to_owned(), path))));
    }
    files.into_values().find_map(|path| {
        // An empty file hides another one.
        let len = path.metadata().ok()?.len();
        let text = (1..=MAX_DESCRIPTION).contains(&len).then(|| std::fs::read(&path).ok())??;
        let description: Description = serde_json::from_slice(&text).ok()?;
        description.firmware(board)
    })
}

/// A description, as far as it matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Description {
    interface_types: Vec<String>,
    mapping: Mapping,
    targets: Vec<Target>,
    features: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mapping {
    device: String,
    mode: Option<String>,
    executable: Option<File>,
    nvram_template: Option<File>,
}

#[derive(Debug, Deserialize)]
struct File {
    filename: PathBuf,
    format: String,
}

#[derive(Debug, Deserialize)]
struct Target {
    architecture: String,
    machines: Vec<String>,
}

impl Description {
    /// The firmware, if it is UEFI for x86-64, with code and variables in two flash memories, and
    /// fits `board`.
    fn firmware(self, board: Board) -> Option<Firmware> {
        let is_uefi = self.interface_types.iter().any(|kind| kind == "uefi");
        let split = self.mapping.mode.as_deref().is_none_or(|mode| mode == "split");
        let target = |t: &Target| {
            t.architecture == "x86_64" && t.machines.iter().any(|pattern| fits(pattern, board))
        };
        let unsuitable = self.features.iter().any(|f| UNSUITABLE.contains(&f.as_str()));
        let all = is_uefi
            && self.mapping.device == "flash"
            && split
            && self.targets.iter().any(target)
            && !unsuitable;
        let file = |file: Option<File>| {
            let known = |f: &File| {
                let format = matches!(f.format.as_str(), "raw" | "qcow2");
                format && f.filename.is_absolute() && f.filename.is_file()
            };
            file.filter(known).map(|f| FlashFile { path: f.filename, format: f.format })
        };
        let (code, variables) =
            (file(self.mapping.executable)?, file(self.mapping.nvram_template)?);
        all.then_some(Firmware::Uefi { code, variables })
    }
}

/// Whether `pattern`, in which `*` stands for anything, covers the machine types of `board`, such as
/// `pc-q35-9.2`.
fn fits(pattern: &str, board: Board) -> bool {
    let family = match board {
        Board::Pc => "pc-i440fx-",
        Board::Q35 => "pc-q35-",
    };
    match pattern.strip_suffix('*') {
        Some(prefix) => family.starts_with(prefix),
        None => pattern == board.name(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn description(code: &Path, variables: &Path, machines: &str, features: &str) -> String {
        format!(
            r#"{{"description": "d", "interface-types": ["uefi"], "mapping": {{"device": "flash",
            "executable": {{"filename": "{}", "format": "raw"}},
            "nvram-template": {{"filename": "{}", "format": "qcow2"}}}},
            "targets": [{{"architecture": "x86_64", "machines": [{machines}]}}],
            "features": [{features}], "tags": []}}"#,
            code.display(),
            variables.display()
        )
    }

    #[test]
    fn the_first_that_fits_in_the_highest_directory() {
        let root = tempfile::tempdir().unwrap();
        let [low, high] = ["low", "high"].map(|name| root.path().join(name));
        std::fs::create_dir(&low).unwrap();
        std::fs::create_dir(&high).unwrap();
        let file = |name: &str| {
            let path = root.path().join(name);
            std::fs::write(&path, name).unwrap();
            path
        };
        let (vars, a, b, c) = (file("vars"), file("a"), file("b"), file("c"));
        let write = |dir: &Path, name: &str, code: &Path, machines: &str, features: &str| {
            let text = description(code, &vars, machines, features);
            std::fs::write(dir.join(name), text).unwrap();
        };
        let dirs = [low.clone(), high.clone()];
        let found = |board| match find_uefi(&dirs, board) {
            Some(Firmware::Uefi { code, variables }) => {
                assert_eq!((variables.path, variables.format.as_str()), (vars.clone(), "qcow2"));
                Some(code.path)
            }
            _ => None,
        };
        assert_eq!(found(Board::Pc), None);
        write(&low, "30-keys.json", &c, r#""pc-q35-*""#, r#""enrolled-keys""#);
        write(&low, "40-smm.json", &c, r#""pc-q35-*""#, r#""secure-boot", "requires-smm""#);
        write(&low, "45-gone.json", &root.path().join("gone"), r#""pc-*""#, "");
        write(&low, "50-q35.json", &a, r#""pc-q35-*""#, "");
        write(&low, "60-both.json", &b, r#""pc-i440fx-*", "pc-q35-*""#, r#""acpi-s3""#);
        std::fs::write(low.join("10-bad.json"), "{").unwrap();
        assert_eq!((found(Board::Q35), found(Board::Pc)), (Some(a.clone()), Some(b)));
        // The same name in a higher directory, and an empty file there.
        write(&high, "60-both.json", &c, r#""pc-i440fx-*""#, "");
        std::fs::write(high.join("50-q35.json"), "").unwrap();
        assert_eq!((found(Board::Q35), found(Board::Pc)), (None, Some(c)));
    }

    #[test]
    fn the_firmware_of_this_host_is_described() {
        for board in [Board::Pc, Board::Q35] {
            match FirmwareKind::Uefi.find(board) {
                Ok(Firmware::Uefi { code, .. }) => assert!(code.path.is_file()),
                other => panic!("{other:?} (tests need the package ovmf)"),
            }
            assert_eq!(FirmwareKind::Bios.find(board).unwrap(), Firmware::Bios);
        }
    }
}

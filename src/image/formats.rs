//! The table of formats: their names, their file name extensions, and the code that opens them.

use super::driver::{Driver, Format};
use super::{qcow2, raw, vdi, vhd, vhdx, vmdk, xva};
use crate::{Error, ErrorKind, Result};
use std::ffi::OsStr;
use std::fmt;
use std::path::Path;

/// The supported formats. The first is the default for file names without a known extension.
static FORMATS: &[&Driver] = &[
    &raw::FORMAT,
    &qcow2::FORMAT,
    &vhd::FORMAT,
    &vhdx::FORMAT,
    &vmdk::FORMAT,
    &vdi::FORMAT,
    &xva::FORMAT,
];

impl Format {
    /// The format that xl or QEMU calls `name`, if it is supported.
    pub fn by_name(name: &str) -> Option<Self> {
        let named = |format: &&&Driver| format.name == name || format.qemu_name == name;
        FORMATS.iter().find(named).map(|format| Self(format))
    }

    /// The names of all supported formats.
    pub fn names() -> impl Iterator<Item = &'static str> {
        FORMATS.iter().map(|format| format.name)
    }

    /// The format that the name of the file at `path` stands for; raw if it stands for none.
    pub fn of_path(path: &Path) -> Self {
        let extension = path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase);
        let found = extension.and_then(|extension| {
            FORMATS.iter().find(|format| format.extensions.contains(&extension.as_str()))
        });
        Self(found.copied().unwrap_or(FORMATS[0]))
    }

    /// xl's name for the format.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// The format called `name`.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`], listing the known names.
    pub fn parse(name: &str) -> Result<Self> {
        Self::by_name(name).ok_or_else(|| {
            let names: Vec<_> = Self::names().collect();
            let what = format!("no image format '{name}' is read; use one of {}", names.join(", "));
            Error::new(ErrorKind::Usage, what)
        })
    }
}

impl fmt::Debug for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Format({})", self.0.name)
    }
}

impl TryFrom<String> for Format {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        Self::parse(&name)
    }
}

impl From<Format> for String {
    fn from(format: Format) -> Self {
        format.name().to_owned()
    }
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for Format {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_formats() {
        for (path, name) in [
            ("/srv/root.img", "raw"),
            ("/srv/root.raw", "raw"),
            ("/dev/vg0/root", "raw"),
            ("/srv/a.b/root.QCOW2", "qcow2"),
            ("/srv/qcow2", "raw"),
        ] {
            assert_eq!(Format::of_path(Path::new(path)).name(), name, "{path}");
        }
        assert_eq!(
            Format::names().collect::<Vec<_>>(),
            ["raw", "qcow2", "vhd", "vhdx", "vmdk", "vdi", "xva"]
        );
        assert_eq!(Format::parse("vpc").unwrap().name(), "vhd");
        assert_eq!(Format::parse("qcow2").unwrap().name(), "qcow2");
        assert_eq!(Format::parse("qed").unwrap_err().kind(), ErrorKind::Usage);
    }
}

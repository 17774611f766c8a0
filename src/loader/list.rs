//! All loaders.

use super::api::Loader;
use super::{direct, grub, none};
use crate::bytes::ReadAt;
use crate::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Deref;

/// All loaders, in the order in which `--help` lists them; the first is the default.
static LOADERS: [LoaderKind; 3] =
    [LoaderKind(&direct::Direct), LoaderKind(&grub::Grub), LoaderKind(&none::NoLoader)];

/// One of the loaders in this program.
#[derive(Clone, Copy, Debug)]
pub struct LoaderKind(&'static dyn Loader);

impl LoaderKind {
    /// The loader for a disk that boots by itself or not at all.
    pub fn none() -> Self {
        Self(&none::NoLoader)
    }

    /// The loader that starts what the guest's own boot menu says.
    pub fn grub() -> Self {
        Self(&grub::Grub)
    }

    /// A loader that exists only in a test.
    #[cfg(test)]
    pub(crate) fn of_test(loader: &'static dyn Loader) -> Self {
        Self(loader)
    }

    /// Whether it fits into the layout of a disk that was made for `other`: all loaders that boot
    /// the guest need the same space.
    pub fn can_replace(self, other: Self) -> bool {
        self.limits().is_some() == other.limits().is_some()
    }

    /// Whether `code`, the first bytes of `disk`, is the boot code of one of our loaders, whose
    /// space there begins at byte `origin`.
    pub fn any_recognizes(code: &[u8], disk: &dyn ReadAt, origin: u64) -> bool {
        LOADERS.iter().any(|loader| loader.recognizes(code, disk, origin))
    }

    /// The loader called `name`.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if there is none.
    pub fn by_name(name: &str) -> Result<Self> {
        LOADERS.iter().find(|l| l.name() == name).copied().ok_or_else(|| {
            let names = LOADERS.map(|l| l.name()).join(", ");
            let what = format!("there is no boot loader '{name}'; there are: {names}");
            Error::new(ErrorKind::Unsupported, what)
        })
    }
}

impl Default for LoaderKind {
    fn default() -> Self {
        LOADERS[0]
    }
}

impl Deref for LoaderKind {
    type Target = dyn Loader;

    fn deref(&self) -> &Self::Target {
        self.0
    }
}

impl PartialEq for LoaderKind {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for LoaderKind {}

impl fmt::Display for LoaderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for LoaderKind {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for LoaderKind {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        Self::by_name(&name).map_err(serde::de::Error::custom)
    }
}

impl clap::ValueEnum for LoaderKind {
    fn value_variants<'a>() -> &'a [Self] {
        &LOADERS
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.name()).help(self.about()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_loaders_apart() {
        for (i, loader) in LOADERS.iter().enumerate() {
            assert_eq!(LoaderKind::by_name(loader.name()).unwrap(), *loader);
            assert!(LOADERS[i + 1..].iter().all(|other| other != loader), "{loader}");
            let text = serde_json::to_string(loader).unwrap();
            assert_eq!(text, format!("\"{loader}\""));
            assert_eq!(serde_json::from_str::<LoaderKind>(&text).unwrap(), *loader);
        }
        let error = LoaderKind::by_name("lilo").unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no boot loader 'lilo'; there are: direct, grub, none"
        );
        assert_eq!(LoaderKind::default().name(), "direct");
    }
}

//! Loaders: what starts a guest's kernel from a disk, and the header by which a Linux kernel says
//! how it wants to be loaded.
//!
//! Numbers and bytes in, bytes and [regions](Region) out, no I/O. A loader is one folder with an
//! implementation of [`Loader`], and one row of [`LOADERS`]. `docs/direct-loader.md` describes the
//! disk format that [`direct`] and its assembly source share.

pub mod direct;
pub mod linux;
mod none;
mod payload;

pub use linux::{KernelKind, SetupHeader};
pub use payload::{Limits, Payload, PayloadFile};

use crate::disk::Region;
use crate::layout::{PartitionKind, Placed, TableKind};
use crate::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::{Deref, Range};

/// All loaders, in the order in which `--help` lists them; the first is the default.
static LOADERS: [LoaderKind; 2] = [LoaderKind(&direct::Direct), LoaderKind(&none::NoLoader)];

/// A program that the firmware starts from the disk.
///
/// What a loader writes lies in the *boot area*: from sector 0 up to the first of the guest's
/// partitions. The loader's own partitions are part of it.
pub trait Loader: fmt::Debug + Send + Sync {
    /// Name in options, reports and the metadata of overlays.
    fn name(&self) -> &'static str;

    /// What it is, for `--help`.
    fn about(&self) -> &'static str;

    /// What it can load; `None` for a loader that starts no kernel of the planner's choice.
    fn limits(&self) -> Option<Limits>;

    /// Partitions that it wants for itself on a disk with a `table` of this kind.
    fn partitions(&self, table: TableKind) -> Vec<WantedPartition> {
        let _ = table;
        Vec::new()
    }

    /// Bytes that it wants before the first partition, the partition table included, when it is
    /// to start `payload`.
    fn reserve(&self, payload: Option<&Payload>) -> u64;

    /// Machine code for the first bytes of sector 0, at most
    /// [`BOOTSTRAP_LEN`](crate::layout::BOOTSTRAP_LEN) bytes. It depends on `space` alone, so it
    /// stays the same when another kernel is planned.
    fn boot_code(&self, space: &Space) -> Vec<u8>;

    /// What it puts into `space`, in disk order; zeros may be left out.
    fn regions(&self, order: BootOrder<'_>, space: &Space) -> Vec<Region>;
}

/// A partition that a loader wants for itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WantedPartition {
    /// A BIOS boot partition or an EFI system partition.
    pub kind: PartitionKind,
    /// Length in bytes.
    pub len: u64,
}

/// Where on a disk a loader may put something.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Space {
    /// The boot gap, in bytes of the disk: from the end of the partition table to the first
    /// partition.
    pub gap: Range<u64>,
    /// The partitions that it asked for, in the order in which it did.
    pub partitions: Vec<Placed>,
}

/// What a loader is to do.
#[derive(Clone, Copy, Debug)]
pub enum BootOrder<'a> {
    /// Start this.
    Start(&'a Payload),
    /// Print this and stop, if it can: there is nothing to start.
    Print(&'a str),
    /// The kernel is not known yet, or it is not the planner's to choose.
    Undecided,
}

/// A loader that this program has.
#[derive(Clone, Copy, Debug)]
pub struct LoaderKind(&'static dyn Loader);

impl LoaderKind {
    /// The loader for a disk that boots by itself or not at all.
    pub fn none() -> Self {
        Self(&none::NoLoader)
    }

    /// A loader that only a test has.
    #[cfg(test)]
    pub(crate) fn of_test(loader: &'static dyn Loader) -> Self {
        Self(loader)
    }

    /// The loader called `name`.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when there is none.
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
        assert_eq!(error.to_string(), "there is no boot loader 'lilo'; there are: direct, none");
        assert_eq!(LoaderKind::default().name(), "direct");
    }
}

//! The initrds of a boot entry: what they contain decides which drivers the kernel has in time, and
//! what its root filesystem is called.

use super::guests::Guests;
use super::question::{FileOrigin, FoundFile};
use crate::fs::GuestFile;
use crate::initrd::{Generator, Initrd, Whole};
use crate::plan::root_resolver::Finder;
use crate::{Error, ErrorKind, Result};

/// Reads `initrds` until it is known what made them and that they have the `drivers` of kernel
/// `version`, or to their end. Those of the generator `trusted` have the drivers. `None` without
/// initrds.
///
/// # Errors
/// Errors from reading the files; a damaged initrd is no error.
pub(super) fn read(
    guests: &Guests<'_>,
    initrds: &[FoundFile],
    version: &str,
    drivers: &[&str],
    trusted: Option<Generator>,
) -> Result<Option<Initrd>> {
    let mut found: Option<Initrd> = None;
    for file in initrds {
        let mut file = open(guests, file)?;
        let next = Initrd::find(&mut *file, version, drivers, trusted, guests.budget())?;
        match &mut found {
            Some(found) => found.join(next),
            None => found = Some(next),
        }
    }
    // The generator was trusted, but not with these settings.
    match found {
        Some(found) if trusted == Some(found.generator) && !found.is_for_most_machines() => {
            read(guests, initrds, version, drivers, None)
        }
        found => Ok(found),
    }
}

/// What finds the root filesystem that `root=` calls `name`.
pub(super) fn finder(initrd: Option<&Initrd>, name: &str) -> Finder {
    let Some(initrd) = initrd else { return Finder::default() };
    let is_known = ["UUID=", "LABEL=", "PARTUUID="].iter().any(|key| name.starts_with(key));
    if initrd.complete && initrd.problem.is_none() && !initrd.has_init {
        return Finder::Kernel;
    }
    match is_known && initrd.finds(name) == Some(false) {
        true => Finder::SimpleInitrd,
        false => Finder::Initrd,
    }
}

/// Opens an initrd of a boot entry.
fn open<'a>(guests: &Guests<'a>, file: &FoundFile) -> Result<Box<dyn GuestFile + 'a>> {
    match &file.from {
        FileOrigin::Guest { source, path } => guests.fs(*source)?.open(path),
        FileOrigin::Host(source) => Ok(Box::new(Whole(guests.bytes(*source)?))),
        FileOrigin::Made(_) => Err(Error::new(
            ErrorKind::Invalid,
            "an initrd with drivers is not searched for drivers",
        )),
    }
}

//! Limits of resources, and protection from other processes of the same user.

use super::profile::Limits;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};
use std::io;

/// Lower the limits of this process to `limits`.
///
/// # Errors
/// Errors of setrlimit(2).
pub(super) fn lower(limits: Limits) -> io::Result<()> {
    for (resource, value) in [
        (Resource::As, limits.memory),
        (Resource::Cpu, limits.cpu),
        (Resource::Fsize, limits.file_len),
    ] {
        if let Some(value) = value {
            lower_one(resource, value)?;
        }
    }
    Ok(())
}

fn lower_one(resource: Resource, value: u64) -> io::Result<()> {
    let inherited = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let value = Some(value.min(inherited));
    setrlimit(resource, Rlimit { current: value, maximum: value })?;
    Ok(())
}

/// Leave no core file when the process crashes: it holds the guest's data.
///
/// # Errors
/// Errors of setrlimit(2).
pub(super) fn forbid_core_files() -> io::Result<()> {
    lower_one(Resource::Core, 0)
}

/// Prevent other processes of the same user from inspecting this one.
///
/// # Errors
/// Errors of prctl(2).
pub(super) fn forbid_inspection() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

//! Mount namespaces.

use crate::{Error, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::path::Path;

/// Move this thread into its own mount namespace: mounts that it and its children make are
/// invisible to other processes, and end with them. The process should have no other threads.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN.
pub fn enter_private_mounts() -> Result<()> {
    let failed = |e: nix::Error| Error::io("cannot make a mount namespace", e.into());
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&Path>, "/", None::<&Path>, private, None::<&Path>).map_err(failed)
}

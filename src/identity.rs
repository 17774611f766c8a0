//! What makes a clone of a golden image distinct: its name, its identifiers, who may log in, and
//! what it does first.
//!
//! One file per concern. Each drafts what its option asks for and skips what is already so, so a
//! second mount with the same options over the same overlay edits nothing. The user asked for these
//! edits explicitly: what cannot be done is an error, where a step of the adaptation would skip it.
//! Names, keys, passwords and files are set to what the option says at every mount; what is *new*
//! or *reset* changes only while it is still what the image has.

mod checks;
mod copy_in;
mod first_boot;
mod guest_text;
mod hostname;
mod init;
mod machine_id;
mod mounts;
mod password;
mod root_uuid;
mod selinux;
mod ssh_keys;
#[cfg(test)]
mod testing;

pub use checks::CHECKS;
pub use copy_in::CopyIn;
pub use first_boot::Script;
pub use hostname::Hostname;
pub use password::PasswordHash;
pub use root_uuid::{RootUuid, UuidChange};
pub use ssh_keys::SshKeys;

use crate::Result;
use crate::adapt::{Devices, Selection, draft_steps};
use crate::edit::{Draft, Edit};
use crate::fs::GuestFs;

/// Everything that a user can specify about a guest's identity.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Identity {
    /// Its name.
    pub hostname: Option<Hostname>,
    /// UUID of its root filesystem.
    pub root_uuid: Option<RootUuid>,
    /// Whether to reset machine-id, SSH host keys and other things that no two machines share.
    pub reset_machine_id: bool,
    /// Keys that may log in.
    pub ssh_keys: Vec<SshKeys>,
    /// Root's password.
    pub root_password: Option<PasswordHash>,
    /// Files of this host that are copied into it.
    pub copies: Vec<CopyIn>,
    /// Scripts that it runs once, in this order.
    pub first_boot: Vec<Script>,
    /// Scripts that somebody who logs in can run; nothing starts them.
    pub checks: Vec<Script>,
}

impl Identity {
    /// Whether nothing is requested.
    pub fn is_empty(&self) -> bool {
        self.hostname.is_none()
            && self.root_uuid.is_none()
            && !self.reset_machine_id
            && self.ssh_keys.is_empty()
            && self.root_password.is_none()
            && self.copies.is_empty()
            && self.first_boot.is_empty()
            && self.checks.is_empty()
    }
}

/// What [`propose_with_identity`] needs to know about the guest besides its root filesystem.
#[derive(Clone, Copy)]
pub struct Clone<'a> {
    /// The identity that the guest is to have.
    pub identity: &'a Identity,
    /// The root filesystem as it is in the image; `None` when nothing has been written over it yet.
    pub pristine: Option<&'a dyn GuestFs>,
    /// The change of the root filesystem's UUID, when that has changed or is about to.
    pub uuid: Option<&'a UuidChange>,
}

/// Like [`propose`](crate::adapt::propose), with the edits that give the guest its own identity.
///
/// # Errors
/// Fails if the filesystem cannot be read; [`Invalid`](crate::ErrorKind::Invalid),
/// [`Unsupported`](crate::ErrorKind::Unsupported) and [`NotFound`](crate::ErrorKind::NotFound) for
/// what cannot be done in this guest.
pub fn propose_with_identity(
    root: &dyn GuestFs,
    devices: &Devices,
    selection: &Selection,
    clone: Clone<'_>,
) -> Result<Vec<Edit>> {
    let mut drafted = Draft::new(root);
    let draft = &mut drafted;
    draft_steps(draft, devices, selection)?;
    let Identity { hostname, reset_machine_id, .. } = clone.identity;
    if let Some(change) = clone.uuid {
        draft.begin("root-uuid");
        root_uuid::draft(draft, change);
    }
    if let Some(name) = hostname {
        draft.begin("hostname");
        hostname::draft(draft, name)?;
    }
    if *reset_machine_id {
        draft.begin("machine-id");
        machine_id::draft(draft, clone.pristine);
    }
    if let Some(hash) = &clone.identity.root_password {
        draft.begin("root-password-hash");
        password::draft(draft, hash)?;
    }
    draft.begin("ssh-key");
    for keys in &clone.identity.ssh_keys {
        ssh_keys::draft(draft, keys)?;
    }
    draft.begin("copy-in");
    for copy in &clone.identity.copies {
        copy_in::draft(draft, copy)?;
    }
    if !clone.identity.first_boot.is_empty() {
        draft.begin("run-first");
        first_boot::draft(draft, &clone.identity.first_boot)?;
    }
    if !clone.identity.checks.is_empty() {
        draft.begin("check");
        checks::draft(draft, &clone.identity.checks);
    }
    draft.begin("selinux");
    selinux::draft(draft);
    Ok(drafted.finish())
}

//! Confining this process, in two steps.
//!
//! Landlock and the bounding set belong to a thread and are inherited by threads that it starts;
//! they come first. Everything else acts on all threads, and comes when the process has opened what
//! it needs and has started its threads.

use super::account::{
    self, Account, drop_capabilities, is_mapped, limit_bounding_set, unprivileged,
};
use super::confined::{Confined, Layer, Missing};
use super::empty_root::EmptyRoot;
use super::filter::Filters;
use super::landlock::{Allowed, Network, restrict};
use super::limits::{forbid_core_files, forbid_inspection, lower};
use super::profile::{Mode, Profile};
use crate::{Error, ErrorKind, Result};
use rustix::thread::{CapabilitySet, set_no_new_privs};
use std::path::Path;

/// What the C library reads to look up the names of hosts.
const NAMES: [&str; 6] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/run/systemd/resolve",
];

/// A process whose confinement has begun.
#[derive(Debug)]
#[must_use = "the process is confined when `finish` has returned"]
pub struct Confinement {
    profile: Profile,
    confined: Confined,
    account: Option<Account>,
    root: Option<EmptyRoot>,
}

/// Confine this process, which must have a single thread.
///
/// # Errors
/// As [`Confinement::begin`] and [`Confinement::finish`].
pub fn confine(profile: Profile, mode: Mode) -> Result<Confined> {
    Confinement::begin(profile, mode)?.finish()
}

impl Confinement {
    /// Begin to confine this process. It may still open `/dev/fuse`, start threads and use
    /// descriptors. Must be called before the process starts threads that are to be confined.
    ///
    /// # Errors
    /// With [`Mode::Strict`], when a layer cannot be applied.
    pub fn begin(profile: Profile, mode: Mode) -> Result<Self> {
        let confined = Confined { mode, ..Confined::default() };
        let mut begun = Self { profile, confined, account: None, root: None };
        if mode != Mode::None {
            begun.before_threads()?;
        }
        Ok(begun)
    }

    /// Confine all threads of this process.
    ///
    /// # Errors
    /// With [`Mode::Strict`], when a layer cannot be applied. In both modes when the user ID cannot
    /// be changed although this process may do so.
    pub fn finish(mut self) -> Result<Confined> {
        if self.confined.mode != Mode::None {
            self.all_threads()?;
        }
        Ok(self.confined)
    }

    fn before_threads(&mut self) -> Result<()> {
        forbid_core_files().map_err(|e| Error::io("cannot lower the limit of core files", e))?;
        self.limit_resources()?;
        self.prepare_account()?;
        self.prepare_root()?;
        let done = set_no_new_privs(true).map_err(|e| e.to_string());
        self.note(Layer::NoNewPrivileges, done)?;
        let allowed: &[_] = match self.profile {
            Profile::Serve => &[(Path::new("/dev/fuse"), Allowed::Use)],
            Profile::ServeSockets | Profile::Parse(_) => &[],
            Profile::Fetch(_) => &NAMES.map(|path| (Path::new(path), Allowed::Execute)),
        };
        let network = match self.profile {
            Profile::Fetch(_) => Network::Allowed,
            _ => Network::Denied,
        };
        self.note(Layer::Landlock, restrict(allowed, network))
    }

    fn limit_resources(&self) -> Result<()> {
        let (Profile::Parse(limits) | Profile::Fetch(limits)) = self.profile else {
            return Ok(());
        };
        lower(limits).map_err(|e| Error::io("cannot lower the limits of this process", e))
    }

    /// Root changes its user ID in the second step, because devices are opened before. Everyone
    /// else keeps it, and must not keep capabilities.
    fn prepare_account(&mut self) -> Result<()> {
        limit_bounding_set(CapabilitySet::empty());
        if account::has(CapabilitySet::SETUID | CapabilitySet::SETGID) {
            let account = unprivileged();
            if is_mapped(account) {
                self.account = Some(account);
                return Ok(());
            }
            let reason = format!("user {} does not exist in this container", account.uid);
            self.note(Layer::Account, Err(reason))?;
        } else if !nix::unistd::geteuid().is_root() {
            // Reported as active although the user ID stays: it has no rights that the user lacks.
            let done = drop_capabilities().map_err(|e| e.to_string());
            return self.note(Layer::Account, done);
        } else {
            self.note(Layer::Account, Err("not permitted here".into()))?;
        }
        drop_capabilities().map_err(|e| Error::io("cannot give up capabilities", e))
    }

    fn prepare_root(&mut self) -> Result<()> {
        // A user without privileges cannot change the root; and names of hosts cannot be looked up
        // without some files.
        if !nix::unistd::geteuid().is_root() || matches!(self.profile, Profile::Fetch(_)) {
            return Ok(());
        }
        let root = match account::has(CapabilitySet::SYS_CHROOT) {
            true => EmptyRoot::new().map_err(|e| e.to_string()),
            false => Err("not permitted here".into()),
        };
        match root {
            Ok(root) => self.root = Some(root),
            Err(reason) => self.note(Layer::EmptyRoot, Err(reason))?,
        }
        Ok(())
    }

    fn all_threads(&mut self) -> Result<()> {
        // Compiled first: it reads nothing, but allocates.
        let filters = Filters::of(&self.profile);
        if let Some(root) = self.root.take() {
            let done = root.enter().map_err(|e| e.to_string());
            self.note(Layer::EmptyRoot, done)?;
        }
        if let Some(account) = self.account.take() {
            account::switch_to(account)
                .map_err(|e| Error::io(format!("cannot switch to user {}", account.uid), e))?;
            self.note(Layer::Account, Ok(()))?;
        }
        // After the user ID, because changing that resets it.
        let done = forbid_inspection().map_err(|e| e.to_string());
        self.note(Layer::NotDumpable, done)?;
        let done = filters.and_then(|filters| filters.apply());
        self.note(Layer::SystemCalls, done)
    }

    /// Record that `layer` is in force, or why it is not.
    fn note(&mut self, layer: Layer, done: std::result::Result<(), String>) -> Result<()> {
        match done {
            Ok(()) => self.confined.active.push(layer),
            Err(reason) if self.confined.mode == Mode::Strict => {
                let what = format!(
                    "cannot confine this process, and --sandbox strict was given: {layer}: {reason}"
                );
                return Err(Error::new(ErrorKind::Unsupported, what));
            }
            Err(reason) => self.confined.missing.push(Missing { layer, reason }),
        }
        Ok(())
    }
}

//! Landlock: access to files, network and other processes, restricted by the kernel for a thread
//! and its descendants.
//!
//! Source: kernel Documentation/userspace-api/landlock.

use ::landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use std::path::Path;

/// The newest version whose rights are denied here. On older kernels, those that they know are.
const NEWEST: ABI = ABI::V6;

/// What may be done with a file, or with everything beneath a directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Allowed {
    /// Everything.
    Use,
    /// Reading, and executing programs.
    Execute,
}

/// Whether connections may be made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Network {
    Denied,
    Allowed,
}

/// Deny this thread and its descendants everything that Landlock covers, except what is `allowed` and
/// perhaps the `network`; paths that do not exist are skipped. The thread must have no_new_privs set, or CAP_SYS_ADMIN.
///
/// # Errors
/// Why it could not be applied, for the user.
pub(super) fn restrict(allowed: &[(&Path, Allowed)], network: Network) -> Result<(), String> {
    match try_restrict(allowed, network).map_err(|e| e.to_string())? {
        RulesetStatus::NotEnforced => Err("not enabled in this kernel".into()),
        _ => Ok(()),
    }
}

fn try_restrict(
    allowed: &[(&Path, Allowed)],
    network: Network,
) -> Result<RulesetStatus, RulesetError> {
    let denied = match network {
        Network::Denied => AccessNet::from_all(NEWEST),
        // No port can be offered.
        Network::Allowed => AccessNet::BindTcp.into(),
    };
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(denied)?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    for (path, allowed) in allowed {
        let Ok(fd) = PathFd::new(path) else { continue };
        let access = match allowed {
            Allowed::Use => AccessFs::from_all(NEWEST),
            Allowed::Execute => AccessFs::from_read(NEWEST),
        };
        // The kernel refuses rights of directories for anything else.
        let possible = if path.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
        rules = rules.add_rule(PathBeneath::new(fd, possible))?;
    }
    Ok(rules.restrict_self()?.ruleset)
}

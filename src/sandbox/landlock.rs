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

/// Deny this thread and its descendants everything that Landlock covers, except the use of the
/// `devices`; those that do not exist are skipped. The thread must have no_new_privs set, or
/// CAP_SYS_ADMIN.
///
/// # Errors
/// Why it could not be applied, for the user.
pub(super) fn restrict(devices: &[&Path]) -> Result<(), String> {
    let status = try_restrict(devices).map_err(|e| e.to_string())?;
    match status {
        RulesetStatus::NotEnforced => Err("not enabled in this kernel".into()),
        _ => Ok(()),
    }
}

fn try_restrict(devices: &[&Path]) -> Result<RulesetStatus, RulesetError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    for device in devices {
        if let Ok(device) = PathFd::new(device) {
            rules = rules.add_rule(PathBeneath::new(device, AccessFs::from_file(NEWEST)))?;
        }
    }
    Ok(rules.restrict_self()?.ruleset)
}

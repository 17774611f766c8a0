//! The user ID and the capabilities of a confined process.
//!
//! Sources: credentials(7), capabilities(7), user_namespaces(7).

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use std::io;
use std::sync::OnceLock;

/// A user and a group, as numbers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Account {
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
}

/// `nobody`, whose number is the same everywhere.
const NOBODY: Account = Account { uid: 65534, gid: 65534 };

/// The account of processes that root confines: the user `synthdisk` if /etc/passwd has it, else
/// `nobody`. It is determined once.
///
/// The file is read here because the C library might ask a directory server for the name.
pub fn unprivileged() -> Account {
    static FOUND: OnceLock<Account> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let table = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        find(&table, "synthdisk").unwrap_or(NOBODY)
    })
}

/// The account `name` in a table as passwd(5) describes it; never root.
fn find(table: &str, name: &str) -> Option<Account> {
    let mut lines = table.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let fields = lines.find(|fields| fields[0] == name)?;
    let number = |index: usize| fields.get(index)?.parse().ok().filter(|id| *id != 0);
    Some(Account { uid: number(2)?, gid: number(3)? })
}

/// Whether the user namespace of this process has `account`, so that it can switch to it.
pub(super) fn is_mapped(account: Account) -> bool {
    let maps = |file: &str, id: u32| {
        let map = std::fs::read_to_string(file).unwrap_or_default();
        map.lines().any(|line| {
            let mut numbers = line.split_whitespace().map(|n| n.parse::<u64>().unwrap_or(0));
            let (first, _, len) = (numbers.next(), numbers.next(), numbers.next());
            first
                .zip(len)
                .is_some_and(|(first, len)| u64::from(id) >= first && u64::from(id) - first < len)
        })
    };
    maps("/proc/self/uid_map", account.uid) && maps("/proc/self/gid_map", account.gid)
}

/// Whether this thread may switch to `account`.
pub(super) fn can_become(account: Account) -> bool {
    has(CapabilitySet::SETUID | CapabilitySet::SETGID) && is_mapped(account)
}

/// Remove all capabilities but `kept` from this thread's bounding set, as far as the kernel allows.
/// Those that it holds stay, but programs that it starts get no others.
pub(super) fn limit_bounding_set(kept: CapabilitySet) {
    for capability in CapabilitySet::all() - kept {
        // EINVAL: the kernel does not know this capability. EPERM: without CAP_SETPCAP.
        if capability_is_in_bounding_set(capability).unwrap_or(false) {
            let _ = remove_capability_from_bounding_set(capability);
        }
    }
}

/// Give up all capabilities of this thread, whatever its user ID.
///
/// # Errors
/// Errors of capset(2).
pub(super) fn drop_capabilities() -> io::Result<()> {
    let _ = clear_ambient_capability_set(); // the kernel also does this when the others are cleared
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(())
}

/// Whether this thread has `capability`.
pub(super) fn has(capability: CapabilitySet) -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(capability))
}

/// Switch all threads of this process to `account`, for good. They lose their capabilities.
///
/// # Errors
/// Errors of the system calls.
pub(super) fn switch_to(account: Account) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    // These functions of the C library act on all threads, unlike the system calls.
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    Ok(())
}

/// Switch this thread alone to `account`, for good. It loses its capabilities.
///
/// # Errors
/// Errors of the system calls.
pub(super) fn switch_thread_to(account: Account) -> io::Result<()> {
    use rustix::process::{Gid, Uid};
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_is_never_root() {
        let table = "root:x:0:0::/:/bin/sh\nsynthdisk:x:997:996::/:/bin/false\nbad:x\n\
                     zero:x:0:5::/:/bin/sh\n";
        assert_eq!(find(table, "synthdisk"), Some(Account { uid: 997, gid: 996 }));
        for name in ["root", "bad", "zero", "missing", ""] {
            assert_eq!(find(table, name), None, "{name}");
        }
        assert_ne!(unprivileged().uid, 0);
    }
}

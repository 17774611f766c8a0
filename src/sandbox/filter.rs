//! seccomp filters, made from the lists in `calls`.
//!
//! Source: seccomp(2).

use super::calls::{
    ACCEPT, BASE, BASE_OF_ARCHITECTURE, CONNECT, Call, DEADLY, NOT_FOR_TOOLS, STORE,
};
use super::profile::Profile;
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, apply_filter, apply_filter_all_threads,
};
use std::collections::BTreeMap;

/// Option of prctl(2) with which newer C libraries name their memory; `libc` lacks it.
const PR_SET_VMA: i32 = 0x5356_4d41;

type Rules = BTreeMap<Call, Vec<SeccompRule>>;

/// Compiled filters, to be applied in this order. The strictest verdict counts.
#[derive(Debug)]
pub(super) struct Filters(Vec<BpfProgram>);

impl Filters {
    /// The filters of `profile`, for this process.
    ///
    /// # Errors
    /// Why there are none, such as an unknown processor.
    pub(super) fn of(profile: &Profile) -> Result<Self, String> {
        compile(profile).map(Self).map_err(|e| e.to_string())
    }

    /// The filters of tools.
    ///
    /// # Errors
    /// As [`Filters::of`].
    pub(super) fn for_tools() -> Result<Self, String> {
        let deadly = DEADLY.iter().filter(|call| !EXECUTING.contains(*call));
        let forbidden = NOT_FOR_TOOLS.iter().chain(deadly).map(|call| (*call, Vec::new()));
        let program = program(forbidden.collect(), SeccompAction::Allow, fails(libc::EPERM));
        program.map(|program| Self(vec![program])).map_err(|e| e.to_string())
    }

    /// Apply them to this thread. This sets no_new_privs.
    ///
    /// # Errors
    /// Why they could not be applied.
    pub(super) fn apply_to_thread(&self) -> Result<(), String> {
        self.0.iter().try_for_each(|program| apply_filter(program).map_err(|e| e.to_string()))
    }

    /// Apply them to all threads. This sets no_new_privs.
    ///
    /// # Errors
    /// Why they could not be applied.
    pub(super) fn apply(&self) -> Result<(), String> {
        self.0
            .iter()
            .try_for_each(|program| apply_filter_all_threads(program).map_err(|e| e.to_string()))
    }
}

fn compile(profile: &Profile) -> Result<Vec<BpfProgram>, BackendError> {
    let unconditional = |calls: &[Call]| calls.iter().map(|call| (*call, Vec::new())).collect();
    let deadly = program(unconditional(DEADLY), SeccompAction::Allow, SeccompAction::KillProcess)?;
    let mut allowed: Rules = unconditional(BASE);
    allowed.extend(unconditional(BASE_OF_ARCHITECTURE));
    if matches!(profile, Profile::Serve | Profile::ServeSockets | Profile::Fetch(_)) {
        allowed.extend(unconditional(STORE));
    }
    allowed.extend(conditional()?);
    if *profile == Profile::ServeSockets {
        allowed.extend(unconditional(ACCEPT));
        let level = (1, Dword, Eq, libc::SOL_SOCKET as u64);
        let buffer = rule(&[level, (2, Dword, Eq, libc::SO_SNDBUF as u64)])?;
        allowed.entry(libc::SYS_setsockopt).or_default().push(buffer);
    }
    if matches!(profile, Profile::Fetch(_)) {
        allowed.extend(unconditional(CONNECT));
        allowed.extend(connecting()?);
    }
    let allowed = program(allowed, fails(libc::ENOSYS), SeccompAction::Allow)?;
    // The first filter has to permit applying the second.
    Ok(vec![deadly, allowed])
}

fn program(
    rules: Rules,
    unlisted: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(rules, unlisted, listed, std::env::consts::ARCH.try_into()?)?.try_into()
}

fn fails(errno: i32) -> SeccompAction {
    SeccompAction::Errno(errno as u32) // errors are positive
}

/// What starts programs.
const EXECUTING: [Call; 2] = [libc::SYS_execve, libc::SYS_execveat];

/// Calls that are allowed with some arguments only.
fn conditional() -> Result<Rules, BackendError> {
    let one_of = |index: u8, values: &[i32]| -> Result<Vec<_>, BackendError> {
        // As the kernel sees it: 32 bits without a sign.
        let rules =
            values.iter().map(|value| rule(&[(index, Dword, Eq, u64::from(*value as u32))]));
        rules.collect()
    };
    let with = |conditions| Ok::<_, BackendError>(vec![rule(conditions)?]);
    let executable = MaskedEq(libc::PROT_EXEC as u64);
    let thread = libc::CLONE_THREAD as u64;
    // A path may accompany this flag, but then the lookup starts at the empty root, or is subject
    // to Landlock; neither returns more than attributes.
    let empty_path = libc::AT_EMPTY_PATH as u64;
    let fcntls = [
        libc::F_GETFD,
        libc::F_SETFD,
        libc::F_GETFL,
        libc::F_DUPFD_CLOEXEC,
        libc::F_OFD_SETLK,
        libc::F_OFD_GETLK,
    ];
    let timeouts = [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO];
    Ok(Rules::from([
        // Threads, but no processes. The C library tries clone3 first, whose flags a filter
        // cannot see; it falls back to clone.
        (libc::SYS_clone, with(&[(0, Qword, MaskedEq(thread), thread)])?),
        (libc::SYS_mmap, with(&[(2, Dword, executable.clone(), 0)])?),
        (libc::SYS_mprotect, with(&[(2, Dword, executable, 0)])?),
        (libc::SYS_newfstatat, with(&[(3, Dword, MaskedEq(empty_path), empty_path)])?),
        (libc::SYS_statx, with(&[(2, Dword, MaskedEq(empty_path), empty_path)])?),
        (libc::SYS_fcntl, one_of(1, &fcntls)?),
        (libc::SYS_prctl, one_of(0, &[libc::PR_SET_NAME, PR_SET_VMA])?),
        (libc::SYS_setsockopt, one_of(2, &timeouts)?),
        (libc::SYS_socketpair, with(&[(0, Dword, Eq, libc::AF_UNIX as u64)])?),
        // abort(3).
        (libc::SYS_tgkill, with(&[(0, Dword, Eq, u64::from(std::process::id()))])?),
    ]))
}

/// What only a process that makes connections may call, with some arguments only.
fn connecting() -> Result<Rules, BackendError> {
    let families = [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
    let family = |family: &i32| rule(&[(0, Dword, Eq, *family as u64)]);
    let writing = (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC) as u64;
    Ok(Rules::from([
        (libc::SYS_openat, vec![rule(&[(2, Dword, MaskedEq(writing), 0)])?]),
        (libc::SYS_socket, families.iter().map(family).collect::<Result<_, _>>()?),
        // Sockets are told not to block by this.
        (
            libc::SYS_ioctl,
            [libc::FIONBIO, libc::FIONREAD]
                .iter()
                .map(|request| rule(&[(1, Dword, Eq, *request as u32 as u64)]))
                .collect::<Result<_, _>>()?,
        ),
    ]))
}

/// A rule that holds if all `conditions` do: argument, its length, comparison, value.
fn rule(
    conditions: &[(u8, SeccompCmpArgLen, SeccompCmpOp, u64)],
) -> Result<SeccompRule, BackendError> {
    let conditions = conditions.iter().map(|(index, len, op, value)| {
        SeccompCondition::new(*index, len.clone(), op.clone(), *value)
    });
    SeccompRule::new(conditions.collect::<Result<_, _>>()?)
}

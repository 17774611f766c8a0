//! Confining programs of the host that work on a guest's bytes.
//!
//! What such a program may do is set for a thread, and inherited by the programs that the thread
//! starts. So nothing has to run between fork and exec, and no further program is started.

use super::account::{self, Account, limit_bounding_set, unprivileged};
use super::filter::Filters;
use super::landlock::{Allowed, Network, restrict};
use super::profile::Limits;
use crate::{Error, Result};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use rustix::thread::{CapabilitySet, set_no_new_privs};
use std::io;
use std::path::Path;
use std::process::{Child, Command};

/// What tools need to run. They may read and execute these.
const SYSTEM: [&str; 12] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/gnu/store",
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/mke2fs.conf",
    "/proc",
];
const DEVICES: [&str; 3] = ["/dev/null", "/dev/zero", "/dev/urandom"];

/// The user ID of a tool.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RunAs {
    /// That of this process. If it is root's, the tool may read all files, and has no other
    /// capability.
    Caller,
    /// An account without rights, if this process is root.
    Unprivileged,
    /// The same account in this group.
    InGroup(u32),
}

/// What a tool may do.
#[derive(Clone, Copy, Debug)]
pub struct ToolSandbox<'a> {
    /// Its user ID.
    pub run_as: RunAs,
    /// Its limits.
    pub limits: Limits,
    /// Programs that it may execute, besides those of the system.
    pub programs: &'a [&'a Path],
    /// Files and directories that it may use. If the kernel has Landlock, it can open no others,
    /// except programs and libraries.
    pub files: &'a [&'a Path],
}

/// A thread whose programs are confined.
#[derive(Debug)]
pub struct ToolThread {
    limits: Limits,
}

impl ToolSandbox<'_> {
    /// Run `work` on a thread of its own. It starts tools with [`ToolThread::spawn`], and must wait
    /// for them.
    ///
    /// # Errors
    /// Errors of starting a thread and of confining it, and those of `work`.
    pub fn run<T: Send>(&self, work: impl FnOnce(&ToolThread) -> Result<T> + Send) -> Result<T> {
        let failed = |e| Error::io("cannot start a thread", e);
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("tool".into());
            let thread = thread.spawn_scoped(scope, || work(&self.enter()?)).map_err(failed)?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Confine the current thread, as far as the kernel allows.
    fn enter(&self) -> Result<ToolThread> {
        let root = nix::unistd::geteuid().is_root();
        limit_bounding_set(match self.run_as {
            RunAs::Caller => CapabilitySet::DAC_READ_SEARCH,
            RunAs::Unprivileged | RunAs::InGroup(_) => CapabilitySet::empty(),
        });
        set_no_new_privs(true).map_err(|e| Error::io("cannot confine a tool", e.into()))?;
        if let Err(reason) = restrict(&self.allowed(), Network::Denied) {
            tracing::debug!("tools are not confined by Landlock: {reason}");
        }
        if let Err(reason) = Filters::for_tools().and_then(|filters| filters.apply_to_thread()) {
            tracing::debug!("system calls of tools are not filtered: {reason}");
        }
        let account = match self.run_as {
            RunAs::Caller => None,
            RunAs::Unprivileged => Some(unprivileged()),
            RunAs::InGroup(gid) => Some(Account { gid, ..unprivileged() }),
        };
        // A container may have no other account.
        if let Some(account) = account.filter(|account| root && account::can_become(*account)) {
            // Now and not between fork and exec: limits can be set for processes of the same user.
            account::switch_thread_to(account)
                .map_err(|e| Error::io("cannot change the user ID of a tool", e))?;
        }
        Ok(ToolThread { limits: self.limits })
    }

    fn allowed(&self) -> Vec<(&Path, Allowed)> {
        let system = SYSTEM.iter().map(|path| (Path::new(*path), Allowed::Execute));
        let programs = self.programs.iter().map(|path| (*path, Allowed::Execute));
        let devices = DEVICES.iter().map(|path| (Path::new(*path), Allowed::Use));
        let files = self.files.iter().map(|path| (*path, Allowed::Use));
        system.chain(programs).chain(devices).chain(files).collect()
    }
}

impl ToolThread {
    /// Start a tool. It is killed when it exceeds its limits.
    ///
    /// # Errors
    /// Errors of starting it.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let child = command.spawn()?;
        let limits = [
            (Resource::Core, Some(0)),
            (Resource::As, self.limits.memory),
            (Resource::Cpu, self.limits.cpu),
            (Resource::Fsize, self.limits.file_len),
        ];
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        for (resource, value) in limits {
            if let Some(value) = value {
                let limit = Rlimit { current: Some(value), maximum: Some(value) };
                let _ = prlimit(pid, resource, limit); // it may have ended, or have a lower limit
            }
        }
        Ok(child)
    }
}

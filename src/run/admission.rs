//! Which guests may start: as many as the host has memory and processors for.
//!
//! Sources: Linux, Documentation/filesystems/proc.rst ("meminfo") and admin-guide/cgroup-v2.rst.

use crate::layout::format_size;
use crate::process::Stop;
use crate::{Error, ErrorKind, Result};
use parking_lot::{Condvar, Mutex};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What QEMU and the mount need besides the guest's memory, in bytes.
const OVERHEAD: u64 = 128 << 20;

/// Other programs free and take memory as well, so waiting guests look again after this time.
const AGAIN: Duration = Duration::from_millis(500);

/// What a guest needs.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// Its memory, in MiB.
    pub memory_mib: u64,
    /// Its processors.
    pub vcpus: u32,
}

impl Need {
    fn bytes(self) -> u64 {
        self.memory_mib.saturating_mul(1 << 20).saturating_add(OVERHEAD)
    }
}

/// Whether guests wait for processors too, and not only for memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Processors {
    /// Running guests have at most as many together as this process may use.
    Limited,
    /// Any number.
    Unlimited,
}

#[derive(Debug, Default)]
struct Running {
    guests: u32,
    bytes: u64,
    vcpus: u32,
    /// The memory that was available when no guest ran, in bytes: a guest takes its own little by
    /// little, so what is available now says nothing about those that run.
    budget: u64,
}

/// Lets guests start when the host has room for them.
#[derive(Debug)]
pub struct Admission {
    running: Mutex<Running>,
    ended: Condvar,
    processors: Option<u32>,
    available: fn() -> Option<u64>,
}

/// The room of one guest, which is free again when this is dropped.
#[derive(Debug)]
pub struct Room<'a> {
    admission: &'a Admission,
    need: Need,
}

impl Admission {
    /// For guests of this process.
    pub fn new(processors: Processors) -> Self {
        let count = || std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        Self {
            running: Mutex::default(),
            ended: Condvar::new(),
            processors: (processors == Processors::Limited).then(count),
            available: available_memory,
        }
    }

    /// Wait until there is room. A guest alone always has enough processors.
    ///
    /// # Errors
    /// [`ErrorKind::Host`] if no guest runs and there is not enough memory, and when `stop` is
    /// raised.
    pub fn wait(&self, need: Need, stop: &Stop) -> Result<Room<'_>> {
        let mut running = self.running.lock();
        loop {
            if stop.signal().is_some() {
                return Err(stop.error().of_host());
            }
            // Unknown: nothing to wait for.
            let available = (self.available)().unwrap_or(u64::MAX);
            if running.guests == 0 {
                running.budget = available;
            }
            let bytes = running.bytes.saturating_add(need.bytes());
            let enough_memory = bytes <= running.budget && need.bytes() <= available;
            let vcpus = running.vcpus.saturating_add(need.vcpus);
            let enough_cores = self.processors.is_none_or(|count| vcpus <= count);
            if enough_memory && (enough_cores || running.guests == 0) {
                running.guests += 1;
                running.bytes = bytes;
                running.vcpus = vcpus;
                return Ok(Room { admission: self, need });
            }
            if running.guests == 0 {
                let what = format!(
                    "it needs {} MiB of memory and {} for QEMU, and the host has {} available; give \
                     it less with --memory, or run it elsewhere",
                    need.memory_mib,
                    format_size(OVERHEAD),
                    format_size(available)
                );
                return Err(Error::new(ErrorKind::Host, what));
            }
            self.ended.wait_for(&mut running, AGAIN);
        }
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        let mut running = self.admission.running.lock();
        running.guests -= 1;
        running.bytes = running.bytes.saturating_sub(self.need.bytes());
        running.vcpus = running.vcpus.saturating_sub(self.need.vcpus);
        drop(running);
        self.admission.ended.notify_all();
    }
}

/// Bytes that this process and its children can still use: of the host, and of every control group
/// (version 2) that the process is in. `None` if the kernel does not say.
fn available_memory() -> Option<u64> {
    let host = of_meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?)?;
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let groups = groups_of(&groups).into_iter().filter_map(|dir| {
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).ok();
        of_group(&read("memory.max")?, &read("memory.current")?, &read("memory.stat")?)
    });
    Some(groups.fold(host, u64::min))
}

/// What programs can get without others being hurt, swap included.
fn of_meminfo(text: &str) -> Option<u64> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    field("MemAvailable")?.checked_add(field("SwapFree").unwrap_or(0))
}

/// The directories of a process's control group and of all above it. In a container, what it sees as the
/// root of all groups is its own, and may have a limit.
fn groups_of(text: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let Some(path) = text.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return Vec::new();
    };
    if path.split('/').any(|part| part == "..") {
        return Vec::new(); // outside of what this process sees
    }
    root.join(path)
        .ancestors()
        .take_while(|dir| dir.starts_with(root))
        .map(Path::to_path_buf)
        .collect()
}

/// What a group may still use: cached pages of files count as free. `None` without a limit.
fn of_group(max: &str, current: &str, stat: &str) -> Option<u64> {
    let (max, current): (u64, u64) = (max.trim().parse().ok()?, current.trim().parse().ok()?);
    let field = |name: &str| {
        let value = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|v| v.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    let cached = field("inactive_file").saturating_add(field("active_file"));
    Some(max.saturating_sub(current.saturating_sub(cached)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(processors: Option<u32>) -> Admission {
        Admission { processors, available: || Some(2 << 30), ..Admission::new(Processors::Limited) }
    }

    const SMALL: Need = Need { memory_mib: 512, vcpus: 1 };

    #[test]
    fn as_many_as_there_is_room_for() {
        let stop = Stop::never();
        let admission = admission(None);
        let rooms: Vec<_> = (0..3).map(|_| admission.wait(SMALL, &stop).unwrap()).collect();
        // A fourth one waits until one of them has ended.
        std::thread::scope(|scope| {
            let fourth = scope.spawn(|| admission.wait(SMALL, &stop).map(drop));
            drop(rooms);
            fourth.join().unwrap().unwrap();
        });
        assert_eq!(admission.running.lock().bytes, 0);
        let e = admission.wait(Need { memory_mib: 2048, vcpus: 1 }, &stop).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Host);
        assert!(e.to_string().contains("needs 2048 MiB"), "{e}");
    }

    #[test]
    fn a_guest_alone_has_enough_processors() {
        let stop = Stop::never();
        let admission = admission(Some(2));
        let room = admission.wait(Need { memory_mib: 64, vcpus: 8 }, &stop).unwrap();
        assert_eq!(admission.running.lock().vcpus, 8);
        drop(room);
        let _one = admission.wait(SMALL, &stop).unwrap();
        let _two = admission.wait(SMALL, &stop).unwrap();
        assert_eq!(admission.running.lock().vcpus, 2);
    }

    #[test]
    fn figures_of_the_kernel() {
        let text = "MemTotal: 9 kB\nMemAvailable:    1000 kB\nSwapFree:  24 kB\n";
        assert_eq!(of_meminfo(text), Some(1024 << 10));
        assert_eq!(of_meminfo("MemTotal: 9 kB\n"), None);
        assert!(available_memory().is_some_and(|bytes| bytes > 0));
        let groups = groups_of("12:cpu:/x\n0::/a.slice/b\n");
        assert_eq!(
            groups,
            ["/sys/fs/cgroup/a.slice/b", "/sys/fs/cgroup/a.slice", "/sys/fs/cgroup"]
                .map(PathBuf::from)
        );
        // In a namespace of control groups, as in a container.
        assert_eq!(groups_of("0::/\n"), [PathBuf::from("/sys/fs/cgroup")]);
        assert!(groups_of("0::/../x\n").is_empty());
        let stat = "anon 5\ninactive_file 30\nactive_file 20\n";
        assert_eq!(of_group("100\n", "90\n", stat), Some(60));
        assert_eq!(of_group("max\n", "90\n", stat), None);
    }
}

//! Which kind of I/O QEMU can use on this host.
//!
//! io_uring is the fastest for `disk.raw` (docs/BENCHMARKS.md), but a kernel or a container may forbid it,
//! QEMU may be built without it, and QEMU then refuses to start.

use super::machine::Aio;
use crate::process;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The fastest kind that the kernel allows this user, as far as files in /proc tell: right for a
/// command that is printed and run later.
pub fn allowed_by_kernel() -> Aio {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/sys/kernel/{name}"));
    let disabled = read("io_uring_disabled").ok();
    let release = read("osrelease").unwrap_or_default();
    let is_root = nix::unistd::geteuid().is_root();
    choose(disabled.as_deref(), &release, is_root)
}

/// `disabled`: sysctl `kernel.io_uring_disabled`, which kernels have from 6.6 on. 0: allowed; 1:
/// for privileged processes; 2: forbidden. Source: Linux, Documentation/admin-guide/sysctl/kernel.rst.
fn choose(disabled: Option<&str>, release: &str, is_root: bool) -> Aio {
    let allowed = match disabled.map(str::trim) {
        Some("0") => true,
        Some("1") => is_root,
        Some(_) => false,
        // io_uring exists from 5.1 on; 5.10 is the oldest of them that still gets fixes.
        None => {
            let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
            (numbers.next(), numbers.next()) >= (Some(5), Some(10))
        }
    };
    if allowed { Aio::IoUring } else { Aio::Threads }
}

/// The fastest kind that `qemu` really can use here, found by opening a file with it. Takes some 100 ms,
/// at most `timeout`.
pub fn probe_aio(qemu: &Path, timeout: Duration) -> Aio {
    match allowed_by_kernel() {
        Aio::IoUring if accepts(qemu, Aio::IoUring, timeout) => Aio::IoUring,
        _ => Aio::Threads,
    }
}

/// Whether `qemu` opens a file with this kind of I/O.
fn accepts(qemu: &Path, aio: Aio, timeout: Duration) -> bool {
    // Any regular file will do: QEMU opens itself.
    let node = format!(
        "driver=file,node-name=n,filename=/proc/self/exe,read-only=on,locking=off,aio={}",
        aio.name()
    );
    let mut command = Command::new(qemu);
    let child = process::clean_environment(&mut command)
        .args(["-machine", "none", "-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-accel", "tcg", "-qmp", "stdio", "-blockdev", &node])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else { return false };
    if let Some(mut input) = child.stdin.take() {
        // A QEMU that has ended already reads nothing; its status tells.
        let _ = input.write_all(b"{\"execute\":\"qmp_capabilities\"}{\"execute\":\"quit\"}");
    }
    let deadline = Instant::now() + timeout;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            _ => break,
        }
    }
    let _ = child.kill(); // it may just have ended
    let _ = child.wait();
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::find_qemu;

    #[test]
    fn kernels() {
        for (disabled, release, is_root, expected) in [
            (Some("0\n"), "6.18.0", false, Aio::IoUring),
            (Some("1\n"), "6.18.0", false, Aio::Threads),
            (Some("1\n"), "6.18.0", true, Aio::IoUring),
            (Some("2\n"), "6.18.0", true, Aio::Threads),
            (None, "6.1.0-50-amd64", false, Aio::IoUring),
            (None, "5.10.0-30-amd64", false, Aio::IoUring),
            (None, "5.4.0-200-generic", false, Aio::Threads),
            (None, "4.18.0-553.el8", true, Aio::Threads),
            (None, "", true, Aio::Threads),
        ] {
            assert_eq!(choose(disabled, release, is_root), expected, "{disabled:?} {release}");
        }
    }

    #[test]
    fn qemu_is_asked() {
        let limit = Duration::from_secs(20); // a busy machine under test
        assert!(!accepts(Path::new("/bin/false"), Aio::IoUring, limit));
        assert!(!accepts(Path::new("/nonexistent/qemu"), Aio::IoUring, limit));
        let dir = tempfile::tempdir().unwrap();
        let silent = dir.path().join("silent");
        std::fs::write(&silent, "#!/bin/sh\nexec sleep 60\n").unwrap();
        std::fs::set_permissions(&silent, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        assert!(!accepts(&silent, Aio::IoUring, Duration::from_millis(200)));
        match find_qemu() {
            Some(qemu) => assert!(accepts(&qemu, Aio::Threads, limit)),
            None => eprintln!("skipped: no QEMU here"),
        }
    }
}

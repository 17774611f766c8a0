//! Which accelerator QEMU can use on this host.
//!
//! That `/dev/kvm` can be opened proves nothing. On some hosts, KVM runs a BIOS and GRUB but never
//! reaches the first line of Linux: their KVM has no hardware support (module `kvm_pvm`) and
//! interprets a guest that is not adapted to it. Real mode is fast enough that way, but a kernel
//! spends minutes on decompressing itself, and exceptions are missing. So a tiny program is
//! run under KVM that does what a kernel does before its first line of output (`probe.s`). It runs
//! as the machine's BIOS, which is the fastest way to start it: about 100 ms.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::probe_code::rom;
use crate::process;

/// How QEMU runs the guest's instructions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Accel {
    /// On the host's processor, through the kernel's KVM.
    Kvm,
    /// Translated by QEMU: works everywhere, an order of magnitude slower.
    Tcg,
}

impl Accel {
    /// The argument of `-accel`.
    pub fn name(self) -> &'static str {
        match self {
            Accel::Kvm => "kvm",
            Accel::Tcg => "tcg",
        }
    }

    /// The argument of `-cpu`: all features that the host has, or all that QEMU can emulate. QEMU's
    /// default lacks features that guests built for x86-64-v2 need.
    pub fn cpu(self) -> &'static str {
        match self {
            Accel::Kvm => "host",
            Accel::Tcg => "max",
        }
    }
}

/// The result of [`probe`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Probe {
    /// The accelerator to use.
    pub accel: Accel,
    /// Why KVM is not used, for a line on stderr; `None` if it is.
    pub reason: Option<String>,
}

/// QEMU's exit status when the probe program succeeds: (0x2a << 1) | 1.
const PASSED: i32 = 85;

/// QEMU's binary for x86-64 guests: `qemu-system-x86_64`, found by [`process::find_program`], or `qemu-kvm` of Red
/// Hat's systems.
pub fn find_qemu() -> Option<PathBuf> {
    let red_hat = PathBuf::from("/usr/libexec/qemu-kvm");
    process::find_program("qemu-system-x86_64")
        .or(Some(red_hat).filter(|file| process::is_program(file)))
}

/// Tests whether `qemu` runs a 64-bit guest under KVM, with the processor model that [`Accel::cpu`]
/// names. Returns `Tcg`, with the reason, if it doesn't, or if there was no result within
/// `timeout`. Returns shortly after `timeout` at the latest; 2 s are ample, a good host needs less
/// than 0.2 s.
pub fn probe(qemu: &Path, timeout: Duration) -> Probe {
    // The common failure is found without starting QEMU.
    let found = match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => run(qemu, Accel::Kvm.name(), Accel::Kvm.cpu(), timeout),
        Err(e) => Err(format!("cannot open /dev/kvm ({e})")),
    };
    match found {
        Ok(()) => Probe { accel: Accel::Kvm, reason: None },
        Err(reason) => Probe { accel: Accel::Tcg, reason: Some(reason) },
    }
}

/// Runs the probe program; the error gives the reason why it is not known to work.
fn run(qemu: &Path, accel: &str, cpu: &str, timeout: Duration) -> Result<(), String> {
    let deadline = Instant::now() + timeout;
    let cannot = |e: &dyn std::fmt::Display| format!("KVM could not be tried ({e})");
    let rom = rom_file().map_err(|e| cannot(&e))?;
    // QEMU aborts if KVM refuses to set a processor register. The shell disables the core file, and
    // then execs QEMU.
    let mut command = Command::new("/bin/sh");
    let mut child = process::clean_environment(&mut command)
        .args(["-c", "ulimit -c 0; exec \"$@\"", "sh"])
        .arg(qemu)
        .args(["-accel", accel, "-cpu", cpu, "-machine", "q35", "-m", "16", "-smp", "1"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(["-bios", "/dev/stdin", "-device", "isa-debug-exit,iobase=0xf4,iosize=1"])
        .stdin(Stdio::from(rom))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| cannot(&e))?;
    let status = wait(&mut child, deadline);
    match status {
        Some(status) if status.code() == Some(PASSED) => Ok(()),
        Some(status) => Err(match status.signal() {
            Some(signal) => format!("QEMU ended by signal {signal} when it started KVM"),
            None => format!(
                "QEMU did not run its test under KVM (exit status {})",
                status.code().unwrap_or_default()
            ),
        }),
        None => {
            stop(child);
            Err(format!(
                "/dev/kvm opens, but a 64-bit guest did not run within {:.1} s",
                timeout.as_secs_f64()
            ))
        }
    }
}

/// The probe program's BIOS image in anonymous memory, so that no file is left behind.
fn rom_file() -> std::io::Result<File> {
    let mut file = File::from(memfd_create(c"synthdisk-probe", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&rom())?;
    file.rewind()?;
    Ok(file)
}

/// The child's exit status, or `None` if it is still running at `deadline`.
fn wait(child: &mut Child, deadline: Instant) -> Option<ExitStatus> {
    let mut pause = Duration::from_millis(2);
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Kills the child and reaps it, without waiting long for one that is blocked in the kernel.
fn stop(mut child: Child) {
    let _ = child.kill(); // it may have just ended by itself
    if wait(&mut child, Instant::now() + Duration::from_millis(500)).is_none() {
        std::thread::spawn(move || child.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(3);

    #[test]
    fn the_program_passes_under_tcg() {
        let Some(qemu) = find_qemu() else {
            eprintln!("skipped: no QEMU here");
            return;
        };
        for cpu in ["max", "qemu64"] {
            let generous = Duration::from_secs(20); // a busy machine under test
            assert_eq!(run(&qemu, "tcg", cpu, generous), Ok(()), "{cpu}");
        }
    }

    #[test]
    fn the_limit_is_kept() {
        let Some(qemu) = find_qemu() else {
            eprintln!("skipped: no QEMU here");
            return;
        };
        let start = Instant::now();
        let probe = probe(&qemu, LIMIT);
        assert!(start.elapsed() < LIMIT + Duration::from_secs(1), "{:?}", start.elapsed());
        assert_eq!(probe.accel == Accel::Tcg, probe.reason.is_some());
        // The result depends on the host: it is only known if no processor supports virtualisation.
        let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let hardware = flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm");
        if !hardware {
            assert_eq!(probe.accel, Accel::Tcg, "{probe:?}");
            // A model that needs less from KVM than the host's own model reaches long mode, but no
            // further.
            assert!(run(&qemu, "kvm", "qemu64", LIMIT).is_err());
        }
    }

    #[test]
    fn a_guest_in_silence_is_ended() {
        // A fake QEMU that never prints anything, like a guest that hangs.
        let dir = tempfile::tempdir().unwrap();
        let silent = dir.path().join("silent");
        std::fs::write(&silent, "#!/bin/sh\nexec sleep 60\n").unwrap();
        std::fs::set_permissions(&silent, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let start = Instant::now();
        let reason = run(&silent, "kvm", "host", Duration::from_millis(200)).unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(2));
        assert!(reason.contains("did not run within 0.2 s"), "{reason}");
    }

    #[test]
    fn other_answers_are_no() {
        for (qemu, words) in [
            ("/bin/true", "exit status 0"),
            ("/bin/false", "exit status 1"),
            ("/nonexistent/qemu", "exit status 127"),
        ] {
            let reason = run(Path::new(qemu), "kvm", "host", LIMIT).unwrap_err();
            assert!(reason.contains(words), "{qemu}: {reason}");
        }
    }
}

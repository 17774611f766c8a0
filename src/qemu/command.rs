//! QEMU's command line for a [`Machine`].
//!
//! Source: qemu(1). Nothing is checked against the host; QEMU itself reports files that it can't
//! open.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::accel::Accel;
use super::machine::{
    Board, Cache, Clock, DiskBus, Drive, DriveKind, Firmware, FlashFile, Graphics, Lifecycle,
    Machine, Nic, NicBackend, OnFull,
};
use super::shell::quote;

/// Where the serial port is connected.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Serial {
    /// The terminal, shared with QEMU's monitor: Ctrl-A x ends QEMU, Ctrl-C reaches the guest.
    #[default]
    Stdio,
    /// Like [`Serial::Stdio`], and the guest's output is also written to a file.
    StdioLogged(PathBuf),
    /// Standard input and output only, for a program that talks to QEMU over two pipes.
    Pipe,
    /// A Unix socket on which another process already listens. QEMU connects before the guest
    /// starts, so no output is lost.
    Connect(PathBuf),
    /// A Unix socket that QEMU creates; the guest doesn't wait for a client.
    Listen(PathBuf),
    /// An output-only file.
    File(PathBuf),
}

/// How QEMU runs a machine: settings that the guest doesn't see.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Launch {
    /// The accelerator, which also determines `-cpu`.
    pub accel: Accel,
    /// The serial port.
    pub serial: Serial,
    /// Arguments that are appended verbatim.
    pub extra_args: Vec<OsString>,
}

impl Default for Launch {
    fn default() -> Self {
        Self { accel: Accel::Tcg, serial: Serial::default(), extra_args: Vec::new() }
    }
}

/// A list of options, `a=b,c=d`, in which commas inside values are doubled.
struct Options(Vec<u8>);

impl Options {
    /// A list that starts with `head`, for example the name of a device.
    fn new(head: &str) -> Self {
        Self(head.as_bytes().to_vec())
    }

    fn with(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        if !self.0.is_empty() {
            self.0.push(b',');
        }
        self.0.extend_from_slice(key.as_bytes());
        self.0.push(b'=');
        for &byte in value.as_ref().as_bytes() {
            self.0.push(byte);
            if byte == b',' {
                self.0.push(b',');
            }
        }
        self
    }

    fn with_some(self, key: &str, value: Option<impl AsRef<OsStr>>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }
}

/// How a drive's image is passed to QEMU.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Images {
    /// `-blockdev`, for programs: every setting is explicit.
    Blockdev,
    /// `-drive`, for users: shorter.
    Drive,
}

/// The arguments so far.
#[derive(Default)]
struct Args(Vec<OsString>);

impl Args {
    fn flag(&mut self, flag: &str) {
        self.0.push(flag.into());
    }

    fn pair(&mut self, flag: &str, value: impl Into<OsString>) {
        self.0.extend([flag.into(), value.into()]);
    }

    fn options(&mut self, flag: &str, options: Options) {
        self.pair(flag, OsString::from_vec(options.0));
    }

    /// The arguments after `program`, as one shell command line.
    fn shell_line(&self, program: &Path) -> String {
        let words = std::iter::once(program.as_os_str()).chain(self.0.iter().map(OsString::as_ref));
        words.map(quote).collect::<Vec<_>>().join(" ")
    }
}

impl Machine {
    /// QEMU's arguments, without the program's name. QEMU's default devices are disabled; the guest
    /// has the given drives and cards, one serial port, a VGA and a random number generator.
    pub fn args(&self, launch: &Launch) -> Vec<OsString> {
        self.full_args(launch).0
    }

    /// The full command as one shell command line, with words quoted where necessary.
    pub fn shell_line(&self, qemu: &Path, launch: &Launch) -> String {
        self.full_args(launch).shell_line(qemu)
    }

    /// A short command for the user to paste: the same drives, cards, memory and processors, with
    /// KVM if it works, and the console on the terminal. QEMU's other default devices remain.
    pub fn short_line(&self, qemu: &Path) -> String {
        let mut args = Args::default();
        args.pair("-machine", format!("{},accel=kvm:tcg", self.board.name()));
        self.firmware(&mut args);
        args.pair("-m", self.memory_mib.to_string());
        if self.vcpus != 1 {
            args.pair("-smp", self.vcpus.to_string());
        }
        self.clock(&mut args);
        if self.nics.is_empty() {
            args.pair("-nic", "none");
        }
        self.cards(&mut args);
        self.drives(&mut args, Images::Drive);
        self.reboots(&mut args);
        match self.graphics {
            Graphics::Headless => args.flag("-nographic"),
            Graphics::Screen => args.pair("-serial", "mon:stdio"),
        }
        args.shell_line(qemu)
    }

    fn full_args(&self, launch: &Launch) -> Args {
        let mut args = Args::default();
        args.options("-name", Options::new("").with("guest", &self.name));
        args.pair("-machine", self.board.name());
        self.firmware(&mut args);
        args.pair("-accel", launch.accel.name());
        args.pair("-cpu", launch.accel.cpu());
        args.pair("-m", format!("{}M", self.memory_mib));
        args.pair("-smp", self.vcpus.to_string());
        if let Some(uuid) = &self.uuid {
            args.pair("-uuid", uuid);
        }
        self.clock(&mut args);
        args.flag("-nodefaults");
        args.flag("-no-user-config");
        self.reboots(&mut args);
        args.pair("-vga", "std");
        if self.graphics == Graphics::Headless {
            args.pair("-display", "none");
        }
        serial(&mut args, &launch.serial);
        // Cards come first, because QEMU puts devices without a slot into the first free one.
        self.cards(&mut args);
        args.pair("-object", "rng-random,id=rng0,filename=/dev/urandom");
        args.pair("-device", "virtio-rng-pci,rng=rng0");
        self.drives(&mut args, Images::Blockdev);
        args.0.extend(launch.extra_args.iter().cloned());
        args
    }

    fn firmware(&self, args: &mut Args) {
        let flash = |unit: &str, file: &FlashFile| {
            Options::new("if=pflash")
                .with("unit", unit)
                .with("format", &file.format)
                .with("file", &file.path)
        };
        match &self.firmware {
            Firmware::Bios => {} // QEMU's own
            Firmware::Uefi { code, variables } => {
                args.options("-drive", flash("0", code).with("readonly", "on"));
                // QEMU writes to a nameless temporary file, and to the template never.
                args.options("-drive", flash("1", variables).with("snapshot", "on"));
            }
        }
    }

    fn clock(&self, args: &mut Args) {
        match self.clock {
            Clock::Utc => {} // QEMU's default
            Clock::LocalTime => args.pair("-rtc", "base=localtime"),
        }
    }

    fn reboots(&self, args: &mut Args) {
        if self.on_reboot == Lifecycle::Destroy {
            args.flag("-no-reboot");
        }
    }

    fn cards(&self, args: &mut Args) {
        for (i, nic) in self.nics.iter().enumerate() {
            card(args, i, nic);
        }
    }

    fn drives(&self, args: &mut Args, images: Images) {
        let uses = |bus| self.drives.iter().any(|drive| drive.actual_bus() == bus);
        if uses(DiskBus::VirtioScsi) {
            args.pair("-device", "virtio-scsi-pci,id=scsi");
        }
        if uses(DiskBus::Ahci) {
            args.pair("-device", "ich9-ahci,id=ahci");
        }
        let mut ports = Ports { board: self.board, ide: 0, ahci: 0, scsi: 0 };
        for (i, drive) in self.drives.iter().enumerate() {
            let node = match images {
                Images::Blockdev => format!("disk{i}"),
                Images::Drive => format!("d{i}"),
            };
            match (&drive.path, images) {
                (Some(path), Images::Blockdev) => {
                    args.options("-blockdev", block_node(&node, path, drive));
                }
                (Some(path), Images::Drive) => {
                    args.options("-drive", drive_image(&node, path, drive));
                }
                (None, _) => {}
            }
            let mut device = ports.plug(drive);
            if drive.path.is_some() {
                device = device.with("drive", &node).with("bootindex", (i + 1).to_string());
            }
            // QEMU refuses an NVMe drive without a serial number.
            let fallback = (drive.actual_bus() == DiskBus::Nvme).then_some(&node);
            device = device.with_some("serial", drive.serial.as_ref().or(fallback));
            if images == Images::Blockdev {
                device = device.with("id", format!("drive{i}"));
            }
            if drive.on_full == OnFull::Report && drive.actual_bus() != DiskBus::Nvme {
                device = device.with("werror", "report");
            }
            args.options("-device", device);
        }
    }
}

/// Tracks the ports that are in use.
struct Ports {
    board: Board,
    ide: u32,
    ahci: u32,
    scsi: u32,
}

impl Ports {
    /// The device for a drive, on the next free port of its bus.
    fn plug(&mut self, drive: &Drive) -> Options {
        let kind = if drive.cdrom { "cd" } else { "hd" };
        let next = |counter: &mut u32| std::mem::replace(counter, *counter + 1);
        match drive.actual_bus() {
            DiskBus::Virtio => Options::new("virtio-blk-pci"),
            DiskBus::Nvme => Options::new("nvme"),
            DiskBus::VirtioScsi => Options::new(&format!("scsi-{kind}"))
                .with("bus", "scsi.0")
                .with("scsi-id", next(&mut self.scsi).to_string()),
            DiskBus::Ahci => Options::new(&format!("ide-{kind}"))
                .with("bus", format!("ahci.{}", next(&mut self.ahci))),
            DiskBus::Ide => {
                let port = next(&mut self.ide);
                let device = Options::new(&format!("ide-{kind}"));
                match self.board {
                    Board::Pc => device
                        .with("bus", format!("ide.{}", port / 2))
                        .with("unit", (port % 2).to_string()),
                    Board::Q35 => device.with("bus", format!("ide.{port}")),
                }
            }
        }
    }
}

fn serial(args: &mut Args, serial: &Serial) {
    let chardev = match serial {
        Serial::Stdio => return args.pair("-serial", "mon:stdio"),
        Serial::StdioLogged(path) => Options::new("stdio,id=serial0,mux=on,signal=off")
            .with("logfile", path)
            .with("logappend", "off"),
        Serial::Pipe => Options::new("stdio,id=serial0,signal=off"),
        Serial::Connect(path) => Options::new("socket,id=serial0").with("path", path),
        Serial::Listen(path) => Options::new("socket,id=serial0")
            .with("path", path)
            .with("server", "on")
            .with("wait", "off"),
        Serial::File(path) => Options::new("file,id=serial0").with("path", path),
    };
    args.options("-chardev", chardev);
    args.pair("-serial", "chardev:serial0");
    if matches!(serial, Serial::StdioLogged(_)) {
        args.pair("-mon", "chardev=serial0");
    }
}

fn block_node(node: &str, path: &Path, drive: &Drive) -> Options {
    let on = |yes: bool| if yes { "on" } else { "off" };
    let mut options = Options::new("driver=raw")
        .with("node-name", node)
        .with("read-only", on(drive.is_read_only()))
        .with("cache.direct", on(drive.cache == Cache::None))
        .with("cache.no-flush", on(drive.cache == Cache::Unsafe));
    if !drive.is_read_only() {
        options = options.with("discard", "unmap");
    }
    let driver = match (&drive.kind, drive.cdrom) {
        (DriveKind::Nbd(export), _) => return nbd(options, path, export),
        (DriveKind::File, _) => "file",
        (DriveKind::BlockDevice, false) => "host_device",
        (DriveKind::BlockDevice, true) => "host_cdrom",
    };
    options
        .with("file.driver", driver)
        .with("file.filename", path)
        .with("file.locking", "auto")
        .with("file.aio", drive.aio.name())
}

/// The image that the NBD server on `socket` has as `export`.
fn nbd(options: Options, socket: &Path, export: &str) -> Options {
    options
        .with("file.driver", "nbd")
        .with("file.server.type", "unix")
        .with("file.server.path", socket)
        .with("file.export", export)
}

/// The image of a drive as an argument of `-drive`. A read-only disk on a bus without read-only
/// disks gets a temporary QEMU overlay.
fn drive_image(id: &str, path: &Path, drive: &Drive) -> Options {
    let cache = match drive.cache {
        Cache::None => "none",
        Cache::Writeback => "writeback",
        Cache::Unsafe => "unsafe",
    };
    let options = match &drive.kind {
        DriveKind::Nbd(export) => nbd(Options::new(""), path, export),
        DriveKind::File | DriveKind::BlockDevice => Options::new("").with("file", path),
    };
    let mut options =
        options.with("format", "raw").with("if", "none").with("id", id).with("cache", cache);
    if !matches!(drive.kind, DriveKind::Nbd(_)) {
        options = options.with("aio", drive.aio.name());
    }
    match (drive.is_read_only(), drive.cdrom || drive.bus.has_read_only_disks()) {
        (false, _) => options.with("discard", "unmap"),
        (true, true) => options.with("readonly", "on"),
        (true, false) => options.with("snapshot", "on"),
    }
}

fn card(args: &mut Args, i: usize, nic: &Nic) {
    let id = format!("net{i}");
    let backend = match &nic.backend {
        NicBackend::User => Options::new("user").with("id", &id),
        NicBackend::Bridge(bridge) => Options::new("bridge").with("id", &id).with("br", bridge),
    };
    args.options("-netdev", backend);
    let device = Options::new(nic.model.name())
        .with("netdev", &id)
        .with_some("mac", nic.mac.as_ref())
        .with_some("addr", nic.slot.map(|slot| format!("0x{slot:x}")));
    // No boot ROM: nothing boots from the network, and iPXE takes a second to time out.
    args.options("-device", device.with("romfile", ""));
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;

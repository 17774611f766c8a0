//! Builds the command line of a QEMU that runs an x86-64 guest.
//!
//! Source: qemu(1). Nothing is checked against the host; QEMU itself says what it can't open.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::accel::Accel;
use super::shell::quote;

/// The board.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum MachineKind {
    /// Intel 440FX with PIIX3 IDE: what the oldest guests know, too.
    #[default]
    Pc,
    /// Intel Q35 with PCI Express and AHCI.
    Q35,
}

/// Where a drive is plugged in.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum DiskBus {
    /// virtio-blk: `/dev/vda`.
    #[default]
    Virtio,
    /// virtio-scsi: `/dev/sda`.
    VirtioScsi,
    /// NVMe: `/dev/nvme0n1`.
    Nvme,
    /// AHCI: `/dev/sda`.
    Ahci,
    /// IDE, four drives at most (AHCI's ports on Q35): `/dev/sda`, of old `/dev/hda`.
    Ide,
}

impl DiskBus {
    /// Its name, as `--bus` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Virtio => "virtio",
            Self::VirtioScsi => "scsi",
            Self::Nvme => "nvme",
            Self::Ahci => "ahci",
            Self::Ide => "ide",
        }
    }

    /// The bus of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        let all = [Self::Virtio, Self::VirtioScsi, Self::Nvme, Self::Ahci, Self::Ide];
        all.into_iter().find(|bus| bus.name() == name)
    }
}

/// What kind of file a drive's path names.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum DriveKind {
    /// A regular file, such as `disk.raw` of a mount.
    #[default]
    File,
    /// A block device of the host.
    BlockDevice,
}

/// QEMU's cache mode, as in `-drive cache=`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Cache {
    /// O_DIRECT: the host's page cache is not used.
    #[default]
    None,
    /// The host's page cache, flushed when the guest says so.
    Writeback,
    /// The host's page cache, the guest's flushes ignored: for disks that are thrown away.
    Unsafe,
}

/// How QEMU does I/O, as in `-drive aio=`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Aio {
    /// A pool of threads.
    #[default]
    Threads,
    /// Linux AIO; needs [`Cache::None`].
    Native,
    /// io_uring.
    IoUring,
}

/// One drive with a raw image.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DriveSpec {
    /// The image; `None` is an empty cdrom drive.
    pub path: Option<PathBuf>,
    /// What the path names.
    pub kind: DriveKind,
    /// Where it is plugged in. A cdrom goes to IDE or AHCI whatever stands here, unless it is SCSI.
    pub bus: DiskBus,
    /// The guest can't write. IDE and AHCI disks can't be told so: QEMU refuses one that is.
    pub read_only: bool,
    /// The cache mode.
    pub cache: Cache,
    /// The way of I/O.
    pub aio: Aio,
    /// A cdrom drive; always read-only.
    pub cdrom: bool,
    /// The serial number by which the guest finds it in `/dev/disk/by-id`; 20 bytes at most are
    /// shown to the guest.
    pub serial: Option<String>,
}

/// The emulated card.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum NicModel {
    /// virtio-net.
    #[default]
    Virtio,
    /// Intel 82540EM.
    E1000,
    /// Realtek 8139.
    Rtl8139,
}

impl NicModel {
    /// Its device in QEMU.
    pub fn name(self) -> &'static str {
        match self {
            Self::Virtio => "virtio-net-pci",
            Self::E1000 => "e1000",
            Self::Rtl8139 => "rtl8139",
        }
    }

    /// The card with this device in QEMU.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Virtio, Self::E1000, Self::Rtl8139].into_iter().find(|model| model.name() == name)
    }
}

/// What a card is connected to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum NicBackend {
    /// QEMU's own NAT: the guest gets 10.0.2.15 and reaches out; needs no privileges.
    #[default]
    User,
    /// A bridge of the host, through qemu-bridge-helper.
    Bridge(String),
}

/// One network card.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Nic {
    /// The MAC address as `00:16:3e:01:02:03`; QEMU's default if `None`.
    pub mac: Option<String>,
    /// The card.
    pub model: NicModel,
    /// What it is connected to.
    pub backend: NicBackend,
}

/// Where the first serial port goes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Serial {
    /// The terminal, shared with QEMU's monitor: Ctrl-A x ends QEMU, Ctrl-C reaches the guest.
    #[default]
    Stdio,
    /// As [`Serial::Stdio`], with all that the guest prints kept in a file as well.
    StdioLogged(PathBuf),
    /// Standard input and output and nothing else: for a program at the other end of two pipes.
    Pipe,
    /// A Unix socket on which somebody listens already; QEMU connects before the guest starts, so
    /// that no byte is lost.
    Connect(PathBuf),
    /// A Unix socket that QEMU makes; the guest doesn't wait for a client.
    Listen(PathBuf),
    /// A file, which is written only.
    File(PathBuf),
}

/// A guest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MachineSpec {
    /// The guest's name, for window titles and process lists.
    pub name: String,
    /// The machine's UUID, if it is to be fixed.
    pub uuid: Option<String>,
    /// The board.
    pub machine: MachineKind,
    /// RAM in MiB.
    pub memory_mib: u64,
    /// Number of virtual processors.
    pub vcpus: u32,
    /// The accelerator; `-cpu` follows from it.
    pub accel: Accel,
    /// Drives, in the order in which the BIOS tries to boot from them.
    pub disks: Vec<DriveSpec>,
    /// Network cards.
    pub nics: Vec<Nic>,
    /// The first serial port.
    pub serial: Serial,
    /// Open a window.
    pub graphic: bool,
    /// End QEMU where the guest would reboot.
    pub no_reboot: bool,
    /// Arguments that are added at the end as they are.
    pub extra_args: Vec<OsString>,
}

impl Default for MachineSpec {
    fn default() -> Self {
        Self {
            name: "guest".into(),
            uuid: None,
            machine: MachineKind::default(),
            memory_mib: 512,
            vcpus: 1,
            accel: Accel::Tcg,
            disks: Vec::new(),
            nics: Vec::new(),
            serial: Serial::default(),
            graphic: false,
            no_reboot: false,
            extra_args: Vec::new(),
        }
    }
}

/// A list of options, `a=b,c=d`, in which commas inside of values are doubled.
struct Options(Vec<u8>);

impl Options {
    fn new(head: &str) -> Self {
        Self(head.as_bytes().to_vec())
    }

    fn with(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.push(b',');
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

    fn with_some(self, key: &str, value: Option<&String>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }
}

/// The arguments that have been made.
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
}

impl MachineSpec {
    /// The arguments, without the program's name. QEMU's default devices are left out; the guest
    /// has the disks and cards given, one serial port, a VGA and a source of random numbers.
    pub fn args(&self) -> Vec<OsString> {
        let mut args = Args::default();
        args.options("-name", Options::new("").with("guest", &self.name).drop_comma());
        let machine = if self.machine == MachineKind::Pc { "pc" } else { "q35" };
        args.pair("-machine", machine);
        args.pair("-accel", self.accel.name());
        args.pair("-cpu", self.accel.cpu());
        args.pair("-m", format!("{}M", self.memory_mib));
        args.pair("-smp", self.vcpus.to_string());
        if let Some(uuid) = &self.uuid {
            args.pair("-uuid", uuid);
        }
        args.flag("-nodefaults");
        args.flag("-no-user-config");
        if self.no_reboot {
            args.flag("-no-reboot");
        }
        args.pair("-vga", "std");
        if !self.graphic {
            args.pair("-display", "none");
        }
        self.serial(&mut args);
        args.pair("-object", "rng-random,id=rng0,filename=/dev/urandom");
        args.pair("-device", "virtio-rng-pci,rng=rng0");
        self.drives(&mut args);
        for (i, nic) in self.nics.iter().enumerate() {
            network(&mut args, i, nic);
        }
        args.0.extend(self.extra_args.iter().cloned());
        args.0
    }

    /// The command as one line for a shell, each word quoted where it must be.
    pub fn shell_line(&self, qemu: &Path) -> String {
        let mut line = quote(qemu.as_os_str());
        for arg in self.args() {
            line.push(' ');
            line.push_str(&quote(&arg));
        }
        line
    }

    fn serial(&self, args: &mut Args) {
        let chardev = match &self.serial {
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
        if matches!(self.serial, Serial::StdioLogged(_)) {
            args.pair("-mon", "chardev=serial0");
        }
    }

    fn drives(&self, args: &mut Args) {
        let bus_of = |drive: &DriveSpec| match drive.bus {
            DiskBus::Virtio | DiskBus::Nvme if drive.cdrom => DiskBus::Ide,
            bus => bus,
        };
        let uses = |bus| self.disks.iter().any(|drive| bus_of(drive) == bus);
        if uses(DiskBus::VirtioScsi) {
            args.pair("-device", "virtio-scsi-pci,id=scsi");
        }
        if uses(DiskBus::Ahci) {
            args.pair("-device", "ich9-ahci,id=ahci");
        }
        let (mut ide, mut ahci, mut scsi) = (0, 0, 0);
        let next = |counter: &mut u32| std::mem::replace(counter, *counter + 1);
        for (i, drive) in self.disks.iter().enumerate() {
            let node = format!("disk{i}");
            if let Some(path) = &drive.path {
                args.options("-blockdev", block_node(&node, path, drive));
            }
            let kind = if drive.cdrom { "cd" } else { "hd" };
            let mut device = match bus_of(drive) {
                DiskBus::Virtio => Options::new("virtio-blk-pci"),
                DiskBus::Nvme => Options::new("nvme"),
                DiskBus::VirtioScsi => Options::new(&format!("scsi-{kind}"))
                    .with("bus", "scsi.0")
                    .with("scsi-id", next(&mut scsi).to_string()),
                DiskBus::Ahci => Options::new(&format!("ide-{kind}"))
                    .with("bus", format!("ahci.{}", next(&mut ahci))),
                DiskBus::Ide => {
                    let place = next(&mut ide);
                    let device = Options::new(&format!("ide-{kind}"));
                    match self.machine {
                        MachineKind::Pc => device
                            .with("bus", format!("ide.{}", place / 2))
                            .with("unit", (place % 2).to_string()),
                        MachineKind::Q35 => device.with("bus", format!("ide.{place}")),
                    }
                }
            };
            if drive.path.is_some() {
                device = device.with("drive", &node).with("bootindex", (i + 1).to_string());
            }
            // An NVMe drive without a serial number is refused.
            let fallback = (drive.bus == DiskBus::Nvme && !drive.cdrom).then(|| node.clone());
            device = device.with_some("serial", drive.serial.as_ref().or(fallback.as_ref()));
            args.options("-device", device.with("id", format!("drive{i}")));
        }
    }
}

impl Options {
    /// For a list without a head: the comma before its first key goes.
    fn drop_comma(mut self) -> Self {
        if self.0.first() == Some(&b',') {
            self.0.remove(0);
        }
        self
    }
}

fn block_node(node: &str, path: &Path, drive: &DriveSpec) -> Options {
    let on = |yes: bool| if yes { "on" } else { "off" };
    let driver = match (drive.kind, drive.cdrom) {
        (DriveKind::File, _) => "file",
        (DriveKind::BlockDevice, false) => "host_device",
        (DriveKind::BlockDevice, true) => "host_cdrom",
    };
    let read_only = drive.read_only || drive.cdrom;
    let mut options = Options::new("driver=raw")
        .with("node-name", node)
        .with("read-only", on(read_only))
        .with("cache.direct", on(drive.cache == Cache::None))
        .with("cache.no-flush", on(drive.cache == Cache::Unsafe));
    if !read_only {
        options = options.with("discard", "unmap");
    }
    options
        .with("file.driver", driver)
        .with("file.filename", path)
        .with("file.locking", "auto")
        .with(
            "file.aio",
            match drive.aio {
                Aio::Threads => "threads",
                Aio::Native => "native",
                Aio::IoUring => "io_uring",
            },
        )
}

fn network(args: &mut Args, i: usize, nic: &Nic) {
    let id = format!("net{i}");
    args.options(
        "-netdev",
        match &nic.backend {
            NicBackend::User => Options::new("user").with("id", &id),
            NicBackend::Bridge(bridge) => Options::new("bridge").with("id", &id).with("br", bridge),
        },
    );
    // No boot ROM: nothing is booted from the network, and iPXE takes a second to say so.
    let device =
        Options::new(nic.model.name()).with("netdev", &id).with_some("mac", nic.mac.as_ref());
    args.options("-device", device.with("romfile", ""));
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;

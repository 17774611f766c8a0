//! The description of a virtual machine: what a guest sees, and the files that it uses.
//!
//! Plain values without I/O. `run`, the command that `mount` suggests and the libvirt definition
//! are all rendered from the same [`Machine`], so a guest finds the same devices in each of them.
//! In addition to the devices listed here, every machine has one serial port (the console,
//! `ttyS0`).

use std::path::PathBuf;

/// The board.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Board {
    /// Intel 440FX with PIIX3 IDE, which even the oldest guests support.
    #[default]
    Pc,
    /// Intel Q35 with PCI Express and AHCI.
    Q35,
}

impl Board {
    /// Its name, for QEMU's `-machine` and libvirt's `machine=`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pc => "pc",
            Self::Q35 => "q35",
        }
    }
}

/// The firmware that starts the boot loader.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Firmware {
    /// SeaBIOS, QEMU's default.
    #[default]
    Bios,
    /// UEFI in two flash memories.
    Uefi {
        /// The firmware's code, which nobody writes to.
        code: FlashFile,
        /// The initial content of the memory for the firmware's variables: a machine gets a copy.
        variables: FlashFile,
    },
}

/// The content of a flash memory.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FlashFile {
    /// The file.
    pub path: PathBuf,
    /// Its format, `raw` or `qcow2`.
    pub format: String,
}

/// What the machine's clock shows when the guest starts.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Clock {
    /// UTC.
    #[default]
    Utc,
    /// The host's local time.
    LocalTime,
}

/// Whether the guest has a visible screen.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Graphics {
    /// No: the guest is used through its serial port.
    #[default]
    Headless,
    /// Yes: a window (QEMU) or VNC (libvirt).
    Screen,
}

/// What happens when the guest reboots or crashes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Lifecycle {
    /// The machine starts again.
    #[default]
    Restart,
    /// The machine ends.
    Destroy,
    /// The machine stops and keeps its state.
    Preserve,
}

impl Lifecycle {
    /// Its name in libvirt's `on_reboot` and `on_crash`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Destroy => "destroy",
            Self::Preserve => "preserve",
        }
    }
}

/// The controller that a drive is attached to.
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
    /// IDE, at most four drives (AHCI's ports on Q35): `/dev/sda`, in old kernels `/dev/hda`.
    Ide,
}

impl DiskBus {
    /// Its name, as a value for `--bus`.
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

    /// Whether a disk on this bus can be read-only. QEMU refuses read-only hard disks on AHCI and
    /// IDE, because ATA cannot report that to the guest.
    pub fn has_read_only_disks(self) -> bool {
        !matches!(self, Self::Ahci | Self::Ide)
    }
}

/// What a drive's path names.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum DriveKind {
    /// A regular file, such as `disk.raw` of a mount.
    #[default]
    File,
    /// A block device of the host.
    BlockDevice,
    /// The Unix socket of an NBD server, which exports the image under this name.
    Nbd(String),
}

/// QEMU's cache mode, as in `-drive cache=`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Cache {
    /// O_DIRECT: the host's page cache is not used.
    #[default]
    None,
    /// The host's page cache, flushed when the guest requests it.
    Writeback,
    /// The host's page cache, ignoring the guest's flushes: for disposable disks.
    Unsafe,
}

/// How QEMU does I/O, as in `-drive aio=`. docs/BENCHMARKS.md compares them.
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

impl Aio {
    /// Its name in QEMU's `aio=` and libvirt's `io=`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Native => "native",
            Self::IoUring => "io_uring",
        }
    }
}

/// One drive with a raw image.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Drive {
    /// The image; `None` is a cdrom drive without a disc.
    pub path: Option<PathBuf>,
    /// What the path names.
    pub kind: DriveKind,
    /// The controller that it is attached to; see [`Drive::actual_bus`] for cdroms.
    pub bus: DiskBus,
    /// Whether the guest can't write to it; not supported on every bus, see
    /// [`DiskBus::has_read_only_disks`].
    pub read_only: bool,
    /// The cache mode.
    pub cache: Cache,
    /// The I/O method.
    pub aio: Aio,
    /// What happens when there is no space for a write.
    pub on_full: OnFull,
    /// A cdrom drive, which is always read-only.
    pub cdrom: bool,
    /// The serial number, by which the guest finds the drive in `/dev/disk/by-id`; the guest sees
    /// at most 20 bytes.
    pub serial: Option<String>,
}

/// What QEMU does when a write fails with ENOSPC. An NVMe drive always reports.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OnFull {
    /// It pauses the guest; `cont` in its monitor tries again. QEMU's default.
    #[default]
    Pause,
    /// The guest gets an error.
    Report,
}

impl Drive {
    /// The bus that the drive is really on: virtio-blk and NVMe have no cdroms, so a cdrom is on
    /// IDE instead.
    pub fn actual_bus(&self) -> DiskBus {
        match self.bus {
            DiskBus::Virtio | DiskBus::Nvme if self.cdrom => DiskBus::Ide,
            bus => bus,
        }
    }

    /// Whether the guest can't write to it.
    pub fn is_read_only(&self) -> bool {
        self.read_only || self.cdrom
    }
}

/// An emulated network card.
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
    /// The name of its QEMU device.
    pub fn name(self) -> &'static str {
        match self {
            Self::Virtio => "virtio-net-pci",
            Self::E1000 => "e1000",
            Self::Rtl8139 => "rtl8139",
        }
    }

    /// The model with this QEMU device name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Virtio, Self::E1000, Self::Rtl8139].into_iter().find(|model| model.name() == name)
    }
}

/// What a card is connected to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum NicBackend {
    /// NAT without privileges: QEMU's own NAT, in which the guest gets 10.0.2.15, or libvirt's
    /// network `default`.
    #[default]
    User,
    /// A bridge of the host; QEMU uses qemu-bridge-helper.
    Bridge(String),
}

/// One network card.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Nic {
    /// The MAC address, as in `00:16:3e:01:02:03`; if `None`, the program that runs the guest
    /// chooses one.
    pub mac: Option<String>,
    /// The card.
    pub model: NicModel,
    /// What it is connected to.
    pub backend: NicBackend,
    /// The slot on the first PCI bus, 1 to 31. Guests derive interface names from it (`ens3`).
    pub slot: Option<u8>,
}

impl Nic {
    /// The slot of the first card; the board and the VGA use slots 0 to 2.
    pub const FIRST_SLOT: u8 = 3;

    /// The slot of card number `index`, counted from 0. `None` after the first eight cards, to
    /// leave slots for disks.
    pub fn slot_of(index: usize) -> Option<u8> {
        u8::try_from(index).ok().filter(|i| *i < 8).map(|i| Self::FIRST_SLOT + i)
    }
}

/// A machine for an x86-64 guest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Machine {
    /// The guest's name, for window titles and process lists.
    pub name: String,
    /// The machine's UUID, if it should be fixed.
    pub uuid: Option<String>,
    /// The board.
    pub board: Board,
    /// The firmware.
    pub firmware: Firmware,
    /// RAM at start, in MiB.
    pub memory_mib: u64,
    /// Maximum RAM with ballooning, in MiB; at least `memory_mib`. For libvirt only: the QEMU
    /// commands have no balloon.
    pub max_memory_mib: u64,
    /// Number of virtual processors at start.
    pub vcpus: u32,
    /// Maximum number of virtual processors, including hot-plugged ones; at least `vcpus`. For
    /// libvirt only.
    pub max_vcpus: u32,
    /// The clock.
    pub clock: Clock,
    /// Drives, in the order in which the firmware tries to boot from them.
    pub drives: Vec<Drive>,
    /// Network cards.
    pub nics: Vec<Nic>,
    /// The screen.
    pub graphics: Graphics,
    /// What happens when the guest reboots.
    pub on_reboot: Lifecycle,
    /// What happens when the guest crashes. For libvirt only.
    pub on_crash: Lifecycle,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            name: "guest".into(),
            uuid: None,
            board: Board::default(),
            firmware: Firmware::default(),
            memory_mib: 512,
            max_memory_mib: 512,
            vcpus: 1,
            max_vcpus: 1,
            clock: Clock::default(),
            drives: Vec::new(),
            nics: Vec::new(),
            graphics: Graphics::default(),
            on_reboot: Lifecycle::default(),
            on_crash: Lifecycle::Destroy,
        }
    }
}

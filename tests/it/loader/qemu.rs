//! The direct loader under SeaBIOS: disks that are nothing but MBR, loader, kernel and initrd.
//!
//! Always TCG, so that the tests run where KVM is absent or broken. They need qemu-system-x86_64,
//! busybox-static and the kernel that scripts/fetch-test-kernel gives.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::common::cpio::Cpio;
use crate::common::slots::Slot;
use synthdisk::loader::direct::Params;
use synthdisk::loader::direct::{
    CMDLINE_LBA, KERNEL_LBA, PARAMS_LBA, SECTOR, STAGE1, STAGE2, STAGE2_LBA,
};

const CMDLINE: &str = "console=ttyS0 quiet panic=-1 synthdisk.test=";
/// Generous: a boot takes three to five seconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;

// ---- what goes onto the disk ---------------------------------------------------------------

fn kernel() -> &'static [u8] {
    static KERNEL: OnceLock<Vec<u8>> = OnceLock::new();
    KERNEL.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/fetch-test-kernel");
        let output = Command::new(&script).output().expect("scripts/fetch-test-kernel");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "no test kernel: {stderr}");
        let path = String::from_utf8(output.stdout).unwrap();
        std::fs::read(path.trim_end()).unwrap()
    })
}

/// An initramfs whose /init prints `READY name` and the kernel's command line; `padding` bytes of
/// a file that it counts make it longer.
fn initrd(name: &str, padding: u64) -> Vec<u8> {
    let busybox = std::fs::read("/bin/busybox").expect("/bin/busybox (package busybox-static)");
    let init = format!(
        "#!/bin/busybox sh\n\
         /bin/busybox mount -t proc proc /proc\n\
         echo \"READY {name} padding=$(/bin/busybox wc -c < /padding) $(/bin/busybox cat /proc/cmdline)\"\n\
         /bin/busybox reboot -f\n"
    );
    let mut cpio = Cpio::default();
    for dir in ["bin", "dev", "proc"] {
        cpio.add(dir, 0o040_755, &[]);
    }
    cpio.add("bin/busybox", 0o100_755, &busybox);
    cpio.add("init", 0o100_755, init.as_bytes());
    cpio.add("padding", 0o100_644, &vec![b'p'; padding as usize]);
    cpio.finish()
}

/// A raw disk file in a directory of its own.
struct Disk {
    file: File,
    path: PathBuf,
    params: Params,
    _dir: tempfile::TempDir,
}

impl Disk {
    /// MBR and loader alone; the parameter block says `params`.
    fn bare(params: Params) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.raw");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let disk = Self { file, path, params, _dir: dir };

        let mut mbr = [0; 512];
        mbr[..440].copy_from_slice(STAGE1);
        mbr[440..444].copy_from_slice(b"SIGN");
        // One Linux partition at 1 GiB, which the loader must ignore.
        mbr[446..462].copy_from_slice(&[
            0x80, 0xfe, 0xff, 0xff, 0x83, 0xfe, 0xff, 0xff, 0, 0, 0x20, 0, 0, 0, 0x20, 0,
        ]);
        mbr[510..].copy_from_slice(&[0x55, 0xaa]);
        disk.put(0, &mbr);
        disk.put(STAGE2_LBA, STAGE2);
        disk.put_params();
        disk.file.set_len(2048 * MIB).unwrap();
        disk
    }

    /// A disk that boots; its command line ends in `test`.
    fn bootable(test: &str, kernel: &[u8], initrd: &[u8]) -> Self {
        let cmdline = format!("{CMDLINE}{test}");
        let initrd_lba = KERNEL_LBA + (kernel.len() as u64).div_ceil(SECTOR);
        let disk = Self::bare(Params {
            token: [1; 16],
            kernel_lba: KERNEL_LBA,
            kernel_bytes: kernel.len() as u64,
            initrd: Some((initrd_lba, initrd.len() as u64)),
            cmdline_lba: CMDLINE_LBA,
            cmdline_bytes: cmdline.len() as u32,
            message: None,
        });
        // Not NUL terminated here: what follows must not reach the kernel.
        disk.put(CMDLINE_LBA, &[b'X'; 4096]);
        disk.put(CMDLINE_LBA, cmdline.as_bytes());
        disk.put(KERNEL_LBA, kernel);
        disk.put(initrd_lba, initrd);
        disk
    }

    fn put(&self, lba: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, lba * SECTOR).unwrap();
    }

    fn put_params(&self) {
        self.put(PARAMS_LBA, &self.params.encode());
    }

    fn initrd_lba(&self) -> u64 {
        self.params.initrd.unwrap().0
    }
}

// ---- running it ----------------------------------------------------------------------------

/// QEMU options that attach the drive `d`.
const VIRTIO_BLK: &[&str] = &["-device", "virtio-blk-pci,drive=d"];
const IDE: &[&str] = &["-device", "ide-hd,drive=d"];
const AHCI: &[&str] = &["-device", "ich9-ahci,id=ahci", "-device", "ide-hd,bus=ahci.0,drive=d"];
const NVME: &[&str] = &["-device", "nvme,serial=1,drive=d"];
const VIRTIO_SCSI: &[&str] = &["-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=d"];
const LSI: &[&str] = &["-device", "lsi53c895a", "-device", "scsi-hd,drive=d"];
const PVSCSI: &[&str] = &["-device", "pvscsi", "-device", "scsi-hd,drive=d"];
const USB: &[&str] = &["-device", "qemu-xhci", "-device", "usb-storage,drive=d"];

/// A running machine, killed when dropped.
struct Machine {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    _slot: Arc<Slot>,
}

impl Machine {
    fn start(disk: &Disk, attach: &[&str], memory: &str, more: &[&str]) -> Self {
        let throttle = more.iter().find(|o| o.starts_with("throttling")).copied();
        let drive = format!(
            "if=none,id=d,format=raw,file={}{}{}",
            disk.path.display(),
            if throttle.is_some() { "," } else { "" },
            throttle.unwrap_or("")
        );
        let screen = match more.contains(&"-nographic") {
            true => &["-nographic"][..],
            false => &["-display", "none", "-serial", "stdio"],
        };
        let slot = Slot::take();
        let mut child = Command::new("qemu-system-x86_64")
            .args(["-nodefaults", "-vga", "std", "-accel", "tcg", "-no-reboot", "-m", memory])
            .args(if more.contains(&"-nographic") { &["-serial", "stdio"][..] } else { &[] })
            .args(screen)
            .args(["-drive", &drive])
            .args(attach)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("qemu-system-x86_64 (package qemu-system-x86): {e}"));
        let stdout = child.stdout.take().unwrap();
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n') {
                let Ok(line) = line else { return };
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, seen: Vec::new(), _slot: slot }
    }

    /// The first line from here on that contains `wanted`.
    fn expect(&mut self, wanted: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(wanted) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no `{wanted}` in:\n{}", self.log()),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("QEMU ended without `{wanted}` in:\n{}", self.log())
                }
            }
        }
    }

    /// Further output within `time`.
    fn listen(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        while let Ok(line) =
            self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            self.seen.push(line);
        }
    }

    fn log(&self) -> String {
        self.seen.join("\n")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Boot to /init and check what it reports.
fn boots(test: &str, attach: &[&str], memory: &str, padding: u64) {
    let disk = Disk::bootable(test, kernel(), &initrd("first", padding));
    let mut machine = Machine::start(&disk, attach, memory, &[]);
    machine.expect("synthdisk: loading Linux");
    let line = machine.expect("READY");
    assert_eq!(line, format!("READY first padding={padding} {CMDLINE}{test}"));
}

/// The line on COM1 that starts with our name and contains `wanted`.
fn stops(disk: &Disk, memory: &str, wanted: &str) -> String {
    stops_on(VIRTIO_BLK, disk, memory, wanted)
}

fn stops_on(attach: &[&str], disk: &Disk, memory: &str, wanted: &str) -> String {
    let mut machine = Machine::start(disk, attach, memory, &[]);
    let line = machine.expect(wanted);
    assert!(line.contains("synthdisk: "), "{line}");
    line[line.find("synthdisk: ").unwrap()..].to_owned()
}

// ---- it boots ------------------------------------------------------------------------------

#[test]
#[ignore = "boots QEMU"]
fn virtio_blk() {
    boots("virtio-blk", VIRTIO_BLK, "256M", 0);
}

#[test]
#[ignore = "boots QEMU"]
fn ide_with_128_mib() {
    boots("ide", IDE, "128M", 0);
}

#[test]
#[ignore = "boots QEMU"]
fn ahci_with_8_gib() {
    boots("ahci", AHCI, "8G", 0);
}

#[test]
#[ignore = "boots QEMU"]
fn nvme() {
    boots("nvme", NVME, "256M", 0);
}

#[test]
#[ignore = "boots QEMU"]
fn virtio_scsi() {
    boots("virtio-scsi", VIRTIO_SCSI, "256M", 0);
}

#[test]
#[ignore = "boots QEMU"]
fn virtio_blk_with_8_gib() {
    boots("8-gib", VIRTIO_BLK, "8G", 0);
}

#[test]
#[ignore = "boots QEMU"]
fn kernel_and_initrd_of_150_mib() {
    boots("150-mib", VIRTIO_BLK, "512M", 150 * MIB - kernel().len() as u64);
}

/// The header of an old kernel: no initrd_addr_max, no pref_address, no init_size. The initrd then
/// is placed below 0x38000000 although there is memory above.
#[test]
#[ignore = "boots QEMU"]
fn a_kernel_of_boot_protocol_2_02() {
    let mut kernel = kernel().to_vec();
    kernel[0x206..0x208].copy_from_slice(&0x0202u16.to_le_bytes());
    let disk = Disk::bootable("2.02", &kernel, &initrd("first", 0));
    let mut machine = Machine::start(&disk, VIRTIO_BLK, "2G", &[]);
    machine.expect("READY first");
}

/// The kernel loads and starts; without an initrd it finds no root and says so.
#[test]
#[ignore = "boots QEMU"]
fn without_an_initrd() {
    let mut disk = Disk::bootable("no-initrd", kernel(), b"");
    disk.params.initrd = None;
    disk.put_params();
    let mut machine = Machine::start(&disk, VIRTIO_BLK, "128M", &[]);
    machine.expect("Unable to mount root fs");
}

/// Less common controllers: the loader must reach its parameter block.
#[test]
#[ignore = "boots QEMU"]
fn other_controllers() {
    let disk = Disk::bare(Params { message: Some("well read".into()), ..Params::default() });
    for attach in [LSI, PVSCSI, USB] {
        Machine::start(&disk, attach, "128M", &[]).expect("synthdisk: well read");
    }
}

// ---- the payload changes while it is loaded ----------------------------------------------------

/// The host plans another initrd in the middle of the loading: the guest gets the new one whole.
#[test]
#[ignore = "boots QEMU"]
fn a_changed_block_starts_over() {
    let second = initrd("second", 0);
    let mut disk = Disk::bootable("changed", kernel(), &initrd("first", 16 * MIB));
    let second_lba = disk.initrd_lba() + 64 * MIB / SECTOR;
    disk.put(second_lba, &second);
    let throttle = "throttling.bps-read=16777216";
    let mut machine = Machine::start(&disk, VIRTIO_BLK, "256M", &[throttle]);
    machine.expect("synthdisk: loading Linux");
    disk.params.initrd = Some((second_lba, second.len() as u64));
    disk.params.token = [2; 16];
    disk.put_params();
    let line = machine.expect("READY");
    assert!(line.starts_with("READY second"), "{line}");
}

/// An inconsistency in the middle of a change is not reported, but read again.
#[test]
#[ignore = "boots QEMU"]
fn an_error_from_a_mixture_starts_over() {
    let mut disk = Disk::bootable("mixture", kernel(), &initrd("first", 16 * MIB));
    let good = disk.params.clone();
    disk.params.initrd = Some((disk.initrd_lba(), 1 << 31));
    disk.params.token = [2; 16];
    disk.put_params();
    // 2 GiB of initrd in 4 GiB: planned, then the disk turns out too short.
    let throttle = "throttling.bps-read=33554432";
    disk.file.set_len((disk.initrd_lba() * SECTOR) + 32 * MIB).unwrap();
    let mut machine = Machine::start(&disk, VIRTIO_BLK, "4G", &[throttle]);
    machine.expect("synthdisk: loading Linux");
    disk.params = good;
    disk.put_params();
    machine.expect("READY first");
    assert!(!machine.log().contains("read error"), "{}", machine.log());
}

#[test]
#[ignore = "boots QEMU"]
fn a_block_that_never_rests_is_reported() {
    let mut disk = Disk::bootable("restless", kernel(), &initrd("first", 0));
    let mut machine = Machine::start(&disk, VIRTIO_BLK, "256M", &[]);
    let deadline = Instant::now() + PATIENCE;
    while !machine.log().contains("kept changing") && Instant::now() < deadline {
        for _ in 0..50 {
            let count = u128::from_le_bytes(disk.params.token).wrapping_add(1);
            disk.params.token = count.to_le_bytes();
            disk.put_params();
            std::thread::sleep(Duration::from_millis(1));
        }
        machine.listen(Duration::ZERO);
    }
    let log = machine.log();
    assert!(log.contains("synthdisk: the kernel kept changing while it was loaded"), "{log}");
    assert!(!log.contains("READY"), "{log}");
}

// ---- it reports errors ---------------------------------------------------------------------

#[test]
#[ignore = "boots QEMU"]
fn a_message_is_printed_once_on_screen_and_com1() {
    let message = "no kernel found in the guest; give one with --kernel".to_owned();
    let disk = Disk::bare(Params { message: Some(message.clone()), ..Params::default() });
    assert_eq!(stops(&disk, "128M", "no kernel"), format!("synthdisk: {message}"));

    // Here SeaBIOS copies the screen to COM1, and the loader must not print it a second time.
    let mut machine = Machine::start(&disk, VIRTIO_BLK, "128M", &["-nographic"]);
    machine.expect("synthdisk: ");
    machine.listen(Duration::from_secs(1));
    assert_eq!(machine.log().matches(&message).count(), 1, "{}", machine.log());
}

#[test]
#[ignore = "boots QEMU"]
fn a_disk_that_ends_too_early_is_a_read_error() {
    let disk = Disk::bootable("short", kernel(), &initrd("first", MIB));
    let sectors = disk.initrd_lba() + 1000;
    disk.file.set_len(sectors * SECTOR).unwrap();
    let line = stops(&disk, "256M", "read error");
    let lba = line.strip_prefix("synthdisk: disk read error at LBA 0x").unwrap();
    assert_eq!(lba.len(), 16, "{line}");
    let lba = u64::from_str_radix(lba, 16).unwrap();
    assert!((sectors - 127..=sectors).contains(&lba), "{line}, and the disk has {sectors}");
}

#[test]
#[ignore = "boots QEMU"]
fn a_disk_without_a_whole_loader_says_so() {
    let disk = Disk::bare(Params::default());
    disk.put(STAGE2_LBA, &[0; 4096]);
    stops(&disk, "128M", "synthdisk: the loader on this disk is damaged");
    disk.file.set_len(4 * SECTOR).unwrap();
    // From virtio and NVMe SeaBIOS doesn't even start a disk as short as that.
    stops_on(IDE, &disk, "128M", "synthdisk: disk read error in the loader");
}

#[test]
#[ignore = "boots QEMU"]
fn a_bad_parameter_block_is_refused() {
    let disk = Disk::bootable("block", kernel(), &initrd("first", 0));
    let good = disk.params.encode();
    for (at, byte) in [(0, b's'), (8, 2), (44, 1), (43, 0x20), (60, 1), (73, 0x10), (78, 1)] {
        let mut block = good;
        block[at] = byte;
        disk.put(PARAMS_LBA, &block);
        let line = stops(&disk, "128M", "block");
        assert_eq!(line, "synthdisk: bad parameter block", "byte {at}");
    }
}

#[test]
#[ignore = "boots QEMU"]
fn what_is_no_kernel_is_refused() {
    let not = "synthdisk: not a Linux kernel";
    let old = "synthdisk: the kernel is too old (boot protocol 2.02 and bzImage are needed)";
    let changed = |at: usize, byte: u8| {
        let mut kernel = kernel().to_vec();
        kernel[at] = byte;
        kernel
    };
    let table: [(&str, Vec<u8>, &str); 6] = [
        ("zeros", vec![0; 100_000], not),
        ("too short", kernel()[..1024].to_vec(), not),
        ("real-mode part only", kernel()[..4096].to_vec(), not),
        ("real-mode part too long", changed(0x1f1, 64), not),
        ("protocol 2.01", changed(0x206, 1), old),
        ("zImage", changed(0x211, 0), old),
    ];
    for (name, kernel, want) in table {
        let disk = Disk::bootable("garbage", &kernel, &initrd("first", 0));
        assert_eq!(stops(&disk, "128M", "kernel"), want, "{name}");
    }
}

#[test]
#[ignore = "boots QEMU"]
fn too_little_memory_is_said_with_a_number() {
    let disk = Disk::bootable("memory", kernel(), &initrd("first", 0));
    let line = stops(&disk, "32M", "memory");
    let rest = line
        .strip_prefix("synthdisk: not enough memory: the kernel and its initrd need at least ")
        .unwrap_or_else(|| panic!("{line}"));
    let short: u64 = rest.strip_suffix(" MiB more").unwrap().parse().unwrap();
    assert!((10..100).contains(&short), "{line}");

    // With so much more the loader goes on (what the kernel makes of it is another matter).
    let memory = format!("{}M", 32 + short);
    let mut machine = Machine::start(&disk, VIRTIO_BLK, &memory, &[]);
    machine.expect("synthdisk: loading Linux");
    machine.listen(Duration::from_secs(2));
    assert!(!machine.log().contains("not enough memory: "), "{}", machine.log());
}

#[test]
#[ignore = "boots QEMU"]
fn an_initrd_above_the_kernels_limit_is_refused() {
    let mut kernel = kernel().to_vec();
    kernel[0x22c..0x230].copy_from_slice(&0x01ff_ffffu32.to_le_bytes());
    let disk = Disk::bootable("limit", &kernel, &initrd("first", 0));
    stops(&disk, "256M", "synthdisk: the initrd is too large for this kernel");
}

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::*;
use crate::qemu::find_qemu;

fn file(path: &str) -> DriveSpec {
    DriveSpec { path: Some(path.into()), ..DriveSpec::default() }
}

fn line(spec: &MachineSpec) -> String {
    spec.shell_line(Path::new("qemu"))
}

#[test]
fn a_plain_guest() {
    let spec = MachineSpec {
        name: "web1".into(),
        accel: Accel::Kvm,
        vcpus: 2,
        disks: vec![file("/m/disk.raw")],
        nics: vec![Nic { mac: Some("00:16:3e:99:62:75".into()), ..Nic::default() }],
        ..MachineSpec::default()
    };
    assert_eq!(
        line(&spec),
        "qemu -name guest=web1 -machine pc -accel kvm -cpu host -m 512M -smp 2 -nodefaults \
         -no-user-config -vga std -display none -serial mon:stdio \
         -object rng-random,id=rng0,filename=/dev/urandom -device virtio-rng-pci,rng=rng0 \
         -blockdev driver=raw,node-name=disk0,read-only=off,cache.direct=on,cache.no-flush=off,\
         discard=unmap,file.driver=file,file.filename=/m/disk.raw,\
         file.locking=auto,file.aio=threads \
         -device virtio-blk-pci,drive=disk0,bootindex=1,id=drive0 \
         -netdev user,id=net0 -device virtio-net-pci,netdev=net0,mac=00:16:3e:99:62:75,romfile="
    );
}

#[test]
fn words_that_are_in_the_line() {
    let disks = |disks: Vec<DriveSpec>| MachineSpec { disks, ..MachineSpec::default() };
    let serial = |serial| MachineSpec { serial, ..MachineSpec::default() };
    let cdrom = DriveSpec { cdrom: true, ..file("/cd.iso") };
    let on = |bus| DriveSpec { bus, ..file("/d") };
    for (spec, words) in [
        (MachineSpec::default(), "-accel tcg -cpu max"),
        (MachineSpec { name: "a,b=c".into(), ..MachineSpec::default() }, "-name guest=a,,b=c "),
        (MachineSpec { uuid: Some("u".into()), ..MachineSpec::default() }, " -uuid u "),
        (MachineSpec { no_reboot: true, ..MachineSpec::default() }, " -no-reboot "),
        (
            MachineSpec { extra_args: vec!["-s".into(), "a b".into()], ..MachineSpec::default() },
            " -s 'a b'",
        ),
        (
            disks(vec![file("/a,b/it's, c.raw")]),
            r"file.filename=/a,,b/it'\''s,, c.raw,file.locking",
        ),
        (disks(vec![DriveSpec { read_only: true, ..file("/d") }]), "read-only=on,cache.direct=on"),
        (
            disks(vec![DriveSpec { cache: Cache::Unsafe, ..file("/d") }]),
            "cache.direct=off,cache.no-flush=on",
        ),
        (
            disks(vec![DriveSpec { cache: Cache::Writeback, ..file("/d") }]),
            "cache.direct=off,cache.no-flush=off",
        ),
        (disks(vec![DriveSpec { aio: Aio::IoUring, ..file("/d") }]), "file.aio=io_uring"),
        (
            disks(vec![DriveSpec { kind: DriveKind::BlockDevice, ..file("/dev/x") }]),
            "file.driver=host_device",
        ),
        (
            disks(vec![DriveSpec { serial: Some("xvda".into()), ..file("/d") }]),
            "bootindex=1,serial=xvda,id=drive0",
        ),
        (
            disks(vec![file("/d"), cdrom.clone()]),
            "-device ide-cd,bus=ide.0,unit=0,drive=disk1,bootindex=2,id=drive1",
        ),
        (disks(vec![cdrom.clone()]), "node-name=disk0,read-only=on"),
        (
            disks(vec![DriveSpec { path: None, ..cdrom }]),
            "-device ide-cd,bus=ide.0,unit=0,id=drive0",
        ),
        (
            disks(vec![on(DiskBus::Ide), on(DiskBus::Ide), on(DiskBus::Ide)]),
            "-device ide-hd,bus=ide.1,unit=0,drive=disk2",
        ),
        (
            disks(vec![on(DiskBus::Ahci), on(DiskBus::Ahci)]),
            "-device ide-hd,bus=ahci.1,drive=disk1",
        ),
        (disks(vec![on(DiskBus::VirtioScsi)]), "-device virtio-scsi-pci,id=scsi -blockdev"),
        (disks(vec![on(DiskBus::VirtioScsi)]), "-device scsi-hd,bus=scsi.0,scsi-id=0,drive=disk0"),
        (disks(vec![on(DiskBus::Nvme)]), "-device nvme,drive=disk0,bootindex=1,serial=disk0"),
        (serial(Serial::Pipe), "-chardev stdio,id=serial0,signal=off -serial chardev:serial0"),
        (serial(Serial::Connect("/s,k".into())), "-chardev socket,id=serial0,path=/s,,k -serial"),
        (
            serial(Serial::Listen("/s".into())),
            "-chardev socket,id=serial0,path=/s,server=on,wait=off",
        ),
        (serial(Serial::File("/l".into())), "-chardev file,id=serial0,path=/l"),
    ] {
        let line = format!("{} ", line(&spec));
        assert!(line.contains(words), "{words}\n{line}");
    }
    let window = MachineSpec { graphic: true, ..MachineSpec::default() };
    assert!(!line(&window).contains("-display"));
    let bridged = Nic { backend: NicBackend::Bridge("br0".into()), ..Nic::default() };
    let bridged = MachineSpec { nics: vec![bridged], ..MachineSpec::default() };
    assert!(line(&bridged).contains("-netdev bridge,id=net0,br=br0 "));
}

/// QEMU itself takes the line: it starts, stopped, until the socket of its console is there.
#[test]
fn qemu_accepts_it() {
    let Some(qemu) = find_qemu() else {
        eprintln!("skipped: no QEMU here");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("it's, a disk.raw");
    std::fs::write(&path, vec![0; 1 << 20]).unwrap();
    let drive = |bus| DriveSpec {
        path: Some(path.clone()),
        bus,
        cache: Cache::Writeback, // the directory may be in memory, which knows no O_DIRECT
        read_only: true,
        ..DriveSpec::default()
    };
    use DiskBus::{Ahci, Ide, Nvme, Virtio, VirtioScsi};
    for (machine, buses) in [
        (MachineKind::Pc, &[Virtio, VirtioScsi, Nvme, Ahci][..]),
        (MachineKind::Q35, &[Virtio, Ahci]),
        (MachineKind::Q35, &[Ide]),
    ] {
        let mut disks: Vec<DriveSpec> = buses.iter().map(|&bus| drive(bus)).collect();
        // These can't be read-only, so QEMU gets a file of their own.
        for disk in disks.iter_mut().filter(|d| matches!(d.bus, Ide | Ahci)) {
            disk.read_only = false;
            disk.path = Some(dir.path().join("second.raw"));
            std::fs::write(dir.path().join("second.raw"), vec![0; 1 << 20]).unwrap();
        }
        disks.push(DriveSpec { cdrom: true, ..DriveSpec::default() });
        disks.push(DriveSpec { cdrom: true, ..drive(VirtioScsi) });
        let socket = dir.path().join("console, 1");
        let _ = std::fs::remove_file(&socket);
        let spec = MachineSpec {
            name: "a, b".into(),
            machine,
            memory_mib: 64,
            disks,
            nics: vec![Nic::default(), Nic { model: NicModel::E1000, ..Nic::default() }],
            serial: Serial::Listen(socket.clone()),
            extra_args: vec!["-S".into(), "-pidfile".into(), dir.path().join("pid").into()],
            ..MachineSpec::default()
        };
        let mut child = Command::new(&qemu)
            .args(spec.args())
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(dir.path().join("errors")).unwrap())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        // The pid file is written when all devices are there.
        while !dir.path().join("pid").exists() && Instant::now() < deadline {
            if child.try_wait().unwrap().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(300));
        let ended = child.try_wait().unwrap();
        let _ = child.kill();
        child.wait().unwrap();
        let _ = std::fs::remove_file(dir.path().join("pid"));
        let errors = std::fs::read_to_string(dir.path().join("errors")).unwrap();
        assert!(ended.is_none(), "{}\n{errors}", line(&spec));
    }
}

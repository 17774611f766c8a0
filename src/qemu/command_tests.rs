use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::*;
use crate::qemu::{Aio, NicModel, find_qemu};

fn file(path: &str) -> Drive {
    Drive { path: Some(path.into()), ..Drive::default() }
}

fn line(machine: &Machine) -> String {
    machine.shell_line(Path::new("qemu"), &Launch::default())
}

#[test]
fn a_plain_guest() {
    let spec = Machine {
        name: "web1".into(),
        vcpus: 2,
        drives: vec![file("/m/disk.raw")],
        nics: vec![Nic { mac: Some("00:16:3e:99:62:75".into()), ..Nic::default() }],
        ..Machine::default()
    };
    let launch = Launch { accel: Accel::Kvm, ..Launch::default() };
    assert_eq!(
        spec.shell_line(Path::new("qemu"), &launch),
        "qemu -name guest=web1 -machine pc -accel kvm -cpu host -m 512M -smp 2 -nodefaults \
         -no-user-config -vga std -display none -serial mon:stdio \
         -netdev user,id=net0 -device virtio-net-pci,netdev=net0,mac=00:16:3e:99:62:75,romfile= \
         -object rng-random,id=rng0,filename=/dev/urandom -device virtio-rng-pci,rng=rng0 \
         -blockdev driver=raw,node-name=disk0,read-only=off,cache.direct=on,cache.no-flush=off,\
         discard=unmap,file.driver=file,file.filename=/m/disk.raw,\
         file.locking=auto,file.aio=threads \
         -device virtio-blk-pci,drive=disk0,bootindex=1,id=drive0"
    );
}

#[test]
fn words_that_are_in_the_line() {
    let disks = |drives: Vec<Drive>| Machine { drives, ..Machine::default() };
    let cdrom = Drive { cdrom: true, ..file("/cd.iso") };
    let on = |bus| Drive { bus, ..file("/d") };
    for (spec, words) in [
        (Machine::default(), "-accel tcg -cpu max"),
        (Machine { name: "a,b=c".into(), ..Machine::default() }, "-name guest=a,,b=c "),
        (Machine { uuid: Some("u".into()), ..Machine::default() }, " -uuid u "),
        (Machine { on_reboot: Lifecycle::Destroy, ..Machine::default() }, " -no-reboot "),
        (Machine { clock: Clock::LocalTime, ..Machine::default() }, " -rtc base=localtime "),
        (
            disks(vec![file("/a,b/it's, c.raw")]),
            r"file.filename=/a,,b/it'\''s,, c.raw,file.locking",
        ),
        (disks(vec![Drive { read_only: true, ..file("/d") }]), "read-only=on,cache.direct=on"),
        (
            disks(vec![Drive { cache: Cache::Unsafe, ..file("/d") }]),
            "cache.direct=off,cache.no-flush=on",
        ),
        (
            disks(vec![Drive { cache: Cache::Writeback, ..file("/d") }]),
            "cache.direct=off,cache.no-flush=off",
        ),
        (disks(vec![Drive { aio: Aio::IoUring, ..file("/d") }]), "file.aio=io_uring"),
        (
            disks(vec![Drive { kind: DriveKind::BlockDevice, ..file("/dev/x") }]),
            "file.driver=host_device",
        ),
        (
            disks(vec![Drive { kind: DriveKind::Nbd("disk.raw".into()), ..file("/run/a,b/s") }]),
            "discard=unmap,file.driver=nbd,file.server.type=unix,file.server.path=/run/a,,b/s,\
             file.export=disk.raw",
        ),
        (
            disks(vec![Drive { serial: Some("xvda".into()), ..file("/d") }]),
            "bootindex=1,serial=xvda,id=drive0",
        ),
        (
            disks(vec![file("/d"), cdrom.clone()]),
            "-device ide-cd,bus=ide.0,unit=0,drive=disk1,bootindex=2,id=drive1",
        ),
        (disks(vec![cdrom.clone()]), "node-name=disk0,read-only=on"),
        (disks(vec![Drive { path: None, ..cdrom }]), "-device ide-cd,bus=ide.0,unit=0,id=drive0"),
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
    ] {
        let line = format!("{} ", line(&spec));
        assert!(line.contains(words), "{words}\n{line}");
    }
    let window = Machine { graphics: Graphics::Screen, ..Machine::default() };
    assert!(!line(&window).contains("-display"));
    let bridged = Nic { backend: NicBackend::Bridge("br0".into()), ..Nic::default() };
    let bridged = Machine { nics: vec![bridged], ..Machine::default() };
    assert!(line(&bridged).contains("-netdev bridge,id=net0,br=br0 "));
}

#[test]
fn launches() {
    let serial = |serial| Launch { serial, ..Launch::default() };
    for (launch, words) in [
        (serial(Serial::Pipe), "-chardev stdio,id=serial0,signal=off -serial chardev:serial0"),
        (serial(Serial::Connect("/s,k".into())), "-chardev socket,id=serial0,path=/s,,k -serial"),
        (
            serial(Serial::Listen("/s".into())),
            "-chardev socket,id=serial0,path=/s,server=on,wait=off",
        ),
        (serial(Serial::File("/l".into())), "-chardev file,id=serial0,path=/l"),
        (Launch { extra_args: vec!["-s".into(), "a b".into()], ..Launch::default() }, " -s 'a b'"),
    ] {
        let line = Machine::default().shell_line(Path::new("qemu"), &launch);
        assert!(line.contains(words), "{words}\n{line}");
    }
}

#[test]
fn a_short_line_to_paste() {
    let machine = Machine {
        drives: vec![
            Drive { serial: Some("xvda".into()), ..file("/m/a b.raw") },
            Drive { read_only: true, bus: DiskBus::Ahci, ..file("/m/b.raw") },
        ],
        ..Machine::default()
    };
    assert_eq!(
        machine.short_line(Path::new("qemu")),
        "qemu -machine pc,accel=kvm:tcg -m 512 -nic none -device ich9-ahci,id=ahci \
         -drive 'file=/m/a b.raw,format=raw,if=none,id=d0,cache=none,aio=AIO,discard=unmap' \
         -device virtio-blk-pci,drive=d0,bootindex=1,serial=xvda \
         -drive file=/m/b.raw,format=raw,if=none,id=d1,cache=none,aio=AIO,snapshot=on \
         -device ide-hd,bus=ahci.0,drive=d1,bootindex=2 -nographic"
            .replace("AIO", Aio::default().name())
    );
}

/// QEMU accepts the command line: it starts, stopped, and creates its console socket.
#[test]
fn qemu_accepts_it() {
    let Some(qemu) = find_qemu() else {
        eprintln!("skipped: no QEMU here");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("it's, a disk.raw");
    std::fs::write(&path, vec![0; 1 << 20]).unwrap();
    let drive = |bus| Drive {
        path: Some(path.clone()),
        bus,
        cache: Cache::Writeback, // the directory may be in memory, which does not support O_DIRECT
        read_only: true,
        ..Drive::default()
    };
    use DiskBus::{Ahci, Ide, Nvme, Virtio, VirtioScsi};
    for (board, buses) in [
        (Board::Pc, &[Virtio, VirtioScsi, Nvme, Ahci][..]),
        (Board::Q35, &[Virtio, Ahci]),
        (Board::Q35, &[Ide]),
    ] {
        let mut drives: Vec<Drive> = buses.iter().map(|&bus| drive(bus)).collect();
        // These disks can't be read-only, so QEMU gets separate files for them.
        for disk in drives.iter_mut().filter(|d| matches!(d.bus, Ide | Ahci)) {
            disk.read_only = false;
            disk.path = Some(dir.path().join("second.raw"));
            std::fs::write(dir.path().join("second.raw"), vec![0; 1 << 20]).unwrap();
        }
        drives.push(Drive { cdrom: true, ..Drive::default() });
        drives.push(Drive { cdrom: true, ..drive(VirtioScsi) });
        let socket = dir.path().join("console, 1");
        let _ = std::fs::remove_file(&socket);
        let spec = Machine {
            name: "a, b".into(),
            board,
            memory_mib: 64,
            drives,
            nics: vec![
                Nic { slot: Nic::slot_of(0), ..Nic::default() },
                Nic { model: NicModel::E1000, slot: Nic::slot_of(1), ..Nic::default() },
            ],
            ..Machine::default()
        };
        let launch = Launch {
            serial: Serial::Listen(socket.clone()),
            extra_args: vec!["-S".into(), "-pidfile".into(), dir.path().join("pid").into()],
            ..Launch::default()
        };
        let line = spec.shell_line(&qemu, &launch);
        // The short line's console is on standard input; QEMU keeps running at end-of-file.
        let pid = quote(dir.path().join("pid").as_os_str());
        let short = format!("{} -S -pidfile {pid}", spec.short_line(&qemu));
        for line in [line, short] {
            accepted(&line, dir.path());
        }
    }
}

fn accepted(line: &str, dir: &Path) {
    let mut child = Command::new("sh")
        .args(["-c", &format!("exec {line}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(dir.join("errors")).unwrap())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    // QEMU writes the pid file after it has created all devices.
    while !dir.join("pid").exists() && Instant::now() < deadline {
        if child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(300));
    let ended = child.try_wait().unwrap();
    let _ = child.kill();
    child.wait().unwrap();
    let _ = std::fs::remove_file(dir.join("pid"));
    let errors = std::fs::read_to_string(dir.join("errors")).unwrap();
    assert!(ended.is_none(), "{line}\n{errors}");
}

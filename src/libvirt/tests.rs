use super::*;
use crate::qemu::{Launch, Lifecycle};
use regex::Regex;
use std::path::Path;

fn drive(path: &str) -> Drive {
    Drive { path: Some(path.into()), ..Drive::default() }
}

fn web1() -> Machine {
    Machine {
        name: "a<b".into(),
        uuid: Some("0123abcd-0123-0123-0123-0123456789ab".into()),
        memory_mib: 512,
        max_memory_mib: 1024,
        max_vcpus: 4,
        clock: Clock::LocalTime,
        drives: vec![
            Drive { serial: Some("xvdb".into()), ..drive("/mnt/it's/disk.raw") },
            Drive { read_only: true, ..drive("/b") },
            Drive { cdrom: true, ..drive("/c") },
        ],
        nics: vec![
            Nic {
                mac: Some("00:16:3e:01:02:03".into()),
                backend: NicBackend::Bridge("br&0".into()),
                slot: Some(3),
                ..Nic::default()
            },
            Nic { model: NicModel::E1000, ..Nic::default() },
        ],
        graphics: Graphics::Screen,
        on_crash: Lifecycle::Preserve,
        ..Machine::default()
    }
}

#[test]
fn what_the_description_says() {
    let text = domain_xml(&web1()).unwrap();
    for part in [
        "<name>a&lt;b</name>",
        "<uuid>0123abcd-0123-0123-0123-0123456789ab</uuid>",
        "<memory unit='MiB'>1024</memory>",
        "<currentMemory unit='MiB'>512</currentMemory>",
        "<vcpu placement='static' current='1'>4</vcpu>",
        "<clock offset='localtime'/>",
        "<on_crash>preserve</on_crash>",
        "discard='unmap'/>\n      <target dev='vda' bus='virtio'/>\n      \
         <source file='/mnt/it&apos;s/disk.raw'/>\n      <boot order='1'/>\n      \
         <serial>xvdb</serial>\n",
        "<target dev='vdb' bus='virtio'/>\n      <source file='/b'/>\n      \
         <boot order='2'/>\n      <readonly/>",
        "<target dev='hda' bus='ide'/>",
        "<mac address='00:16:3e:01:02:03'/>\n      <source bridge='br&amp;0'/>",
        "<source network='default'/>\n      <model type='e1000'/>",
        "slot='0x03' function='0x0'/>",
        "<graphics type='vnc'",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn identifiers_stay_the_same() {
    let xml = |machine: &Machine| domain_xml(machine).unwrap();
    let plain = Machine::default();
    assert_eq!(xml(&plain), xml(&plain));
    assert_ne!(xml(&plain), xml(&Machine { name: "other".into(), ..plain.clone() }));
    assert!(!xml(&plain).contains("<graphics"));
}

#[test]
fn what_cannot_be_said() {
    for name in ["", "a\nb"] {
        let machine = Machine { name: name.into(), ..Machine::default() };
        assert!(domain_xml(&machine).is_err());
    }
    let nvme = Drive { bus: DiskBus::Nvme, ..drive("/d") };
    let machine = Machine { drives: vec![nvme], ..Machine::default() };
    assert_eq!(domain_xml(&machine).unwrap_err().kind(), ErrorKind::Unsupported);
}

/// What a guest sees of a machine, parsed back from one of the three renderings.
#[derive(Debug, Eq, PartialEq)]
struct Seen {
    memory_mib: u64,
    vcpus: u32,
    board: String,
    local_time: bool,
    ends_at_reboot: bool,
    /// File, bus, boot order, cdrom, read-only, serial number, AIO.
    drives: Vec<(String, DiskBus, u32, bool, bool, String, String)>,
    /// Model, MAC address and slot.
    nics: Vec<(NicModel, String, u8)>,
}

fn capture(pattern: &str, text: &str) -> Option<String> {
    Some(Regex::new(pattern).unwrap().captures(text)?[1].to_owned())
}

/// Parses a command line.
fn seen_by_qemu(line: &str) -> Seen {
    let words: Vec<&str> = line.split(' ').collect();
    let after = |flag: &str| words.windows(2).filter(|w| w[0] == flag).map(|w| w[1]).collect();
    let devices: Vec<&str> = after("-device");
    let images: Vec<&str> = [after("-blockdev"), after("-drive")].concat();
    let mut drives = Vec::new();
    for device in devices.iter().filter(|d| d.contains("drive=")) {
        let id = capture("drive=([^,]*)", device).unwrap();
        let (by_node, by_id) = (format!("node-name={id},"), format!(",id={id},"));
        let image = images.iter().find(|i| i.contains(&by_node) || i.contains(&by_id)).unwrap();
        let bus = match device.split(',').collect::<Vec<_>>()[..] {
            ["virtio-blk-pci", ..] => DiskBus::Virtio,
            ["nvme", ..] => DiskBus::Nvme,
            ["scsi-hd" | "scsi-cd", ..] => DiskBus::VirtioScsi,
            [_, bus, ..] if bus.starts_with("bus=ahci.") => DiskBus::Ahci,
            [_, bus, ..] if bus.starts_with("bus=ide.") => DiskBus::Ide,
            _ => panic!("{device}"),
        };
        drives.push((
            capture("(?:filename|file)=([^,]*)", image).unwrap(),
            bus,
            capture("bootindex=([0-9]+)", device).unwrap().parse().unwrap(),
            device.contains("-cd,"),
            image.contains("read-only=on") || image.contains("readonly=on"),
            capture("serial=([^,]*)", device).unwrap(),
            capture("aio=([a-z_]*)", image).unwrap(),
        ));
    }
    let nics = devices.iter().filter(|d| d.contains("netdev=")).map(|device| {
        (
            NicModel::from_name(device.split(',').next().unwrap()).unwrap(),
            capture("mac=([^,]*)", device).unwrap(),
            u8::from_str_radix(&capture("addr=0x([^,]*)", device).unwrap(), 16).unwrap(),
        )
    });
    Seen {
        memory_mib: capture("-m ([0-9]+)M? ", line).unwrap().parse().unwrap(),
        vcpus: capture("-smp ([0-9]+)", line).unwrap().parse().unwrap(),
        board: capture("-machine ([a-z0-9]*)", line).unwrap(),
        local_time: line.contains("-rtc base=localtime"),
        ends_at_reboot: line.contains("-no-reboot"),
        drives,
        nics: nics.collect(),
    }
}

fn seen_by_libvirt(xml: &str) -> Seen {
    let element = |name: &str| {
        let pattern = format!("(?s)<{name} .*?</{name}>");
        let found: Vec<_> =
            Regex::new(&pattern).unwrap().find_iter(xml).map(|m| m.as_str().to_owned()).collect();
        found
    };
    let drives = element("disk").into_iter().map(|disk| {
        let disk = disk.as_str();
        let bus = match capture("bus='([a-z]*)'", disk).unwrap().as_str() {
            "virtio" => DiskBus::Virtio,
            "scsi" => DiskBus::VirtioScsi,
            "sata" => DiskBus::Ahci,
            "ide" => DiskBus::Ide,
            other => panic!("{other}"),
        };
        (
            capture("<source file='(.*?)'", disk).unwrap(),
            bus,
            capture("<boot order='([0-9]+)'", disk).unwrap().parse().unwrap(),
            disk.contains("device='cdrom'"),
            disk.contains("<readonly/>"),
            capture("<serial>(.*?)</serial>", disk).unwrap(),
            capture("io='([a-z_]*)'", disk).unwrap(),
        )
    });
    let nics = element("interface").into_iter().map(|nic| {
        let nic = nic.as_str();
        let model = match capture("<model type='(.*?)'", nic).unwrap().as_str() {
            "virtio" => NicModel::Virtio,
            other => NicModel::from_name(other).unwrap(),
        };
        (
            model,
            capture("<mac address='(.*?)'", nic).unwrap(),
            u8::from_str_radix(&capture("slot='0x([0-9a-f]*)'", nic).unwrap(), 16).unwrap(),
        )
    });
    Seen {
        memory_mib: capture("<currentMemory unit='MiB'>([0-9]+)<", xml).unwrap().parse().unwrap(),
        vcpus: capture("<vcpu placement='static'>([0-9]+)<", xml).unwrap().parse().unwrap(),
        board: capture("machine='([a-z0-9]*)'", xml).unwrap(),
        local_time: xml.contains("<clock offset='localtime'/>"),
        ends_at_reboot: xml.contains("<on_reboot>destroy</on_reboot>"),
        drives: drives.collect(),
        nics: nics.collect(),
    }
}

/// `run`, the command that `mount` suggests, and the libvirt definition all describe the same
/// machine.
#[test]
fn the_three_renderings_are_the_same_machine() {
    let qemu = Path::new("qemu");
    for bus in [DiskBus::Virtio, DiskBus::VirtioScsi, DiskBus::Ahci, DiskBus::Ide] {
        for model in [NicModel::Virtio, NicModel::E1000, NicModel::Rtl8139] {
            let disk = |file: &str, serial: &str| Drive {
                bus,
                serial: Some(serial.into()),
                ..drive(&format!("/m/{file}.raw"))
            };
            let card = |i: usize| Nic {
                mac: Some(format!("00:16:3e:00:00:0{i}")),
                model,
                slot: Nic::slot_of(i),
                ..Nic::default()
            };
            let machine = Machine {
                memory_mib: 768,
                max_memory_mib: 768,
                vcpus: 3,
                max_vcpus: 3,
                clock: Clock::LocalTime,
                on_reboot: Lifecycle::Destroy,
                drives: vec![
                    disk("disk", "xvda"),
                    Drive { read_only: bus.has_read_only_disks(), ..disk("disk-b", "xvdb") },
                    Drive { cdrom: true, ..disk("cdrom-c", "hdc") },
                ],
                nics: vec![card(0), card(1)],
                ..Machine::default()
            };
            let run = seen_by_qemu(&machine.shell_line(qemu, &Launch::default()));
            assert_eq!(run.drives.len(), 3);
            assert_eq!(run.drives[0].1, bus);
            assert_eq!(run.drives[0].5, "xvda");
            assert!(run.drives[2].3 && run.drives[2].4);
            assert_eq!(run.nics[1], (model, "00:16:3e:00:00:01".into(), 4));
            let try_it = machine.short_line(qemu);
            assert_eq!(seen_by_qemu(&try_it), run, "{try_it}");
            let xml = domain_xml(&machine).unwrap();
            assert_eq!(seen_by_libvirt(&xml), run, "{xml}");
        }
    }
}

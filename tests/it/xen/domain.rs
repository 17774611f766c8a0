//! Whole domU configs: what they mean, and what of them is reported.

use std::path::{Path, PathBuf};

use synthdisk::ErrorKind;
use synthdisk::xen::{
    Access, BootMethod, BootloaderKind, DomainConfig, GuestDiskContent, GuestKind, MAX_CONFIG_BYTES,
};

fn parse(text: &str) -> DomainConfig {
    DomainConfig::parse(text, Path::new("/etc/xen")).unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// `xvda[1=/a 2=/b] xvdb=/c`: the layout in one line.
fn layout(domain: &DomainConfig) -> String {
    let target = |t: &Option<PathBuf>| t.as_deref().map_or("-".into(), |t| t.display().to_string());
    let disks: Vec<String> = domain
        .layout()
        .unwrap()
        .iter()
        .map(|disk| match &disk.content {
            GuestDiskContent::Whole(spec) => format!("{}={}", disk.name(), target(&spec.target)),
            GuestDiskContent::Partitions(parts) => {
                let parts: Vec<String> =
                    parts.iter().map(|(n, spec)| format!("{n}={}", target(&spec.target))).collect();
                format!("{}[{}]", disk.name(), parts.join(" "))
            }
        })
        .collect();
    disks.join(" ")
}

fn notes(text: &str) -> Vec<String> {
    parse(text).notes.iter().map(|n| n.to_string()).collect()
}

/// What xen-tools 4.9.2 writes for `--pygrub --dhcp --vcpus=1 --swap=128M --dir=…`.
const XEN_TOOLS: &str = "\
#
# Configuration file for the Xen instance web1, created
# by xen-tools 4.9.2 on Sat Nov 21 00:44:27 2026.
#

#
#  Kernel + memory size
#


bootloader = 'pygrub'

vcpus       = '1'
memory      = '512'


#
#  Disk device(s).
#
root        = '/dev/xvda2 ro'
disk        = [
                  'file:/srv/xen/domains/web1/disk.img,xvda2,w',
                  'file:/srv/xen/domains/web1/swap.img,xvda1,w',
              ]


#
#  Physical volumes
#


#
#  Hostname
#
name        = 'web1'

#
#  Networking
#
dhcp        = 'dhcp'
vif         = [ 'mac=00:16:3E:99:62:75' ]

#
#  Behaviour
#
on_poweroff = 'destroy'
on_reboot   = 'restart'
on_crash    = 'restart'


";

#[test]
fn xen_tools_pygrub() {
    let d = parse(XEN_TOOLS);
    assert_eq!(d.name.as_deref(), Some("web1"));
    assert_eq!((d.memory_mib, d.vcpus), (Some(512), Some(1)));
    assert_eq!(d.kind, GuestKind::Pv);
    assert_eq!(
        layout(&d),
        "xvda[1=/srv/xen/domains/web1/swap.img 2=/srv/xen/domains/web1/disk.img]"
    );
    assert_eq!((d.disks[0].line, d.disks[1].line), (22, 23));
    assert_eq!(d.vifs[0].mac_string().as_deref(), Some("00:16:3e:99:62:75"));
    assert_eq!(d.bootloader.as_ref().unwrap().kind, BootloaderKind::Pygrub);
    assert_eq!(
        d.boot_method(),
        BootMethod::GuestConfig {
            entry: None,
            kernel: None,
            ramdisk: None,
            append: Some("root=/dev/xvda2 ro".into()),
        }
    );
    assert_eq!(d.on_reboot.as_deref(), Some("restart"));
    assert_eq!(d.notes, []);
}

#[test]
fn xen_tools_dom0_kernel_and_lvm() {
    let d = parse(
        "kernel      = '/boot/vmlinuz-6.1.0-9-amd64'\n\
         extra       = 'elevator=noop'\n\
         ramdisk     = '/boot/initrd.img-6.1.0-9-amd64'\n\
         vcpus = '2'\nmemory = '1024'\nmaxmem = '2048'\n\
         root = '/dev/xvda2 ro'\n\
         disk = [\n 'phy:/dev/vg0/web2-disk,xvda2,w',\n 'phy:/dev/vg0/web2-swap,xvda1,w',\n ]\n\
         name = 'web2'\n\
         vif = [ 'ip=10.0.0.2 ,mac=00:16:3E:00:00:02,bridge=xenbr0' ]\n",
    );
    assert_eq!(layout(&d), "xvda[1=/dev/vg0/web2-swap 2=/dev/vg0/web2-disk]");
    assert_eq!(
        d.boot_method(),
        BootMethod::Kernel {
            kernel: Path::new("/boot/vmlinuz-6.1.0-9-amd64"),
            ramdisk: Some(Path::new("/boot/initrd.img-6.1.0-9-amd64")),
            command_line: "root=/dev/xvda2 ro elevator=noop".into(),
        }
    );
    assert_eq!(d.vifs[0].bridge.as_deref(), Some("xenbr0"));
    assert_eq!(d.vifs[0].ip.as_deref(), Some("10.0.0.2"));
    assert_eq!(d.maxmem_mib, Some(2048));
    assert_eq!(d.notes, []);
}

#[test]
fn layouts() {
    for (disks, expected) in [
        ("'/r,,xvda1','/s,,xvda2'", "xvda[1=/r 2=/s]"),
        ("'/r,,xvda','/s,,xvdb'", "xvda=/r xvdb=/s"),
        ("'/s,,xvdb','/r,,xvda'", "xvda=/r xvdb=/s"),
        ("'/h,,xvda5','/r,,xvda1','/v,,xvda16'", "xvda[1=/r 5=/h 16=/v]"),
        ("'/r,,sda1','/s,,sda2','/d,,sdb'", "sda[1=/r 2=/s] sdb=/d"),
        ("'/d,,xvda','/cd.iso,,hdc,cdrom'", "xvda=/d hdc=/cd.iso"),
        ("'/d,,xvda',',hda:cdrom,r'", "xvda=/d hda=-"),
        ("'d.img,,xvda1'", "xvda[1=/etc/xen/d.img]"),
        ("'phy:vg/r,xvda1,w','../s,,xvda2'", "xvda[1=/dev/vg/r 2=/etc/xen/../s]"),
        ("'/b,,51713','/r,,51714'", "xvda[1=/b 2=/r]"),
        ("", ""),
    ] {
        assert_eq!(layout(&parse(&format!("disk=[{disks}]"))), expected, "{disks}");
    }
    assert_eq!(layout(&parse("disk=['/a,,xvda1']\ndisk+=['/b,,xvda2',]")), "xvda[1=/a 2=/b]");
    assert_eq!(layout(&parse("disk='/a,,xvda1'")), "xvda[1=/a]");
    let d = parse("disk=['/a,,xvda,r']");
    assert_eq!(d.disks[0].access, Access::ReadOnly);
    assert_eq!(d.layout().unwrap()[0].letters(), "a");
}

#[test]
fn contradicting_disks() {
    for (disks, words) in [
        ("'/a,,xvda1',\n'/b,,xvda1'", "line 2: xvda1 is the same device as on line 1"),
        ("'/a,,xvda',\n'/b,,xvda1'", "line 2: xvda1 is a partition of xvda"),
        ("'/a,,xvda1',\n'/b,,xvda'", "line 1: xvda1 is a partition of xvda"),
        ("'/a,,xvda1',\n'/b,,sda2'", "xvda and sda are the same disk"),
        ("'/a,,hda',\n'/b,,xvda'", "xvda and hda are the same disk"),
        ("'/a,,hda1,,cdrom'", "cdrom"),
        ("'/a,,51713',\n'/b,,xvda1'", "same device"),
    ] {
        let d = parse(&format!("disk=[{disks}]"));
        let error = d.layout().expect_err(disks);
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(words), "{disks}: {error}");
    }
}

#[test]
fn command_lines() {
    for (text, expected) in [
        ("", None),
        ("root='/dev/xvda1 ro'", Some("root=/dev/xvda1 ro")),
        ("extra='quiet'", Some("quiet")),
        ("root='/dev/xvda1'; extra='ro quiet'", Some("root=/dev/xvda1 ro quiet")),
        ("root=''; extra='ro'", Some("ro")),
        ("cmdline='a b'; root='/dev/xvda1'; extra='c'", Some("a b")),
        ("extra='a'\nextra+=' b'", Some("a b")),
    ] {
        assert_eq!(parse(text).command_line().as_deref(), expected, "{text}");
    }
    assert_eq!(
        notes("cmdline='a'\nroot='b'\nextra='c'"),
        [
            "line 2: root: is ignored because 'cmdline' is set, as in xl",
            "line 3: extra: is ignored because 'cmdline' is set, as in xl"
        ]
    );
}

#[test]
fn boot_loaders() {
    // Program, kind, entry, kernel, append.
    for (text, kind, entry, kernel, append) in [
        ("bootloader='pygrub'", BootloaderKind::Pygrub, None, None, None),
        ("bootloader='/usr/lib/xen-4.17/bin/pygrub'", BootloaderKind::Pygrub, None, None, None),
        (
            "bootloader='pygrub'; bootargs='--entry=2'",
            BootloaderKind::Pygrub,
            Some("2"),
            None,
            None,
        ),
        (
            "bootloader='pygrub'; bootargs='-q --entry 2'",
            BootloaderKind::Pygrub,
            Some("2"),
            None,
            None,
        ),
        (
            "bootloader='pygrub'; bootloader_args=['--entry=Debian GNU/Linux', '-q']",
            BootloaderKind::Pygrub,
            Some("Debian GNU/Linux"),
            None,
            None,
        ),
        (
            "bootloader='pygrub'; bootargs=\"--entry='Debian GNU/Linux'\"",
            BootloaderKind::Pygrub,
            Some("Debian GNU/Linux"),
            None,
            None,
        ),
        (
            "bootloader='pygrub'; bootloader_args='--kernel=/vmlinuz --args=single'; extra='ro'",
            BootloaderKind::Pygrub,
            None,
            Some("/vmlinuz"),
            Some("single"),
        ),
        (
            "bootloader='pygrub'; kernel='/boot/k'; extra='ro'",
            BootloaderKind::Pygrub,
            None,
            Some("/boot/k"),
            Some("ro"),
        ),
        (
            "kernel='/usr/lib/xen-4.0/boot/pv-grub-x86_64.gz'\nextra='(hd0,0)/boot/grub/menu.lst'",
            BootloaderKind::Pvgrub,
            None,
            None,
            None,
        ),
        (
            "kernel='/usr/lib/grub-xen/grub-x86_64-xen.bin'",
            BootloaderKind::Pvgrub,
            None,
            None,
            None,
        ),
        (
            "type='pvh'; kernel='/usr/lib/grub-xen/grub-i386-xen_pvh.bin'",
            BootloaderKind::Pvgrub,
            None,
            None,
            None,
        ),
        ("firmware='pvgrub64'", BootloaderKind::Pvgrub, None, None, None),
        ("bootloader='/usr/local/bin/myboot'", BootloaderKind::Other, None, None, None),
        ("bootloader='pygrub'; bootargs='--entry'", BootloaderKind::Pygrub, None, None, None),
    ] {
        let d = parse(text);
        assert_eq!(d.bootloader.as_ref().unwrap().kind, kind, "{text}");
        assert_eq!(
            d.boot_method(),
            BootMethod::GuestConfig {
                entry: entry.map(Into::into),
                kernel: kernel.map(Into::into),
                ramdisk: None,
                append: append.map(Into::into),
            },
            "{text}"
        );
        assert_eq!(d.kernel, None);
    }
    assert_eq!(parse("").boot_method(), BootMethod::Unspecified);
    let hvm = parse("builder='hvm'; kernel='/usr/lib/xen/boot/hvmloader'; boot='dc'");
    assert_eq!((hvm.boot_method(), hvm.kind), (BootMethod::Firmware, GuestKind::Hvm));
    assert_eq!(hvm.boot_order.as_deref(), Some("dc"));
    let relative = parse("kernel='vmlinuz'; ramdisk='initrd.img'");
    assert_eq!(relative.kernel.as_deref(), Some(Path::new("/etc/xen/vmlinuz")));
    assert_eq!(relative.ramdisk.as_deref(), Some(Path::new("/etc/xen/initrd.img")));
}

#[test]
fn guest_kinds() {
    for (text, kind) in [
        ("", GuestKind::Pv),
        ("type='pv'", GuestKind::Pv),
        ("type='pvh'", GuestKind::Pvh),
        ("pvh=1", GuestKind::Pvh),
        ("type='hvm'", GuestKind::Hvm),
        ("builder='hvm'", GuestKind::Hvm),
        ("builder='generic'", GuestKind::Pv),
        ("builder='linux'", GuestKind::Pv),
        ("builder='hvm'; type='pv'", GuestKind::Pv),
    ] {
        assert_eq!(parse(text).kind, kind, "{text}");
    }
}

#[test]
fn reported() {
    for (text, words) in [
        ("pci=['01:00.0']", "line 1: pci: "),
        ("\n\nfirmware='ovmf'", "line 3: firmware: UEFI"),
        ("firmware='uefi'", "UEFI"),
        ("bios='ovmf'", "bios: UEFI"),
        ("firmware='/srv/fw.bin'", "/srv/fw.bin"),
        ("usbdevice='host:1234:5678'", "USB"),
        ("usbdev=['hostbus=1']", "USB"),
        ("vnuma=[['pnode=0']]", "NUMA"),
        ("device_model_override='/opt/qemu'", "device model"),
        ("device_model_version='qemu-xen-traditional'", "traditional"),
        ("disk=['script=block-x,vdev=xvda,target=y']", "block-x"),
        ("disk=['nbd:x,xvda,w']", "block-nbd"),
        ("vif=['mac=00:16:3e:00:00:01,rate=1Mb/s']", "rate"),
        ("vif=['backend=router']", "router"),
        ("vif=['colour=red']", "'colour='"),
        ("vtpm=['backend=x']", "TPM"),
        ("acpi=0", "ACPI"),
        ("vfb=['type=vnc']", "framebuffer"),
        ("boot='n'", "network"),
        ("vga='qxl'", "VGA"),
        ("serial=['pty','pty']", "serial port"),
        ("serial='tcp::4444'", "serial port"),
        ("bootloader='/opt/x'", "'/opt/x' is not run"),
        ("type='hvm'; bootloader='pygrub'", "HVM"),
        ("rtc_timeoffset=3600", "UTC"),
    ] {
        let notes = notes(text);
        assert_eq!(notes.len(), 1, "{text}: {notes:?}");
        assert!(notes[0].contains(words), "{text}: {notes:?}");
    }
    for quiet in [
        "acpi=1; apic=1; pae=1; nx=1",
        "pci=[]; usb=0; localtime=0; vtpm=[]; pci=['']; pci=[]",
        "firmware='bios'; boot='cd'; vga='stdvga'; serial='pty'",
        "firmware='seabios'; serial=['pty']; device_model_version='qemu-xen'",
        "cpus='0-3'; cpu_weight=512; cap=50; pool='p'; nomigrate=1",
        "made_up=1; vnc=1; sdl=0; keymap='de'; vnclisten='0.0.0.0'",
    ] {
        assert_eq!(notes(quiet), [""; 0], "{quiet}");
    }
}

#[test]
fn networks() {
    let d = parse(
        "vif = [ '', 'mac=0:16:3e:1:2:3, bridge=br0, model=e1000, type=ioemu', 'type=vif,script=vif-route,vifname=x' ]",
    );
    assert_eq!(d.vifs.len(), 3);
    assert_eq!(d.vifs[0].mac, None);
    assert_eq!(d.vifs[1].mac_string().as_deref(), Some("00:16:3e:01:02:03"));
    assert_eq!(d.vifs[1].model.as_deref(), Some("e1000"));
    assert_eq!(d.vifs[2].script.as_deref(), Some("vif-route"));
    for mac in ["x", "00:16:3e:00:00", "00:16:3e:00:00:00:00", "01:16:3e:00:00:00", "+0:0:0:0:0:0"]
    {
        let text = format!("vif=['mac={mac}']");
        let error = DomainConfig::parse(&text, Path::new("/")).expect_err(mac);
        assert!(error.to_string().starts_with("line 1: "), "{error}");
    }
}

#[test]
fn refused() {
    for (text, words) in [
        ("memory='lots'", "line 1: 'memory' must be a number"),
        ("\nmemory=[1]", "line 2: 'memory' must be a single value"),
        ("vcpus=0", "line 1: 'vcpus' must be between 1 and 4096"),
        ("vcpus=99999", "line 1: 'vcpus'"),
        ("type='arm'", "line 1: 'type' must be"),
        ("disk=[1]", "line 1: 'disk' must be a list"),
        ("disk=['/a,,xvda1',\n['/b']]", "line 2: 'disk' must be a list"),
        ("disk=['/a,,xvda1',\n'/b']", "line 2: disk '/b'"),
        ("vif=['bridge']", "line 1: vif 'bridge'"),
        ("name=['x']", "line 1: 'name' must be a single"),
    ] {
        let error = DomainConfig::parse(text, Path::new("/")).expect_err(text);
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().starts_with(words), "{text}: {error}");
    }
}

#[test]
fn loaded_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web1.cfg");
    std::fs::write(&path, "disk=['disk.img,raw,xvda1,w']").unwrap();
    let d = DomainConfig::load(&path).unwrap();
    assert_eq!(d.disks[0].target.as_deref(), Some(dir.path().join("disk.img").as_path()));

    std::fs::write(&path, "\nimport os").unwrap();
    let error = DomainConfig::load(&path).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}: line 2: ", path.display())), "{error}");

    std::fs::write(&path, vec![b' '; MAX_CONFIG_BYTES + 1]).unwrap();
    assert_eq!(DomainConfig::load(&path).unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(DomainConfig::load(Path::new("/dev/zero")).unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(DomainConfig::load(dir.path()).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(DomainConfig::load(&dir.path().join("no")).unwrap_err().kind(), ErrorKind::Io);
}

#[test]
fn hostile() {
    for unit in [
        "vif=['x=1,x=2'];",
        "a=[",
        "disk+=['/a,,xvda1'];",
        "disk+=['nbd:a,xvda1'];",
        "vif+=['a=,a=,a=,a='];",
    ] {
        let text = unit.repeat(MAX_CONFIG_BYTES / unit.len());
        if let Ok(d) = DomainConfig::parse(&text, Path::new("/")) {
            assert!(d.notes.len() <= 200);
            let _ = d.layout();
        }
    }
    let spec = format!("disk=['{}']", "a".repeat(100_000));
    let error = DomainConfig::parse(&spec, Path::new("/")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
}

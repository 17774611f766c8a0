//! A libvirt domain definition for a domU config.
//!
//! Source: libvirt's documentation of the domain XML format; `virt-xml-validate` is the judge.
//! Takes plain values and gives text; calls no room but `xen`, `fuse` (a mount's list of disks) and
//! `run` (what a config says of a machine).

use crate::fuse::StatusDisk;
use crate::run::machine::{DEFAULT_MEMORY_MIB, plain_uuid};
use crate::run::report::escape;
use crate::xen::DomainConfig;
use crate::{Error, ErrorKind, Result};
use std::fmt::Write;
use std::path::Path;
use uuid::Uuid;

/// The definition of `domain` as a KVM guest, called `name`, whose `disks` show in `dir`.
///
/// # Errors
/// [`ErrorKind::Invalid`] for a name or a path that XML or libvirt can't hold.
pub fn domain_xml(
    name: &str,
    domain: &DomainConfig,
    dir: &Path,
    disks: &[StatusDisk],
) -> Result<String> {
    check("the guest's name", name)?;
    let memory = domain.memory_mib.unwrap_or(DEFAULT_MEMORY_MIB);
    let max_memory = domain.maxmem_mib.map_or(memory, |max| max.max(memory));
    let vcpus = domain.vcpus.unwrap_or(1);
    let max_vcpus = domain.maxvcpus.map_or(vcpus, |max| max.max(vcpus));
    let current = if max_vcpus > vcpus { format!(" current='{vcpus}'") } else { String::new() };
    let on_reboot =
        if domain.on_reboot.as_deref() == Some("destroy") { "destroy" } else { "restart" };
    let on_crash = match domain.on_crash.as_deref() {
        Some("restart" | "coredump-restart" | "rename-restart") => "restart",
        Some("preserve") => "preserve",
        _ => "destroy",
    };
    let mut xml = format!(
        "<domain type='kvm'>
  <name>{}</name>
  <uuid>{}</uuid>
  <memory unit='MiB'>{max_memory}</memory>
  <currentMemory unit='MiB'>{memory}</currentMemory>
  <vcpu placement='static'{current}>{max_vcpus}</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <boot dev='hd'/>
  </os>
  <features>
    <acpi/>
    <apic/>
  </features>
  <cpu mode='host-passthrough'/>
  <clock offset='utc'/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>{on_reboot}</on_reboot>
  <on_crash>{on_crash}</on_crash>
  <devices>
",
        escape(name),
        uuid(name, domain),
    );
    let (mut virtio, mut sata) = (0, 0);
    for disk in disks {
        let path = dir.join(&disk.file);
        let path = path.to_str().ok_or_else(|| {
            let what = format!("{} is not UTF-8, as XML must be", path.display());
            Error::new(ErrorKind::Invalid, what)
        })?;
        check("the path of a disk", path)?;
        let (device, bus, target) = if disk.cdrom {
            ("cdrom", "sata", format!("sd{}", letters(&mut sata)))
        } else {
            ("disk", "virtio", format!("vd{}", letters(&mut virtio)))
        };
        let discard = if disk.cdrom || disk.read_only { "" } else { " discard='unmap'" };
        let read_only = if disk.cdrom || disk.read_only { "\n      <readonly/>" } else { "" };
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(
            xml,
            "    <disk type='file' device='{device}'>
      <driver name='qemu' type='raw' cache='none' io='threads'{discard}/>
      <source file='{}'/>
      <target dev='{target}' bus='{bus}'/>{read_only}
    </disk>",
            escape(path)
        );
    }
    for vif in &domain.vifs {
        let mac = vif.mac_string();
        let mac = mac.map_or_else(String::new, |mac| format!("      <mac address='{mac}'/>\n"));
        let (kind, source) = match &vif.bridge {
            Some(bridge) => ("bridge", format!("bridge='{}'", escape(bridge))),
            None => ("network", "network='default'".into()),
        };
        let _ = writeln!(
            xml,
            "    <interface type='{kind}'>\n{mac}      <source {source}/>
      <model type='virtio'/>\n    </interface>"
        );
    }
    xml.push_str(
        "    <serial type='pty'>
      <target port='0'/>
    </serial>
    <console type='pty'>
      <target type='serial' port='0'/>
    </console>
",
    );
    if domain.graphic {
        xml.push_str(
            "    <input type='tablet' bus='usb'/>
    <graphics type='vnc' port='-1' autoport='yes'/>
    <video>
      <model type='vga'/>
    </video>
",
        );
    }
    xml.push_str(
        "    <rng model='virtio'>
      <backend model='random'>/dev/urandom</backend>
    </rng>
  </devices>
</domain>
",
    );
    Ok(xml)
}

/// What libvirt refuses in names, and XML anywhere.
fn check(what: &str, text: &str) -> Result<()> {
    if text.is_empty() || text.chars().any(char::is_control) {
        let sentence = format!("{what} is empty or has control characters in it");
        return Err(Error::new(ErrorKind::Invalid, sentence));
    }
    Ok(())
}

/// The config's own UUID, or one that is the same whenever the same guest is defined again.
fn uuid(name: &str, domain: &DomainConfig) -> String {
    domain.uuid.as_deref().and_then(plain_uuid).unwrap_or_else(|| {
        let macs: Vec<_> = domain.vifs.iter().filter_map(|vif| vif.mac_string()).collect();
        let seed = format!("synthdisk:domain:{name}:{}", macs.join(","));
        Uuid::new_v5(&Uuid::NAMESPACE_URL, seed.as_bytes()).to_string()
    })
}

/// The letters of the next disk.
fn letters(count: &mut u32) -> String {
    let letters = crate::device_name::disk_letters(*count);
    *count += 1;
    letters
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::machine::disks_of;

    fn xml(text: &str) -> String {
        let domain = DomainConfig::parse(text, Path::new("/etc/xen")).unwrap();
        let disks = disks_of(&domain).unwrap();
        domain_xml("a<b", &domain, Path::new("/mnt/it's"), &disks).unwrap()
    }

    #[test]
    fn what_the_config_says() {
        let text = xml("memory = 512\nmaxmem = 1024\nvcpus = 1\nmaxvcpus = 4\n\
             uuid = '0123ABCD-0123-0123-0123-0123456789AB'\nvnc = 1\non_crash = 'preserve'\n\
             vif = ['mac=00:16:3e:01:02:03,bridge=br&0', '']\n\
             disk = ['file:/c.iso,hda:cdrom,r', 'file:/a.img,xvdb2,w', 'file:/b,xvdc,r']");
        for part in [
            "<name>a&lt;b</name>",
            "<uuid>0123abcd-0123-0123-0123-0123456789ab</uuid>",
            "<memory unit='MiB'>1024</memory>",
            "<currentMemory unit='MiB'>512</currentMemory>",
            "<vcpu placement='static' current='1'>4</vcpu>",
            "<on_crash>preserve</on_crash>",
            "io='threads' discard='unmap'/>\n      <source file='/mnt/it&apos;s/disk.raw'/>\n      \
             <target dev='vda' bus='virtio'/>\n",
            "<target dev='vdb' bus='virtio'/>\n      <readonly/>",
            "<target dev='sda' bus='sata'/>\n      <readonly/>",
            "<mac address='00:16:3e:01:02:03'/>\n      <source bridge='br&amp;0'/>",
            "<source network='default'/>",
            "<graphics type='vnc'",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn identifiers_stay_the_same() {
        assert_eq!(xml("memory = 512"), xml("memory = 512"));
        assert_ne!(xml(""), xml("vif = ['mac=00:16:3e:01:02:03']"));
        assert!(!xml("").contains("<graphics"));
    }

    #[test]
    fn what_cannot_be_said() {
        let domain = DomainConfig::parse("", Path::new("/")).unwrap();
        for name in ["", "a\nb"] {
            assert!(domain_xml(name, &domain, Path::new("/m"), &[]).is_err());
        }
    }
}

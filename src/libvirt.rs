//! A libvirt domain definition for a machine.
//!
//! Source: libvirt's documentation of the domain XML format; check the output with
//! `virt-xml-validate`. Depends on no room except `qemu` (the machine description) and `run` (XML
//! escaping).

use crate::qemu::{
    Clock, DiskBus, Drive, DriveKind, Firmware, FlashFile, Graphics, Machine, Nic, NicBackend,
    NicModel,
};
use crate::run::report::escape;
use crate::{Error, ErrorKind, Result};
use std::fmt::Write;
use uuid::Uuid;

/// The definition of `machine` as a KVM guest.
///
/// # Errors
/// [`ErrorKind::Invalid`] for a name or path that XML or libvirt cannot represent;
/// [`ErrorKind::Unsupported`] for a disk on NVMe or from an NBD server.
pub fn domain_xml(machine: &Machine) -> Result<String> {
    check("the guest's name", &machine.name)?;
    let Machine { memory_mib, max_memory_mib, vcpus, max_vcpus, .. } = machine;
    let current = if max_vcpus > vcpus { format!(" current='{vcpus}'") } else { String::new() };
    let clock = match machine.clock {
        Clock::Utc => "utc",
        Clock::LocalTime => "localtime",
    };
    let mut xml = format!(
        "<domain type='kvm'>
  <name>{}</name>
  <uuid>{}</uuid>
  <memory unit='MiB'>{max_memory_mib}</memory>
  <currentMemory unit='MiB'>{memory_mib}</currentMemory>
  <vcpu placement='static'{current}>{max_vcpus}</vcpu>
  <os>
    <type arch='x86_64' machine='{}'>hvm</type>{}
  </os>
  <features>
    <acpi/>
    <apic/>
  </features>
  <cpu mode='host-passthrough'/>
  <clock offset='{clock}'/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>{}</on_reboot>
  <on_crash>{}</on_crash>
  <devices>
",
        escape(&machine.name),
        uuid(machine),
        machine.board.name(),
        firmware(&machine.firmware)?,
        machine.on_reboot.name(),
        machine.on_crash.name(),
    );
    if machine.drives.iter().any(|d| d.actual_bus() == DiskBus::VirtioScsi) {
        xml.push_str("    <controller type='scsi' index='0' model='virtio-scsi'/>\n");
    }
    let mut names = TargetNames::default();
    for (i, drive) in machine.drives.iter().enumerate() {
        xml.push_str(&disk(drive, i + 1, &mut names)?);
    }
    xml.extend(machine.nics.iter().map(interface));
    xml.push_str(
        "    <serial type='pty'>
      <target port='0'/>
    </serial>
    <console type='pty'>
      <target type='serial' port='0'/>
    </console>
",
    );
    if machine.graphics == Graphics::Screen {
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

/// The firmware's elements in `<os>`. libvirt copies the variables into a file of the domain.
fn firmware(firmware: &Firmware) -> Result<String> {
    let Firmware::Uefi { code, variables } = firmware else {
        return Ok(String::new()); // libvirt's default for these boards
    };
    let path = |file: &FlashFile| {
        let path = file.path.to_str().filter(|_| file.format == "raw");
        let path = path.ok_or_else(|| {
            let what = format!(
                "the UEFI firmware {} cannot be described for all versions of libvirt",
                file.path.display()
            );
            Error::new(ErrorKind::Unsupported, what)
        })?;
        check("the path of the firmware", path)?;
        Ok(escape(path))
    };
    Ok(format!(
        "\n    <loader readonly='yes' type='pflash'>{}</loader>\n    <nvram template='{}'/>",
        path(code)?,
        path(variables)?
    ))
}

/// The number of disks so far, by name prefix: libvirt derives a disk's port from its name.
#[derive(Default)]
struct TargetNames {
    vd: u32,
    sd: u32,
    hd: u32,
}

impl TargetNames {
    /// libvirt's bus for a drive, and the next name on it.
    fn next(&mut self, drive: &Drive) -> Result<(&'static str, String)> {
        let (bus, prefix, count) = match drive.actual_bus() {
            DiskBus::Virtio => ("virtio", "vd", &mut self.vd),
            DiskBus::VirtioScsi => ("scsi", "sd", &mut self.sd),
            DiskBus::Ahci => ("sata", "sd", &mut self.sd),
            DiskBus::Ide => ("ide", "hd", &mut self.hd),
            DiskBus::Nvme => {
                let what = "the guest needs its disks on NVMe, which libvirt definitions of most \
                            versions can't have; use synthdisk run";
                return Err(Error::new(ErrorKind::Unsupported, what));
            }
        };
        let name = format!("{prefix}{}", crate::device_name::disk_letters(*count));
        *count += 1;
        Ok((bus, name))
    }
}

/// A `<disk>` element; `order` is its position in the firmware's boot order.
fn disk(drive: &Drive, order: usize, names: &mut TargetNames) -> Result<String> {
    let (bus, target) = names.next(drive)?;
    let device = if drive.cdrom { "cdrom" } else { "disk" };
    let discard = if drive.is_read_only() { "" } else { " discard='unmap'" };
    let mut inner = String::new();
    if let DriveKind::Nbd(_) = drive.kind {
        let what = "a libvirt definition needs the files of a mount, not an NBD server";
        return Err(Error::new(ErrorKind::Unsupported, what));
    }
    if let Some(path) = &drive.path {
        let path = path.to_str().ok_or_else(|| {
            let what = format!("{} is not UTF-8, as XML must be", path.display());
            Error::new(ErrorKind::Invalid, what)
        })?;
        check("the path of a disk", path)?;
        inner = format!("\n      <source file='{}'/>\n      <boot order='{order}'/>", escape(path));
    }
    if drive.is_read_only() {
        inner.push_str("\n      <readonly/>");
    }
    if let Some(serial) = &drive.serial {
        // Writing to a String cannot fail.
        let _ = write!(inner, "\n      <serial>{}</serial>", escape(serial));
    }
    Ok(format!(
        "    <disk type='file' device='{device}'>
      <driver name='qemu' type='raw' cache='none' io='{}'{discard}/>
      <target dev='{target}' bus='{bus}'/>{inner}
    </disk>\n",
        drive.aio.name()
    ))
}

/// An `<interface>` element.
fn interface(nic: &Nic) -> String {
    let (kind, source) = match &nic.backend {
        NicBackend::Bridge(bridge) => ("bridge", format!("bridge='{}'", escape(bridge))),
        NicBackend::User => ("network", "network='default'".into()),
    };
    let model = match nic.model {
        NicModel::Virtio => "virtio",
        NicModel::E1000 => "e1000",
        NicModel::Rtl8139 => "rtl8139",
    };
    let mac = nic.mac.iter().map(|mac| format!("      <mac address='{mac}'/>\n"));
    let mac: String = mac.collect();
    let slot = nic.slot.iter().map(|slot| {
        format!(
            "\n      <address type='pci' domain='0x0000' bus='0x00' slot='0x{slot:02x}' \
             function='0x0'/>"
        )
    });
    let slot: String = slot.collect();
    format!(
        "    <interface type='{kind}'>\n{mac}      <source {source}/>
      <model type='{model}'/>{slot}\n    </interface>\n"
    )
}

/// Refuses text that libvirt does not accept in names, or that XML does not accept at all.
fn check(what: &str, text: &str) -> Result<()> {
    if text.is_empty() || text.chars().any(char::is_control) {
        let sentence = format!("{what} is empty or contains control characters");
        return Err(Error::new(ErrorKind::Invalid, sentence));
    }
    Ok(())
}

/// The machine's own UUID, or one derived from the guest, so that defining it again yields the same
/// UUID.
fn uuid(machine: &Machine) -> String {
    machine.uuid.clone().unwrap_or_else(|| {
        let macs: Vec<_> = machine.nics.iter().filter_map(|nic| nic.mac.as_deref()).collect();
        let seed = format!("synthdisk:domain:{}:{}", machine.name, macs.join(","));
        Uuid::new_v5(&Uuid::NAMESPACE_URL, seed.as_bytes()).to_string()
    })
}

#[cfg(test)]
mod tests;

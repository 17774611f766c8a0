//! The description of a guest in an XVA, `ova.xml`, as a domU config.
//!
//! It is an XML-RPC value: a struct whose `objects` are structs with a `class`, an `id` (`Ref:N`) and
//! a `snapshot`, which holds the fields of xapi's datamodel. Files of the host that it names are not
//! used: whoever made the XVA would otherwise choose files of this host. Source: xapi,
//! `ocaml/xapi/export.ml`; XenAPI reference, classes VM, VBD, VDI, VIF.

use super::boot::{Bootloader, GuestKind};
use super::disk::{Access, DiskFormat, DiskSpec};
use super::domain::DomainConfig;
use super::lexer::clip;
use super::notes::Note;
use super::vdev::parse_vdev;
use super::vif::{Vif, parse_mac};
use crate::device_name::disk_letters;
use crate::{Error, ErrorKind, Result};
use roxmltree::{Document, Node, ParsingOptions};
use std::path::PathBuf;

/// Maximum number of elements and texts. A description with snapshots has some 50,000.
const MAX_NODES: u32 = 1_000_000;
/// Maximum number of disks, and of network interfaces.
const MAX_DEVICES: usize = 256;

/// An object of the description.
#[derive(Clone, Copy)]
struct Object<'a> {
    class: &'a str,
    id: &'a str,
    fields: Node<'a, 'a>,
}

impl DomainConfig {
    /// The guest that the text of an `ova.xml` describes. The target of a disk is its directory in the
    /// archive.
    ///
    /// # Errors
    /// `Corrupt` if it is not such a description, or describes no guest.
    pub fn parse_ova(bytes: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(bytes).map_err(|_| corrupt("is not text in UTF-8"))?;
        let options = ParsingOptions { nodes_limit: MAX_NODES, ..ParsingOptions::default() };
        let document = Document::parse_with_options(text, options).map_err(|e| {
            let what = "the description of the guest, ova.xml, is not valid XML";
            Error::with_source(ErrorKind::Corrupt, what, e)
        })?;
        let objects = objects(document.root_element());
        let vms = || objects.iter().filter(|o| o.class == "VM");
        let own = |o: &&Object<'_>| !o.flag("is_a_snapshot") && !o.flag("is_control_domain");
        let vm = vms().find(own).or_else(|| vms().next());
        let vm = vm.ok_or_else(|| corrupt("describes no guest"))?;
        let mut notes = Vec::new();
        if vms().filter(own).count() > 1 {
            let what = format!("there are others; only '{}' is used", clip(vm.text("name_label")));
            Note::add(&mut notes, 0, "VM", what);
        }
        let disks = disks(&objects, vm, &mut notes)?;
        let vifs = vifs(&objects, vm, &mut notes);
        domain(vm, disks, vifs, notes)
    }
}

fn corrupt(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the description of the guest, ova.xml, {what}"))
}

fn domain(
    vm: &Object<'_>,
    disks: Vec<DiskSpec>,
    vifs: Vec<Vif>,
    mut notes: Vec<Note>,
) -> Result<DomainConfig> {
    let kind = match vm.text("domain_type") {
        "hvm" => GuestKind::Hvm,
        "pvh" => GuestKind::Pvh,
        "pv" | "pv_in_pvh" => GuestKind::Pv,
        _ if !vm.text("HVM_boot_policy").is_empty() => GuestKind::Hvm,
        _ => GuestKind::Pv,
    };
    let mut loader = None;
    let program = vm.text("PV_bootloader");
    if kind != GuestKind::Hvm && !program.is_empty() {
        let mut found = Bootloader::of_program(program);
        // The boot loader looks them up inside the guest.
        found.kernel = vm.optional("PV_kernel");
        found.ramdisk = vm.optional("PV_ramdisk");
        found.take_args(super::boot::split_words(vm.text("PV_bootloader_args")));
        loader = Some(found);
    } else if kind != GuestKind::Hvm && !vm.text("PV_kernel").is_empty() {
        let what = format!(
            "'{}' is a file of the host that the guest was exported from; the guest's own kernel boots",
            clip(vm.text("PV_kernel"))
        );
        Note::add(&mut notes, 0, "PV_kernel", what);
    }
    if vm.path(&["HVM_boot_params", "firmware"]) == "uefi" {
        let what = "the guest boots under UEFI; --firmware uefi does so here";
        Note::add(&mut notes, 0, "firmware", what);
    }
    let mib = |key: &str| vm.number(key).map(|bytes| bytes >> 20).filter(|mib| *mib > 0);
    let vcpus = |key: &str| {
        let number = vm.number(key).and_then(|n| u32::try_from(n).ok());
        number.filter(|n| (1..=4096).contains(n))
    };
    let static_max = mib("memory_static_max");
    Ok(DomainConfig {
        name: vm.optional("name_label"),
        uuid: vm.optional("uuid"),
        memory_mib: mib("memory_dynamic_max").or(static_max),
        maxmem_mib: static_max,
        vcpus: vcpus("VCPUs_at_startup").or(vcpus("VCPUs_max")),
        maxvcpus: vcpus("VCPUs_max"),
        kind,
        disks,
        vifs,
        kernel: None,
        ramdisk: None,
        root: None,
        extra: vm.optional("PV_args"),
        cmdline: None,
        bootloader: loader,
        firmware: None,
        boot_order: Some(vm.path(&["HVM_boot_params", "order"]).to_owned())
            .filter(|o| !o.is_empty()),
        serial: Vec::new(),
        graphic: false,
        localtime: vm.path(&["platform", "localtime"]) == "true",
        on_poweroff: vm.optional("actions_after_shutdown"),
        on_reboot: vm.optional("actions_after_reboot"),
        on_crash: vm.optional("actions_after_crash"),
        notes,
        base_dir: PathBuf::from("/"),
    })
}

/// The guest's disks: the bootable ones first, each group by device. CDs are not exported.
fn disks(objects: &[Object<'_>], vm: &Object<'_>, notes: &mut Vec<Note>) -> Result<Vec<DiskSpec>> {
    let mut found = Vec::new();
    for vbd in of_vm(objects, vm, "VBD") {
        if !matches!(vbd.text("type"), "Disk" | "") || vbd.flag("empty") {
            continue;
        }
        let userdevice = vbd.text("userdevice");
        let device = if userdevice.is_empty() { vbd.text("device") } else { userdevice };
        let name = match device.parse::<u32>() {
            Ok(number) if number < MAX_DEVICES as u32 => format!("xvd{}", disk_letters(number)),
            _ => device.to_owned(),
        };
        let vdev = parse_vdev(&name)?;
        let is_vdi = |o: &&Object<'_>| o.class == "VDI" && o.id == vbd.text("VDI");
        let Some(vdi) = objects.iter().find(is_vdi) else {
            Note::add(notes, 0, &name, "its disk is not in the export and is left out");
            continue;
        };
        let size = vdi.number("virtual_size").filter(|size| *size > 0);
        let size = size.ok_or_else(|| corrupt(&format!("gives no size for the disk {name}")))?;
        let order = (!vbd.flag("bootable"), vdev.number(), name);
        let spec = DiskSpec {
            target: Some(PathBuf::from(vdi.id)),
            target_alternative: None,
            format: DiskFormat::Raw,
            vdev,
            access: if vbd.text("mode") == "RO" { Access::ReadOnly } else { Access::ReadWrite },
            cdrom: false,
            script: None,
            discard: None,
            block_device: false,
            size: Some(size),
            line: 0,
            notes: Vec::new(),
        };
        found.push((order, spec));
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found.into_iter().map(|(_, spec)| spec).collect())
}

/// The guest's network interfaces, by device number.
fn vifs(objects: &[Object<'_>], vm: &Object<'_>, notes: &mut Vec<Note>) -> Vec<Vif> {
    let mut found: Vec<(u64, Vif)> = Vec::new();
    for vif in of_vm(objects, vm, "VIF") {
        let mac = match vif.text("MAC") {
            "" => None,
            text => parse_mac(text).or_else(|| {
                let what = format!("'{}' is not a MAC address and is ignored", clip(text));
                Note::add(notes, 0, "VIF", what);
                None
            }),
        };
        let device = vif.number("device").unwrap_or(u64::MAX);
        found.push((device, Vif { mac, ..Vif::default() }));
    }
    found.sort_by_key(|(device, _)| *device);
    found.into_iter().map(|(_, vif)| vif).collect()
}

/// The objects of `class` that belong to `vm`.
fn of_vm<'a>(
    objects: &'a [Object<'a>],
    vm: &'a Object<'a>,
    class: &'a str,
) -> impl Iterator<Item = &'a Object<'a>> {
    let own = move |o: &&Object<'_>| o.class == class && o.text("VM") == vm.id;
    objects.iter().filter(own).take(MAX_DEVICES)
}

fn objects<'a>(root: Node<'a, 'a>) -> Vec<Object<'a>> {
    let Some(list) = member(root, "objects") else { return Vec::new() };
    let values = child(list, "array").and_then(|array| child(array, "data"));
    let values = values.into_iter().flat_map(|data| data.children());
    let object = |value: Node<'a, 'a>| {
        let text_of = |key| member(value, key).map(text);
        Some(Object {
            class: text_of("class")?,
            id: text_of("id")?,
            fields: member(value, "snapshot")?,
        })
    };
    values.filter(|value| value.has_tag_name("value")).filter_map(object).collect()
}

impl<'a> Object<'a> {
    /// The field `key` as text; empty if there is none.
    fn text(&self, key: &str) -> &'a str {
        self.path(&[key])
    }

    /// The field that is reached by `keys` through structs.
    fn path(&self, keys: &[&str]) -> &'a str {
        let found = keys.iter().try_fold(self.fields, |value, key| member(value, key));
        found.map(text).unwrap_or_default()
    }

    fn optional(&self, key: &str) -> Option<String> {
        Some(self.text(key).to_owned()).filter(|text| !text.is_empty())
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.text(key).parse().ok()
    }

    fn flag(&self, key: &str) -> bool {
        matches!(self.text(key), "1" | "true")
    }
}

/// The first child element of `node` called `name`.
fn child<'a>(node: Node<'a, 'a>, name: &str) -> Option<Node<'a, 'a>> {
    node.children().find(|child| child.has_tag_name(name))
}

/// The value of the member `key` of the struct in the element `value`.
fn member<'a>(value: Node<'a, 'a>, key: &str) -> Option<Node<'a, 'a>> {
    let members = child(value, "struct")?.children().filter(|c| c.has_tag_name("member"));
    let named = |m: &Node<'a, 'a>| child(*m, "name").is_some_and(|name| text(name) == key);
    members.into_iter().find(named).and_then(|m| child(m, "value"))
}

/// The text of a scalar, with or without the element of its type.
fn text<'a>(value: Node<'a, 'a>) -> &'a str {
    let typed = value.children().find(Node::is_element);
    typed.unwrap_or(value).text().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xen::{BootMethod, GuestDiskContent};
    use std::path::Path;

    fn object(class: &str, id: &str, fields: &[(&str, &str)]) -> String {
        let member = |(key, value): &(&str, &str)| {
            format!("<member><name>{key}</name><value>{value}</value></member>")
        };
        let fields: String = fields.iter().map(member).collect();
        let id = format!(
            "<struct><member><name>class</name><value>{class}</value></member><member><name>id</name><value>{id}</value></member><member><name>snapshot</name><value><struct>{fields}</struct></value></member></struct>"
        );
        format!("<value>{id}</value>")
    }

    fn document(objects: &[String]) -> String {
        format!(
            "<?xml version=\"1.0\"?><value><struct><member><name>version</name><value><struct/></value>\
             </member><member><name>objects</name><value><array><data>{}</data></array></value>\
             </member></struct></value>",
            objects.concat()
        )
    }

    fn guest(fields: &[(&str, &str)]) -> DomainConfig {
        let vbd = |id, vdi, device, boot| {
            let fields = [("VM", "Ref:0"), ("VDI", vdi), ("userdevice", device), ("type", "Disk")];
            let more = [("bootable", boot), ("mode", "RW")];
            object("VBD", id, &[&fields[..], &more].concat())
        };
        let text = document(&[
            object("VM", "Ref:9", &[("is_a_snapshot", "<boolean>1</boolean>")]),
            object("VM", "Ref:0", fields),
            vbd("Ref:1", "Ref:3", "0", "<boolean>0</boolean>"),
            vbd("Ref:2", "Ref:4", "1", "<boolean>1</boolean>"),
            vbd("Ref:8", "OpaqueRef:NULL", "3", "<boolean>0</boolean>"),
            object("VDI", "Ref:3", &[("virtual_size", "1048576")]),
            object("VDI", "Ref:4", &[("virtual_size", "<string>2097664</string>")]),
            object("VIF", "Ref:6", &[("VM", "Ref:0"), ("device", "1"), ("MAC", "")]),
            object(
                "VIF",
                "Ref:5",
                &[("VM", "Ref:0"), ("device", "0"), ("MAC", "00:16:3e:01:02:03")],
            ),
        ]);
        DomainConfig::parse_ova(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_guest_is_a_domu() {
        let domain = guest(&[
            ("name_label", "web &amp; more"),
            ("memory_dynamic_max", "536870912"),
            ("memory_static_max", "1073741824"),
            ("VCPUs_max", "4"),
            ("VCPUs_at_startup", "2"),
            ("PV_bootloader", "pygrub"),
            ("PV_args", "console=hvc0"),
        ]);
        assert_eq!(domain.name.as_deref(), Some("web & more"));
        assert_eq!((domain.memory_mib, domain.maxmem_mib), (Some(512), Some(1024)));
        assert_eq!((domain.vcpus, domain.maxvcpus), (Some(2), Some(4)));
        let macs: Vec<_> = domain.vifs.iter().map(Vif::mac_string).collect();
        assert_eq!(macs, [Some("00:16:3e:01:02:03".to_owned()), None]);
        // The bootable disk is listed first, as pygrub takes it.
        let targets: Vec<_> = domain.disks.iter().map(|d| d.target.clone().unwrap()).collect();
        assert_eq!(targets, [Path::new("Ref:4"), Path::new("Ref:3")]);
        assert_eq!(domain.disks[0].size, Some(2_097_664));
        let layout = domain.layout().unwrap();
        let names: Vec<_> = layout.iter().map(|disk| disk.name()).collect();
        assert_eq!(names, ["xvda", "xvdb"]);
        assert!(matches!(layout[0].content, GuestDiskContent::Whole(_)));
        let BootMethod::GuestConfig { append, .. } = domain.boot_method() else { panic!() };
        assert_eq!(append.as_deref(), Some("console=hvc0"));
        let notes: Vec<_> = domain.notes.iter().map(ToString::to_string).collect();
        assert_eq!(notes, ["xvdd: its disk is not in the export and is left out"]);
    }

    #[test]
    fn files_of_the_host_are_not_used() {
        let domain = guest(&[("PV_kernel", "/etc/shadow"), ("PV_ramdisk", "/etc/passwd")]);
        assert_eq!((domain.kernel.clone(), domain.ramdisk.clone()), (None, None));
        assert!(matches!(domain.boot_method(), BootMethod::Unspecified));
        let note = |note: &Note| note.to_string().contains("'/etc/shadow' is a file of the host");
        assert!(domain.notes.iter().any(note));
        let domain = guest(&[("HVM_boot_policy", "BIOS order"), ("PV_bootloader", "pygrub")]);
        assert!(matches!(domain.boot_method(), BootMethod::Firmware));
    }

    #[test]
    fn nonsense_is_refused() {
        let deep = format!("{}{}", "<value>".repeat(100_000), "</value>".repeat(100_000));
        let bomb = "<!DOCTYPE a [<!ENTITY b \"bbbb\">]><value>&b;</value>".to_owned();
        for text in ["", "no XML", "<value>", "<value/>", &document(&[]), &deep, &bomb] {
            let e = DomainConfig::parse_ova(text.as_bytes()).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Corrupt);
            assert!(e.to_string().contains("ova.xml"), "{e}");
        }
        assert!(DomainConfig::parse_ova(b"\xff").is_err());
        let no_size = document(&[
            object("VM", "Ref:0", &[]),
            object("VBD", "Ref:1", &[("VM", "Ref:0"), ("VDI", "Ref:2"), ("userdevice", "0")]),
            object("VDI", "Ref:2", &[]),
        ]);
        let e = DomainConfig::parse_ova(no_size.as_bytes()).unwrap_err();
        assert!(e.to_string().contains("no size for the disk xvda"), "{e}");
    }

    #[test]
    fn base_dir_is_absolute() {
        assert_eq!(guest(&[]).base_dir, Path::new("/"));
    }
}

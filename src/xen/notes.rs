//! Notes on settings that would change the guest and can't be honoured.

use super::config::{Assignment, Config, Value};
use super::lexer::clip;

/// A note on one setting, for a line on stderr.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Note {
    /// The config's line, from 1; 0 if it is not a text with lines.
    pub line: u32,
    /// The setting's name.
    pub key: String,
    /// What is not done, and what to do instead.
    pub message: String,
}

/// A malicious config could otherwise cause a million notes.
const MAX_NOTES: usize = 200;

impl Note {
    pub(super) fn add(notes: &mut Vec<Note>, line: u32, key: &str, message: impl Into<String>) {
        if notes.len() < MAX_NOTES {
            notes.push(Note { line, key: key.into(), message: message.into() });
        }
    }
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        write!(f, "{}: {}", self.key, self.message)
    }
}

/// Settings that are reported when they are on: not empty, not 0, not an empty list.
const WHEN_ON: &[(&str, &str)] = &[
    ("pci", "PCI devices are not passed through"),
    ("gfx_passthru", "the graphics card is not passed through"),
    ("usb", "emulated USB controllers are not set up"),
    ("usbdevice", "USB devices are neither emulated nor passed through"),
    ("usbctrl", "USB controllers are not set up"),
    ("usbdev", "USB devices are neither emulated nor passed through"),
    ("vscsi", "SCSI devices are not passed through; name the device in 'disk'"),
    ("dtdev", "host devices are not passed through"),
    ("irqs", "host interrupts are not passed through"),
    ("ioports", "host I/O ports are not passed through"),
    ("iomem", "host memory is not passed through"),
    ("rdm", "no device memory is reserved"),
    ("vtpm", "no TPM is set up"),
    ("p9", "no 9pfs share is set up"),
    ("pvcalls", "network calls are not forwarded"),
    ("channel", "no channel is set up"),
    ("vdispl", "no paravirtual display is set up"),
    ("vsnd", "no sound card is set up"),
    ("vkb", "no paravirtual keyboard is set up"),
    ("soundhw", "no sound card is set up"),
    ("virtio", "Xen's virtio devices are not set up"),
    ("vnuma", "the guest sees one NUMA node"),
    ("cpuid", "the CPU features are QEMU's defaults"),
    ("cpuid_faulting", "the CPU features are QEMU's defaults"),
    ("nestedhvm", "nested virtualisation depends on the host's KVM"),
    ("altp2m", "there are no alternate memory views"),
    (
        "device_model_override",
        "that device model is not used; synthdisk run finds QEMU itself (see --qemu)",
    ),
    ("device_model_args", "arguments of Xen's device model are not passed to QEMU"),
    ("device_model_args_hvm", "arguments of Xen's device model are not passed to QEMU"),
    ("device_model_args_pv", "arguments of Xen's device model are not passed to QEMU"),
    ("device_model_stubdomain_override", "there is no stub domain"),
    ("stubdomain_kernel", "there is no stub domain"),
    ("driver_domain", "the guest can't serve other guests"),
    ("acpi_firmware", "no ACPI tables are added"),
    ("smbios_firmware", "no SMBIOS tables are added"),
    ("smbios", "no SMBIOS strings are set"),
    ("bios_path_override", "that firmware is not loaded"),
    ("ms_vm_genid", "no generation ID is set"),
    ("viridian", "Hyper-V enlightenments are not offered"),
    (
        "rtc_timeoffset",
        "the offset is ignored: the clock shows UTC, or local time with localtime=1",
    ),
    ("tsc_mode", "the time stamp counter is KVM's default"),
    ("vfb", "the paravirtual framebuffer is not set up; ask for a graphic display instead"),
    ("loader", "that firmware is not loaded"),
    ("nics", "network cards come from 'vif' only"),
    ("dtb", "no device tree is passed"),
    ("device_tree", "no device tree is passed"),
];

/// Settings that are reported when they are off.
const WHEN_OFF: &[(&str, &str)] = &[
    ("acpi", "ACPI stays on"),
    ("apic", "the APIC stays on"),
    ("pae", "PAE stays on"),
    ("nx", "NX stays on"),
    ("hpet", "the HPET stays on"),
];

fn is_on(value: &Value) -> bool {
    match value {
        Value::Number(n) => n.value != 0,
        Value::String(s) => !matches!(s.trim(), "" | "0" | "none" | "default" | "disabled"),
        Value::List(items) => !items.is_empty(),
    }
}

/// The notes on settings that don't depend on other settings, sorted by line.
pub(super) fn collect(config: &Config, notes: &mut Vec<Note>) {
    for (on, table) in [(true, WHEN_ON), (false, WHEN_OFF)] {
        for (key, message) in table {
            if let Some(a) = config.get(key).filter(|a| is_on(&a.value) == on) {
                Note::add(notes, a.line, key, *message);
            }
        }
    }
    for (key, a) in config.iter() {
        if let Some(message) = special(key, a) {
            Note::add(notes, a.line, key, message);
        }
    }
    notes.sort_by_key(|note| note.line);
}

/// Notes on settings of which only some values are reported.
fn special(key: &str, a: &Assignment) -> Option<String> {
    let text = a.value.as_str().unwrap_or_default();
    match key {
        "device_model_version" if text == "qemu-xen-traditional" => {
            Some("the machine is that of today's QEMU, not Xen's traditional one".into())
        }
        "vga" if !matches!(text, "" | "stdvga") => {
            Some(format!("the graphics card is a standard VGA, not '{}'", clip(text)))
        }
        "serial" => {
            let pty = |s: &str| s == "pty";
            let plain = match &a.value {
                Value::List(items) => {
                    items.len() <= 1 && items.iter().all(|i| i.value.as_str().is_some_and(pty))
                }
                other => other.as_str().is_some_and(|s| s.is_empty() || pty(s)),
            };
            (!plain).then(|| "the first serial port is the console; others are not set up".into())
        }
        "boot" if text.contains('n') => {
            Some("the guest is not booted from the network; disks are tried instead".into())
        }
        _ => None,
    }
}

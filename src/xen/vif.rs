//! Network specs: one string of a config's `vif` list.
//!
//! Source: xl-network-configuration(5).

use super::lexer::{clip, error_at};
use super::notes::Note;
use crate::{ErrorKind, Result};

/// How the guest would see the interface on Xen.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum VifKind {
    /// Not specified: paravirtual in a PV or PVH guest, both kinds in an HVM guest.
    #[default]
    Default,
    /// `type=ioemu`: an emulated card next to the paravirtual one.
    Emulated,
    /// `type=vif`: paravirtual only.
    Paravirtual,
}

/// One network interface.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Vif {
    /// The MAC address, six bytes.
    pub mac: Option<[u8; 6]>,
    /// The dom0 bridge.
    pub bridge: Option<String>,
    /// The guest's IP address or addresses, as written.
    pub ip: Option<String>,
    /// The emulated card (`rtl8139`, `e1000`, …).
    pub model: Option<String>,
    /// The interface's kind.
    pub kind: VifKind,
    /// The dom0 hotplug script.
    pub script: Option<String>,
    /// The config's line, from 1.
    pub line: u32,
}

impl Vif {
    /// Parses `spec`, from `line` of its config; adds parameters that can't be honoured to `notes`.
    ///
    /// # Errors
    /// `Corrupt` for an invalid or multicast MAC address, or a word without `=`.
    pub fn parse(spec: &str, line: u32, notes: &mut Vec<Note>) -> Result<Self> {
        let mut vif = Vif { line, ..Vif::default() };
        for word in spec.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            let Some((key, value)) = word.split_once('=') else {
                let what = format!("vif '{}': '{}' has no '='", clip(spec), clip(word));
                return Err(error_at(ErrorKind::Corrupt, line, what));
            };
            let value = value.trim();
            let text = (!value.is_empty()).then(|| value.to_owned());
            let mut note = |message: String| {
                Note::add(notes, line, "vif", message);
            };
            match key.trim() {
                "mac" => {
                    vif.mac = match text.map(|text| parse_mac(&text)) {
                        None => None,
                        Some(Some(mac)) => Some(mac),
                        Some(None) => {
                            let what = format!(
                                "'{}' is not a MAC address of a network card, such as \
                                 00:16:3e:01:02:03",
                                clip(value)
                            );
                            return Err(error_at(ErrorKind::Corrupt, line, what));
                        }
                    }
                }
                "bridge" => vif.bridge = text,
                "ip" => vif.ip = text,
                "model" => vif.model = text,
                "type" => {
                    vif.kind = match value {
                        "ioemu" => VifKind::Emulated,
                        "vif" | "netfront" => VifKind::Paravirtual,
                        _ => VifKind::Default,
                    }
                }
                "script" => vif.script = text,
                "backend" if !matches!(value, "" | "0" | "Domain-0") => {
                    note(format!(
                        "backend={} is ignored: this host provides the card",
                        clip(value)
                    ));
                }
                "rate" => note("rate= is ignored: the card's rate is not limited".into()),
                // Names in the dom0, and tuning parameters of Xen's own drivers.
                "backend" | "vifname" | "gatewaydev" | "devid" | "mtu" | "trusted" | "accel"
                | "netdev" | "policy" | "colo" | "vlan" => {}
                other => note(format!("'{}=' is unknown and ignored", clip(other))),
            }
        }
        Ok(vif)
    }

    /// The MAC address as `00:16:3e:01:02:03`.
    pub fn mac_string(&self) -> Option<String> {
        let hex: Vec<String> = self.mac?.iter().map(|b| format!("{b:02x}")).collect();
        Some(hex.join(":"))
    }
}

/// Parses six hexadecimal bytes; a multicast address (odd first byte) can't be a card's address.
pub(super) fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next()?;
        if part.is_empty() || part.len() > 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    (parts.next().is_none() && mac[0] & 1 == 0).then_some(mac)
}

//! VHD files for tests, written from the specification, independently of the code that reads them.

use super::header::{FOOTER_LEN, HEADER_LEN};
use std::collections::BTreeMap;
use std::path::Path;
use uuid::Uuid;

/// A VHD to be written.
pub(super) struct Disk {
    len: u64,
    id: Uuid,
    block: u64,
    parent: Option<(Uuid, String)>,
    /// Data of each stored sector.
    sectors: BTreeMap<u64, Vec<u8>>,
    fixed: Option<Vec<u8>>,
}

impl Disk {
    pub(super) fn fixed(id: Uuid, bytes: &[u8]) -> Self {
        Self { fixed: Some(bytes.to_vec()), ..Self::dynamic(bytes.len() as u64, id, 0, &[]) }
    }

    pub(super) fn dynamic(len: u64, id: Uuid, block: u64, sectors: &[(u64, Vec<u8>)]) -> Self {
        let sectors = sectors.iter().cloned().collect();
        Self { len, id, block, parent: None, sectors, fixed: None }
    }

    pub(super) fn with_parent(mut self, id: Uuid, name: &str) -> Self {
        self.parent = Some((id, name.into()));
        self
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        if let Some(bytes) = &self.fixed {
            return [&bytes[..], &footer(2, self.len, self.id)].concat();
        }
        let kind = if self.parent.is_some() { 4 } else { 3 };
        let footer = footer(kind, self.len, self.id);
        let blocks = self.len.div_ceil(self.block) as usize;
        let parent = self.parent.as_ref().map(|(id, name)| (*id, name.as_str()));
        let mut out = [&footer[..], &header(blocks as u32, self.block, parent)].concat();
        out.resize(out.len() + (blocks * 4).next_multiple_of(512), 0xff);
        // The locator's path, at the offset that `header` gives.
        out.resize(LOCATOR_AT as usize, 0);
        if let Some((_, name)) = parent {
            let dot = if name.starts_with('/') { "" } else { "./" };
            out.extend(format!("file://{dot}{name}").bytes());
        }
        out.resize(LOCATOR_AT as usize + 512, 0);
        let per_block = (self.block / 512) as usize;
        for block in 0..blocks {
            let of_block = |s: &usize| self.sectors.get(&((block * per_block + s) as u64));
            let stored: Vec<_> = (0..per_block).filter(|s| of_block(s).is_some()).collect();
            if stored.is_empty() {
                continue;
            }
            let place = (out.len() / 512) as u32;
            out[1536 + block * 4..][..4].copy_from_slice(&place.to_be_bytes());
            let mut bitmap = vec![0; (per_block / 8).next_multiple_of(512)];
            // The content of unmarked sectors in a block is meaningless.
            let mut data = vec![0xa5; self.block as usize];
            for s in stored {
                bitmap[s / 8] |= 0x80 >> (s % 8);
                data[s * 512..][..512].copy_from_slice(of_block(&s).expect("it is stored"));
            }
            out.extend(bitmap);
            out.extend(data);
        }
        out.extend(footer);
        out
    }
}

/// Offset of the first parent locator's path.
const LOCATOR_AT: u64 = 4096;

pub(super) fn write(path: &Path, disk: &Disk) {
    std::fs::write(path, disk.bytes()).unwrap();
}

pub(super) fn footer(kind: u32, size: u64, id: Uuid) -> [u8; FOOTER_LEN] {
    let mut out = [0; FOOTER_LEN];
    out[..8].copy_from_slice(b"conectix");
    out[8..12].copy_from_slice(&2u32.to_be_bytes());
    out[12..16].copy_from_slice(&0x1_0000u32.to_be_bytes());
    out[16..24].copy_from_slice(&if kind == 2 { u64::MAX } else { 512 }.to_be_bytes());
    out[28..32].copy_from_slice(b"tap\0");
    out[40..48].copy_from_slice(&size.to_be_bytes());
    out[48..56].copy_from_slice(&size.to_be_bytes());
    out[60..64].copy_from_slice(&kind.to_be_bytes());
    out[68..84].copy_from_slice(id.as_bytes());
    sign(&mut out, 64);
    out
}

pub(super) fn header(entries: u32, block: u64, parent: Option<(Uuid, &str)>) -> [u8; HEADER_LEN] {
    let mut out = [0; HEADER_LEN];
    out[..8].copy_from_slice(b"cxsparse");
    out[8..16].copy_from_slice(&u64::MAX.to_be_bytes());
    out[16..24].copy_from_slice(&1536u64.to_be_bytes());
    out[24..28].copy_from_slice(&0x1_0000u32.to_be_bytes());
    out[28..32].copy_from_slice(&entries.to_be_bytes());
    out[32..36].copy_from_slice(&(block as u32).to_be_bytes());
    if let Some((id, name)) = parent {
        out[40..56].copy_from_slice(id.as_bytes());
        let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_be_bytes).collect();
        out[64..64 + name.len()].copy_from_slice(&name);
        out[576..580].copy_from_slice(b"MacX");
        out[580..584].copy_from_slice(&512u32.to_be_bytes());
        out[584..588].copy_from_slice(&256u32.to_be_bytes());
        out[592..600].copy_from_slice(&LOCATOR_AT.to_be_bytes());
    }
    sign(&mut out, 36);
    out
}

/// Store the checksum at `at`.
fn sign(bytes: &mut [u8], at: usize) {
    let sum: u32 = bytes.iter().map(|b| u32::from(*b)).sum();
    bytes[at..at + 4].copy_from_slice(&(!sum).to_be_bytes());
}

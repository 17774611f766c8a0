//! Physical volumes for tests.

use super::crc::crc;
use super::label::Area;
use super::metadata::{HEADER, MAGIC};

/// The metadata area of a [`Pv`].
pub(super) const AREA: Area = Area { offset: 4096, len: 28 << 10 };

/// A physical volume in memory.
pub(super) struct Pv {
    uuid: String,
    bytes: Vec<u8>,
    area: Area,
}

impl Pv {
    /// One of `len` bytes whose UUID repeats a letter, without a volume group.
    pub(super) fn new(uuid: char, len: usize) -> Self {
        let uuid = uuid.to_string().repeat(32);
        Self { uuid, bytes: vec![0; len], area: AREA }.with_area(AREA)
    }

    /// With another metadata area.
    pub(super) fn with_area(mut self, area: Area) -> Self {
        self.area = area;
        let len = self.bytes.len() as u64;
        let sector = &mut self.bytes[512..1024];
        sector[..8].copy_from_slice(b"LABELONE");
        sector[8..16].copy_from_slice(&1_u64.to_le_bytes());
        sector[20..24].copy_from_slice(&32_u32.to_le_bytes());
        sector[24..32].copy_from_slice(b"LVM2 001");
        sector[32..64].copy_from_slice(self.uuid.as_bytes());
        sector[64..72].copy_from_slice(&len.to_le_bytes());
        sector[72..80].copy_from_slice(&(1_u64 << 20).to_le_bytes());
        sector[104..112].copy_from_slice(&area.offset.to_le_bytes());
        sector[112..120].copy_from_slice(&area.len.to_le_bytes());
        let sum = crc(&sector[20..]);
        sector[16..20].copy_from_slice(&sum.to_le_bytes());
        self.head(0, 0, 0)
    }

    fn head(mut self, start: u64, len: u64, sum: u32) -> Self {
        let at = self.area.offset as usize;
        let header = &mut self.bytes[at..at + HEADER as usize];
        header[4..20].copy_from_slice(MAGIC);
        header[20..24].copy_from_slice(&1_u32.to_le_bytes());
        header[24..32].copy_from_slice(&self.area.offset.to_le_bytes());
        header[32..40].copy_from_slice(&self.area.len.to_le_bytes());
        header[40..48].copy_from_slice(&start.to_le_bytes());
        header[48..56].copy_from_slice(&len.to_le_bytes());
        header[56..60].copy_from_slice(&sum.to_le_bytes());
        let sum = crc(&header[4..]);
        header[..4].copy_from_slice(&sum.to_le_bytes());
        self
    }

    /// With this metadata, which begins `at` bytes after the start of the area.
    pub(super) fn text_at(mut self, text: &str, at: u64) -> Self {
        let text = [text.as_bytes(), b"\0"].concat();
        let room = (self.area.len - at).min(text.len() as u64) as usize;
        let first = (self.area.offset + at) as usize;
        self.bytes[first..first + room].copy_from_slice(&text[..room]);
        let wrapped = (self.area.offset + HEADER) as usize;
        self.bytes[wrapped..wrapped + text.len() - room].copy_from_slice(&text[room..]);
        self.head(at, text.len() as u64, crc(&text))
    }

    /// Its bytes.
    pub(super) fn bytes(self) -> Vec<u8> {
        self.bytes
    }
}

//! The GUID partition table, for disks that an MBR cannot describe.
//!
//! Source: UEFI specification, chapter 5. Written by `gptman` into a recorder that keeps only the
//! two ends of the disk.

use super::mbr::BOOTSTRAP_LEN;
use super::{Ids, Layout, PartitionKind, SECTOR};
use crate::{Error, ErrorKind, Result};
use gptman::{GPT, GPTPartitionEntry};
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use uuid::{Uuid, uuid};

/// Bytes of a header and 128 entries, at the front behind the MBR and once more at the end.
pub const GPT_LEN: u64 = 33 * SECTOR;
/// Partitions that the table has.
pub const GPT_NUMBERS: u32 = 128;

const LINUX_DATA: Uuid = uuid!("0fc63daf-8483-4772-8e79-3d69d8477de4");
const LINUX_SWAP: Uuid = uuid!("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f");

/// A table's bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Gpt {
    /// Sector 0: loader code and the protective MBR.
    pub mbr: [u8; SECTOR as usize],
    /// Header and entries, from sector 1 on; [`GPT_LEN`] bytes.
    pub primary: Vec<u8>,
    /// Entries and header for the end of the disk; [`GPT_LEN`] bytes.
    pub backup: Vec<u8>,
}

impl Gpt {
    /// The table of `layout`, with `code` in the MBR.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] when `code` does not fit; [`ErrorKind::Invalid`] when the layout
    /// cannot be described.
    pub fn encode(layout: &Layout, ids: &Ids, code: &[u8]) -> Result<Self> {
        if code.len() > BOOTSTRAP_LEN {
            return Err(Error::new(ErrorKind::TooLarge, "boot loader code longer than 440 bytes"));
        }
        let invalid = |e: gptman::Error| {
            Error::with_source(ErrorKind::Invalid, "the GPT cannot be encoded", e)
        };
        let mut ends = Ends::new(layout.len);
        let mut gpt = GPT::new_from(&mut ends, SECTOR, guid(ids.disk_guid)).map_err(invalid)?;
        // Where a partition lies is decided already.
        gpt.align = 1;
        for p in &layout.partitions {
            if !(1..=GPT_NUMBERS).contains(&p.number) {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("a GPT has no partition {}", p.number),
                ));
            }
            gpt[p.number] = GPTPartitionEntry {
                partition_type_guid: guid(match p.kind {
                    PartitionKind::Linux => LINUX_DATA,
                    PartitionKind::Swap => LINUX_SWAP,
                }),
                unique_partition_guid: guid(ids.partition_guid(p.number)),
                starting_lba: p.start / SECTOR,
                ending_lba: p.end() / SECTOR - 1,
                attribute_bits: 0,
                partition_name: "".into(),
            };
        }
        gpt.write_into(&mut ends).map_err(invalid)?;
        GPT::write_protective_mbr_into(&mut ends, SECTOR).map_err(invalid)?;
        let (front, backup) = (ends.front.into_inner(), ends.back.into_inner());
        let (first, primary) = front.split_at(SECTOR as usize);
        let mut mbr = [0; SECTOR as usize];
        mbr.copy_from_slice(first);
        mbr[..code.len()].copy_from_slice(code);
        Ok(Self { mbr, primary: primary.to_vec(), backup })
    }
}

/// A GUID as it is stored: the first three fields little-endian.
fn guid(uuid: Uuid) -> [u8; 16] {
    uuid.to_bytes_le()
}

/// A disk of which only both ends are kept.
struct Ends {
    front: Cursor<Vec<u8>>,
    back: Cursor<Vec<u8>>,
    len: u64,
    at: u64,
}

impl Ends {
    fn new(len: u64) -> Self {
        let buffer = |len: u64| Cursor::new(vec![0; len as usize]);
        Self { front: buffer(SECTOR + GPT_LEN), back: buffer(GPT_LEN), len, at: 0 }
    }

    /// The end that the position lies in, seeked to it.
    fn here(&mut self) -> io::Result<&mut Cursor<Vec<u8>>> {
        let back_start = self.len - GPT_LEN;
        if self.at >= back_start {
            self.back.set_position(self.at - back_start);
            Ok(&mut self.back)
        } else if self.at < SECTOR + GPT_LEN {
            self.front.set_position(self.at);
            Ok(&mut self.front)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

impl Seek for Ends {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

impl Read for Ends {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.here()?.read(buf)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Write for Ends {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let end = self.here()?;
        // A Cursor over a Vec would grow; an end may not.
        let room = end.get_ref().len() - (end.position() as usize).min(end.get_ref().len());
        let n = end.write(&buf[..buf.len().min(room)])?;
        self.at += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{LayoutSpec, PartitionSpec, TableKind};

    #[test]
    fn both_ends_agree() {
        let layout = Layout::compute(&LayoutSpec {
            align: 1 << 20,
            gap: 1 << 20,
            table: Some(TableKind::Gpt),
            partitions: vec![PartitionSpec {
                number: 7,
                len: 3 << 40,
                kind: PartitionKind::Linux,
                active: false,
            }],
        })
        .unwrap();
        let gpt = Gpt::encode(&layout, &Ids::derive(b"x"), &[0xeb; 440]).unwrap();
        assert_eq!((gpt.primary.len() as u64, gpt.backup.len() as u64), (GPT_LEN, GPT_LEN));
        assert_eq!(&gpt.mbr[..440], &[0xeb; 440]);
        assert_eq!(gpt.mbr[450], 0xee);
        assert_eq!(&gpt.mbr[510..], &[0x55, 0xaa]);
        assert_eq!(&gpt.primary[..8], b"EFI PART");
        assert_eq!(&gpt.backup[32 * 512..][..8], b"EFI PART");
        assert_eq!(gpt.primary[512..], gpt.backup[..32 * 512], "the entries");
        let mut ends = Ends::new(layout.len);
        ends.write_all(&gpt.mbr).unwrap();
        ends.write_all(&gpt.primary).unwrap();
        ends.seek(SeekFrom::End(-(GPT_LEN as i64))).unwrap();
        ends.write_all(&gpt.backup).unwrap();
        let back = GPT::read_from(&mut ends, SECTOR).unwrap();
        assert_eq!(back[7].starting_lba, 2048);
        assert!(Gpt::encode(&layout, &Ids::derive(b"x"), &[0; 441]).is_err());
    }
}

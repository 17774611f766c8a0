//! The disk from which cloud-init reads its data: a FAT filesystem labelled `cidata`.
//!
//! Source: cloud-init's documentation of the NoCloud data source. The crate `fatfs` writes the FAT
//! filesystem. Values that it would take from a clock or a random number generator are fixed here,
//! so the same files always give the same disk.

use super::Ids;
use crate::{Error, ErrorKind, Result};
use fatfs::{Date, DateTime, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider};
use std::io::{Cursor, Write};

/// The files of a cloud-init seed.
#[derive(Clone, Copy, Debug)]
pub struct Seed<'a> {
    /// The user-data: instructions for cloud-init.
    pub user_data: &'a [u8],
    /// The meta-data with the instance ID.
    pub meta_data: &'a [u8],
    /// The network configuration.
    pub network_config: Option<&'a [u8]>,
}

/// Size limit in bytes, larger than cloud-init's own limits (its cloud sources accept 16 KiB to 64
/// KiB).
pub const SEED_FILE_MAX: u64 = 16 << 20;

/// The disk's length is a multiple of this, in bytes; a multiple of every cluster size that FAT
/// uses here.
const UNIT: u64 = 1 << 20;
/// Space for boot sector, tables, the root directory and the last cluster of each file, in bytes.
const OVERHEAD: u64 = 256 << 10;

/// The earliest time that FAT can represent.
#[derive(Debug)]
struct Epoch;

static EPOCH: Epoch = Epoch;

impl TimeProvider for Epoch {
    fn get_current_date(&self) -> Date {
        Date { year: 1980, month: 1, day: 1 }
    }

    fn get_current_date_time(&self) -> DateTime {
        let time = Time { hour: 0, min: 0, sec: 0, millis: 0 };
        DateTime { date: self.get_current_date(), time }
    }
}

impl Seed<'_> {
    fn files(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        let network = self.network_config.map(|bytes| ("network-config", bytes));
        [("user-data", self.user_data), ("meta-data", self.meta_data)].into_iter().chain(network)
    }

    /// The disk's bytes: a few MiB, mostly zeros.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] if a file is larger than [`SEED_FILE_MAX`] bytes.
    pub fn disk(&self) -> Result<Vec<u8>> {
        let most = self.files().map(|(_, bytes)| bytes.len() as u64).max().unwrap_or(0);
        if most > SEED_FILE_MAX {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("a file for cloud-init has {most} bytes, more than {SEED_FILE_MAX}"),
            ));
        }
        let len: u64 = self.files().map(|(_, bytes)| bytes.len() as u64).sum();
        let len = (len + OVERHEAD).next_multiple_of(UNIT);
        let parts: Vec<&[u8]> =
            self.files().flat_map(|(name, bytes)| [name.as_bytes(), bytes]).collect();
        let serial = Ids::fingerprint(&parts).as_u128() as u32;
        let mut disk = Cursor::new(vec![0; len as usize]);
        self.fill(&mut disk, serial)
            .map_err(|e| Error::io("cannot make the disk for cloud-init", e))?;
        Ok(disk.into_inner())
    }

    fn fill(&self, disk: &mut Cursor<Vec<u8>>, serial: u32) -> std::io::Result<()> {
        let options = FormatVolumeOptions::new().volume_label(*b"cidata     ").volume_id(serial);
        fatfs::format_volume(&mut *disk, options)?;
        disk.set_position(0);
        let fs = FileSystem::new(disk, FsOptions::new().time_provider(&EPOCH))?;
        for (name, bytes) in self.files() {
            fs.root_dir().create_file(name)?.write_all(bytes)?;
        }
        fs.unmount()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn seed(user: &[u8]) -> Vec<u8> {
        Seed { user_data: user, meta_data: b"instance-id: i\n", network_config: None }
            .disk()
            .unwrap()
    }

    #[test]
    fn what_is_in_it() {
        let long = vec![b'x'; 3 << 20];
        for user in [&b"#cloud-config\n"[..], b"", &long] {
            let disk = seed(user);
            assert_eq!(disk, seed(user), "the same files make the same disk");
            assert_eq!(disk.len() as u64 % UNIT, 0);
            assert!(disk.len() <= user.len() + 2 * UNIT as usize);
            let fs = FileSystem::new(Cursor::new(disk), FsOptions::new()).unwrap();
            assert_eq!(fs.volume_label(), "cidata");
            assert_eq!(fs.read_volume_label_from_root_dir().unwrap().as_deref(), Some("cidata"));
            let names: Vec<String> = fs.root_dir().iter().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(names, ["user-data", "meta-data"]);
            let mut text = Vec::new();
            fs.root_dir().open_file("user-data").unwrap().read_to_end(&mut text).unwrap();
            assert!(text == user);
        }
        let serial = |disk: &[u8]| disk[0x27..0x2b].to_vec();
        assert_ne!(serial(&seed(b"a")), serial(&seed(b"b")));
    }

    #[test]
    fn too_much() {
        let user = vec![0; SEED_FILE_MAX as usize + 1];
        let seed = Seed { user_data: &user, meta_data: b"", network_config: Some(b"") };
        assert_eq!(seed.disk().unwrap_err().kind(), ErrorKind::TooLarge);
    }
}

//! VHD images: fixed, dynamic, and chains of differencing disks, read in place.
//!
//! A sector comes from the first layer of the chain whose bitmap contains it, and is zero if no layer
//! contains it.
//!
//! Source: Microsoft, "Virtual Hard Disk Image Format Specification" 1.0. The disk's length is the
//! footer's current size, as under Xen; Virtual PC rounds that down to a disk geometry.

mod header;
mod layer;
mod parent;
#[cfg(test)]
mod testing;

use super::driver::{Backing, Driver, FoundLayer};
use header::Kind;
use layer::VhdLayer;
use uuid::Uuid;

pub(super) static FORMAT: Driver = Driver {
    name: "vhd",
    qemu_name: "vpc",
    shown: "VHD",
    extensions: &["vhd"],
    layer: Some(|opening, _| {
        let (layer, metadata) = VhdLayer::open(opening)?;
        let id = Some(metadata.footer.id.hyphenated().to_string());
        let differencing = metadata.footer.kind == Kind::Differencing;
        let header = metadata.header.filter(|_| differencing);
        let backing = header.map(|header| Backing {
            paths: parent::paths(&layer, &header.parent),
            // XenServer marks a parent that is not a VHD with a nil identifier.
            format: Some(if header.parent.id.is_nil() { "raw" } else { "vhd" }.into()),
            id: Some(header.parent.id)
                .filter(|id| *id != Uuid::nil())
                .map(|id| id.hyphenated().to_string()),
        });
        Ok(FoundLayer { layer: Box::new(layer), id, backing })
    }),
};

#[cfg(test)]
mod tests {
    use super::header::SECTOR;
    use super::testing::{Disk, write};
    use super::*;
    use crate::ErrorKind;
    use crate::image::testing::{changes, check, open};
    use std::fs;

    const BLOCK: u64 = 64 << 10;

    #[test]
    fn chains_of_all_kinds() {
        let dir = tempfile::tempdir().unwrap();
        let len = 9 * BLOCK + 3 * SECTOR;
        for root in ["dynamic", "fixed", "raw"] {
            let root_path = dir.path().join(format!("{root}-0.vhd"));
            let (sectors, mut disk) = changes(len, 1, &[]);
            let mut id = Uuid::from_u128(1);
            match root {
                "raw" => {
                    fs::write(&root_path, &disk).unwrap();
                    id = Uuid::nil();
                }
                "fixed" => write(&root_path, &Disk::fixed(id, &disk)),
                _ => write(&root_path, &Disk::dynamic(len, id, BLOCK, &sectors)),
            }
            if root != "raw" {
                check(&*open(&root_path).unwrap(), &disk);
            }
            for level in 1..=30 {
                let name = format!("{root}-{level}.vhd");
                let parent = format!("{root}-{}.vhd", level - 1);
                // A disk may be grown between two levels of the chain.
                let len = len + level / 10 * 7 * SECTOR;
                let (sectors, changed) = changes(len, level, &disk);
                disk = changed;
                let own = Uuid::from_u128(level as u128 + 1);
                // A block size different from the parent's.
                let block = if level % 4 == 3 { 2 * BLOCK } else { BLOCK };
                let child = Disk::dynamic(len, own, block, &sectors).with_parent(id, &parent);
                write(&dir.path().join(&name), &child);
                id = own;
                if [1, 3, 29, 30].contains(&level) {
                    check(&*open(&dir.path().join(&name)).unwrap(), &disk);
                }
            }
        }
    }

    #[test]
    fn broken_chains_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (a, b) = (Uuid::from_u128(10), Uuid::from_u128(11));
        let len = 2 * BLOCK;
        let child =
            |id, parent, name: &str| Disk::dynamic(len, id, BLOCK, &[]).with_parent(parent, name);
        let refused = |name: &str, kind: ErrorKind, word: &str| {
            let e = open(&path(name)).unwrap_err();
            assert!(e.kind() == kind && e.to_string().contains(word), "{e}");
        };
        write(&path("child.vhd"), &child(b, a, "base.vhd"));
        refused("child.vhd", ErrorKind::NotFound, "put base.vhd");
        write(&path("base.vhd"), &Disk::dynamic(len, b, BLOCK, &[]));
        refused("child.vhd", ErrorKind::Corrupt, "another disk");
        // Found by XenServer's naming scheme, when the locator's path is elsewhere.
        write(&path("moved.vhd"), &child(b, a, "/sr/elsewhere/x.vhd"));
        refused("moved.vhd", ErrorKind::NotFound, "x.vhd or 00000000");
        write(&path(&format!("{a}.vhd")), &Disk::dynamic(len, a, BLOCK, &[]));
        open(&path("moved.vhd")).unwrap();
        // Outside the directory, by name or by link.
        write(&path("out.vhd"), &child(b, a, "../base.vhd"));
        std::os::unix::fs::symlink("/etc/hostname", path("link.vhd")).unwrap();
        write(&path("linked.vhd"), &child(b, a, "link.vhd"));
        refused("linked.vhd", ErrorKind::Invalid, "symbolic link");
        // A disk that is its own parent, and a cycle.
        write(&path("self.vhd"), &child(a, a, "self.vhd"));
        refused("self.vhd", ErrorKind::Corrupt, "no end");
        write(&path("one.vhd"), &child(a, b, "two.vhd"));
        write(&path("two.vhd"), &child(b, a, "one.vhd"));
        refused("one.vhd", ErrorKind::Corrupt, "no end");
    }

    #[test]
    fn either_footer_will_do_but_not_two() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.vhd");
        let (sectors, disk) = changes(4 * BLOCK, 5, &[]);
        let good = Disk::dynamic(4 * BLOCK, Uuid::from_u128(1), BLOCK, &sectors).bytes();
        let last = good.len() - 512;
        for (at, byte) in [(0, 0), (20, 9), (last, 0), (last + 100, 7)] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            fs::write(&path, bytes).unwrap();
            check(&*open(&path).unwrap(), &disk);
        }
        let mut bytes = good.clone();
        bytes[last..].copy_from_slice(&testing::footer(3, 4 * BLOCK, Uuid::from_u128(2)));
        fs::write(&path, &bytes).unwrap();
        assert!(open(&path).unwrap_err().to_string().contains("contradict"));
        // A truncated file gives an error or the bytes that are left, and never a panic.
        for len in (0..good.len()).step_by(1000) {
            fs::write(&path, &good[..len]).unwrap();
            if let Ok(image) = open(&path) {
                let mut at = 0;
                while at < image.len() {
                    let _ = image.read_at(&mut [0; 512], at);
                    at += 512;
                }
            }
        }
    }
}

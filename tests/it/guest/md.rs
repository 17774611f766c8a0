//! Members of a software RAID, made by writing the superblocks of md where Linux has them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::common::field::Field;
use crate::common::mount::{Mount, expect_no_mount};

/// Writes the superblock of version 1 at `sector`, of an array of two disks.
fn version_1(image: &Path, sector: u64, level: u32) {
    let file = File::options().write(true).open(image).unwrap();
    let put = |at: u64, bytes: &[u8]| file.write_all_at(bytes, sector * 512 + at).unwrap();
    put(0, &0xa92b_4efc_u32.to_le_bytes());
    put(4, &1_u32.to_le_bytes());
    put(16, b"an array of tests");
    put(72, &level.to_le_bytes());
    put(92, &2_u32.to_le_bytes());
    put(144, &sector.to_le_bytes());
}

/// A root image of 16 MiB with room for a superblock after its filesystem, and a copy of it.
fn images() -> (Field, [String; 2]) {
    let field = Field::new();
    let root = field.path("a.img");
    {
        let source = Field::new();
        fs::copy(source.root("root.img", crate::common::field::FSTAB), &root).unwrap();
    }
    File::options().write(true).open(&root).unwrap().set_len(17 << 20).unwrap();
    fs::copy(&root, field.path("b.img")).unwrap();
    let names = [field.arg("a.img"), field.arg("b.img")];
    (field, names)
}

/// The last place that is aligned to 4 KiB and leaves 8 KiB.
const LAST: u64 = (17 << 11) - 16;

#[test]
fn a_mirror_boots_alone() {
    let (field, [a, b]) = images();
    version_1(Path::new(&a), LAST, 1);
    version_1(Path::new(&b), LAST, 1);
    field.guard(Path::new(&a));
    let mount = Mount::new(&[], &a);
    let printed = mount.printed();
    let note = "is one of 2 disks of RAID1 (md, metadata 1.0): its filesystem is read as if it were \
                alone";
    assert!(printed.contains(note), "{printed}");
    assert!(printed.contains("boots:   Tiny 1"), "{printed}");
    mount.unmount();
    let refused = expect_no_mount(&[&a, &b]);
    assert!(refused.contains("are mirrors of one array"), "{refused}");
}

#[test]
fn other_members_are_refused_or_named() {
    let (_field, [a, b]) = images();
    version_1(Path::new(&a), LAST, 5);
    let refused = expect_no_mount(&[&a]);
    assert!(
        refused.contains("disks of RAID5 (md, metadata 1.0): its filesystem lies on"),
        "{refused}"
    );
    version_1(Path::new(&b), 8, 1);
    let refused = expect_no_mount(&[&b]);
    assert!(refused.contains("holds a member of a software RAID (md)"), "{refused}");
    assert!(refused.contains("mdadm --assemble"), "{refused}");
    // Beside a root, it is the guest's.
    let (_other, [root, _]) = images();
    let mount = Mount::of(&[], &[Path::new(&root), Path::new(&b)]);
    assert!(mount.printed().contains("RAID1 (md, metadata 1.2): what it holds is not read"));
}

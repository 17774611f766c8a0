//! A logical volume's file, the partitions and the disk show the same bytes, whichever of them is
//! written.

use std::fs;
use std::os::unix::fs::FileExt;

use crate::common::file::{Aligned, direct, read_at, write_at, writer};
use crate::common::hash::Untouched;
use crate::common::lvm::Group;
use crate::common::map::Map;
use crate::common::mount::Mount;
use crate::common::process::run;
use crate::common::tiny::noise;

const MIB: u64 = 1 << 20;
const PAGE: usize = 4096;

#[test]
fn a_write_through_one_file_is_read_through_the_others() {
    let Some(mut group) = Group::new("vgtest", MIB, &[(16 * MIB, &[]), (16 * MIB, &[])]) else {
        return;
    };
    group.create("striped", 6, &["-i", "2", "-I", "8k"]);
    group.create("linear", 20, &[]);
    let segments = group.segments();
    let starts = [group.start(0), group.start(1)];
    group.detach();
    let parts = [group.part(0), group.part(1)];
    let untouched = parts.each_ref().map(Untouched::remember);
    let mount = Mount::of(
        &["--bootloader", "none", "--swap", "0"],
        &[parts[0].as_path(), parts[1].as_path()],
    );
    // The second segment of the linear volume begins on the second physical volume.
    let second = segments.iter().find(|s| s.volume == "linear" && s.start > 0).unwrap();
    let border = second.start * MIB;
    let path = |name: &str| mount.dir().join(name);
    let linear = writer(path("vgtest-linear.raw"));
    let linear_map = Map::new(&linear, border, PAGE, true).unwrap();
    let part = writer(mount.part(2));
    let at = starts[1] + second.stripes[0].1 * MIB;
    let part_map = Map::new(&part, at, PAGE, true).unwrap();
    // The partitions follow each other up to the end of the disk.
    let disk_at = fs::metadata(mount.disk()).unwrap().len() - 16 * MIB + at;
    let disk = writer(mount.disk());
    let disk_direct = direct(mount.disk(), true);
    let linear_direct = direct(path("vgtest-linear.raw"), true);
    let all_show = |what: &str, expected: &[u8]| {
        assert!(read_at(&part, at, PAGE) == expected, "part2.raw after {what}");
        assert!(read_at(&linear, border, PAGE) == expected, "the volume after {what}");
        assert!(read_at(&disk, disk_at, PAGE) == expected, "disk.raw after {what}");
        let found = Aligned::read(&linear_direct, border, PAGE).unwrap();
        assert!(found == expected, "the volume, past the cache, after {what}");
        assert!(linear_map.copy(0, PAGE) == expected, "the mapped volume after {what}");
        assert!(part_map.copy(0, PAGE) == expected, "the mapped partition after {what}");
    };
    let writers = [
        (&linear, border, "a write to the volume"),
        (&disk, disk_at, "a write to the disk"),
        (&part, at, "a write to the partition"),
        (&linear_direct, border, "a write to the volume, past the cache"),
        (&disk_direct, disk_at, "a write to the disk, past the cache"),
    ];
    for (i, (file, offset, what)) in writers.into_iter().enumerate() {
        let bytes = noise(PAGE, 5 + i as u64);
        write_at(file, Aligned::of(&bytes).as_ref(), offset);
        all_show(what, &bytes);
    }
    // Across the border between the physical volumes, and over many stripes.
    for name in ["vgtest-linear.raw", "vgtest-striped.raw"] {
        let file = writer(path(name));
        let len = file.metadata().unwrap().len();
        let bytes = noise(len as usize - 700, 99);
        file.write_all_at(&bytes, 300).unwrap();
        assert!(fs::read(path(name)).unwrap()[300..len as usize - 400] == bytes[..], "{name}");
        // A hole is punched into what was written, and nothing else.
        let punched = ["-p", "-o", "12345", "-l", "3000000"].map(str::to_owned);
        let target = path(name).to_string_lossy().into_owned();
        run("fallocate", &[&punched[..], &[target]].concat());
        let now = fs::read(path(name)).unwrap();
        assert!(now[12345..3_012_345].iter().all(|b| *b == 0), "{name}");
        assert!(now[300..12345] == bytes[..12045], "{name}: before the hole");
        assert!(now[3_012_345..len as usize - 400] == bytes[3_012_045..], "{name}: after it");
        assert!(file.write_at(b"x", len).is_err(), "past the end");
    }
    drop((linear_map, part_map));
    untouched.iter().for_each(Untouched::check);
}

//! The bytes of logical volumes, compared with what LVM's own tools say of where they lie.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;

use crate::common::hash::Untouched;
use crate::common::lvm::Group;
use crate::common::mount::Mount;
use crate::common::tiny::noise;

const MIB: u64 = 1 << 20;

/// Pseudo-random numbers; the same seed gives the same ones.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % most
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// A group of three physical volumes with volumes that were made, extended, shrunk and removed at
/// random, over bytes that are different everywhere.
fn random_group(seed: u64) -> Option<Group> {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let aligned = |bytes| ["--dataalignment", bytes];
    let options: Vec<[&str; 2]> = (0..3)
        .map(|_| match dice.below(3) {
            0 => aligned("64k"),
            1 => ["--metadatasize", "300k"],
            _ => aligned(dice.one_of(&["1m", "3m", "4k"])),
        })
        .collect();
    let mut parts: Vec<(u64, &[&str])> = Vec::new();
    for options in &options {
        parts.push(((16 + dice.below(16)) * MIB + 512 * dice.below(9), &options[..]));
    }
    let extent = dice.one_of(&[128 << 10, 256 << 10, MIB]);
    let group = Group::new("vgtest", extent, &parts)?;
    let mut names: Vec<String> = Vec::new();
    for i in 0..8 {
        let (name, len) = (format!("lv-{i}"), 1 + dice.below(6));
        match dice.below(4) {
            0 if !names.is_empty() => {
                let name = names.remove(dice.below(names.len() as u64) as usize);
                group.run("lvremove", &["-q", "-f", &format!("vgtest/{name}")]);
            }
            1 if !names.is_empty() => {
                let name = format!("vgtest/{}", names[0]);
                // There may be too little room for a striped volume.
                let _ = group.try_run("lvextend", &["-q", "-l", &format!("+{}", 6 * len), &name]);
            }
            2 => {
                let count = 2 + dice.below(2);
                let chunk = dice.one_of(&["4k", "16k", "64k"]);
                let stripes = ["-i", &count.to_string(), "-I", chunk];
                names.extend(group.try_create(&name, len * count, &stripes).map(|()| name));
            }
            _ => names.extend(group.try_create(&name, len, &[]).map(|()| name)),
        }
    }
    let _ = group.try_create("last", 1, &[]);
    Some(group)
}

/// Fills the part of a physical volume that holds extents with noise.
fn fill(group: &Group, parts: usize) {
    for index in 0..parts {
        let file = File::options().write(true).open(group.device(index)).unwrap();
        let len = fs::metadata(group.part(index)).unwrap().len();
        // No data area starts before this, and metadata areas at the end do not exist here.
        let start = group.start(index);
        let bytes = noise((len - start) as usize / 512 * 512, 77 + index as u64);
        file.write_all_at(&bytes, start).unwrap();
        file.sync_all().unwrap();
    }
}

#[test]
#[ignore = "slow"]
fn volumes_are_what_lvm_says() {
    for seed in 1..=4 {
        let Some(mut group) = random_group(seed) else { return };
        fill(&group, 3);
        let mut volumes: Vec<String> = group.segments().into_iter().map(|s| s.volume).collect();
        volumes.sort();
        volumes.dedup();
        let expected: Vec<Vec<u8>> = volumes.iter().map(|volume| group.read(volume)).collect();
        eprintln!("seed {seed}: {:#?}", group.segments());
        group.detach();
        let parts: Vec<_> = (0..3).map(|i| group.part(i)).collect();
        let untouched: Vec<_> = parts.iter().map(Untouched::remember).collect();
        let parts: Vec<_> = parts.iter().map(|p| p.as_path()).collect();
        let mount = Mount::of(&["--bootloader", "none", "--swap", "0"], &parts);
        for (volume, expected) in volumes.iter().zip(&expected) {
            let path = mount.dir().join(format!("vgtest-{}.raw", volume.replace('-', "--")));
            let mut bytes = Vec::new();
            File::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes.len(), expected.len(), "seed {seed}, {volume}");
            assert!(bytes == *expected, "seed {seed}, {volume}: other bytes");
        }
        let shown = fs::read_dir(mount.dir()).unwrap().flatten();
        let shown = shown.filter(|f| f.file_name().to_string_lossy().starts_with("vgtest-"));
        assert_eq!(shown.count(), volumes.len());
        mount.unmount();
        untouched.iter().for_each(Untouched::check);
    }
}

#[test]
fn a_missing_physical_volume_costs_the_volumes_that_need_it() {
    let Some(mut group) = Group::new("vgtest", MIB, &[(16 * MIB, &[]), (16 * MIB, &[])]) else {
        return;
    };
    group.create("near", 4, &[]);
    group.create("far", 4, &["-i", "2", "-I", "64k"]);
    group.detach();
    let mount = Mount::new(&["--bootloader", "none", "--swap", "0"], group.part(0));
    let printed = mount.printed();
    assert!(
        printed
            .contains("the logical volume vgtest/far is not shown: it needs the physical volume"),
        "{printed}"
    );
    assert!(mount.dir().join("vgtest-near.raw").exists());
    assert!(!mount.dir().join("vgtest-far.raw").exists());
}

/// Metadata that was damaged on the way is a note, and the partition is still shown.
#[test]
fn damaged_metadata_is_a_note() {
    let Some(mut group) = Group::new("vgtest", MIB, &[(16 * MIB, &[])]) else { return };
    group.create("root", 4, &[]);
    group.detach();
    let file = File::options().read(true).write(true).open(group.part(0)).unwrap();
    for at in [512 + 40, 4096 + 8, 4096 + 40, 4096 + 512 + 7] {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        // The current text is not the first in the buffer, so its old copy may be damaged.
        if at < 4096 + 512 {
            let mount = Mount::new(&["--bootloader", "none", "--swap", "0"], group.part(0));
            let printed = mount.printed();
            let note = "partition 1 of xvda is a physical volume of LVM, but ";
            assert!(printed.contains(note), "{at}: {printed}");
            assert!(mount.part(1).exists() && !mount.dir().join("vgtest-root.raw").exists());
        }
        file.write_all_at(&byte, at).unwrap();
    }
}

use super::super::testing::Pv;
use super::*;

const LEN: usize = 1 << 20;

/// Metadata of the group `vg` with extents of 64 KiB, on the physical volumes named by letters, each
/// of which has 15 extents from byte 65536 on.
fn text(seqno: u32, members: &str, volumes: &str) -> String {
    let member = |(i, c): (usize, char)| {
        format!(
            "pv{i} {{ id = \"{}\" status = [\"ALLOCATABLE\"] flags = [] pe_start = 128 pe_count = 15 }}\n",
            c.to_string().repeat(32)
        )
    };
    let members: String = members.chars().enumerate().map(member).collect();
    format!(
        "contents = \"Text Format Volume Group\"\nversion = 1\ncreation_time = 17\nvg {{\n\
         id = \"{}\"\nseqno = {seqno}\nformat = \"lvm2\" # informational\nextent_size = 128\n\
         physical_volumes {{\n{members}}}\nlogical_volumes {{\n{volumes}}}\n}}\n",
        "G".repeat(32)
    )
}

fn lv(name: &str, segments: &[&str]) -> String {
    let id: String = name.chars().cycle().filter(|c| c.is_ascii_alphanumeric()).take(32).collect();
    let list = segments.iter().enumerate();
    let list: String = list.map(|(i, s)| format!("segment{} {{ {s} }}\n", i + 1)).collect();
    format!(
        "{name} {{ id = \"{id}\" status = [\"READ\", \"WRITE\", \"VISIBLE\"] segment_count = {}\n{list}}}\n",
        segments.len()
    )
}

fn linear(start: u64, count: u64, pv: &str, extent: u64) -> String {
    format!(
        "start_extent = {start} extent_count = {count} type = \"striped\" stripe_count = 1 \
         stripes = [\"{pv}\", {extent}]"
    )
}

fn other(kind: &str) -> String {
    format!("start_extent = 0 extent_count = 2 type = \"{kind}\"")
}

fn pv(uuid: char, text: &str) -> Vec<u8> {
    Pv::new(uuid, LEN).text_at(text, 512).bytes()
}

fn of(pvs: &[Vec<u8>]) -> Survey {
    let names: Vec<String> = (1..=pvs.len()).map(|n| format!("partition {n}")).collect();
    let list: Vec<_> =
        pvs.iter().zip(&names).map(|(bytes, name)| PhysicalVolume { name, bytes }).collect();
    survey(&list)
}

fn names(survey: &Survey) -> Vec<&str> {
    survey.volumes.iter().map(|v| v.name.as_str()).collect()
}

#[test]
fn linear_and_striped_volumes() {
    let root = lv("root", &[&linear(0, 2, "pv0", 3), &linear(2, 1, "pv1", 0)]);
    let striped = "start_extent = 0 extent_count = 4 type = \"striped\" stripe_count = 2 \
                   stripe_size = 16 stripes = [\"pv0\", 5, \"pv1\", 1]";
    let text = text(4, "ab", &(root + &lv("data-1", &[striped])));
    let found = of(&[pv('a', &text), pv('b', &text)]);
    assert_eq!((names(&found), found.problems.as_slice()), (vec!["root", "data-1"], &[][..]));
    let root = &found.volumes[0];
    assert_eq!((root.group.as_str(), root.writable), ("vg", true));
    assert_eq!(root.uuid, format!("{}{}", "G".repeat(32), "root".repeat(8)));
    assert_eq!(root.map.len(), 3 << 16);
    let at = |offset| root.map.locate(offset).map(|p| (p.source, p.offset));
    assert_eq!(at(1), Some((0, (4 << 16) + 1)));
    assert_eq!(at(2 << 16), Some((1, 1 << 16)));
    let striped = &found.volumes[1];
    let at = |offset| striped.map.locate(offset).map(|p| (p.source, p.offset));
    assert_eq!(at(8192), Some((1, 2 << 16)));
    assert_eq!(at(16384), Some((0, (6 << 16) + 8192)));
    // The order of the images does not matter.
    let found = of(&[pv('b', &text), pv('a', &text)]);
    assert_eq!(found.volumes[0].map.locate(0).unwrap().source, 1);
}

#[test]
fn the_newest_metadata_counts() {
    let old = text(4, "ab", &lv("old", &[&linear(0, 1, "pv0", 0)]));
    let new = text(5, "ab", &lv("new", &[&linear(0, 1, "pv1", 0)]));
    assert_eq!(names(&of(&[pv('a', &old), pv('b', &new)])), ["new"]);
    assert_eq!(names(&of(&[pv('a', &new), pv('b', &old)])), ["new"]);
    let same = text(5, "ab", &lv("other", &[&linear(0, 1, "pv1", 0)]));
    let found = of(&[pv('a', &new), pv('b', &same)]);
    assert!(found.volumes.is_empty());
    assert!(found.problems[0].contains("contradict each other"), "{:?}", found.problems);
    // A damaged copy does not hide the other one.
    let mut damaged = pv('a', &new);
    damaged[4096 + 600] ^= 1;
    let found = of(&[damaged, pv('b', &new)]);
    assert_eq!(names(&found), ["new"]);
    assert_eq!(
        found.problems,
        ["partition 1 is a physical volume of LVM, but the checksum of its metadata is wrong"]
    );
}

#[test]
fn what_cannot_be_read_costs_nothing_else() {
    let snapshot = "start_extent = 0 extent_count = 1 type = \"snapshot\" chunk_size = 8 \
                    origin = \"root\" cow_store = \"snap\"";
    let volumes = [
        lv("root", &[&linear(0, 1, "pv0", 0)]),
        lv("snap", &[&linear(0, 1, "pv0", 1)]),
        lv("snapshot0", &[snapshot]).replace(", \"VISIBLE\"", ""),
        lv("thin", &[&other("thin")]),
        lv("pool", &[&other("thin-pool")]),
        lv("mirror", &[&other("raid1")]),
        lv("far", &[&linear(0, 1, "pv1", 0)]),
        lv("home", &[&linear(0, 2, "pv0", 2)]),
        lv("past", &[&linear(0, 2, "pv0", 14)]),
        lv("huge", &[&linear(0, u64::MAX / 65536, "pv0", 9)]),
        lv("top", &[&linear(0, 1, "home", 0)]),
    ];
    let found = of(&[pv('a', &text(1, "ab", &volumes.concat()))]);
    assert_eq!(names(&found), ["root", "home"]);
    assert!(!found.volumes[0].writable && found.volumes[1].writable);
    let expected = [
        "vg/snap is not shown: it is a snapshot, and only",
        "vg/thin is not shown: it is a thin volume, and only",
        "vg/pool is not shown: it is a thin pool, and only",
        "vg/mirror is not shown: it is a RAID volume (raid1), and only",
        "vg/far is not shown: it needs the physical volume bbbbbb-bbbb-bbbb-bbbb-bbbb-bbbb-bbbbbb,",
        "vg/past is not shown: its metadata maps it to places that do not exist",
        "vg/huge is not shown: its metadata maps it to places that do not exist",
        "vg/top is not shown: it is stacked on another volume, and only",
    ];
    assert_eq!(found.problems.len(), expected.len(), "{:#?}", found.problems);
    for (problem, expected) in found.problems.iter().zip(expected) {
        assert!(problem.starts_with(&format!("the logical volume {expected}")), "{problem}");
    }
}

#[test]
fn copies_and_overlaps_are_refused() {
    let one = text(1, "a", &lv("root", &[&linear(0, 1, "pv0", 0)]));
    let found = of(&[pv('a', &one), pv('a', &one)]);
    assert_eq!(names(&found), ["root"]);
    assert!(found.problems[0].contains("have the same UUID"), "{:?}", found.problems);
    let volumes = lv("a", &[&linear(0, 3, "pv0", 0)]) + &lv("b", &[&linear(0, 3, "pv0", 2)]);
    let found = of(&[pv('a', &text(1, "a", &volumes))]);
    assert!(found.volumes.is_empty());
    assert!(found.problems[0].contains("uses some extents twice"), "{:?}", found.problems);
    // Two groups of one name.
    let other = one.replace("GGGGGG", "HHHHHH").replace("aaaaaa", "bbbbbb");
    let found = of(&[pv('a', &one), pv('b', &other)]);
    assert_eq!(names(&found), ["root"]);
    assert!(found.problems[0].contains("two volume groups called vg"), "{:?}", found.problems);
}

#[test]
fn hostile_metadata() {
    let good = text(1, "a", &lv("root", &[&linear(0, 1, "pv0", 0)]));
    for (old, new) in [
        ("extent_size = 128", "extent_size = 0"),
        ("extent_size = 128", "extent_size = 18446744073709551615"),
        ("pe_start = 128", "pe_start = 18446744073709551615"),
        ("pe_start = 128", "pe_start = 36028797018963967"),
        ("segment_count = 1", "segment_count = 2"),
        ("start_extent = 0", "start_extent = 1"),
        ("extent_count = 1", "extent_count = 0"),
        ("stripe_count = 1", "stripe_count = 2"),
        ("stripes = [\"pv0\", 0]", "stripes = []"),
        ("stripes = [\"pv0\", 0]", "stripes = [\"pv0\"]"),
        ("stripes = [\"pv0\", 0]", "stripes = [\"pv0\", 18446744073709551615]"),
        ("root {", "../root {"),
        ("root {", ".. {"),
        ("vg {", "../vg {"),
        ("seqno = 1", "seqno = -1"),
        ("physical_volumes", "physical"),
        ("type = \"striped\"", ""),
    ] {
        assert!(good.contains(old), "{old}");
        let found = of(&[pv('a', &good.replace(old, new))]);
        assert!(found.volumes.is_empty() && found.problems.len() == 1, "{new}: {found:?}");
    }
    let many: String = (0..5000).map(|i| format!("v{i} {{ }}\n")).collect();
    assert!(of(&[pv('a', &text(1, "a", &many[..20_000]))]).volumes.is_empty());
}

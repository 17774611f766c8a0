use super::*;
use proptest::prelude::*;
use std::process::Command;

/// A disk of `len` bytes with a table that `sfdisk` makes from `script`, and what `sfdisk` reads:
/// number, start and length in sectors.
fn made(len: u64, script: &str) -> (Vec<u8>, serde_json::Value) {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(len).unwrap();
    let run = |command: &str| {
        let path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin; ";
        let output = Command::new("sh")
            .args(["-c", &format!("{path}{command}")])
            .arg(file.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}; is sfdisk installed (package fdisk)?");
        String::from_utf8(output.stdout).unwrap()
    };
    run(&format!("printf '{script}' | sfdisk -q \"$0\""));
    let json: serde_json::Value = serde_json::from_str(&run("sfdisk -J \"$0\"")).unwrap();
    (std::fs::read(file.path()).unwrap(), json["partitiontable"].clone())
}

/// Compares what is read with what `sfdisk` reads.
fn compare(len: u64, script: &str) -> DiskTable {
    let (bytes, json) = made(len, script);
    let table = DiskTable::read(&bytes).unwrap();
    let mut expected = Vec::new();
    for p in json["partitions"].as_array().unwrap() {
        let kind = p["type"].as_str().unwrap();
        if matches!(kind, "5" | "f" | "85") {
            continue;
        }
        let digits = p["node"].as_str().unwrap();
        let number = digits.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap();
        let sectors = |key: &str| p[key].as_u64().unwrap() * SECTOR;
        expected.push((number.parse().unwrap(), sectors("start"), sectors("size")));
    }
    expected.sort_by_key(|(_, start, _)| *start);
    let found: Vec<(u32, u64, u64)> =
        table.partitions.iter().map(|p| (p.placed.number, p.placed.start, p.placed.len)).collect();
    assert_eq!(found, expected);
    table
}

#[test]
fn primary_and_logical_partitions() {
    let table = compare(
        64 << 20,
        "label: dos\\nlabel-id: 0x1badcafe\\nstart=63, size=1985, type=82\\nstart=2048, size=4096, bootable\\n\
         start=8192, size=40000, type=f\\nstart=60000, size=1000\\nstart=10240, size=2048\\n\
         start=14336, size=2048, type=82\\nstart=20480, size=2048, type=8e\\n",
    );
    assert_eq!((table.kind, table.disk_id), (TableKind::Mbr, 0x1bad_cafe));
    let of = |number: u32| table.partitions.iter().find(|p| p.placed.number == number).unwrap();
    assert_eq!(of(1).placed.kind, PartitionKind::Swap);
    assert_eq!(of(6).placed.kind, PartitionKind::Swap);
    assert_eq!(of(7).placed.kind, PartitionKind::Lvm);
    assert!(of(2).placed.active && !of(1).placed.active);
    assert_eq!(of(5).partuuid, "1badcafe-05");
    assert!(table.partitions.iter().all(|p| p.placed.number != 3), "the extended one");
}

const GPT: &str = "label: gpt\\nlabel-id: 11111111-2222-3333-4444-555555555555\\n\
    start=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649\\n\
    start=8192, size=2048, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\\n\
    start=4096, size=4096, uuid=AAAAAAAA-BBBB-CCCC-DDDD-EEEEEEEEEEEE, attrs=LegacyBIOSBootable\\n";

#[test]
fn a_gpt_and_its_backup() {
    let table = compare(8 << 20, GPT);
    assert_eq!(table.kind, TableKind::Gpt);
    assert_eq!(table.disk_guid.to_string(), "11111111-2222-3333-4444-555555555555");
    let kinds: Vec<_> = table.partitions.iter().map(|p| p.placed.kind).collect();
    let expected = [PartitionKind::BiosBoot, PartitionKind::Linux, PartitionKind::EfiSystem];
    assert_eq!(kinds, expected);
    assert_eq!(table.partitions[1].partuuid, "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee");
    assert!(table.partitions[1].placed.active && !table.partitions[0].placed.active);
    // Another one: sfdisk makes up what is not given.
    let (good, _) = made(8 << 20, GPT);
    let table = DiskTable::read(&good).unwrap();
    for at in [512 + 60, 1024 + 40] {
        let mut damaged = good.clone();
        damaged[at] ^= 1;
        assert_eq!(DiskTable::read(&damaged).unwrap(), table, "the backup is used");
        let end = damaged.len() - 512;
        damaged[end + 24] ^= 1;
        let said = DiskTable::read(&damaged).unwrap_err();
        assert_eq!(said.to_string(), "both copies of the GPT are damaged");
    }
}

/// An MBR with these entries: type, start, length in sectors.
fn mbr(len: usize, list: &[(u8, u32, u32)]) -> Vec<u8> {
    let mut bytes = vec![0; len];
    put(&mut bytes, 0, list);
    bytes
}

fn put(bytes: &mut [u8], lba: usize, list: &[(u8, u32, u32)]) {
    for (i, (kind, start, len)) in list.iter().enumerate() {
        let at = lba * 512 + MBR_ENTRIES + i * MBR_ENTRY_LEN;
        bytes[at + 4] = *kind;
        bytes[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        bytes[at + 12..at + 16].copy_from_slice(&len.to_le_bytes());
    }
    bytes[lba * 512 + 510..][..2].copy_from_slice(&[0x55, 0xaa]);
}

#[test]
fn tables_that_cannot_be_trusted() {
    let said = |bytes: &Vec<u8>| DiskTable::read(bytes).unwrap_err().to_string();
    let mib = 1 << 20;
    assert_eq!(said(&vec![0; mib]), "there is no partition table");
    assert_eq!(said(&mbr(mib, &[(0x83, 0, 9)])), "partition 1 contains the partition table");
    let two = mbr(mib, &[(0x83, 63, 100), (0x83, 162, 9)]);
    assert_eq!(said(&two), "partitions 1 and 2 overlap");
    let cut = mbr(mib, &[(0x83, 63, u32::MAX)]);
    assert_eq!(said(&cut), "partition 1 ends after the end of the image, which is cut off");
    let gone = mbr(mib, &[(5, 3000, 100)]);
    let past = "the partition table refers to sectors after the end of the image";
    assert_eq!(said(&gone), past);
    // A record that is its own successor.
    let mut circle = mbr(mib, &[(5, 100, 1000)]);
    put(&mut circle, 100, &[(0, 0, 0), (5, 0, 1000)]);
    assert_eq!(said(&circle), "the list of logical partitions does not end");
    put(&mut circle, 100, &[(0x83, 1, 1), (5, 0, 1000)]);
    assert!(DiskTable::read(&circle).is_err());
    // A chain that ends, in a sector without a signature.
    let mut ends = mbr(mib, &[(5, 100, 1000)]);
    put(&mut ends, 100, &[(0x83, 2, 7), (5, 50, 10)]);
    let found = DiskTable::read(&ends).unwrap();
    assert_eq!(found.partitions.len(), 1);
    assert_eq!(found.partitions[0].placed.start, 102 * SECTOR);
}

proptest! {
    #[test]
    fn no_table_makes_it_panic(
        list in proptest::collection::vec((any::<u8>(), any::<u32>(), any::<u32>()), 0..4),
        records in proptest::collection::vec((0..64usize, any::<[u8; 64]>()), 0..8),
        len in 512..40_000usize,
    ) {
        let mut bytes = mbr(40_000, &list);
        for (lba, entries) in records {
            bytes[lba * 512 + MBR_ENTRIES..][..64].copy_from_slice(&entries);
            bytes[lba * 512 + 510..][..2].copy_from_slice(&[0x55, 0xaa]);
        }
        bytes.truncate(len);
        let _ = DiskTable::read(&bytes);
    }

    #[test]
    fn no_gpt_makes_it_panic(header in any::<[u8; 64]>(), fix: bool) {
        let mut bytes = mbr(40_000, &[(PROTECTIVE, 1, 70)]);
        bytes[512..520].copy_from_slice(b"EFI PART");
        bytes[512 + 12] = 92;
        bytes[512 + 24] = 1;
        bytes[512 + 40..512 + 104].copy_from_slice(&header);
        if fix {
            bytes[512 + 84..512 + 88].copy_from_slice(&128u32.to_le_bytes());
            let crc = crc32(&bytes[512..512 + 92]);
            bytes[512 + 16..512 + 20].copy_from_slice(&crc.to_le_bytes());
        }
        let _ = DiskTable::read(&bytes);
    }
}

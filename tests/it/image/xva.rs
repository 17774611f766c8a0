//! XVAs: the disks of an exported guest, read in place.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use synthdisk::image::{OpenOptions, Xva};

use super::oracle::arg;
use crate::common::hash::{Untouched, sha256};
use crate::common::mount::Mount;
use crate::common::process::{SYNTHDISK, expect_failure, run, run_text};
use crate::common::random::random;
use crate::common::tiny::Tiny;
use crate::common::xva::{BLOCK, Export, Sum, XvaDisk};

/// A disk of `len` bytes in which some blocks are zeros.
fn disk(dir: &Path, name: &str, len: usize, seed: u64) -> std::path::PathBuf {
    let mut next = random(seed);
    let mut bytes = vec![0; len];
    for block in bytes.chunks_mut(BLOCK) {
        if next() % 3 == 0 {
            let at = next() % block.len();
            block[at] = 1 + (next() % 255) as u8;
        }
    }
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn disks_of_random_lengths() {
    let dir = tempfile::tempdir().unwrap();
    for seed in 1..=6 {
        let mut next = random(seed * 77);
        let lens = [1 + next() % (9 * BLOCK), (1 + next() % 6) * BLOCK, 512 * (1 + next() % 2000)];
        let files: Vec<_> =
            (0..3).map(|n| disk(dir.path(), &n.to_string(), lens[n], seed + n as u64)).collect();
        let disks = files.iter().zip(0..);
        let path = dir.path().join("guest.xva");
        let export = Export {
            name: "guest",
            disks: disks
                .map(|(file, device)| XvaDisk { file, device, bootable: device == 0 })
                .collect(),
            sum: if seed % 2 == 0 { Sum::Sha1 } else { Sum::XxHash },
            keep_alive: (seed % 3 == 0).then_some(2),
        };
        export.write(&path);
        let untouched = Untouched::remember(&path);
        let xva = Xva::open(&path, &OpenOptions::default()).unwrap();
        assert!(xva.verify().unwrap() >= 3);
        for (number, file) in files.iter().enumerate() {
            let expected = fs::read(file).unwrap();
            let image = xva.disk(&format!("Ref:{}", 20 + number), expected.len() as u64).unwrap();
            let mut found = vec![1; expected.len()];
            image.read_at(&mut found, 0).unwrap();
            assert!(found == expected, "disk {number} of seed {seed}");
            let mut at = 0;
            while at < image.len() {
                let extent = image.extent_at(at).unwrap();
                let range = &expected[at as usize..extent.end as usize];
                assert!(extent.data || range.iter().all(|b| *b == 0));
                at = extent.end;
            }
        }
        untouched.check();
        // Cut short anywhere, it is refused: at the latest when the disk is opened.
        let len = fs::metadata(&path).unwrap().len();
        for step in 1..40 {
            let cut = dir.path().join("cut.xva");
            fs::copy(&path, &cut).unwrap();
            fs::File::options().write(true).open(&cut).unwrap().set_len(len / 40 * step).unwrap();
            let opened = Xva::open(&cut, &OpenOptions::default());
            let opened = opened.and_then(|xva| {
                let disks = files.iter().zip(20..);
                disks
                    .map(|(f, n)| xva.disk(&format!("Ref:{n}"), f.metadata().unwrap().len()))
                    .collect()
            });
            let opened: synthdisk::Result<Vec<_>> = opened;
            let e = opened.expect_err("it is cut short").to_string();
            assert!(e.contains("cut.xva cannot be read as XVA"), "{e}");
        }
        // A flipped bit in a block is found by its checksum.
        let file = fs::File::options().read(true).write(true).open(&path).unwrap();
        let bytes = fs::read(&path).unwrap();
        let name = bytes.windows(14).position(|w| w == b"Ref:20/0000000").unwrap() as u64;
        file.write_all_at(&[bytes[name as usize + 600] ^ 1], name + 600).unwrap();
        let e =
            Xva::open(&path, &OpenOptions::default()).unwrap().verify().unwrap_err().to_string();
        assert!(e.contains("Ref:20/00000000 is damaged: its checksum is"), "{e}");
    }
}

/// The tiny guest as an XVA, with a second disk.
fn exported(tiny: &Tiny) -> std::path::PathBuf {
    let (path, data) = (tiny.file("web1.xva"), disk(tiny.path(), "data", 3 * BLOCK + 512, 5));
    let disks = vec![
        XvaDisk { file: &data, device: 1, bootable: false },
        XvaDisk { file: &tiny.image, device: 0, bootable: true },
    ];
    Export { name: "web-one", disks, sum: Sum::XxHash, keep_alive: Some(3) }.write(&path);
    path
}

#[test]
fn a_guest_is_mounted_from_its_export() {
    let tiny = Tiny::new();
    let path = exported(&tiny);
    let untouched = Untouched::remember(&path);
    let mount = Mount::new(&["--verify-source"], &path);
    assert_eq!(sha256(mount.part(1)), sha256(&tiny.image));
    let status = fs::read_to_string(mount.dir().join(".synthdisk.json")).unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["images"][0], arg(&path));
    assert!(mount.printed().contains("00:16:3e:0a:0b:0c"), "{}", mount.printed());
    mount.unmount();

    let map: serde_json::Value =
        serde_json::from_str(&run_text(SYNTHDISK, &["map", "--json", arg(&path)])).unwrap();
    assert_eq!(map["name"], "web-one");
    assert_eq!(map["disks"][0]["image_files"][0][0]["format"], "xva");
    assert!(map["boot"]["cmdline"].as_str().unwrap().contains("of=thexva"));
    let report = run_text(SYNTHDISK, &["inspect", arg(&path)]);
    assert!(report.starts_with("web-one: ") && report.contains("from xva"), "{report}");
    let out = tiny.file("out");
    fs::create_dir(&out).unwrap();
    run(SYNTHDISK, &["finalize", "--bootloader", "none", arg(&path), "-o", arg(&out)]);
    let written: Vec<_> = fs::read_dir(&out).unwrap().collect();
    assert_eq!(written.len(), 2, "{written:?}");
    untouched.check();
}

#[test]
fn what_is_no_plain_export_is_refused() {
    let tiny = Tiny::new();
    let path = exported(&tiny);
    for (program, name) in [("gzip", "a.xva"), ("zstd", "b.xva")] {
        let packed = tiny.file(name);
        let command = format!("{program} -c < {} > {}", arg(&path), arg(&packed));
        run("sh", &["-c", &command]);
        let said = expect_failure(&["map", arg(&packed)], 1);
        assert!(said.contains(&format!("{program} -dc < {}", arg(&packed))), "{said}");
    }
    let said = expect_failure(&["map", arg(&path), arg(&tiny.image)], 1);
    assert!(said.contains("it contains a whole guest"), "{said}");
    let said = expect_failure(&["map", "--verify-source", arg(&tiny.image)], 2);
    assert!(said.contains("other images have none"), "{said}");
    let nothing = tiny.file("nothing.xva");
    fs::write(&nothing, [0; 4096]).unwrap();
    let said = expect_failure(&["map", arg(&nothing)], 1);
    assert!(said.contains("its first file is not ova.xml"), "{said}");
}

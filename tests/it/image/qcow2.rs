//! qcow2 chains: random geometries, compared with what `qemu-img` reads.

use std::fs;
use std::path::{Path, PathBuf};

use super::oracle::{arg, by_qemu, compare, opened};
use crate::common::hash::{Untouched, sha256};
use crate::common::mount::Mount;
use crate::common::process::{SYNTHDISK, expect_failure, output, run};
use crate::common::random::random;
use crate::common::tiny::Tiny;

const KIB: usize = 1 << 10;

/// Random writes, zeros, compressed writes and discards to the image at `path`, by `qemu-io`.
fn scribble(next: &mut impl FnMut() -> usize, path: &Path, len: usize, cluster: usize) {
    let mut commands: Vec<String> = Vec::new();
    for _ in 0..3 + next() % 12 {
        let at = next() % (len / 512) * 512;
        let most = (len - at).min(300 * KIB);
        let n = (1 + next() % (most / 512)) * 512;
        let pattern = 1 + next() % 255;
        commands.push(match next() % 6 {
            0 => format!("write -z {at} {n}"),
            1 => format!("write -z -u {at} {n}"),
            2 => format!("discard {at} {n}"),
            3 => {
                let (at, n) = (at / cluster * cluster, cluster * (1 + next() % 3));
                if at + n > len {
                    continue;
                }
                format!("write -c -P {pattern} {at} {n}")
            }
            _ => format!("write -P {pattern} {at} {n}"),
        });
    }
    let mut args = vec!["-f", "qcow2"];
    commands.iter().for_each(|command| args.extend(["-c", command]));
    args.push(arg(path));
    // Some are refused, such as compressed writes to clusters that are stored.
    output("qemu-io", &args);
}

#[test]
fn chains_of_random_geometries() {
    let dir = tempfile::tempdir().unwrap();
    for seed in 1..=14 {
        let mut next = random(seed * 0x9e37_79b9);
        let mut len = (1 + next() % (3 << 20) / 512) * 512;
        let mut below: Option<(PathBuf, &str)> = None;
        let mut files = Vec::new();
        for level in 0..1 + next() % 4 {
            let path = dir.path().join(format!("{seed}-{level}.qcow2"));
            if level == 0 && next() % 2 == 0 {
                let raw = dir.path().join(format!("{seed}.raw"));
                let bytes: Vec<u8> = (0..len).map(|i| (i >> 9) as u8).collect();
                fs::write(&raw, bytes).unwrap();
                files.push(raw.clone());
                below = Some((raw, "raw"));
            }
            // A disk may have been grown or shrunk between two levels.
            len = match next() % 4 {
                0 => len + next() % 4000 * 512,
                1 => (len / 2).next_multiple_of(512),
                _ => len,
            };
            let mut bits = [9, 10, 12, 14, 16, 16, 18, 21][next() % 8];
            let mut options = match next() % 4 {
                0 => "compat=0.10".to_owned(),
                1 => "compression_type=zstd".to_owned(),
                2 => {
                    bits = bits.max(14);
                    "extended_l2=on".to_owned()
                }
                _ => "compat=1.1".to_owned(),
            };
            options += &format!(",cluster_size={}", 1 << bits);
            if below.is_none() && next() % 4 == 0 && !options.contains("extended") {
                options += ",preallocation=metadata";
            }
            let len_word = len.to_string();
            let mut args = vec!["create", "-q", "-f", "qcow2", "-o", &options];
            if let Some((below, format)) = &below {
                args.extend(["-F", format, "-b", arg(below)]);
            }
            args.extend([arg(&path), &len_word]);
            run("qemu-img", &args);
            scribble(&mut next, &path, len, 1 << bits);
            if next() % 3 == 0 {
                run("qemu-img", &["snapshot", "-c", "one", arg(&path)]);
                scribble(&mut next, &path, len, 1 << bits);
            }
            files.push(path.clone());
            below = Some((path, "qcow2"));
        }
        let (top, _) = below.expect("a chain has a top");
        compare(&top, None, &by_qemu(&top, "qcow2"), &files);
    }
}

#[test]
fn what_is_cut_short_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", arg(&path), "8M"]);
    let args = ["-f", "qcow2", "-c", "write -P 7 0 1M", "-c", "write -P 8 4M 1M", arg(&path)];
    run("qemu-io", &args);
    let whole = fs::read(&path).unwrap();
    for len in (1..whole.len()).step_by(64 * KIB + 512).chain([whole.len() - 1]) {
        let cut = dir.path().join("cut.qcow2");
        fs::write(&cut, &whole[..len]).unwrap();
        let e = opened(&cut, None).expect_err("the file is cut short").to_string();
        assert!(e.contains("cut.qcow2") && e.contains("qcow2"), "{e}");
    }
    // A table of 32 MiB for a disk of 64 TiB is neither allocated nor read whole when it is sparse.
    let huge = dir.path().join("huge.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", arg(&huge), "64T"]);
    let image = opened(&huge, None).unwrap();
    let mut buf = [1; 512];
    image.read_at(&mut buf, (64 << 40) - 512).unwrap();
    assert_eq!(buf, [0; 512]);
}

#[test]
fn a_chain_behind_a_disk() {
    let tiny = Tiny::new();
    let (mid, top) = (tiny.file("mid.qcow2"), tiny.file("top.qcow2"));
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "root.img", arg(&mid)]);
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", arg(&mid), arg(&top)]);
    // The last sectors, which no filesystem needs.
    let len = fs::metadata(&tiny.image).unwrap().len();
    for (path, byte, at) in [(&mid, 0xa1, len - 1024), (&top, 0xb2, len - 512)] {
        let write = format!("write -P {byte} {at} 512");
        run("qemu-io", &["-f", "qcow2", "-c", &write, arg(path)]);
    }
    let files = [tiny.image.clone(), mid.clone(), top.clone()];
    let untouched = files.each_ref().map(Untouched::remember);
    let expected = tiny.file("expected.raw");
    fs::write(&expected, by_qemu(&top, "qcow2")).unwrap();
    let overlay = tiny.file("overlay.qcow2");
    let mount = Mount::new(&["--overlay", arg(&overlay)], &top);
    assert_eq!(sha256(mount.part(1)), sha256(&expected));
    // No file of the chain may be written to meanwhile.
    for file in [&mid, &top] {
        let write = ["-f", "qcow2", "-c", "write 0 512", arg(file)];
        assert!(!output("qemu-io", &write).status.success());
    }
    mount.unmount();
    untouched.iter().for_each(Untouched::check);

    let said = output(SYNTHDISK, &["map", arg(&top)]);
    let said = String::from_utf8(said.stdout).unwrap();
    let files =
        format!("image files: qcow2 {}, qcow2 {}, raw {}", arg(&top), arg(&mid), arg(&tiny.image));
    assert!(said.contains(&files), "{said}");

    // The overlay belongs to what the chain shows: it fits a copy in one file, and no other content.
    let whole = tiny.file("whole.qcow2");
    run("qemu-img", &["convert", "-O", "qcow2", arg(&top), arg(&whole)]);
    Mount::new(&["--overlay", arg(&overlay)], &whole).unmount();
    let change = ["-f", "raw", "-c", "write -P 1 1024 16", arg(&tiny.image)];
    run("qemu-io", &change);
    let said = expect_failure(&["map", "--overlay", arg(&overlay), arg(&top)], 1);
    assert!(said.contains("changed") || said.contains("other image"), "{said}");

    fs::rename(&mid, tiny.file("elsewhere.qcow2")).unwrap();
    let said = expect_failure(&["map", arg(&top)], 1);
    assert!(said.contains("its backing image is missing"), "{said}");
}

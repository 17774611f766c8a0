//! VMDK, VDI and VHDX of random geometries, compared with what `qemu-img` reads.

use std::fs;
use std::path::{Path, PathBuf};

use super::oracle::{arg, by_qemu, compare, opened};
use crate::common::hash::sha256;
use crate::common::mount::Mount;
use crate::common::process::{output, run};
use crate::common::random::random;
use crate::common::tiny::Tiny;

/// A raw disk of up to 5 MiB in whole sectors, with holes.
fn raw(dir: &Path, next: &mut impl FnMut() -> usize) -> PathBuf {
    let mut bytes = vec![0; (1 + next() % 10_000) * 512];
    for _ in 0..next() % 8 {
        let at = next() % bytes.len();
        let n = (next() % 400_000).min(bytes.len() - at);
        let byte = next() % 255;
        // Some of it can be compressed, and some cannot.
        let noise = next() % 2;
        for (i, b) in bytes[at..at + n].iter_mut().enumerate() {
            *b = (byte + noise * i.wrapping_mul(2_654_435_761) / 65_536 % 251) as u8;
        }
    }
    let path = dir.join("source.raw");
    fs::write(&path, bytes).unwrap();
    path
}

/// The files of `dir` except the source.
fn files(dir: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| !path.ends_with("source.raw")).collect()
}

fn scribble(next: &mut impl FnMut() -> usize, path: &Path, format: &str, len: u64) {
    let mut args = vec!["-f".to_owned(), format.to_owned()];
    for _ in 0..1 + next() % 6 {
        let at = next() as u64 % (len / 512) * 512;
        let n = (1 + next() as u64 % 500).min((len - at) / 512) * 512;
        let kind = if next() % 4 == 0 { "-z".into() } else { format!("-P {}", 1 + next() % 255) };
        args.extend(["-c".into(), format!("write {kind} {at} {n}")]);
    }
    args.push(arg(path).into());
    run("qemu-io", &args);
}

/// Converts random disks with each of `options`, writes to them where that is possible, and compares.
fn convert(format: &str, options: &[(&str, bool)], rounds: u64) {
    for (number, (options, writable)) in options.iter().enumerate() {
        for round in 0..rounds {
            let home = tempfile::tempdir().unwrap();
            let mut next = random(1 + number as u64 * 1000 + round);
            let source = raw(home.path(), &mut next);
            let path = home.path().join(format!("disk.{format}"));
            let mut args = vec!["convert", "-f", "raw", "-O", format];
            if !options.is_empty() {
                args.extend(["-o", options]);
            }
            run("qemu-img", &[&args[..], &[arg(&source), arg(&path)]].concat());
            let len = fs::metadata(&source).unwrap().len();
            if *writable && round % 2 == 0 {
                scribble(&mut next, &path, format, len);
            }
            compare(&path, None, &by_qemu(&path, format), &files(home.path()));
            cut(&path, format);
        }
    }
}

/// A file that is cut short anywhere is refused when it is opened, or fails where it is read, or shows
/// what is left of it: nothing panics.
fn cut(path: &Path, format: &str) {
    let whole = fs::read(path).unwrap();
    for step in 0..8 {
        let len = whole.len() * step / 8;
        let short = path.with_file_name(format!("cut.{format}"));
        fs::write(&short, &whole[..len.max(1)]).unwrap();
        if let Err(e) = opened(&short, None) {
            assert!(e.to_string().contains("cut."), "{e}");
        }
        fs::remove_file(&short).unwrap();
    }
}

#[test]
fn vmdk_of_all_kinds() {
    convert(
        "vmdk",
        &[
            ("", true),
            ("zeroed_grain=on", true),
            ("subformat=monolithicFlat", true),
            ("subformat=twoGbMaxExtentSparse", true),
            ("subformat=twoGbMaxExtentFlat", true),
            ("subformat=streamOptimized", false),
        ],
        3,
    );
}

#[test]
fn vdi_of_all_kinds() {
    convert("vdi", &[("", true), ("static=on", true)], 4);
}

#[test]
fn vhdx_of_all_kinds() {
    convert(
        "vhdx",
        &[
            ("", true),
            ("subformat=fixed", true),
            ("block_size=1M", true),
            ("block_size=2M,block_state_zero=off", true),
        ],
        2,
    );
}

#[test]
fn chains_of_vmdk() {
    let dir = tempfile::tempdir().unwrap();
    let mut next = random(99);
    let source = raw(dir.path(), &mut next);
    let len = fs::metadata(&source).unwrap().len();
    let path = |n: u32| dir.path().join(format!("{n}.vmdk"));
    run("qemu-img", &["convert", "-f", "raw", "-O", "vmdk", arg(&source), arg(&path(0))]);
    for n in 1..4 {
        let (below, own) = (path(n - 1), path(n));
        run(
            "qemu-img",
            &["create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", arg(&below), arg(&own)],
        );
        scribble(&mut next, &own, "vmdk", len);
    }
    let chain: Vec<_> = (0..4).map(path).collect();
    compare(&path(3), None, &by_qemu(&path(3), "vmdk"), &chain);
    // A parent that was written to is not the disk that the child was made from.
    run("qemu-io", &["-f", "vmdk", "-c", "write 0 512", arg(&path(1))]);
    let e = opened(&path(3), None).unwrap_err().to_string();
    assert!(e.contains("it is another disk"), "{e}");
    // qcow2 over VMDK: a chain may change its format.
    let top = dir.path().join("top.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "vmdk", "-b", arg(&path(0)), arg(&top)]);
    scribble(&mut next, &top, "qcow2", len);
    compare(&top, None, &by_qemu(&top, "qcow2"), &[path(0), top.clone()]);
}

#[test]
fn a_split_vmdk_has_many_extents() {
    let dir = tempfile::tempdir().unwrap();
    for subformat in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let path = dir.path().join(format!("{subformat}.vmdk"));
        let options = format!("subformat={subformat}");
        run("qemu-img", &["create", "-q", "-f", "vmdk", "-o", &options, arg(&path), "4609M"]);
        let edge = 2047u64 << 20;
        let last = (4609u64 << 20) - 512;
        let mut args = vec!["-f".to_owned(), "vmdk".to_owned()];
        for (byte, at) in [(1, edge - 4096), (2, edge), (3, 2 * edge), (4, last)] {
            args.extend(["-c".into(), format!("write -P {byte} {at} 512")]);
        }
        args.push(arg(&path).into());
        run("qemu-io", &args);
        let image = opened(&path, None).unwrap();
        assert_eq!((image.len(), image.files().len()), (4609 << 20, 4));
        for (byte, at) in [(1, edge - 4096), (2, edge), (3, 2 * edge), (4, last), (0, edge + 512)] {
            let mut sector = [9; 512];
            image.read_at(&mut sector, at).unwrap();
            assert!(sector.iter().all(|b| *b == byte), "{subformat} at {at}");
        }
        // An extent that is missing, or that lies elsewhere.
        let flat = subformat.ends_with("Flat");
        let extent =
            dir.path().join(format!("{subformat}-{}002.vmdk", if flat { 'f' } else { 's' }));
        fs::remove_file(&extent).unwrap();
        let e = opened(&path, None).unwrap_err().to_string();
        assert!(e.contains("002.vmdk' is not in the directory"), "{e}");
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        let name = extent.file_name().unwrap().to_str().unwrap();
        fs::write(&path, text.replace(name, "/etc/shadow")).unwrap();
        let e = opened(&path, None).unwrap_err().to_string();
        assert!(e.contains("'/etc/shadow' is not in the directory"), "{e}");
    }
}

#[test]
fn esx_snapshots_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let le = |values: &[u32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
    // 2 MiB in grains of one sector; the directory is at sector 4, its table at sector 5.
    let mut extent = [&b"COWD"[..], &le(&[1, 3, 4096, 1, 4, 1])].concat();
    extent.resize(4 * 512, 0);
    extent.extend(le(&[5]));
    extent.resize(5 * 512, 0);
    let mut table = vec![0; 4096];
    (table[7], table[4095]) = (37, 38);
    extent.extend(le(&table));
    extent.resize(37 * 512, 0);
    extent.extend([[7; 512], [8; 512]].concat());
    fs::write(dir.path().join("esx-delta.vmdk"), extent).unwrap();
    let path = dir.path().join("esx.vmdk");
    fs::write(
        &path,
        "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n\
         createType=\"vmfsSparse\"\nRW 4096 VMFSSPARSE \"esx-delta.vmdk\"\n",
    )
    .unwrap();
    let expected = by_qemu(&path, "vmdk");
    assert_eq!((expected[7 * 512], expected[4095 * 512]), (7, 8));
    compare(&path, None, &expected, &files(dir.path()));
    let e = opened(&dir.path().join("esx-delta.vmdk"), None).unwrap_err().to_string();
    assert!(e.contains("it is one extent of a disk"), "{e}");
}

/// A header can claim any length; nothing is allocated for it.
#[test]
fn a_huge_disk_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for (format, size) in [("vhdx", "64T"), ("vmdk", "60T"), ("vdi", "500T"), ("qcow2", "60T")] {
        let path = dir.path().join(format!("huge.{format}"));
        let made = output("qemu-img", &["create", "-q", "-f", format, arg(&path), size]);
        assert!(made.status.success(), "{format}: {}", String::from_utf8_lossy(&made.stderr));
        let image = opened(&path, None).unwrap();
        let mut sector = [1; 512];
        image.read_at(&mut sector, image.len() - 512).unwrap();
        assert_eq!(sector, [0; 512]);
    }
}

#[test]
fn disks_of_all_formats_are_mounted() {
    let tiny = Tiny::new();
    for format in ["vmdk", "vdi", "vhdx"] {
        let path = tiny.file(&format!("root.{format}"));
        run("qemu-img", &["convert", "-f", "raw", "-O", format, arg(&tiny.image), arg(&path)]);
        let mount = Mount::new(&[], &path);
        assert_eq!(sha256(mount.part(1)), sha256(&tiny.image), "{format}");
        mount.unmount();
    }
}

//! Looking into a guest: planning, replaying a journal, scanning an initrd, parsing boot menus.
//! Needs mke2fs and debugfs (e2fsprogs).

use criterion::{Criterion, Throughput};
use std::fs;
use std::hint::black_box;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use synthdisk::bootmenu::{extlinux, grub_legacy, grub2};
use synthdisk::fs::ext4::Ext4Fs;
use synthdisk::fs::{Budget, GuestFs, MemFs};
use synthdisk::initrd::{Initrd, Whole};
use synthdisk::plan::{OverlayChoice, Plan, SourceOptions};
use tempfile::TempDir;

/// Run a program, with `input` for it to read.
fn run(program: &str, args: &[&str], input: &str) {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
    assert!(child.wait().expect("our child").success(), "{program} failed");
}

/// The head of a bzImage that Linux 6.1 could have, and nothing after it.
fn kernel() -> Vec<u8> {
    let mut kernel = vec![0; 300_000];
    kernel[0x1f1] = 9;
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    kernel[0x20e..0x210].copy_from_slice(&0x1000_u16.to_le_bytes());
    kernel[0x211] = 1;
    kernel[0x22c..0x230].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    kernel[0x238..0x23c].copy_from_slice(&2047_u32.to_le_bytes());
    kernel[0x258..0x260].copy_from_slice(&0x0100_0000_u64.to_le_bytes());
    kernel[0x260..0x264].copy_from_slice(&0x0250_0000_u32.to_le_bytes());
    kernel[0x1200..0x120c].copy_from_slice(b"6.1.0-bench\0");
    kernel
}

/// A guest's filesystem of 16 MiB.
fn image(dir: &Path) -> PathBuf {
    let tree = dir.join("tree");
    fs::create_dir_all(tree.join("boot/grub")).expect("a directory of our own");
    fs::create_dir_all(tree.join("etc")).expect("a directory of our own");
    let file = |path: &str, data: &[u8]| fs::write(tree.join(path), data).expect("our own file");
    file("boot/vmlinuz-1", &kernel());
    file("boot/initrd.img-1", &initrd(50));
    file("boot/grub/menu.lst", legacy_menu(1).as_bytes());
    file("etc/fstab", b"/dev/xvda2 / ext4 defaults 0 1\n/dev/xvda1 none swap sw 0 0\n");
    file("data", &[b'x'; 64 << 10]);
    let image = dir.join("root.img");
    fs::File::create(&image).and_then(|f| f.set_len(16 << 20)).expect("a sparse file");
    let tree = tree.to_string_lossy();
    run(
        "mke2fs",
        &["-q", "-F", "-t", "ext4", "-b", "4096", "-d", &tree, &image.to_string_lossy()],
        "",
    );
    image
}

fn planning(c: &mut Criterion) {
    let dir = TempDir::new().expect("a temporary directory");
    let options = SourceOptions { images: vec![image(dir.path())], ..SourceOptions::default() };
    let overlay = OverlayChoice::Temporary(dir.path().to_path_buf());
    c.bench_function("plan a small image", |b| {
        b.iter(|| {
            let plan = Plan::build(&options, &overlay).expect("a guest that boots");
            assert!(plan.boot.is_some());
            plan
        });
    });
}

fn journal(c: &mut Criterion) {
    let dir = TempDir::new().expect("a temporary directory");
    let image = image(dir.path());
    let open = |bytes: &Arc<Vec<u8>>| Ext4Fs::open(Arc::clone(bytes)).expect("an ext4 filesystem");
    let clean = Arc::new(fs::read(&image).expect("our own file"));
    c.bench_function("open ext4, clean", |b| b.iter(|| open(&clean)));
    let new = dir.path().join("new");
    fs::write(&new, [b'n'; 100 * 4096]).expect("our own file");
    // 100 blocks in each of two transactions, some of them revoked.
    let log = format!(
        "jo -c -v 3\njw -b 3000-3099 {0}\njw -r 3000\njw -b 3001-3100 {0}\njc\n",
        new.display()
    );
    run("debugfs", &["-w", "-f", "-", &image.to_string_lossy()], &log);
    let dirty = Arc::new(fs::read(&image).expect("our own file"));
    assert_ne!(dirty[1024 + 0x60] & 4, 0, "the journal is not dirty");
    c.bench_function("open ext4, replaying 200 blocks", |b| b.iter(|| open(&dirty)));
    assert!(open(&dirty).read("/data", 1 << 20).is_ok());
}

/// A cpio archive (newc) with `count` modules of 10 KiB.
fn initrd(count: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let mut add = |name: &str, mode: u32, data: &[u8]| {
        let fields = [0, mode, 0, 0, 1, 0, data.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        let fields: String = fields.iter().map(|f| format!("{f:08x}")).collect();
        out.extend(format!("070701{fields}{name}\0").into_bytes());
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend(data);
        out.resize(out.len().next_multiple_of(4), 0);
    };
    let data: Vec<u8> = (0..10_u32 << 10).map(|i: u32| ((i * i) >> 7) as u8).collect();
    for i in 0..count {
        add(&format!("lib/modules/6.1.0/kernel/drivers/net/card{i}.ko"), 0o100_644, &data);
    }
    add("init", 0o100_755, b"#!/bin/sh\n");
    add("TRAILER!!!", 0, b"");
    out
}

fn initrds(c: &mut Criterion) {
    let mut group = c.benchmark_group("scan an initrd of 300 modules");
    let plain = initrd(300);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&plain).expect("memory");
    let packed = gzip.finish().expect("memory");
    group.throughput(Throughput::Bytes(plain.len() as u64));
    for (name, bytes) in [("plain", plain), ("gzip", packed)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let found =
                    Initrd::read(&mut Whole(bytes.clone()), &Budget::new()).expect("memory");
                assert!(found.complete && found.has_driver("6.1.0", "card299"));
                black_box(found)
            });
        });
    }
    group.finish();
}

fn legacy_menu(entries: u32) -> String {
    let entry = |i| {
        format!(
            "title Linux {i}\nroot (hd0,0)\nkernel /boot/vmlinuz-{i} root=/dev/xvda2 ro\n\
             initrd /boot/initrd.img-{i}\n\n"
        )
    };
    format!("default 0\ntimeout 2\n\n{}", (1..=entries).map(entry).collect::<String>())
}

fn menus(c: &mut Criterion) {
    const ENTRIES: u32 = 20;
    let grub2_entry = |i| {
        format!(
            "menuentry 'Linux {i}' --class gnu-linux $menuentry_id_option 'id-{i}' {{\n\
             \tload_video\n\tif [ x$grub_platform = xxen ]; then insmod xzio; fi\n\
             \tsearch --no-floppy --fs-uuid --set=root 0000-{i}\n\
             \tlinux /boot/vmlinuz-{i} root=UUID=0000-{i} ro quiet\n\
             \tinitrd /boot/initrd.img-{i}\n}}\n"
        )
    };
    let grub2_menu = format!(
        "set default=\"0\"\nfunction load_video {{\n  insmod all_video\n}}\n{}",
        (0..ENTRIES).map(grub2_entry).collect::<String>()
    );
    let extlinux_entry = |i| {
        format!(
            "label l{i}\n  menu label Linux {i}\n  kernel /vmlinuz-{i}\n  append initrd=/i-{i} ro\n"
        )
    };
    let extlinux_menu =
        format!("default l0\n{}", (0..ENTRIES).map(extlinux_entry).collect::<String>());
    let legacy = legacy_menu(ENTRIES);
    let mut group = c.benchmark_group("parse a menu of 20 entries");
    // What may be parsed is budgeted by filesystem, so each parse gets one of its own.
    group.bench_function("GRUB 2", |b| {
        b.iter(|| grub2::parse(&MemFs::new(), "/boot/grub/grub.cfg", &grub2_menu).expect("a menu"));
    });
    group.bench_function("GRUB legacy", |b| {
        b.iter(|| {
            grub_legacy::parse(&MemFs::new(), "/boot/grub/menu.lst", &legacy).expect("a menu")
        });
    });
    group.bench_function("extlinux", |b| {
        b.iter(|| {
            extlinux::parse(&MemFs::new(), "/boot/extlinux.conf", &extlinux_menu).expect("a menu")
        });
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
        .configure_from_args();
    planning(&mut criterion);
    journal(&mut criterion);
    initrds(&mut criterion);
    menus(&mut criterion);
    criterion.final_summary();
}

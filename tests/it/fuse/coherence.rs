//! disk.raw and partN.raw are one disk: what is written through one is what the other shows, the
//! pages that the kernel caches included, and the boot gap follows what the guest installs.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::file::{
    Aligned, DIRECT_ALIGN, bytes_of, direct, read_at, reader, write_at, writer,
};
use crate::common::hash::Untouched;
use crate::common::map::Map;
use crate::common::mount::{LoopDev, Mount};
use crate::common::process::{is_root, run, run_text, skip};
use crate::common::tiny::{INITRD_LEN, KERNEL_LEN, Tiny, UUID, fake_kernel, initrd, menu, noise};
use synthdisk::loader::direct::Params;
use synthdisk::loader::direct::{CMDLINE_LBA, KERNEL_LBA, PARAMS_LBA};

const MIB: u64 = 1 << 20;
const ROOT_AT: u64 = 64 * MIB;
const PAGE: usize = 4096;

fn mounted(tiny: &Tiny) -> (Mount, Untouched) {
    let untouched = Untouched::remember(&tiny.image);
    (Mount::new(&["--swap", "8M"], &tiny.image), untouched)
}

#[test]
fn a_write_through_one_file_is_read_through_the_other() {
    let tiny = Tiny::new();
    let (mount, untouched) = mounted(&tiny);
    let (whole, part) = (writer(mount.disk()), writer(mount.part(1)));
    let (whole_direct, part_direct) = (direct(mount.disk(), true), direct(mount.part(1), true));
    let at = 8 * MIB;
    let writers: [(&File, u64); 4] =
        [(&whole, ROOT_AT), (&part, 0), (&whole_direct, ROOT_AT), (&part_direct, 0)];
    let maps = [
        (Map::new(&whole, ROOT_AT + at, PAGE, true).unwrap(), "disk.raw, shared"),
        (Map::new(&part, at, PAGE, true).unwrap(), "part1.raw, shared"),
    ];
    for round in 0..200 {
        for (i, (file, base)) in writers.iter().enumerate() {
            let block = Aligned::of(&noise(PAGE, round * 10 + i as u64));
            write_at(file, block.as_ref(), base + at);
            for (file, base) in &writers {
                let got = Aligned::read(file, base + at, PAGE).unwrap();
                assert!(got == block.as_ref(), "round {round}: written by {i}, read at {base}");
            }
            for (map, what) in &maps {
                assert!(map.copy(0, PAGE) == block.as_ref(), "round {round}: by {i}, {what}");
            }
        }
    }
    // Discards are writes, too.
    run(
        "fallocate",
        &["-p", "-o", &at.to_string(), "-l", "4096", &mount.part(1).to_string_lossy()],
    );
    assert_eq!(read_at(&whole, ROOT_AT + at, PAGE), [0; PAGE]);
    assert!(maps.iter().all(|(map, _)| map.copy(0, PAGE) == [0; PAGE]));
    drop((maps, whole, part, whole_direct, part_direct));
    mount.unmount();
    untouched.check();
}

#[test]
fn pages_that_nobody_has_open_do_not_come_back() {
    let tiny = Tiny::new();
    let (mount, untouched) = mounted(&tiny);
    for round in 0..50 {
        // Fill the page cache, close, change the bytes through the other file, open again.
        bytes_of(mount.disk(), ROOT_AT, MIB as usize);
        let block = noise(PAGE, round);
        write_at(&writer(mount.part(1)), &block, 5 * PAGE as u64);
        assert!(bytes_of(mount.disk(), ROOT_AT + 5 * PAGE as u64, PAGE) == block, "round {round}");
    }
    mount.unmount();
    untouched.check();
}

/// Sectors of one page belong to different threads, which write through different files. A hang
/// here is a deadlock between pages that the kernel holds and pages that we ask it to drop.
#[test]
fn writers_of_neighbouring_sectors() {
    let tiny = Tiny::new();
    let (mount, untouched) = mounted(&tiny);
    let deadline = Instant::now() + Duration::from_secs(4);
    let threads = 8u64;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let mount = &mount;
            scope.spawn(move || {
                let (file, base) = match thread % 4 {
                    0 => (writer(mount.disk()), ROOT_AT),
                    1 => (writer(mount.part(1)), 0),
                    2 => (direct(mount.disk(), true), ROOT_AT),
                    _ => (writer(mount.disk()), ROOT_AT),
                };
                let other = if base == 0 { reader(mount.disk()) } else { reader(mount.part(1)) };
                let (base, other_base) = (base, ROOT_AT - base);
                let mut round = 0;
                while Instant::now() < deadline {
                    round += 1;
                    // Every page in turn, the thread's own sector in each; some are new to the
                    // page cache, some are not.
                    let page = round * 7 % 64;
                    let at = 10 * MIB + page * PAGE as u64 + thread * 512;
                    let bytes = Aligned::of(&noise(512, thread << 40 | round));
                    write_at(&file, bytes.as_ref(), base + at);
                    let seen = read_at(&other, other_base + at, 512);
                    assert!(seen == bytes.as_ref(), "thread {thread}, round {round}");
                    if round % 50 == 0 {
                        // Drop the pages, so that the next partial write finds none.
                        nix::fcntl::posix_fadvise(
                            &file,
                            0,
                            0,
                            nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED,
                        )
                        .expect("it is only advice");
                    }
                }
                assert!(round > 20, "thread {thread} came to {round} rounds only");
            });
        }
    });
    mount.unmount();
    untouched.check();
}

/// Random writes and reads of threads that have their own ranges, compared with a model.
#[test]
fn stress_with_all_kinds_of_access() {
    let tiny = Tiny::new();
    let (mount, untouched) = mounted(&tiny);
    let image = fs::read(&tiny.image).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    std::thread::scope(|scope| {
        for thread in 0..6u64 {
            let (mount, image) = (&mount, &image);
            scope.spawn(move || {
                const OWN: usize = 1 << 20;
                let start = (9 + thread) * MIB;
                let mut model = image[start as usize..start as usize + OWN].to_vec();
                let files = [
                    (writer(mount.disk()), ROOT_AT + start, 1),
                    (writer(mount.part(1)), start, 1),
                    (direct(mount.disk(), true), ROOT_AT + start, DIRECT_ALIGN),
                    (direct(mount.part(1), true), start, DIRECT_ALIGN),
                ];
                let map = Map::new(&files[0].0, ROOT_AT + start, OWN, true).unwrap();
                let part_map = Map::new(&files[1].0, start, OWN, true).unwrap();
                let mut dice = noise(1 << 16, thread + 77).into_iter().cycle();
                let mut roll = |n: usize| {
                    let mut number = 0;
                    for _ in 0..3 {
                        number = number << 8 | usize::from(dice.next().expect("it is endless"));
                    }
                    number % n
                };
                let mut round = 0;
                while Instant::now() < deadline {
                    round += 1;
                    let (file, base, align) = &files[roll(4)];
                    let at = roll(OWN - 1) / align * align;
                    let len = (roll(60_000) + 1).next_multiple_of(*align).min(OWN - at);
                    match roll(5) {
                        0..=2 => {
                            let bytes = Aligned::of(&noise(len, round));
                            write_at(file, bytes.as_ref(), base + at as u64);
                            model[at..at + len].copy_from_slice(bytes.as_ref());
                        }
                        3 => {
                            let punch = nix::fcntl::FallocateFlags::FALLOC_FL_PUNCH_HOLE
                                | nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
                            let offset = (base + at as u64) as i64;
                            nix::fcntl::fallocate(file, punch, offset, len as i64).expect("punch");
                            model[at..at + len].fill(0);
                        }
                        _ => {}
                    }
                    let (file, base, align) = &files[roll(4)];
                    let at = roll(OWN - 1) / align * align;
                    let len = (roll(60_000) + 1).next_multiple_of(*align).min(OWN - at);
                    let mut got = Aligned::zeroed(len);
                    file.read_exact_at(got.as_mut(), base + at as u64).expect("read");
                    let same = got.as_ref() == &model[at..at + len];
                    assert!(same, "thread {thread}, round {round}: read {len} at {at}");
                    for (map, what) in [(&map, "disk.raw"), (&part_map, "part1.raw")] {
                        let same = map.copy(at, len) == model[at..at + len];
                        assert!(same, "thread {thread}, round {round}: {what} mapped at {at}");
                    }
                }
                assert!(round > 20, "thread {thread} came to {round} rounds only");
            });
        }
    });
    mount.unmount();
    untouched.check();
}

/// What the gap holds: parameters, kernel, initrd, command line.
fn gap(disk: &File) -> (Params, Vec<u8>, Vec<u8>, String) {
    let read = |at: u64, len: usize| {
        let from = at - at % DIRECT_ALIGN as u64;
        let lead = (at - from) as usize;
        let bytes = Aligned::read(disk, from, (lead + len).next_multiple_of(DIRECT_ALIGN));
        bytes.expect("the gap is readable")[lead..lead + len].to_vec()
    };
    let params = Params::decode(&read(PARAMS_LBA * 512, 512)).expect("a valid parameter block");
    let kernel = read(params.kernel_lba * 512, params.kernel_bytes as usize);
    let (lba, len) = params.initrd.unwrap_or((KERNEL_LBA, 0));
    let initrd = read(lba * 512, len as usize);
    let line = read(CMDLINE_LBA * 512, params.cmdline_bytes as usize);
    (params, kernel, initrd, String::from_utf8(line).expect("the command line is text"))
}

/// Check the gap through every kind of reader.
fn expect_gap(disk: &Path, cached: &File, kernel: &[u8], initrd: &[u8]) -> Params {
    let fresh = reader(disk);
    let readers = [cached, &fresh, &direct(disk, false)];
    let mut first: Option<Params> = None;
    for (i, file) in readers.into_iter().enumerate() {
        let (params, got_kernel, got_initrd, line) = gap(file);
        assert_eq!(params.message, None, "reader {i}");
        assert!(got_kernel == kernel, "reader {i}: another kernel");
        assert!(got_initrd == initrd, "reader {i}: another initrd");
        assert!(line.contains(&format!("root=UUID={UUID}")), "{line}");
        assert_eq!(first.get_or_insert_with(|| params.clone()), &params, "reader {i}");
    }
    let len = (KERNEL_LBA * 512) as usize + KERNEL_LEN;
    let map = Map::new(cached, 0, len, true).expect("mmap");
    assert!(
        map.copy((KERNEL_LBA * 512) as usize, kernel.len()) == kernel,
        "mapped: another kernel"
    );
    first.expect("there are readers")
}

fn debugfs(part: &Path, requests: &[String]) {
    for request in requests {
        let said = run("debugfs", &["-w", "-R", request, &part.to_string_lossy()]);
        // Its exit code is always 0; errors are lines after the one with the version.
        let said = crate::common::process::text(&said.stderr);
        assert!(said.lines().count() <= 1, "debugfs {request}: {said}");
    }
}

fn put(tiny: &Tiny, name: &str, bytes: &[u8]) -> String {
    fs::write(tiny.file(name), bytes).expect("our own file");
    tiny.file(name).to_string_lossy().into_owned()
}

#[test]
fn the_gap_follows_the_guest() {
    let tiny = Tiny::new();
    let (mount, untouched) = mounted(&tiny);
    let cached = reader(mount.disk());
    let (old, initrd) = (fake_kernel(1), initrd(101));
    let first = expect_gap(&mount.disk(), &cached, &old, &initrd);

    // A new kernel beside the old one, and a menu that boots it.
    let (new, new_initrd) = (fake_kernel(2), noise(INITRD_LEN + 5000, 102));
    let part = mount.part(1);
    let files = [
        put(&tiny, "k", &new),
        put(&tiny, "i", &new_initrd),
        put(&tiny, "m", menu("2").as_bytes()),
    ];
    debugfs(
        &part,
        &[
            format!("write {} boot/vmlinuz-2", files[0]),
            format!("write {} boot/initrd.img-2", files[1]),
            "rm boot/grub/menu.lst".into(),
            format!("write {} boot/grub/menu.lst", files[2]),
        ],
    );
    let second = expect_gap(&mount.disk(), &cached, &new, &new_initrd);
    assert_ne!(first.token, second.token);
    assert_ne!(first.initrd, second.initrd);

    // The same name with other bytes, as when an initrd is built again.
    let rebuilt = noise(INITRD_LEN + 5000, 103);
    let file = put(&tiny, "i", &rebuilt);
    debugfs(&part, &["rm boot/initrd.img-2".into(), format!("write {file} boot/initrd.img-2")]);
    let third = expect_gap(&mount.disk(), &cached, &new, &rebuilt);
    assert_ne!(second.token, third.token);

    // Nothing to boot: the loader has a message, and stale kernels are gone.
    debugfs(&part, &["rm boot/vmlinuz-1".into(), "rm boot/vmlinuz-2".into()]);
    for file in [&cached, &reader(mount.disk()), &direct(mount.disk(), false)] {
        let (params, ..) = gap(file);
        let message = params.message.expect("there is nothing to boot");
        assert!(message.contains("kernel"), "{message}");
        assert_eq!(Aligned::read(file, KERNEL_LBA * 512, 8192).unwrap(), [0; 8192]);
    }
    // And back again.
    let file = put(&tiny, "k", &old);
    debugfs(&part, &[format!("write {file} boot/vmlinuz-2")]);
    expect_gap(&mount.disk(), &cached, &old, &rebuilt);
    drop(cached);
    mount.unmount();
    untouched.check();
}

#[test]
fn the_gap_follows_a_mounted_partition() {
    if !is_root() {
        skip("mounting needs root");
        return;
    }
    let tiny = Tiny::new();
    let (mount, untouched) = mounted(&tiny);
    let cached = reader(mount.disk());
    let initrd = initrd(101);
    expect_gap(&mount.disk(), &cached, &fake_kernel(1), &initrd);
    let dir = tiny.file("mnt");
    fs::create_dir(&dir).unwrap();
    for seed in 2..6 {
        {
            let device = LoopDev::attach(mount.part(1), false);
            run("mount", &[device.device(), &dir]);
            let wrote = fs::write(dir.join("boot/new"), fake_kernel(seed))
                .and_then(|()| fs::rename(dir.join("boot/new"), dir.join("boot/vmlinuz-1")));
            let synced = wrote.and_then(|()| File::open(&dir)?.sync_all());
            run("umount", &[&dir]);
            synced.expect("written through the loop device");
        }
        expect_gap(&mount.disk(), &cached, &fake_kernel(seed), &initrd);
    }
    let verdict = run_text("e2fsck", &["-fn".as_ref(), mount.part(1).as_os_str()]);
    assert!(!verdict.contains("errors"), "{verdict}");
    drop(cached);
    mount.unmount();
    untouched.check();
}

/// Readers of the gap beside a writer of the guest's boot files: a read that begins after a write
/// has returned must see it, however many other reads are in flight.
#[test]
fn the_gap_is_never_older_than_the_last_write() {
    let tiny = Tiny::new();
    let (mount, untouched) = mounted(&tiny);
    // The kernel's bytes are changed in place: find the offset of its second half.
    let image = fs::read(&tiny.image).unwrap();
    let needle = &fake_kernel(1)[200_000 / PAGE * PAGE..][..PAGE];
    let at = image.chunks(PAGE).position(|c| c == needle).expect("the kernel is in the image");
    let (at, in_gap) = ((at * PAGE) as u64, KERNEL_LBA * 512 + (200_000 / PAGE * PAGE) as u64);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let file = reader(mount.disk());
                while !done.load(Ordering::Relaxed) {
                    read_at(&file, 0, 512 << 10);
                }
            });
        }
        let (part, whole) = (writer(mount.part(1)), writer(mount.disk()));
        let cached = reader(mount.disk());
        let past = direct(mount.disk(), false);
        let map = Map::new(&cached, in_gap, PAGE, true).unwrap();
        let deadline = Instant::now() + Duration::from_secs(3);
        let mut round = 0;
        while Instant::now() < deadline {
            round += 1;
            let bytes = noise(PAGE, round);
            if round % 2 == 0 {
                write_at(&part, &bytes, at);
            } else {
                write_at(&whole, &bytes, ROOT_AT + at);
            }
            let seen = [
                ("cached", read_at(&cached, in_gap, PAGE)),
                ("O_DIRECT", Aligned::read(&past, in_gap, PAGE).unwrap()),
                ("mapped", map.copy(0, PAGE)),
            ];
            for (what, got) in seen {
                if got != bytes {
                    done.store(true, Ordering::Relaxed);
                    panic!("round {round}: {what} shows older bytes");
                }
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(round > 20, "{round} rounds only");
    });
    mount.unmount();
    untouched.check();
}

/// Partial pages written at the border of gap and partition, which no page ends at.
#[test]
fn writes_at_the_gaps_end() {
    let tiny = Tiny::new();
    let untouched = Untouched::remember(&tiny.image);
    let mount = Mount::new(&["--swap", "0", "--align", "63s"], &tiny.image);
    let map = run_text("sfdisk", &["-d".as_ref(), mount.disk().as_os_str()]);
    let start = map.split("start=").nth(1).and_then(|s| s.split(',').next()?.trim().parse().ok());
    let start: u64 = start.map(|s: u64| s * 512).expect("sfdisk says where it starts");
    assert_ne!(start % PAGE as u64, 0);
    for round in 0..20 {
        let file = writer(mount.disk());
        // Read the gap, so that its pages must be dropped; partly write an uncached page.
        read_at(&file, 0, 4096);
        let at = start + 512 * (round % 3);
        let bytes = noise(100, round);
        write_at(&file, &bytes, at);
        assert_eq!(bytes_of(mount.part(1), at - start, 100), bytes);
        write_at(&file, &bytes, start - 50);
        assert_eq!(bytes_of(mount.part(1), 0, 50), bytes[50..]);
        nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED)
            .expect("it is only advice");
    }
    mount.unmount();
    untouched.check();
}

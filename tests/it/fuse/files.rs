//! What programs do to a disk image, done to `disk.raw` and `partN.raw` of a mount.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::common::file::{Aligned, bytes_of, direct, read_at, reader, write_at, writer};
use crate::common::hash::{Untouched, sha256};
use crate::common::map::Map;
use crate::common::mount::Mount;
use crate::common::process::{command, have, output, run, run_text, skip, text};
use crate::common::tiny::{Tiny, noise};
use nix::fcntl::{FallocateFlags, FcntlArg, fallocate, fcntl};
use nix::unistd::{Whence, lseek64};

const MIB: u64 = 1 << 20;
/// Where the root partition starts with the options used here.
const ROOT_AT: u64 = 64 * MIB;

/// A mount with a swap area of 8 MiB, and a check that its image does not change.
fn mounted(tiny: &Tiny) -> (Mount, Untouched) {
    let untouched = Untouched::remember(&tiny.image);
    (Mount::new(&["--swap", "8M"], &tiny.image), untouched)
}

fn len(path: impl AsRef<Path>) -> u64 {
    fs::metadata(path).expect("it is there").len()
}

#[test]
fn past_the_page_cache() {
    let tiny = Tiny::new();
    let (mount, untouched) = mounted(&tiny);
    let image = fs::read(&tiny.image).unwrap();
    let disk = direct(mount.disk(), true);
    assert_eq!(Aligned::read(&disk, ROOT_AT, MIB as usize).unwrap(), image[..MIB as usize]);
    let sector = Aligned::of(&noise(512, 1));
    let big = Aligned::of(&noise(MIB as usize, 2));
    // Sectors, pages, and ranges across the boundary of gap and partition.
    write_at(&disk, sector.as_ref(), ROOT_AT + 8 * MIB + 512);
    write_at(&disk, big.as_ref(), ROOT_AT - MIB / 2);
    assert_eq!(Aligned::read(&disk, ROOT_AT + 8 * MIB + 512, 512).unwrap(), sector.as_ref());
    assert_eq!(Aligned::read(&disk, ROOT_AT - MIB / 2, MIB as usize).unwrap(), big.as_ref());
    assert_eq!(bytes_of(mount.part(1), 0, (MIB / 2) as usize), big.as_ref()[(MIB / 2) as usize..]);
    // The sectors next to a written one do not change.
    let around = Aligned::read(&disk, ROOT_AT + 8 * MIB, 4096).unwrap();
    let at = 8 * MIB as usize;
    assert_eq!(around[..512], image[at..at + 512]);
    assert_eq!(around[1024..], image[at + 1024..at + 4096]);
    drop(disk);
    mount.unmount();
    untouched.check();
}

#[test]
fn the_table_the_gap_and_the_swap_area_are_writable() {
    let tiny = Tiny::new();
    let (mount, untouched) = mounted(&tiny);
    let end = len(mount.disk());
    let disk = writer(mount.disk());
    for (i, at) in [0, 512, 4096, 65536, 131_072, ROOT_AT - 512, end - 8 * MIB, end - 512]
        .into_iter()
        .enumerate()
    {
        let bytes = noise(512, i as u64 + 10);
        write_at(&disk, &bytes, at);
        assert_eq!(read_at(&disk, at, 512), bytes, "at {at}");
        assert_eq!(Aligned::read(&direct(mount.disk(), false), at, 512).unwrap(), bytes);
    }
    // A new table, as a guest or a person may make one.
    drop(disk);
    let script = "echo 'label: dos\nstart=2048,size=4096,type=83' | sfdisk -q \"$0\"";
    run("sh", &["-c", script, &mount.disk().to_string_lossy()]);
    let dump = run_text("sfdisk", &["-d".as_ref(), mount.disk().as_os_str()]);
    assert!(dump.contains("size=        4096"), "{dump}");
    mount.unmount();
    untouched.check();
}

#[test]
fn the_end_of_the_disk() {
    let tiny = Tiny::new();
    let (mount, untouched) = mounted(&tiny);
    for path in [mount.disk(), mount.part(1), mount.part(2)] {
        let end = len(&path);
        let mut past = Aligned::zeroed(8192);
        for file in [writer(&path), direct(&path, true)] {
            assert_eq!(file.read_at(past.as_mut(), end).unwrap(), 0, "a read at the end");
            assert_eq!(file.read_at(past.as_mut(), end - 4096).unwrap(), 4096);
            let block = Aligned::of(&noise(4096, 5));
            let error = file.write_at(block.as_ref(), end).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{}", path.display());
            let error = file.write_at(block.as_ref(), end + MIB).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
            // As on a block device, what still fits is written.
            let both = Aligned::of(&noise(8192, 6));
            assert_eq!(file.write_at(both.as_ref(), end - 4096).unwrap(), 4096);
            assert_eq!(bytes_of(&path, end - 4096, 4096), both.as_ref()[..4096]);
            assert_eq!(len(&path), end);
        }
        let mut appended = OpenOptions::new().append(true).open(&path).unwrap();
        assert_eq!(appended.write(b"x").unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    }
    mount.unmount();
    untouched.check();
}

#[test]
fn what_a_disk_cannot_do() {
    let tiny = Tiny::new();
    let (mount, untouched) = mounted(&tiny);
    let (disk, dir) = (mount.disk(), mount.dir());
    let before = sha256(&disk);
    let refused = |what: &str, result: std::io::Result<()>| {
        let error = result.expect_err(what);
        assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{what}: {error}");
    };
    let file = writer(&disk);
    refused("truncate", file.set_len(0));
    refused("truncate to more", file.set_len(len(&disk) + 512));
    file.set_len(len(&disk)).expect("the length that it has");
    refused("O_TRUNC", File::create(&disk).map(drop));
    refused("rename", fs::rename(&disk, dir.join("other")));
    refused("rename over", fs::rename(mount.part(1), &disk));
    refused("create", File::create(dir.join("new")).map(drop));
    refused("mkdir", fs::create_dir(dir.join("new")));
    refused("symlink", symlink("x", dir.join("new")));
    refused("link", fs::hard_link(&disk, dir.join("new")));
    refused("unlink", fs::remove_file(&disk));
    refused("chmod", fs::set_permissions(&disk, fs::Permissions::from_mode(0o777)));
    refused("chown", std::os::unix::fs::chown(&disk, Some(12345), None));
    let missing = fs::metadata(dir.join("part9.raw")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert_eq!(fs::metadata(disk.join("x")).unwrap_err().raw_os_error(), Some(libc::ENOTDIR));
    // `touch` is harmless and some tools do it.
    file.set_modified(std::time::SystemTime::now()).expect("touch");
    let names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names, ["disk.raw", "part1.raw", "part2.raw"]);
    assert_eq!(sha256(&disk), before);
    drop(file);
    mount.unmount();
    untouched.check();
}

/// A byte lock of an open file description, as QEMU takes them.
fn lock(file: &impl AsFd, kind: i32, byte: i64) -> nix::Result<i32> {
    let lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    };
    fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&lock))
}

#[test]
fn locks_of_open_file_descriptions() {
    let tiny = Tiny::new();
    let (mount, untouched) = mounted(&tiny);
    let (one, two) = (writer(mount.disk()), writer(mount.disk()));
    lock(&one, libc::F_WRLCK, 201).expect("a first lock");
    assert_eq!(lock(&two, libc::F_RDLCK, 201), Err(nix::Error::EAGAIN));
    lock(&two, libc::F_RDLCK, 202).expect("another byte");
    drop(one);
    // Closing gives locks back, once no child of another test that is just being started has a
    // copy of the descriptor any more.
    let freed = (0..500).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        lock(&two, libc::F_WRLCK, 201).is_ok()
    });
    assert!(freed, "closing did not give the lock back");
    drop(two);
    mount.unmount();
    untouched.check();
}

#[test]
fn qemus_own_tools() {
    if !have("qemu-img") || !have("qemu-io") {
        skip("no qemu-utils");
        return;
    }
    let tiny = Tiny::new();
    let (mount, untouched) = mounted(&tiny);
    let disk = mount.disk();
    let path = disk.to_string_lossy();
    let info: serde_json::Value =
        serde_json::from_str(&run_text("qemu-img", &["info", "--output=json", &path])).unwrap();
    assert_eq!(info["virtual-size"], len(&disk));
    assert_eq!(info["format"], "raw");
    // Raw has no check of its own; qemu-img says so with exit code 63.
    assert_eq!(output("qemu-img", &["check", "-f", "raw", &path]).status.code(), Some(63));

    for format in ["raw", "qcow2"] {
        let copy = tiny.file(&format!("copy.{format}"));
        let copy = copy.to_string_lossy();
        run("qemu-img", &["convert", "-f", "raw", "-O", format, &path, &copy]);
        run("qemu-img", &["compare", "-f", "raw", "-F", format, &path, &copy]);
        let stored = fs::metadata(&*copy).unwrap().blocks() * 512;
        assert!(stored < 20 * MIB, "the copy takes {stored} bytes: holes were lost");
    }
    for cache in ["none", "writeback", "writethrough"] {
        let io = |commands: &[&str]| {
            let mut args = vec!["-f", "raw", "-t", cache];
            for command in commands {
                args.extend(["-c", command]);
            }
            args.push(&path);
            let said = run("qemu-io", &args);
            let said = text(&said.stdout) + &text(&said.stderr);
            assert!(!said.contains("failed") && !said.contains("error"), "{said}");
        };
        io(&["write -P 0x5a 65M 1M", "read -P 0x5a 65M 1M", "flush"]);
        io(&["read -P 0x5a 65M 1M", "discard 65M 512k", "read -P 0 65M 512k"]);
        io(&["read -P 0x5a 68681728 512k", "write -z 65M 1M", "read -P 0 65M 1M"]);
        io(&["write -P 0xa5 65M 3k", "write -z -u 66561k 1k", "read -P 0xa5 65M 1k"]);
        io(&["aio_write -P 1 66M 64k", "aio_write -P 2 67M 64k", "aio_flush", "read -P 2 67M 64k"]);
        assert_eq!(bytes_of(mount.part(1), MIB, 4), [0xa5; 4], "{cache}");
    }
    mount.unmount();
    untouched.check();
}

/// The runs of data of a file, as (start, end).
fn data_runs(path: &Path) -> Vec<(u64, u64)> {
    let file = reader(path);
    let (mut runs, mut at) = (Vec::new(), 0);
    while let Ok(start) = lseek64(&file, at, Whence::SeekData) {
        at = lseek64(&file, start, Whence::SeekHole).expect("data has an end");
        runs.push((start as u64, at as u64));
    }
    runs
}

#[test]
fn holes_are_holes() {
    let tiny = Tiny::with(|tree| fs::write(tree.join("hole"), b"").unwrap());
    let (mount, untouched) = mounted(&tiny);
    let image_runs = data_runs(&tiny.image);
    assert!(image_runs.len() > 1, "the image itself has no holes");
    assert_eq!(data_runs(&mount.part(1)), image_runs);
    let root_runs: Vec<_> = data_runs(&mount.disk())
        .into_iter()
        .filter(|r| (ROOT_AT..ROOT_AT + len(&tiny.image)).contains(&r.0))
        // The last one goes on with the header of the swap area.
        .map(|(a, b)| (a - ROOT_AT, (b - ROOT_AT).min(len(&tiny.image))))
        .collect();
    assert_eq!(root_runs, image_runs);
    // Of the swap area only its header is stored.
    assert_eq!(data_runs(&mount.part(2)), [(0, 4096)]);
    let swap = reader(mount.part(2));
    assert_eq!(lseek64(&swap, 5000, Whence::SeekData), Err(nix::Error::ENXIO));
    assert_eq!(lseek64(&swap, 5000, Whence::SeekHole), Ok(5000));
    assert_eq!(lseek64(&swap, len(mount.part(2)) as i64, Whence::SeekHole), Err(nix::Error::ENXIO));
    // What is written is data, what is punched is a hole.
    let file = writer(mount.part(2));
    write_at(&file, &noise(4096, 9), MIB);
    assert_eq!(data_runs(&mount.part(2)), [(0, 4096), (MIB, MIB + 4096)]);
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&file, punch, 0, 2 * MIB as i64).expect("punch a hole");
    assert_eq!(data_runs(&mount.part(2)), []);
    drop((swap, file));
    for how in ["always", "auto"] {
        let copy = tiny.file(how);
        let option = format!("--sparse={how}");
        run("cp", &[&option, &*mount.disk().to_string_lossy(), &copy.to_string_lossy()]);
        run("cmp", &[&mount.disk(), &copy]);
        let stored = fs::metadata(&copy).unwrap().blocks() * 512;
        assert!(stored < 20 * MIB, "cp --sparse={how}: the copy takes {stored} bytes");
        fs::remove_file(copy).unwrap();
    }
    mount.unmount();
    untouched.check();
}

#[test]
fn punching_and_zeroing() {
    let tiny = Tiny::new();
    let (mount, untouched) = mounted(&tiny);
    let image = fs::read(&tiny.image).unwrap();
    let path = mount.part(1);
    let path = path.to_string_lossy();
    let (at, size) = (2 * MIB as usize + 100, 70_000);
    for (option, cached) in [("-p", false), ("-z", true)] {
        let mut want = image.clone();
        want[at..at + size].fill(0);
        let target =
            if cached { mount.disk().to_string_lossy().into_owned() } else { path.to_string() };
        let offset = if cached { ROOT_AT as usize + at } else { at };
        run("fallocate", &[option, "-o", &offset.to_string(), "-l", &size.to_string(), &target]);
        assert!(fs::read(&*path).unwrap() == want, "fallocate {option} zeroed something else");
        let file = writer(&*path);
        write_at(&file, &image[at..at + size], at as u64);
        assert!(fs::read(&*path).unwrap() == image);
    }
    // Past the end: as much as there is, and the file does not grow.
    let end = image.len();
    run("fallocate", &["-p", "-o", &(end - 4096).to_string(), "-l", "1M", &path]);
    assert_eq!(
        (len(&*path) as usize, bytes_of(&*path, end as u64 - 4096, 4096)),
        (end, vec![0; 4096])
    );
    // Space within the disk is always there; more there cannot be.
    run("fallocate", &["-n", "-l", "1M", &path]);
    assert!(!output("fallocate", &["-l", "1T", &path]).status.success());
    assert!(!output("fallocate", &["-c", "-l", "4096", &path]).status.success());
    mount.unmount();
    untouched.check();
}

#[test]
fn mappings() {
    let tiny = Tiny::new();
    let (mount, untouched) = mounted(&tiny);
    let image = fs::read(&tiny.image).unwrap();
    for (file, offset) in [
        (reader(mount.disk()), ROOT_AT),
        (direct(mount.disk(), false), ROOT_AT),
        (reader(mount.part(1)), 0),
    ] {
        for shared in [true, false] {
            let map = Map::new(&file, offset, image.len(), shared)
                .unwrap_or_else(|e| panic!("mmap, shared: {shared}: {e}"));
            assert!(map.copy(0, image.len()) == image, "shared: {shared}: other bytes");
        }
    }
    mount.unmount();
    untouched.check();
}

#[test]
fn many_requests_at_once() {
    let tiny = Tiny::new();
    let (mount, untouched) = mounted(&tiny);
    let image = fs::read(&tiny.image).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let (mount, image) = (&mount, &image);
            scope.spawn(move || {
                let file =
                    if thread % 2 == 0 { direct(mount.disk(), true) } else { writer(mount.disk()) };
                // Each thread has its own 2 MiB; it writes every other block.
                let own = thread * 2 * MIB;
                for round in 0..4u64 {
                    for block in (0..512).step_by(2) {
                        let at = own + block * 4096;
                        let bytes = Aligned::of(&noise(4096, thread << 32 | round << 16 | block));
                        write_at(&file, bytes.as_ref(), ROOT_AT + at);
                        let mut back = Aligned::zeroed(8192);
                        file.read_exact_at(back.as_mut(), ROOT_AT + at).expect("read it back");
                        let next = (at + 4096) as usize;
                        assert_eq!(back.as_ref()[..4096], *bytes.as_ref());
                        assert_eq!(back.as_ref()[4096..], image[next..next + 4096]);
                    }
                }
            });
        }
    });
    mount.unmount();
    untouched.check();
}

#[test]
fn an_image_that_is_cut_short_gives_errors() {
    let tiny = Tiny::new();
    let mount = Mount::new(&["--swap", "0"], &tiny.image);
    writer(&tiny.image).set_len(4 * MIB).expect("cut our own file");
    for file in [reader(mount.part(1)), reader(mount.disk()), direct(mount.disk(), false)] {
        let base = if file.metadata().unwrap().len() > 64 * MIB { ROOT_AT } else { 0 };
        let mut block = Aligned::zeroed(65536);
        let error = file.read_at(block.as_mut(), base + 8 * MIB).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
        file.read_exact_at(block.as_mut(), base + MIB).expect("what is there can be read");
    }
    assert_eq!(mount.daemon_pids().len(), 1, "the daemon lives");
    mount.unmount();
}

#[test]
fn read_only_mounts_refuse_writes() {
    let tiny = Tiny::new();
    let untouched = Untouched::remember(&tiny.image);
    for options in [&["--read-only"][..], &["-o", "ro"]] {
        let mount = Mount::new(options, &tiny.image);
        for path in [mount.disk(), mount.part(1), mount.part(2)] {
            let error = OpenOptions::new().write(true).open(&path).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{}", path.display());
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o222, 0);
        }
        let punch = command("fallocate").args(["-p", "-l", "4096"]).arg(mount.part(1)).output();
        assert!(!punch.unwrap().status.success());
        run("cmp", &[&tiny.image, &mount.part(1)]);
        mount.unmount();
    }
    untouched.check();
}

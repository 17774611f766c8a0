//! Snapshots of a live mount: `.snapshot-NAME` shows NAME as it was when it was opened, while
//! other programs keep writing.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::common::file::{Aligned, bytes_of, direct, read_at, reader, write_at, writer};
use crate::common::hash::{Untouched, sha256, sha256_of};
use crate::common::lanes::{block, last_write};
use crate::common::mount::Mount;
use crate::common::overlay::{Case, wait_until};
use crate::common::process::{SYNTHDISK, command, is_root, output, run, skip, text};
use crate::common::tiny::{Tiny, fake_kernel, menu, noise, open_to_all};
use nix::sys::statvfs::statvfs;
use nix::unistd::{Whence, lseek64};

const MIB: u64 = 1 << 20;
const ROOT_AT: u64 = 64 * MIB;
const PAGE: usize = 4096;

fn snapshot_of(mount: &Mount, name: &str) -> PathBuf {
    mount.dir().join(format!(".snapshot-{name}"))
}

/// Opens a snapshot. The kernel reports a close only after close(2) has returned, so the one
/// before may still be there for a moment.
fn take(path: impl AsRef<Path>) -> io::Result<File> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match File::open(path.as_ref()) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            result => return result,
        }
    }
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> Option<i32> {
    result.expect_err("that must not work").raw_os_error()
}

/// One thread per lane; lanes are written through disk.raw, through part1.raw past the page cache,
/// and through either in turn. Gives what each had written before and after the snapshot `take`n.
fn is_one_moment(mount: &Mount, seconds: u64) {
    const LANES: u64 = 3;
    const BLOCKS: u64 = 300;
    // Over whatever files the guest has there.
    let place = |lane: u64, i: u64| ROOT_AT + 4 * MIB + (i * LANES + lane) * PAGE as u64;
    let (start, len) = (place(0, 0), (LANES * BLOCKS) as usize * PAGE);
    write_at(&writer(mount.disk()), &vec![0; len], start);
    let done = AtomicBool::new(false);
    let acknowledged: Vec<AtomicU64> = (0..LANES).map(|_| AtomicU64::new(0)).collect();
    let counts = || acknowledged.iter().map(|n| n.load(Ordering::SeqCst)).collect::<Vec<_>>();
    let verdict = std::thread::scope(|scope| {
        for lane in 0..LANES {
            let (done, acknowledged) = (&done, &acknowledged[lane as usize]);
            scope.spawn(move || {
                let (whole, part) = (writer(mount.disk()), direct(mount.part(1), true));
                for n in 1.. {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    let at = place(lane, (n - 1) % BLOCKS);
                    let bytes = Aligned::of(&block(n, PAGE));
                    if lane == 0 || (lane == 2 && n % 2 == 0) {
                        write_at(&whole, bytes.as_ref(), at);
                    } else {
                        write_at(&part, bytes.as_ref(), at - ROOT_AT);
                    }
                    acknowledged.store(n, Ordering::SeqCst);
                }
            });
        }
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let look = || -> Result<u32, String> {
            let mut rounds = 0;
            while Instant::now() < deadline {
                let before = counts();
                let name = if rounds % 2 == 0 { "disk.raw" } else { "part1.raw" };
                let base = if rounds % 2 == 0 { 0 } else { ROOT_AT };
                let snapshot = take(snapshot_of(mount, name)).map_err(|e| e.to_string())?;
                let after = counts();
                let mut bytes = Vec::new();
                for i in 0..len / 50_000 + 1 {
                    std::thread::sleep(Duration::from_millis(2));
                    let n = 50_000.min(len - bytes.len());
                    bytes.extend(read_at(&snapshot, start - base + i as u64 * 50_000, n));
                }
                if read_at(&snapshot, start - base, len) != bytes {
                    return Err(format!("round {rounds}: read again, it has changed"));
                }
                for lane in 0..LANES as usize {
                    let blocks = bytes.chunks(PAGE).skip(lane).step_by(LANES as usize);
                    let last = last_write(blocks)
                        .map_err(|e| format!("round {rounds}, lane {lane}: {e}"))?;
                    // The write in flight may be in it.
                    if !(before[lane]..=after[lane] + 1).contains(&last) {
                        return Err(format!(
                            "round {rounds}, lane {lane}: {last}, with {} acknowledged before and \
                             {} after",
                            before[lane], after[lane]
                        ));
                    }
                }
                rounds += 1;
            }
            Ok(rounds)
        };
        let verdict = look();
        done.store(true, Ordering::Relaxed);
        verdict
    });
    let rounds = verdict.unwrap();
    eprintln!("{rounds} snapshots beside {:?} writes", counts());
    assert!(rounds > 3 && counts().iter().all(|n| *n > 2 * BLOCKS), "{rounds}, {:?}", counts());
}

#[test]
fn a_snapshot_is_one_moment_of_a_temporary_overlay() {
    let tiny = Tiny::new();
    let untouched = Untouched::remember(&tiny.image);
    let mount = Mount::new(&["--swap", "8M"], &tiny.image);
    is_one_moment(&mount, 6);
    mount.unmount();
    untouched.check();
}

#[test]
fn a_snapshot_is_one_moment_of_a_persistent_overlay() {
    let case = Case::new();
    let mount = case.mount_with(&["--swap", "8M"]);
    is_one_moment(&mount, 6);
    mount.unmount();
    case.check();
    case.untouched.check();
}

fn debugfs(part: &Path, requests: &[String]) {
    for request in requests {
        let said = text(&run("debugfs", &["-w", "-R", request, &part.to_string_lossy()]).stderr);
        // Its exit code is always 0; errors are lines after the one with the version.
        assert!(said.lines().count() <= 1, "debugfs {request}: {said}");
    }
}

/// The guest installs another kernel over the one that the gap shows, while the snapshot lives.
#[test]
fn the_gap_stays_as_it_was() {
    let tiny = Tiny::new();
    let untouched = Untouched::remember(&tiny.image);
    let mount = Mount::new(&["--swap", "8M"], &tiny.image);
    let old = sha256(mount.disk());
    let snapshot = reader(snapshot_of(&mount, "disk.raw"));
    // The same name, and blocks that were the old one's.
    let (kernel, entry) = (tiny.file("k"), tiny.file("m"));
    fs::write(&kernel, fake_kernel(2)).unwrap();
    fs::write(&entry, menu("2")).unwrap();
    let put = |from: &Path, to: &str| format!("write {} {to}", from.display());
    debugfs(
        &mount.part(1),
        &[
            "rm boot/vmlinuz-1".into(),
            put(&kernel, "boot/vmlinuz-2"),
            "rm boot/initrd.img-1".into(),
            put(&kernel, "boot/initrd.img-2"),
            "rm boot/grub/menu.lst".into(),
            put(&entry, "boot/grub/menu.lst"),
        ],
    );
    let new = sha256(mount.disk());
    assert_ne!(old, new);
    // Writes in the gap and the table, too.
    write_at(&writer(mount.disk()), &noise(3000, 1), 40 * 512);
    assert_eq!(sha256_of(&snapshot), old);
    drop(snapshot);
    let now = sha256(mount.disk());
    assert_ne!(now, new);
    assert_eq!(sha256_of(&take(snapshot_of(&mount, "disk.raw")).unwrap()), now);
    mount.unmount();
    untouched.check();
}

#[test]
fn names_and_what_they_allow() {
    let tiny = Tiny::new();
    let untouched = Untouched::remember(&tiny.image);
    let mount = Mount::new(&["--swap", "8M"], &tiny.image);
    let names: Vec<_> =
        fs::read_dir(mount.dir()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(names.len() == 3 && names.iter().all(|n| n != ".snapshot-disk.raw"), "{names:?}");
    for name in ["nothing", "", ".snapshot-disk.raw"] {
        assert_eq!(errno(File::open(snapshot_of(&mount, name))), Some(libc::ENOENT), "{name}");
    }
    let path = snapshot_of(&mount, "disk.raw");
    let meta = fs::metadata(&path).unwrap();
    assert_eq!(
        (meta.len(), meta.mode() & 0o777),
        (fs::metadata(mount.disk()).unwrap().len(), 0o400)
    );
    assert_eq!(errno(OpenOptions::new().write(true).open(&path)), Some(libc::EROFS));
    assert_eq!(errno(fs::remove_file(&path)), Some(libc::EPERM));

    // One at a time, under any name.
    let first = reader(&path);
    let part = snapshot_of(&mount, "part1.raw");
    for path in [&path, &part] {
        assert_eq!(errno(File::open(path)), Some(libc::EBUSY));
    }
    assert_eq!(errno(first.write_at(b"x", 0)), Some(libc::EBADF));
    let mut byte = [0];
    let end = meta.len();
    assert_eq!(first.read_at(&mut byte, end).unwrap(), 0);
    assert_eq!(first.read_at(&mut byte, end - 1).unwrap(), 1);
    drop(first);

    // A partition's shows the partition.
    let now = bytes_of(mount.part(1), 0, MIB as usize);
    let taken = take(&part).unwrap();
    write_at(&writer(mount.part(1)), &noise(MIB as usize, 9), 0);
    assert!(read_at(&taken, 0, MIB as usize) == now);
    assert_eq!(taken.metadata().unwrap().len(), fs::metadata(mount.part(1)).unwrap().len());
    drop(taken);
    mount.unmount();
    untouched.check();
}

/// Holes are those of the moment, and copying programs find them.
#[test]
fn holes_stay_holes() {
    let tiny = Tiny::new();
    let untouched = Untouched::remember(&tiny.image);
    let mount = Mount::new(&["--swap", "8M"], &tiny.image);
    let disk = writer(mount.disk());
    let at = 81 * MIB;
    write_at(&disk, &noise(MIB as usize, 1), at);
    let snapshot = reader(snapshot_of(&mount, "disk.raw"));
    write_at(&disk, &noise(3 * MIB as usize, 2), at);
    let whole = mount.disk();
    run("fallocate", &["-p", "-o", "64M", "-l", "1M", &whole.to_string_lossy()]);
    let seek = |from: u64, whence| lseek64(&snapshot, from as i64, whence).map(|at| at as u64);
    assert_eq!(seek(at, Whence::SeekHole), Ok(at + MIB));
    assert_eq!(seek(at + MIB, Whence::SeekData), Err(nix::errno::Errno::ENXIO));
    assert_eq!(seek(ROOT_AT, Whence::SeekData), Ok(ROOT_AT));
    assert_eq!(lseek64(&disk, ROOT_AT as i64, Whence::SeekHole), Ok(ROOT_AT as i64));
    drop((snapshot, disk));
    mount.unmount();
    untouched.check();
}

/// Other users of an `allow_other` mount cannot slow its guests down.
#[test]
fn a_snapshot_is_for_the_owner() {
    if !is_root() {
        skip("becoming another user needs root");
        return;
    }
    let tiny = Tiny::new();
    let dir = tiny.file("mnt");
    fs::create_dir(&dir).unwrap();
    let mount = Mount::at(&["--swap", "8M", "-o", "allow_other"], &[&tiny.image], &dir);
    open_to_all(tiny.path());
    let head = |name: &str| {
        let mut command = command("head");
        command.arg("-c1").arg(mount.dir().join(name)).uid(65534).gid(65534).current_dir("/");
        command.output().unwrap()
    };
    assert!(head("disk.raw").status.success());
    let refused = head(".snapshot-disk.raw");
    assert!(text(&refused.stderr).contains("Permission denied"), "{}", text(&refused.stderr));
    reader(snapshot_of(&mount, "disk.raw"));
    mount.unmount();
}

/// A tmpfs of a few MiB, unmounted when dropped.
struct Small(PathBuf);

impl Small {
    fn new(dir: &Path, size: &str) -> Self {
        fs::create_dir(dir).unwrap();
        run("mount", &["-t", "tmpfs", "-o", size, "tmpfs", &dir.to_string_lossy()]);
        Self(dir.to_path_buf())
    }

    fn used(&self) -> u64 {
        let stat = statvfs(&self.0).unwrap();
        (stat.blocks() - stat.blocks_free()) as u64 * stat.fragment_size() as u64
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = output("umount", &["-l".as_ref(), self.0.as_os_str()]);
    }
}

/// A mount with an overlay, whose temporary files go to `dir`.
fn mount_with_tmpdir(case: &Case, dir: &Path) -> Mount {
    let at = case.tiny.file("mnt");
    fs::create_dir(&at).unwrap();
    let mut command = command(SYNTHDISK);
    command.env("TMPDIR", dir).args(["mount", "--swap", "40M", "--overlay", &case.overlay()]);
    let result = command.arg(&case.tiny.image).arg(&at).output().unwrap();
    assert!(result.status.success(), "{}", text(&result.stderr));
    Mount::adopt(&at)
}

#[test]
fn space_is_given_back_and_never_taken_from_the_guest() {
    if !is_root() {
        skip("mounting needs root");
        return;
    }
    let case = Case::new();
    let small = Small::new(&case.tiny.file("small"), "size=8M");
    let mount = mount_with_tmpdir(&case, &small.0);
    let disk = writer(mount.disk());
    let at = 80 * MIB;
    let fill = |seed: u64, len: u64| {
        (0..len).for_each(|i| write_at(&disk, &noise(MIB as usize, seed + i), at + i * MIB));
    };
    fill(100, 30);
    let path = snapshot_of(&mount, "disk.raw");
    let snapshot = reader(&path);
    fill(200, 4);
    assert!((4 * MIB..5 * MIB).contains(&small.used()), "{}", small.used());
    assert!(read_at(&snapshot, at, MIB as usize) == noise(MIB as usize, 100));
    drop(snapshot);
    wait_until("space", || small.used() < MIB / 2);

    // More than there is room for: the writes arrive, the snapshot is over.
    let snapshot = take(&path).unwrap();
    fill(300, 30);
    for i in 0..30 {
        assert!(bytes_of(mount.disk(), at + i * MIB, MIB as usize) == noise(MIB as usize, 300 + i));
    }
    let mut byte = [0];
    assert_eq!(errno(snapshot.read_at(&mut byte, 0)), Some(libc::EIO));
    assert_eq!(errno(snapshot.read_at(&mut byte, at)), Some(libc::EIO));
    assert!(small.used() < MIB / 2, "{}", small.used());
    drop(snapshot);
    // The next snapshot works again.
    let snapshot = take(&path).unwrap();
    fill(400, 2);
    assert!(read_at(&snapshot, at, MIB as usize) == noise(MIB as usize, 300));
    drop(snapshot);
    drop(disk);
    mount.unmount();
    case.check();
    case.untouched.check();
}

/// Mapped pages that were synced are in it.
#[test]
fn mapped_writes_are_in_it_once_synced() {
    let tiny = Tiny::new();
    let mount = Mount::new(&["--swap", "8M"], &tiny.image);
    let disk = writer(mount.disk());
    let at = 70 * MIB;
    let map = crate::common::map::Map::writable(&disk, at, PAGE).unwrap();
    for round in 0..50 {
        let bytes = noise(PAGE, round);
        map.write(0, &bytes);
        disk.sync_all().unwrap();
        let snapshot = take(snapshot_of(&mount, "disk.raw")).unwrap();
        map.write(0, &noise(PAGE, round + 1000));
        disk.sync_all().unwrap();
        assert!(read_at(&snapshot, at, PAGE) == bytes, "round {round}");
    }
    drop((map, disk));
    mount.unmount();
}

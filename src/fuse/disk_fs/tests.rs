//! The replies of a mount, tested without a mount.

use super::*;
use crate::disk::{Disk, Region, RegionKind, RegionTable, Scratch, Source};
use crate::export::{ImageAccess, Status};

const DISK: u64 = 64 << 10;
const PART: u64 = 32 << 10;

fn disk(writable: bool) -> Arc<Disk> {
    let table = RegionTable::new(vec![Region {
        start: 0,
        len: DISK,
        kind: RegionKind::Gap,
        origin: String::new(),
        source: Source::Zeros,
    }]);
    let dir = std::env::temp_dir();
    let overlay = writable.then(|| Box::new(Scratch::new(&dir, DISK).unwrap()) as _);
    Arc::new(Disk::new(table.unwrap(), overlay))
}

/// `disk.raw`, with `part1.raw` in its second half, and a status.
fn fs_of(disk: &Arc<Disk>, options: &str) -> DiskFs {
    let file =
        |name: &str, start, len| ExportedFile::of_disk(name.into(), Arc::clone(disk), start, len);
    let status = Status {
        version: "1".into(),
        pid: 1,
        images: Vec::new(),
        overlays: Vec::new(),
        read_only: false,
        disks: Vec::new(),
        bootloader: None,
        bus: None,
        nic: None,
        firmware: Default::default(),
        sandbox: Default::default(),
    };
    let set = ExportSet {
        files: vec![file("disk.raw", 0, DISK), file("part1.raw", PART, DISK - PART)],
        status: Some(status),
        images: ImageAccess::default(),
        latency: Default::default(),
    };
    let mut mount = MountOptions::default();
    for option in options.split(',').filter(|o| !o.is_empty()) {
        assert!(mount.take(option).unwrap(), "{option}");
    }
    DiskFs::new(set, &mount).unwrap().with_snapshots(&std::env::temp_dir())
}

fn ino(fs: &DiskFs, name: &str) -> u64 {
    fs.lookup(ROOT, OsStr::new(name)).unwrap().ino
}

fn read(fs: &DiskFs, ino: u64, handle: u64, offset: u64, len: u64) -> FsResult<Vec<u8>> {
    let mut buffer = Vec::new();
    Ok(match fs.read(ino, handle, (offset, len), &mut buffer)? {
        Chunk::Mapped(_) => panic!("nothing here is mapped"),
        Chunk::Buffer(bytes) => bytes.to_vec(),
    })
}

#[test]
fn names_have_inodes_and_attributes() {
    let fs = fs_of(&disk(true), "uid=5,gid=6,umask=027");
    let root = fs.attr(ROOT).unwrap();
    assert_eq!((root.kind, root.perm, root.uid, root.gid), (Kind::Directory, 0o750, 5, 6));
    let part = fs.lookup(ROOT, OsStr::new("part1.raw")).unwrap();
    assert_eq!((part.kind, part.perm, part.size), (Kind::File, 0o640, DISK - PART));
    let snapshot = fs.lookup(ROOT, OsStr::new(".snapshot-part1.raw")).unwrap();
    assert_eq!((snapshot.perm, snapshot.size), (0o400, DISK - PART));
    assert_ne!(snapshot.ino, part.ino);
    assert_eq!(fs.lookup(ROOT, OsStr::new("x")), Err(Errno::ENOENT));
    assert_eq!(fs.lookup(part.ino, OsStr::new("disk.raw")), Err(Errno::ENOTDIR));
    assert_eq!(fs.attr(99), Err(Errno::ENOENT));
    let listed: Vec<_> = fs.entries(ROOT).unwrap().map(|(_, _, name)| name.to_owned()).collect();
    assert_eq!(listed, [".", "..", "disk.raw", "part1.raw"]);
    assert!(fs.entries(part.ino).is_err());
    assert_eq!(fs.totals(), (DISK, 2));
}

#[test]
fn modes_follow_the_images_and_the_mount() {
    for (options, disk, expected) in [
        ("", disk(true), 0o600),
        ("allow_other", disk(true), 0o600),
        ("allow_other,umask=007", disk(true), 0o660),
        ("allow_other,umask=0", disk(false), 0o444),
        ("ro", disk(true), 0o400),
    ] {
        let fs = fs_of(&disk, options);
        let attr = fs.lookup(ROOT, OsStr::new("disk.raw")).unwrap();
        assert_eq!(attr.perm, expected, "{options}");
    }
}

#[test]
fn attributes_cannot_be_changed() {
    let fs = fs_of(&disk(true), "");
    let disk = ino(&fs, "disk.raw");
    let size = |size| AttrChange { size: Some(size), access: false };
    assert_eq!(fs.set_attr(disk, size(DISK)).unwrap(), fs.attr(disk).unwrap());
    assert_eq!(fs.set_attr(disk, size(DISK - 1)), Err(Errno::EPERM));
    assert_eq!(fs.set_attr(disk, AttrChange { size: None, access: true }), Err(Errno::EPERM));
    assert!(fs.set_attr(disk, AttrChange::default()).is_ok(), "times are ignored");
}

#[test]
fn what_is_written_is_read_by_the_other_file() {
    let fs = fs_of(&disk(true), "");
    let (disk, part) = (ino(&fs, "disk.raw"), ino(&fs, "part1.raw"));
    let opened = fs.open(disk, libc::O_RDWR, 0).unwrap();
    assert_eq!((opened.handle, opened.caching), (CACHED, Caching::Keep));
    let opened = fs.open(part, libc::O_RDWR | libc::O_DIRECT, 0).unwrap();
    assert_eq!((opened.handle, opened.caching), (DIRECT, Caching::NothingParallel));
    let changed = fs.write(part, WritePath::Direct, 512, &[7; 1024]);
    assert_eq!(changed.result, Ok(1024));
    assert_eq!(changed.answer, Answer::AfterDropping);
    let stale: Vec<_> = changed.pages.iter().map(|p| (p.file, p.offset, p.len)).collect();
    assert_eq!(stale, [(0, PART + 512, 1024)], "disk.raw is open through the page cache");
    let bytes = read(&fs, disk, CACHED, PART, 2048).unwrap();
    assert_eq!(bytes, [[0; 512], [7; 512], [7; 512], [0; 512]].concat());
    fs.release(disk, CACHED);
    // The file is not open, so its pages are dropped at the next open.
    assert!(fs.write(part, WritePath::Direct, 0, &[8; 512]).pages.is_empty());
    let (pages, renewal) = fs.open(disk, libc::O_RDONLY, 0).unwrap().renewal.unwrap();
    assert_eq!((pages.file, pages.offset, pages.len), (0, 0, 0));
    renewal.done();
    assert!(fs.open(disk, libc::O_RDONLY, 0).unwrap().renewal.is_none());
}

#[test]
fn reads_and_writes_end_with_the_file() {
    let fs = fs_of(&disk(true), "");
    let part = ino(&fs, "part1.raw");
    let end = DISK - PART;
    assert_eq!(read(&fs, part, DIRECT, end - 10, 100).unwrap().len(), 10);
    assert_eq!(read(&fs, part, DIRECT, end + 1, 100).unwrap().len(), 0);
    assert_eq!(fs.write(part, WritePath::Direct, end - 512, &[1; 1024]).result, Ok(512));
    assert_eq!(fs.write(part, WritePath::Direct, end, &[1]).result, Err(Errno::ENOSPC));
    assert_eq!(fs.write(part, WritePath::Direct, end, &[]).result, Ok(0));
    assert_eq!(fs.write(77, WritePath::Direct, 0, &[1]).result, Err(Errno::EBADF));
}

#[test]
fn holes_are_punched_and_found() {
    let fs = fs_of(&disk(true), "");
    let disk = ino(&fs, "disk.raw");
    assert_eq!(fs.write(disk, WritePath::Direct, 8192, &[1; 8192]).result, Ok(8192));
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    assert_eq!(fs.fallocate(disk, WritePath::Direct, punch, (8192, 4096)).result, Ok(4096));
    assert_eq!(fs.seek(disk, DIRECT, 0, Seek::Data), Ok(12288));
    assert_eq!(fs.seek(disk, DIRECT, 12288, Seek::Hole), Ok(16384));
    assert_eq!(fs.seek(disk, DIRECT, 16384, Seek::Data), Err(Errno::ENXIO));
    assert_eq!(fs.seek(ROOT, DIRECT, 0, Seek::Data), Err(Errno::EBADF));
    assert_eq!(fs.fallocate(disk, WritePath::Direct, 0, (0, DISK)).result, Ok(0));
    let longer = fs.fallocate(disk, WritePath::Direct, 0, (0, DISK + 1));
    assert_eq!(longer.result, Err(Errno::EFBIG));
    let collapse = fs.fallocate(disk, WritePath::Direct, libc::FALLOC_FL_COLLAPSE_RANGE, (0, 1));
    assert_eq!(collapse.result, Err(Errno::EOPNOTSUPP));
    assert_eq!(fs.sync(disk), Ok(()));
}

#[test]
fn a_read_only_disk_refuses_writes() {
    for (disk, options) in [(disk(false), ""), (disk(true), "ro")] {
        let fs = fs_of(&disk, options);
        let disk = ino(&fs, "disk.raw");
        assert_eq!(fs.open(disk, libc::O_RDWR, 0).unwrap_err(), Errno::EROFS);
        assert!(fs.open(disk, libc::O_RDONLY, 0).is_ok());
        assert_eq!(fs.write(disk, WritePath::Direct, 0, &[1]).result, Err(Errno::EROFS));
    }
}

#[test]
fn a_snapshot_file_stays_as_it_was() {
    let fs = fs_of(&disk(true), "uid=5");
    let (disk, snapshot) = (ino(&fs, "disk.raw"), ino(&fs, ".snapshot-disk.raw"));
    assert_eq!(fs.write(disk, WritePath::Direct, 4096, &[1; 4096]).result, Ok(4096));
    assert_eq!(fs.open(snapshot, libc::O_RDWR, 0).unwrap_err(), Errno::EROFS);
    assert_eq!(fs.open(snapshot, libc::O_RDONLY, 6).unwrap_err(), Errno::EACCES);
    let handle = fs.open(snapshot, libc::O_RDONLY, 5).unwrap().handle;
    assert_eq!(fs.open(snapshot, libc::O_RDONLY, 0).unwrap_err(), Errno::EBUSY);
    assert_eq!(fs.write(disk, WritePath::Direct, 4096, &[2; 4096]).result, Ok(4096));
    assert_eq!(read(&fs, snapshot, handle, 4096, 4096).unwrap(), [1; 4096]);
    assert_eq!(read(&fs, disk, DIRECT, 4096, 4096).unwrap(), [2; 4096]);
    assert_eq!(fs.seek(snapshot, handle, 0, Seek::Data), Ok(4096));
    assert_eq!(fs.write(snapshot, WritePath::Direct, 0, &[1]).result, Err(Errno::EBADF));
    fs.release(snapshot, handle);
    assert_eq!(read(&fs, snapshot, handle, 0, 1), Err(Errno::EBADF));
    assert!(fs.open(snapshot, libc::O_RDONLY, 0).is_ok());
}

#[test]
fn the_status_is_read_as_json() {
    let fs = fs_of(&disk(true), "");
    let status = ino(&fs, crate::export::STATUS_FILE);
    assert_eq!(fs.open(status, libc::O_WRONLY, 0).unwrap_err(), Errno::EACCES);
    let len = fs.attr(status).unwrap().size;
    let text = read(&fs, status, CACHED, 0, 1 << 20).unwrap();
    assert_eq!(text.len() as u64, len);
    assert_eq!(serde_json::from_slice::<Status>(&text).unwrap().pid, 1);
    assert!(read(&fs, status, CACHED, len + 1, 10).unwrap().is_empty());
    let private = DiskFs::new(ExportSet::private(Vec::new()), &MountOptions::default()).unwrap();
    assert_eq!(private.lookup(ROOT, OsStr::new(".synthdisk.json")), Err(Errno::ENOENT));
    assert_eq!(private.attr(status), Err(Errno::ENOENT));
}

//! The disks of a live mount.

use crate::fuse::LiveMount;
use crate::image::{RawImage, check_unused};
use crate::{Error, ErrorKind, Result};
use rustix::fs::{AtFlags, CWD, StatxFlags, makedev, statx};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The program that has `file` of `mount`, or a partition of that disk, open for writing, as far as
/// this can be determined: QEMU and loop devices are detected, and for root every process with an
/// open descriptor. Writes through a mapping that outlives its descriptor are not detected.
///
/// # Errors
/// Errors of examining the mount.
pub fn writer_of(mount: &LiveMount, file: &str) -> Result<Option<String>> {
    let failed = |e| Error::io(format!("cannot look at the mount on {}", mount.dir.display()), e);
    let mut files = Vec::new();
    for entry in fs::read_dir(&mount.dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let of_disk = name.to_str().is_some_and(|name| is_of_disk(name, file));
        files.extend(of_disk.then(|| mount.dir.join(name)));
    }
    let mut ids = Vec::new();
    for path in files {
        match RawImage::open(&path)
            .and_then(|image| image.file().map_or(Ok(()), |file| check_unused(file, &path)))
        {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::Busy => {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                return Ok(Some(format!("{name} is attached elsewhere or open in QEMU")));
            }
            Err(e) => return Err(e),
        }
        let meta = fs::metadata(&path).map_err(failed)?;
        ids.push((meta.dev(), meta.ino()));
    }
    Ok(writing_process(&ids))
}

/// Whether `name` is `disk` itself or one of its partitions.
fn is_of_disk(name: &str, disk: &str) -> bool {
    let stem = disk.strip_suffix(".raw").unwrap_or(disk);
    let prefix = if stem == "disk" { "part".to_owned() } else { format!("{stem}-part") };
    name == disk
        || name.strip_prefix(&prefix).is_some_and(|n| n.starts_with(|c: char| c.is_ascii_digit()))
}

/// A process that has one of the files `ids` (device and inode) open for writing.
fn writing_process(ids: &[(u64, u64)]) -> Option<String> {
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let path = process.path();
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        // The descriptors of other users' processes cannot be read.
        for fd in fs::read_dir(path.join("fd")).into_iter().flatten().flatten() {
            if !identity_of(&fd.path()).is_some_and(|id| ids.contains(&id)) {
                continue;
            }
            let info = fs::read_to_string(path.join("fdinfo").join(fd.file_name()));
            if info.is_ok_and(|info| is_open_for_writing(&info)) {
                let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
                return Some(format!("process {pid} ({}) has it open for writing", name.trim()));
            }
        }
    }
    None
}

/// Device and inode of what `path` leads to, from memory: the file may be on a network or FUSE mount of
/// another user, whose server need not answer.
fn identity_of(path: &Path) -> Option<(u64, u64)> {
    let stat = statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::INO).ok()?;
    Some((makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino))
}

/// Whether `/proc/PID/fdinfo/FD` shows a descriptor open for writing: the access mode is in the
/// last two bits of the flags, in octal. See proc_pid_fdinfo(5).
fn is_open_for_writing(info: &str) -> bool {
    let flags = info.lines().find_map(|l| l.strip_prefix("flags:"));
    let flags = flags.and_then(|f| i32::from_str_radix(f.trim(), 8).ok());
    flags.is_some_and(|f| f & libc::O_ACCMODE != libc::O_RDONLY)
}

/// Open the disk or partition `name` of `mount` for writing it out. The file includes all writes
/// that were acknowledged before.
///
/// # Errors
/// Errors of opening it.
pub fn open_live_disk(mount: &LiveMount, name: &str) -> Result<File> {
    let path = mount.dir.join(name);
    let failed = |e: std::io::Error| Error::io(format!("cannot read {}", path.display()), e);
    let file = mount.open(name).map_err(failed)?;
    // Makes the kernel write back pages of this file that other processes have modified.
    file.sync_all().map_err(failed)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_belong_to_their_disk() {
        for (name, disk, of_it) in [
            ("disk.raw", "disk.raw", true),
            ("part1.raw", "disk.raw", true),
            ("disk-b.raw", "disk.raw", false),
            ("disk-b-part1.raw", "disk.raw", false),
            ("disk-b-part1.raw", "disk-b.raw", true),
            ("part1.raw", "disk-b.raw", false),
        ] {
            assert_eq!(is_of_disk(name, disk), of_it, "{name} {disk}");
        }
    }

    #[test]
    fn open_files_say_how() {
        assert!(is_open_for_writing("pos:\t0\nflags:\t0100002\nmnt_id:\t29\n"));
        assert!(is_open_for_writing("flags:\t0100001\n"));
        assert!(!is_open_for_writing("pos:\t0\nflags:\t0100000\n"));
        assert!(!is_open_for_writing(""));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let open = File::create(&path).unwrap();
        let meta = open.metadata().unwrap();
        let ids = [(meta.dev(), meta.ino())];
        assert!(writing_process(&ids).unwrap().contains(&std::process::id().to_string()));
        drop(open);
        let _reader = File::open(&path).unwrap();
        assert_eq!(writing_process(&ids), None);
    }
}

//! Mounts of type fuse.synthdisk that another user serves, with files as that user likes them.

use crate::common::process::{SYNTHDISK, is_root, output, text};
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, ReplyOpen, Request,
    Session, SessionACL,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// A file of the fake mount.
enum Fake {
    File(Vec<u8>),
    Symlink(&'static str),
}

struct FakeFs(Vec<(&'static str, Fake)>);

impl FakeFs {
    fn attr(&self, ino: u64) -> Option<FileAttr> {
        let (kind, size) = match ino {
            1 => (FileType::Directory, 0),
            _ => match &self.0.get(ino as usize - 2)?.1 {
                Fake::File(bytes) => (FileType::RegularFile, bytes.len()),
                Fake::Symlink(target) => (FileType::Symlink, target.len()),
            },
        };
        Some(FileAttr {
            ino: INodeNo(ino),
            size: size as u64,
            blocks: 1,
            atime: SystemTime::UNIX_EPOCH,
            mtime: SystemTime::UNIX_EPOCH,
            ctime: SystemTime::UNIX_EPOCH,
            crtime: SystemTime::UNIX_EPOCH,
            kind,
            perm: 0o777,
            nlink: 1,
            // What files say of their owner is the server's word.
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

const TTL: Duration = Duration::from_secs(1);

impl Filesystem for FakeFs {
    fn lookup(&self, _req: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.0.iter().position(|(n, _)| name == *n);
        match found.and_then(|i| self.attr(i as u64 + 2)) {
            Some(attr) => reply.entry(&TTL, &attr, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(ino.0) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn readdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        for (i, (name, _)) in self.0.iter().enumerate().skip(offset as usize) {
            if reply.add(INodeNo(i as u64 + 2), i as u64 + 1, FileType::RegularFile, name) {
                break;
            }
        }
        reply.ok();
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.0.get(ino.0 as usize - 2) {
            Some((_, Fake::Symlink(target))) => reply.data(target.as_bytes()),
            _ => reply.error(Errno::EINVAL),
        }
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some((_, Fake::File(bytes))) = self.0.get(ino.0 as usize - 2) else {
            return reply.error(Errno::EISDIR);
        };
        let from = (offset as usize).min(bytes.len());
        reply.data(&bytes[from..(from + size as usize).min(bytes.len())]);
    }
}

/// A mount whose files are `files`, made by the user `owner` as far as the kernel knows.
struct FakeMount {
    home: TempDir,
    dir: PathBuf,
}

impl FakeMount {
    fn new(owner: u32, files: Vec<(&'static str, Fake)>) -> Self {
        let home = TempDir::with_prefix("synthdisk-hostile-").unwrap();
        let dir = home.path().join("mnt");
        fs::create_dir(&dir).unwrap();
        let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let data = format!(
            "fd={},rootmode=40000,user_id={owner},group_id={owner},allow_other",
            device.as_raw_fd()
        );
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("fake"), &dir, Some("fuse.synthdisk"), flags, Some(data.as_str())).unwrap();
        let device: OwnedFd = device.into();
        let session =
            Session::from_fd(FakeFs(files), device, SessionACL::All, Config::default()).unwrap();
        std::thread::spawn(move || session.spawn().unwrap().join());
        Self { home, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }
}

impl Drop for FakeMount {
    fn drop(&mut self) {
        let _ = umount2(&self.dir, MntFlags::MNT_DETACH);
    }
}

/// A status that lists one disk, `file`.
fn status(images: &[&Path], file: &str) -> Fake {
    let status = serde_json::json!({
        "version": "0.1.0",
        "pid": 1,
        "images": images,
        "overlays": [],
        "read_only": false,
        "disks": [{
            "file": file,
            "vdev": "xvda",
            "cdrom": false,
            "read_only": false,
            "overlay_bytes": 0,
            "overlay_limit": null,
        }],
        "bus": null,
        "nic": null,
    });
    Fake::File(status.to_string().into_bytes())
}

/// Runs `finalize`, which must refuse and write nothing; gives what it said.
fn refused(mount: &FakeMount) -> String {
    let out = mount.path("out");
    fs::create_dir(&out).unwrap();
    let args = ["finalize".as_ref(), mount.dir.as_os_str(), "-o".as_ref(), out.as_os_str()];
    let result = output(SYNTHDISK, &args);
    let said = text(&result.stderr);
    assert_eq!(result.status.code(), Some(1), "{said}");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0, "{said}");
    said
}

#[test]
fn a_mount_of_another_user_is_not_believed() {
    if !is_root() {
        return; // only root can mount in another user's name
    }
    let disk = || ("disk.raw", Fake::File(vec![0x55; 4096]));
    let mount = FakeMount::new(65534, vec![(".synthdisk.json", status(&[], "disk.raw")), disk()]);
    assert!(refused(&mount).contains("was made by user 65534"));
    let config = mount.path("domu.cfg");
    fs::write(&config, "name = 'a'\ndisk = ['file:/none.img,xvda1,w']\n").unwrap();
    let words = ["libvirt-xml".as_ref(), "--config".as_ref(), config.as_os_str()];
    let result = output(
        SYNTHDISK,
        &[&words[..], &["--mountpoint".as_ref(), mount.dir.as_os_str()]].concat(),
    );
    assert_eq!(result.status.code(), Some(1));
    assert!(text(&result.stderr).contains("was made by user 65534"), "{}", text(&result.stderr));
    // Unmounting works, and does not wait for the process that the status names (init).
    let start = std::time::Instant::now();
    let result = output(SYNTHDISK, &["umount".as_ref(), mount.dir.as_os_str()]);
    assert!(result.status.success(), "{}", text(&result.stderr));
    assert!(start.elapsed() < Duration::from_secs(60));
}

#[test]
fn names_in_a_status_lead_nowhere_else() {
    if !is_root() {
        return; // only root may mount with the system call
    }
    for name in ["../secret", "/etc/hostname", "..", ""] {
        let files = vec![(".synthdisk.json", status(&[], name))];
        let mount = FakeMount::new(0, files);
        fs::write(mount.path("secret"), "secret").unwrap();
        let said = refused(&mount);
        assert!(said.contains("is not a file name"), "{name}: {said}");
    }
    let files = vec![
        (".synthdisk.json", status(&[], "disk.raw")),
        ("disk.raw", Fake::Symlink("../secret")),
    ];
    let mount = FakeMount::new(0, files);
    fs::write(mount.path("secret"), "secret").unwrap();
    refused(&mount);
}

#[test]
fn a_result_is_private_when_its_images_cannot_be_seen() {
    if !is_root() {
        return; // only root may mount with the system call
    }
    use std::os::unix::fs::MetadataExt;
    // The mount lists an image that is not there any more.
    let image = Path::new("/nowhere/x.img");
    let bytes = || Fake::File(vec![0x55; 4096]);
    let files = vec![
        (".synthdisk.json", status(&[image], "disk.raw")),
        ("disk.raw", bytes()),
        (".snapshot-disk.raw", bytes()),
    ];
    let mount = FakeMount::new(0, files);
    let out = mount.path("out.raw");
    let args = ["finalize".as_ref(), mount.dir.as_os_str(), "-o".as_ref(), out.as_os_str()];
    let result = output(SYNTHDISK, &args);
    assert!(result.status.success(), "{}", text(&result.stderr));
    assert_eq!(fs::metadata(&out).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::read(&out).unwrap(), vec![0x55; 4096]);
}

//! Guest images: built once, kept in the cache directory, never written to.

use std::fs::{self, File, OpenOptions, Permissions};
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use super::process::{command, run, run_text, script};

/// Where kernels and guests are kept, as the scripts have it.
pub fn cache_dir() -> PathBuf {
    let dir = match (std::env::var_os("SYNTHDISK_CACHE"), std::env::var_os("XDG_CACHE_HOME")) {
        (Some(dir), _) => PathBuf::from(dir),
        (None, Some(dir)) => PathBuf::from(dir).join("synthdisk"),
        (None, None) => {
            let home = std::env::var_os("HOME").expect("HOME is set");
            PathBuf::from(home).join(".cache/synthdisk")
        }
    };
    fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("create {}: {e}", dir.display()));
    dir
}

/// The vmlinuz of Debian's cloud kernel, downloaded once.
pub fn test_kernel() -> PathBuf {
    let none: [&str; 0] = [];
    PathBuf::from(run_text(script("fetch-test-kernel"), &none))
}

/// The small guest as `scripts/make-mini-guest` makes it: a bare ext4 image of 256 MiB. Shared by
/// all tests and read-only; copy it to write to it.
pub fn mini_guest() -> PathBuf {
    mini_guest_with(&[])
}

/// The small guest, made with more options of `scripts/make-mini-guest`.
pub fn mini_guest_with(options: &[&str]) -> PathBuf {
    let kernel = test_kernel();
    // What the image is made from is in its name, so a changed script makes a new one.
    let mut key = Sha256::new();
    for file in ["make-mini-guest", "common.sh"] {
        key.update(fs::read(script(file)).expect("the script is readable"));
    }
    key.update(kernel.to_string_lossy().as_bytes());
    for option in options {
        key.update([0]);
        key.update(option);
    }
    let key: String = key.finalize()[..6].iter().map(|b| format!("{b:02x}")).collect();

    let dir = cache_dir().join("mini");
    fs::create_dir_all(&dir).expect("the cache directory is writable");
    let image = dir.join(format!("mini-{key}.img"));
    let _lock = lock(&dir.join("lock"));
    if !image.exists() {
        let new = dir.join(format!("new-{key}.img"));
        let mut args = vec![new.to_string_lossy().into_owned()];
        args.extend(options.iter().map(ToString::to_string));
        run(script("make-mini-guest"), &args);
        fs::set_permissions(&new, Permissions::from_mode(0o444)).expect("chmod of our own file");
        fs::rename(&new, &image).expect("rename within a directory");
    }
    image
}

/// The kernel and initramfs inside a guest image, copied out to `dir` for QEMU's `-kernel`.
pub fn extract_kernel(image: &Path, dir: &Path) -> (PathBuf, PathBuf) {
    let names = run_text("debugfs", &["-R", "ls -p /boot", &image.to_string_lossy()]);
    // Lines read /inode/mode/uid/gid/name/size/.
    let find = |prefix: &str| {
        let mut found: Vec<_> = names
            .lines()
            .filter_map(|l| l.split('/').nth(5))
            .filter(|n| n.starts_with(prefix))
            .collect();
        found.sort_unstable();
        found
            .pop()
            .unwrap_or_else(|| panic!("no {prefix}* in /boot of the guest: {names}"))
            .to_string()
    };
    let copy = |prefix: &str| {
        let (name, to) = (find(prefix), dir.join(prefix));
        let request = format!("dump /boot/{name} {}", to.display());
        run("debugfs", &["-R", &request, &image.to_string_lossy()]);
        assert!(to.exists(), "debugfs did not write {}", to.display());
        to
    };
    (copy("vmlinuz"), copy("initrd.img"))
}

/// A domU made by xen-tools. Its images are shared and read-only by agreement.
pub struct Domu {
    /// The directory that holds the files.
    pub dir: PathBuf,
    /// The bare root filesystem, `xvda2`.
    pub disk: PathBuf,
    /// The swap area, `xvda1`.
    pub swap: PathBuf,
    /// The xl.cfg.
    pub config: PathBuf,
}

/// The domU of a Debian release, made at first use (about 90 s; needs root). Password: `root`.
pub fn domu(dist: &str) -> Domu {
    domu_with(&format!("domu-{dist}"), &["--dist", dist])
}

/// A domU of this name, made with these options of `scripts/make-domu`.
pub fn domu_with(name: &str, options: &[&str]) -> Domu {
    let _lock = lock(&cache_dir().join(format!("{name}.lock")));
    let args = [&["--name", name], options].concat();
    let dir = PathBuf::from(run_text(script("make-domu"), &args));
    let domu = Domu {
        disk: dir.join("disk.img"),
        swap: dir.join("swap.img"),
        config: dir.join(format!("{name}.cfg")),
        dir,
    };
    for file in [&domu.disk, &domu.swap, &domu.config] {
        assert!(file.exists(), "make-domu left no {}", file.display());
    }
    domu
}

impl Domu {
    /// A domU like this one in `dir` whose disk was copied while it was mounted with `options`,
    /// after `change` and while a program was writing to it. So its journal has not been replayed,
    /// and what `change` wrote and synchronised, file by file, is in the journal only.
    ///
    /// The program writes `/srv/busy/N`, which holds `N`; [`BUSY_FILES`] of them were safe on disk
    /// when the copy began. Needs root (loop mount).
    pub fn copied_while_mounted(
        &self,
        dir: &Path,
        options: &str,
        change: impl FnOnce(&Path),
    ) -> Self {
        let live = dir.join("live.img");
        copy_sparse(&self.disk, &live);
        let domu = self.copy_of_config(dir);
        let mounted = LoopMount::new(&live, dir, options);
        change(mounted.dir());
        let busy = mounted.dir().join("srv/busy");
        fs::create_dir(&busy).expect("a new directory in our own copy");
        write_busy(&busy, 1..=BUSY_FILES);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Not without limit: a full journal is written back to the filesystem.
            let writer = scope.spawn(|| {
                for n in BUSY_FILES + 1..=BUSY_FILES + 200 {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    write_busy(&busy, n..=n);
                    std::thread::sleep(Duration::from_millis(10));
                }
            });
            copy_sparse(&live, &domu.disk);
            stop.store(true, Ordering::Relaxed);
            writer.join().expect("the disk has room");
        });
        drop(mounted);
        fs::remove_file(&live).expect("our own file");
        let state = run_text("dumpe2fs", &["-h".as_ref(), domu.disk.as_os_str()]);
        assert!(state.contains("needs_recovery"), "the journal is clean: {state}");
        domu
    }

    /// Its config in `dir`, for a disk in that directory. The swap stays shared.
    fn copy_of_config(&self, dir: &Path) -> Self {
        let domu = Self {
            dir: dir.to_path_buf(),
            disk: dir.join("disk.img"),
            swap: self.swap.clone(),
            config: dir.join("domu.cfg"),
        };
        let text = fs::read_to_string(&self.config).expect("the config is readable");
        let (old, new) = (self.disk.to_string_lossy(), domu.disk.to_string_lossy());
        assert!(text.contains(&*old), "{text}");
        fs::write(&domu.config, text.replace(&*old, &new)).expect("our own file");
        domu
    }
}

/// How many files [`Domu::copied_while_mounted`] promises.
pub const BUSY_FILES: u32 = 50;

fn write_busy(dir: &Path, numbers: RangeInclusive<u32>) {
    for n in numbers {
        write_durably(&dir.join(n.to_string()), &format!("{n}\n"));
    }
}

/// Puts a file in place of another as careful programs do: at its path is the old one or the new
/// one, and after this the new one, even if the machine stops.
pub fn write_durably(path: &Path, text: &str) {
    let dir = path.parent().expect("a file's path");
    let new = path.with_extension("new");
    fs::write(&new, text).expect("our own copy");
    File::open(&new).and_then(|f| f.sync_all()).expect("fsync");
    fs::rename(&new, path).expect("rename within a directory");
    File::open(dir).and_then(|d| d.sync_all()).expect("fsync of a directory");
}

fn copy_sparse(from: &Path, to: &Path) {
    run("cp", &["--sparse=always".as_ref(), from.as_os_str(), to.as_os_str()]);
}

/// A filesystem image mounted by the kernel, unmounted when dropped.
struct LoopMount {
    dir: tempfile::TempDir,
}

impl LoopMount {
    fn new(image: &Path, near: &Path, options: &str) -> Self {
        let dir = tempfile::tempdir_in(near).expect("a temporary directory");
        let options = format!("loop,{options}");
        let args = ["-o".as_ref(), options.as_ref(), image.as_os_str(), dir.path().as_os_str()];
        run("mount", &args);
        Self { dir }
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for LoopMount {
    fn drop(&mut self) {
        let result = command("umount").arg(self.dir.path()).output();
        if !std::thread::panicking() {
            assert!(result.is_ok_and(|r| r.status.success()), "umount {:?}", self.dir.path());
        }
    }
}

/// The domU of a Debian release with another initrd, as `scripts/make-domu-variant` makes it.
pub fn domu_variant(dist: &str, kind: &str) -> Domu {
    let whole = domu(dist);
    let dir = PathBuf::from(run_text(
        script("make-domu-variant"),
        &[kind.as_ref(), whole.dir.as_os_str()],
    ));
    let name = dir.file_name().expect("a directory of a cache").to_string_lossy().into_owned();
    Domu {
        disk: dir.join("disk.img"),
        swap: dir.join("swap.img"),
        config: dir.join(format!("{name}.cfg")),
        dir,
    }
}

/// The bookworm domU split into several partitions, as `scripts/split-domu` makes it:
/// the directory of the images, and its swap.
pub fn split_domu() -> (PathBuf, PathBuf) {
    let whole = domu("bookworm");
    (split(&whole, "split"), whole.swap)
}

/// The images of a domU that `scripts/split-domu` splits into several partitions; `name` is for the
/// cache.
pub fn split(whole: &Domu, name: &str) -> PathBuf {
    let key = super::hash::sha256(script("split-domu"));
    let dir = cache_dir().join("domains").join(format!("{name}-{}", &key[..12]));
    run(script("split-domu"), &[&whole.dir, &dir]);
    dir
}

/// An exclusive lock on a file, held until dropped; tests run in several processes.
fn lock(path: &Path) -> Flock<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .unwrap_or_else(|e| panic!("open {}: {e}", path.display()));
    Flock::lock(file, FlockArg::LockExclusive)
        .unwrap_or_else(|(_, e)| panic!("lock {}: {e}", path.display()))
}

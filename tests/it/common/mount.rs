//! Guards for what a test attaches to the host: synthdisk mounts and loop devices.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Output;

use tempfile::TempDir;

use super::process::{SYNTHDISK, command, output, run, run_text, synthdisk, text};

/// A mounted synthdisk, unmounted when dropped.
pub struct Mount {
    dir: PathBuf,
    /// What `synthdisk mount` printed.
    pub output: Output,
    mounted: bool,
    _home: Option<TempDir>,
}

impl Mount {
    /// Runs `synthdisk mount OPTIONS IMAGE DIR` on a fresh directory; it must succeed.
    pub fn new(options: &[&str], image: impl AsRef<Path>) -> Self {
        Self::of(options, &[image.as_ref()])
    }

    /// Like [`Mount::new`], for any number of images (none with `--config`).
    pub fn of(options: &[&str], images: &[&Path]) -> Self {
        let home = TempDir::with_prefix("synthdisk-test-").expect("a temporary directory");
        let dir = home.path().join("mnt");
        std::fs::create_dir(&dir).expect("mkdir in our own directory");
        let mut mount = Self::at(options, images, &dir);
        mount._home = Some(home);
        mount
    }

    /// Like [`Mount::of`], on a directory of the caller's.
    pub fn at(options: &[&str], images: &[&Path], dir: &Path) -> Self {
        let mut args: Vec<&OsStr> = vec!["mount".as_ref()];
        args.extend(options.iter().map(OsStr::new));
        args.extend(images.iter().map(|p| p.as_os_str()));
        args.push(dir.as_os_str());
        let output = synthdisk(&args);
        let mount = Self { dir: dir.to_path_buf(), output, mounted: true, _home: None };
        assert!(mount.disk().exists(), "mounted, but there is no {}", mount.disk().display());
        mount
    }

    /// Guards a mount that something else has made on `dir`.
    pub fn adopt(dir: &Path) -> Self {
        let output = output("true", &[""; 0]);
        let mount = Self { dir: dir.to_path_buf(), output, mounted: true, _home: None };
        assert!(mount.disk().exists(), "mounted, but there is no {}", mount.disk().display());
        mount
    }

    /// The mount point.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The whole disk.
    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk.raw")
    }

    /// A partition, counted from 1.
    pub fn part(&self, number: u32) -> PathBuf {
        self.dir.join(format!("part{number}.raw"))
    }

    /// What `synthdisk mount` printed to stdout and stderr.
    pub fn printed(&self) -> String {
        text(&self.output.stdout) + &text(&self.output.stderr)
    }

    /// What a file of the guest holds, read through its root partition; `None` if there is none.
    pub fn guest_file(&self, path: &str) -> Option<String> {
        let part = self.part(1);
        let found = output("debugfs", &["-R", &format!("cat {path}"), &part.to_string_lossy()]);
        let errors = text(&found.stderr);
        (!errors.contains("File not found")).then(|| text(&found.stdout))
    }

    /// The root partition's filesystem must be clean.
    pub fn fsck(&self) {
        run("e2fsck", &["-fn".as_ref(), self.part(1).as_os_str()]);
    }

    /// The process that serves the disks: a child of the one that keeps the mount.
    pub fn server_pid(&self) -> i32 {
        let mut found = Vec::new();
        for keeper in self.daemon_pids() {
            found.extend(children(keeper).into_iter().filter(|pid| is_started_as(*pid, "serve")));
        }
        assert_eq!(found.len(), 1, "servers of {}: {found:?}", self.dir.display());
        found[0]
    }

    /// The process ids of the daemons that keep this mount point, found by their arguments.
    pub fn daemon_pids(&self) -> Vec<i32> {
        let wanted = self.dir.as_os_str().as_encoded_bytes();
        let mut pids = Vec::new();
        for entry in std::fs::read_dir("/proc").expect("/proc is there").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else {
                continue;
            };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let mut words = line.split(|b| *b == 0);
            let program = words.next().unwrap_or_default();
            let is_sweeper = words.clone().nth(1) == Some(b"sweep");
            if program.ends_with(b"synthdisk") && !is_sweeper && words.any(|w| w == wanted) {
                pids.push(pid);
            }
        }
        pids
    }

    /// Unmounts with `synthdisk umount`, which must succeed.
    pub fn unmount(mut self) {
        self.mounted = false;
        let args = [OsStr::new("umount"), self.dir.as_os_str()];
        let mut result = output(SYNTHDISK, &args);
        // A child that another test of this process is just starting has our files open until it
        // runs its program.
        for _ in 0..50 {
            if result.status.success() || !text(&result.stderr).contains("is in use") {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
            result = output(SYNTHDISK, &args);
        }
        if !result.status.success() {
            self.force();
            panic!("synthdisk umount failed: {}", text(&result.stderr));
        }
        assert!(!is_mount_point(&self.dir), "{} is still mounted", self.dir.display());
    }

    /// Gives up the guard after something else ended the mount (a signal, `fusermount3 -u`).
    pub fn already_gone(mut self) {
        self.mounted = false;
        if is_mount_point(&self.dir) {
            self.force();
            panic!("{} is still mounted", self.dir.display());
        }
    }

    /// Takes a dead mount (its daemon was killed) out of the mount table.
    pub fn detach_dead(mut self) {
        self.mounted = false;
        self.force();
    }

    fn force(&self) {
        let _ = command("fusermount3").args(["-u", "-z"]).arg(&self.dir).output();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted {
            let result = command(SYNTHDISK).arg("umount").arg(&self.dir).output();
            if !result.is_ok_and(|r| r.status.success()) || is_mount_point(&self.dir) {
                self.force();
            }
        }
    }
}

/// Runs `synthdisk mount ARGS DIR` on a fresh directory, which must fail with exit code 1 and one
/// sentence on stderr, and leave neither a mount nor a process. Gives the sentence.
pub fn expect_no_mount(args: &[&str]) -> String {
    let home = TempDir::with_prefix("synthdisk-test-").expect("a temporary directory");
    let dir = home.path().join("mnt");
    std::fs::create_dir(&dir).expect("mkdir in our own directory");
    let mut all: Vec<&OsStr> = vec!["mount".as_ref()];
    all.extend(args.iter().map(OsStr::new));
    all.push(dir.as_os_str());
    // Clean up whatever the command left.
    let output = output("true", &[""; 0]);
    let guard = Mount { dir: dir.clone(), output, mounted: true, _home: Some(home) };
    let sentence = super::process::expect_failure(&all, 1);
    assert!(!is_mount_point(&dir), "a mount stayed after: {sentence}");
    assert!(guard.daemon_pids().is_empty(), "a process stayed after: {sentence}");
    sentence
}

/// The children of a process.
pub fn children(pid: i32) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.map(|task| std::fs::read_to_string(task.path().join("children")));
    let words = lists
        .flat_map(|list| list.unwrap_or_default().split(' ').map(str::parse).collect::<Vec<_>>());
    words.flatten().collect()
}

/// True if the process runs `synthdisk internal WORD`.
pub fn is_started_as(pid: i32, word: &str) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|b| *b == 0).nth(2) == Some(word.as_bytes())
}

/// True if the process has ended with all of its threads, so that its files are closed.
pub fn has_ended(pid: i32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    threads == 0 || (threads == 1 && stat.rsplit(") ").next().is_some_and(|s| s.starts_with('Z')))
}

/// True if something is mounted at `path`, a dead FUSE mount included.
pub fn is_mount_point(path: &Path) -> bool {
    let table = std::fs::read("/proc/self/mountinfo").expect("/proc is there");
    let wanted = path.as_os_str().as_encoded_bytes();
    table
        .split(|b| *b == b'\n')
        .any(|line| line.split(|b| *b == b' ').nth(4).is_some_and(|field| field == wanted))
}

/// A loop device, detached when dropped. Needs root.
pub struct LoopDev {
    device: String,
    partitions: bool,
}

impl LoopDev {
    /// Attaches `file`, read-only or not.
    pub fn attach(file: impl AsRef<Path>, read_only: bool) -> Self {
        let file = file.as_ref().to_string_lossy().into_owned();
        let mut args = vec!["--find", "--show"];
        if read_only {
            args.push("--read-only");
        }
        args.push(&file);
        Self { device: run_text("losetup", &args), partitions: false }
    }

    /// Attaches `file` and has partx add its partitions: not every kernel parses tables itself.
    pub fn attach_partitions(file: impl AsRef<Path>, read_only: bool) -> Self {
        let mut this = Self::attach(file, read_only);
        this.partitions = true;
        // Not -u, which stops at the first gap in the numbering.
        run("partx", &["-a", &this.device]);
        this
    }

    /// The device, like `/dev/loop0`.
    pub fn device(&self) -> &Path {
        Path::new(&self.device)
    }

    /// The device of a partition, counted from 1, after [`LoopDev::attach_partitions`].
    pub fn partition(&self, number: u32) -> PathBuf {
        PathBuf::from(format!("{}p{number}", self.device))
    }
}

impl Drop for LoopDev {
    fn drop(&mut self) {
        if self.partitions {
            let _ = command("partx").args(["-d", &self.device]).output();
        }
        let _ = command("losetup").args(["-d", &self.device]).output();
    }
}

//! What `synthdisk finalize` writes to and what it refuses, and that it leaves no partial result.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;
use std::process::{Child, Stdio};

use crate::common::file::{bytes_of, write_at, writer};
use crate::common::filesystem::Filesystem;
use crate::common::hash::{Untouched, sha256};
use crate::common::mount::{LoopDev, Mount};
use crate::common::overlay::{Case, wait_until};
use crate::common::process::{
    SYNTHDISK, command, expect_failure, have, is_root, output, run, skip, text,
};
use crate::common::tiny::{Tiny, noise};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const MIB: u64 = 1 << 20;

fn arg(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("our own directory");
    entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

/// Finalizing `image` to `out` must fail; returns the message.
fn refused(image: &Path, out: &Path, options: &[&str]) -> String {
    let args = [&["finalize", "--bootloader", "direct", "-q", arg(image), "-o", arg(out)], options]
        .concat();
    expect_failure(&args, 1)
}

fn finalize(image: &Path, out: &Path, options: &[&str]) {
    run(
        SYNTHDISK,
        &[&["finalize", "--bootloader", "direct", "-q", arg(image), "-o", arg(out)], options]
            .concat(),
    );
}

#[test]
fn a_file_that_exists_is_left_alone_unless_forced() {
    let tiny = Tiny::new();
    let out = tiny.file("out.raw");
    fs::write(&out, b"precious").unwrap();
    let said = refused(&tiny.image, &out, &[]);
    assert!(said.contains("exists") && said.contains("--force"), "{said}");
    let said = refused(&tiny.image, &out, &["--format", "qcow2"]);
    assert!(said.contains("exists"), "{said}");
    assert_eq!(fs::read(&out).unwrap(), b"precious");
    // Through a symbolic link, the file that it names is replaced.
    let link = tiny.file("link");
    symlink("out.raw", &link).unwrap();
    finalize(&tiny.image, &link, &["--force"]);
    assert!(link.symlink_metadata().unwrap().file_type().is_symlink());
    let mounted = Mount::new(&[], &tiny.image);
    assert_eq!(sha256(&out), sha256(mounted.disk()));
    finalize(&tiny.image, &out, &["--force", "--format", "qcow2"]);
    run("qemu-img", &["check", "-f", "qcow2", arg(&out)]);
}

#[test]
fn a_source_is_never_the_target() {
    let case = Case::new();
    case.mount().unmount();
    let tiny = &case.tiny;
    let overlay = Untouched::remember(&case.overlay);
    let (soft, hard) = (tiny.file("soft"), tiny.file("hard"));
    symlink("root.img", &soft).unwrap();
    fs::hard_link(&tiny.image, &hard).unwrap();
    let winding = tiny.path().join("tree/../root.img");
    let kernel = tiny.file("vmlinuz");
    fs::write(&kernel, crate::common::tiny::fake_kernel(1)).unwrap();
    let options = ["--overlay", &case.overlay(), "--force"];
    for target in [&tiny.image, &soft, &hard, &winding, &case.overlay] {
        for format in ["raw", "qcow2"] {
            let said =
                refused(&tiny.image, target, &[&options[..], &["--format", format]].concat());
            assert!(said.contains("is the same as"), "{}: {said}", target.display());
            assert!(!said.contains("--force"), "{said}");
        }
    }
    let args = ["--kernel", arg(&kernel), "--append", "root=/dev/xvda1", "--force"];
    assert!(refused(&tiny.image, &kernel, &args).contains("is the same as"));
    if is_root() {
        let device = LoopDev::attach(&hard, false);
        let said = refused(&tiny.image, device.device(), &["--force"]);
        assert!(said.contains("is the same as"), "{said}");
        // The other way round: the image is the device, the target its file.
        let said = refused(device.device(), &tiny.image, &["--force"]);
        assert!(said.contains("is the same as"), "{said}");
        // Attached by a name that has been removed since.
        fs::remove_file(&hard).unwrap();
        for (from, to) in [(&*tiny.image, device.device()), (device.device(), &*tiny.image)] {
            let said = refused(from, to, &["--force"]);
            assert!(said.contains("is the same as"), "{said}");
        }
    }
    overlay.check();
    case.untouched.check();
}

#[test]
fn what_can_be_no_target_is_refused() {
    let tiny = Tiny::new();
    let said = refused(&tiny.image, Path::new("/dev/null"), &["--force"]);
    assert!(said.contains("neither a regular file nor a block device"), "{said}");
    let said = refused(&tiny.image, &tiny.file("no/such/out.raw"), &[]);
    assert!(said.contains("no directory"), "{said}");
    let dangling = tiny.file("dangling");
    symlink("/missing/x", &dangling).unwrap();
    assert!(refused(&tiny.image, &dangling, &["--force"]).contains("link to nowhere"));
}

#[test]
fn a_block_device_is_written_whole() {
    if !is_root() {
        skip("loop devices need root");
        return;
    }
    let tiny = Tiny::new();
    let mounted = Mount::new(&["--swap", "8M"], &tiny.image);
    let len = fs::metadata(mounted.disk()).unwrap().len();
    let backing = tiny.file("device");
    // Full of other data: zeros on the disk must become zeros on the device.
    fs::write(&backing, noise((len + MIB) as usize, 4)).unwrap();
    let device = LoopDev::attach(&backing, false);
    let path = device.device();
    assert!(fs::metadata(path).unwrap().file_type().is_block_device());
    let options = ["--swap", "8M", "--verify"];
    let said = refused(&tiny.image, path, &options);
    assert!(said.contains("holds data") && said.contains("--force"), "{said}");
    finalize(&tiny.image, path, &[&options[..], &["--force"]].concat());
    run("cmp", &["-n", &len.to_string(), arg(&mounted.disk()), arg(path)]);
    let said = refused(&tiny.image, path, &["--force", "--format", "qcow2"]);
    assert!(said.contains("raw only"), "{said}");
    assert!(refused(&tiny.image, path, &["--force", "--root-size", "1G"]).contains("larger"));
    // Mounted.
    run("mkfs.ext4", &["-q", "-F", arg(path)]);
    let dir = tiny.file("held");
    fs::create_dir(&dir).unwrap();
    run("mount", &[path, &dir]);
    let said = refused(&tiny.image, path, &["--force", "--swap", "8M"]);
    run("umount", &[&dir]);
    assert!(said.contains("is mounted"), "{said}");
    drop(device);

    // An empty one needs no --force, and stays as sparse as the disk.
    let fresh = tiny.file("fresh");
    File::create(&fresh).unwrap().set_len(len).unwrap();
    let device = LoopDev::attach(&fresh, false);
    finalize(&tiny.image, device.device(), &["--swap", "8M"]);
    assert_eq!(sha256(device.device()), sha256(mounted.disk()));
    use std::os::unix::fs::MetadataExt;
    run("sync", &["-f", arg(&fresh)]);
    assert!(fs::metadata(&fresh).unwrap().blocks() * 512 < len / 2);
}

#[test]
fn too_little_room_is_said_before_the_first_byte() {
    let Some(fs) = Filesystem::tmpfs(6 * MIB) else { return };
    let tiny = Tiny::with(|tree| fs::write(tree.join("more"), noise(4 << 20, 1)).unwrap());
    let untouched = Untouched::remember(&tiny.image);
    let out = fs.path("out.raw");
    let said = refused(&tiny.image, &out, &[]);
    assert!(said.contains("needs up to") && said.contains("left"), "{said}");
    // With --force it fails while writing.
    let said = refused(&tiny.image, &out, &["--force"]);
    assert!(said.contains("no room left"), "{said}");
    let qcow2 = ["--format", "qcow2", "--force"];
    let said = refused(&tiny.image, &fs.path("out.qcow2"), &qcow2[..2]);
    assert!(said.contains("needs up to"), "{said}");
    let said = refused(&tiny.image, &fs.path("out.qcow2"), &qcow2);
    assert!(said.contains("No space left"), "{said}");
    // Each of two would fit alone.
    let (small, other) = (Tiny::new(), tiny.file("other.img"));
    fs::write(&other, noise(3 << 20, 3)).unwrap();
    let config = tiny.file("two.cfg");
    let disk = |image: &Path, vdev| format!("'format=raw, vdev={vdev}, target={}'", arg(image));
    let disks = [disk(&small.image, "xvda1"), disk(&other, "xvdb1")].join(", ");
    fs::write(&config, format!("disk = [ {disks} ]\n")).unwrap();
    let dir = format!("{}/", arg(&fs.path("")));
    let source = [
        "finalize",
        "--bootloader",
        "direct",
        "-q",
        "--adapt",
        "none",
        "--config",
        arg(&config),
        "-o",
        &dir,
    ];
    let said = expect_failure(&source, 1);
    assert!(said.contains("disk.raw and ") && said.contains("needs up to"), "{said}");
    assert_eq!(names(&fs.path("")), [""; 0]);
    assert!(fs.used() < MIB, "what was written is given back");
    untouched.check();
    // It is an upper bound: zeros that are stored take nothing.
    let zeros = tiny.file("zeros.img");
    run("cp", &["--sparse=never", arg(&Tiny::new().image), arg(&zeros)]);
    let said = refused(&zeros, &out, &[]);
    assert!(said.contains("--force"), "{said}");
    finalize(&zeros, &out, &["--force"]);
}

/// A finalize that takes long enough to be interrupted.
struct Running {
    child: Child,
    dir: std::path::PathBuf,
    tiny: Tiny,
}

impl Running {
    /// With a directory of its own for its result.
    fn start(tiny: Tiny, options: &[&str], name: &str) -> Self {
        let dir = tiny.file("out");
        fs::create_dir(&dir).unwrap();
        let child = command(SYNTHDISK)
            .args(["finalize", "--bootloader", "direct", "-q"])
            .args(options)
            .args([&tiny.image, Path::new("-o"), &dir.join(name)])
            .env("XDG_RUNTIME_DIR", tiny.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, dir, tiny }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Ends it by `signal` and returns what it printed.
    fn end(mut self, signal: Signal) -> String {
        kill(self.pid(), signal).unwrap();
        let mut said = String::new();
        if signal == Signal::SIGKILL {
            self.child.wait().unwrap();
        } else {
            let output = self.child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(1));
            said = text(&output.stderr);
        }
        // Neither a result nor a temporary file nor a private mount.
        let (dir, home) = (self.dir.clone(), self.tiny.path().to_path_buf());
        let clean =
            || names(&dir).is_empty() && !names(&home).iter().any(|n| n.starts_with("synthdisk-"));
        wait_until("all is gone", clean);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(arg(&home)), "a mount stays");
        said
    }

    /// The length of the file without a name that it writes to, if there is one.
    fn nameless(&self) -> Option<u64> {
        let fds = fs::read_dir(format!("/proc/{}/fd", self.pid())).ok()?;
        let in_dir = |fd: &fs::DirEntry| {
            let link = fs::read_link(fd.path()).unwrap_or_default();
            link.starts_with(&self.dir) && link.to_string_lossy().ends_with("(deleted)")
        };
        let fd = fds.flatten().find(in_dir)?;
        fs::metadata(fd.path()).ok().map(|meta| meta.len())
    }
}

#[test]
fn nothing_stays_of_a_raw_file_that_was_not_finished() {
    for signal in [Signal::SIGKILL, Signal::SIGINT, Signal::SIGTERM] {
        // The checksum of a terabyte takes many minutes; all is written by then.
        let running = Running::start(Tiny::new(), &["--root-size", "1T", "--checksum"], "out.raw");
        wait_until("it writes", || running.nameless().is_some_and(|len| len > 1 << 40));
        let said = running.end(signal);
        assert!(signal == Signal::SIGKILL || said.contains(signal.as_str()), "{said}");
    }
}

#[test]
fn nothing_stays_of_a_copy_that_was_ended_in_the_middle() {
    for signal in [Signal::SIGKILL, Signal::SIGINT] {
        let tiny = Tiny::new();
        let image = tiny.image.clone();
        let len = fs::metadata(&image).unwrap().len();
        let file = writer(&image);
        let block = noise(32 << 20, 6);
        for i in 0..8 {
            write_at(&file, &block, len + i * (32 << 20));
        }
        let untouched = Untouched::remember(&image);
        let running = Running::start(tiny, &["--reflink", "never"], "out.raw");
        wait_until("it writes", || running.nameless().is_some());
        running.end(signal);
        drop(untouched);
    }
}

#[test]
#[ignore = "slow"]
fn nothing_stays_of_a_conversion_that_was_not_finished() {
    for signal in [Signal::SIGKILL, Signal::SIGINT, Signal::SIGTERM] {
        let tiny = Tiny::with(|tree| {
            fs::write(tree.join("etc/fstab"), "/dev/xvda2 / ext4 defaults 0 1\n").unwrap();
        });
        let file = writer(&tiny.image);
        for i in 1..5 {
            write_at(&file, &noise(16 << 20, i), i * (16 << 20));
        }
        let options = ["--format", "qcow2", "--compress", "-O", "compression_type=zlib"];
        let running = Running::start(tiny, &options, "out.qcow2");
        let dir = running.dir.clone();
        wait_until("qemu-img writes", || {
            let inner = names(&dir);
            inner.first().is_some_and(|n| {
                fs::metadata(dir.join(n).join("out.qcow2")).is_ok_and(|m| m.len() > MIB)
            })
        });
        let said = running.end(signal);
        assert!(signal == Signal::SIGKILL || said.contains(signal.as_str()), "{said}");
    }
}

/// A file that replaces another has a name beside it for a moment.
#[test]
fn nothing_stays_of_a_file_that_was_about_to_replace_another() {
    if !have("strace") {
        skip("strace is not installed");
        return;
    }
    let tiny = Tiny::new();
    let dir = tiny.file("out");
    fs::create_dir(&dir).unwrap();
    let out = dir.join("out.raw");
    fs::write(&out, b"old").unwrap();
    let args = ["-f", "-qq", "-o", "/dev/null", "-e", "trace=rename,renameat,renameat2"];
    let inject = ["-e", "inject=rename,renameat,renameat2:signal=SIGKILL"];
    let ours = [
        SYNTHDISK,
        "finalize",
        "--bootloader",
        "direct",
        "-q",
        "--force",
        "--adapt",
        "none",
        arg(&tiny.image),
    ];
    let killed = output("strace", &[&args[..], &inject, &ours, &["-o", arg(&out)]].concat());
    assert!(!killed.status.success());
    // The signal arrives after the call, or instead of it.
    wait_until("all is gone", || names(&dir) == ["out.raw"]);
}

#[test]
fn a_name_that_is_taken_meanwhile_stays_theirs() {
    let running = Running::start(Tiny::new(), &["--root-size", "192M", "--checksum"], "out.raw");
    wait_until("it writes", || running.nameless().is_some());
    let out = running.dir.join("out.raw");
    fs::write(&out, b"theirs").unwrap();
    let output = running.child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("in the meantime"), "{}", text(&output.stderr));
    assert_eq!(bytes_of(&out, 0, 6), b"theirs");
}

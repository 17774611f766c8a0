//! A set-up for `synthdisk run` with a QEMU that is a shell script.
#![allow(dead_code)]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use crate::common::overlay::wait_until;
use crate::common::process::{SYNTHDISK, command, run, write_script};

/// An image, a fake QEMU, and a directory in which private mounts are made.
pub struct Scene {
    /// The directory with all of its files.
    pub home: TempDir,
}

impl Scene {
    /// `script` is what QEMU does: `$disk` is the boot disk, and `$home` the scene's directory.
    pub fn new(script: &str) -> Self {
        let home = TempDir::with_prefix("synthdisk-run-cli-").expect("a temporary directory");
        let scene = Self { home };
        for dir in ["run", "bin"] {
            fs::create_dir(scene.path(dir)).expect("mkdir in our own directory");
        }
        let image = scene.path("web1.img");
        fs::File::create(&image).unwrap().set_len(4 << 20).unwrap();
        run("mke2fs", &["-q", "-t", "ext4", &image.to_string_lossy()]);
        let qemu = scene.path("bin/qemu-system-x86_64");
        let script = format!(
            "#!/bin/bash\nhome={}\ndisk=$(printf '%s\\n' \"$@\" | \
             sed -n 's/.*file.filename=\\([^,]*\\).*/\\1/p' | head -n 1)\n\
             printf '%s\\n' \"$@\" >$home/args\n{script}\n",
            scene.home.path().display()
        );
        write_script(&qemu, &script);
        scene
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// A config for the image, under another name.
    pub fn config(&self, name: &str) -> PathBuf {
        let path = self.path(&format!("{name}.cfg"));
        let text = format!(
            "name = '{name}'\nmemory = 256\nvif = ['mac=00:16:3e:00:00:01']\n\
             disk = ['file:web1.img,xvda1,w']\n"
        );
        fs::write(&path, text).unwrap();
        path
    }

    /// `synthdisk run` with the fake QEMU.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = command(SYNTHDISK);
        command
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .args(["run", "--accel", "tcg", "--aio", "threads", "--bootloader", "none", "--qemu"])
            .arg(self.path("bin/qemu-system-x86_64"))
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("synthdisk runs")
    }

    /// `synthdisk run ARGS web1.img`.
    pub fn run_image(&self, args: &[&str]) -> Output {
        let image = self.path("web1.img");
        let image = image.to_string_lossy();
        self.run(&[args, &[&image]].concat())
    }

    /// Starts `run` and waits until the fake QEMU has written its process id.
    pub fn start(&self) -> (Child, i32) {
        let child = self.command(&[&self.path("web1.img").to_string_lossy()]).spawn().unwrap();
        let pid = self.path("pid");
        wait_until("QEMU starts", || fs::read_to_string(&pid).is_ok_and(|s| s.ends_with('\n')));
        let pid = fs::read_to_string(&pid).unwrap().trim().parse().expect("a process id");
        (child, pid)
    }

    /// Processes that name the scene's directory, by what they are.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let wanted = self.path("run").to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").expect("/proc is there").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else {
                continue;
            };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&wanted) {
                found.push((pid, line));
            }
        }
        found
    }

    /// The process among [`Scene::processes`] whose arguments begin like this.
    pub fn process(&self, begin: &str) -> i32 {
        let all = self.processes();
        let found = all.iter().find(|(_, line)| {
            line.split_once("synthdisk ").is_some_and(|(_, args)| args.starts_with(begin))
        });
        found.unwrap_or_else(|| panic!("no process `{begin}` among {all:?}")).0
    }

    /// Nothing is left of a run: no mount, no directory, no process.
    pub fn is_clean(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let dir = self.path("run");
        !mounts.contains(&*dir.to_string_lossy())
            && fs::read_dir(&dir).unwrap().next().is_none()
            && self.processes().is_empty()
    }

    pub fn assert_clean(&self) {
        wait_until("everything is cleaned up", || self.is_clean());
    }
}

/// Holds the disk open and keeps running under its own process id.
pub const STAY: &str = "exec 3<>\"$disk\"; echo $$ >$home/pid; exec sleep 300";

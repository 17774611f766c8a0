//! Tiny domUs as they are in production: a directory with a config and the images that it names.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use super::hash::Untouched;
use super::mount::Mount;
use super::process::{SYNTHDISK, expect_failure, run, run_text};
use super::tiny::{fake_kernel, initrd, menu, open_to_all};

/// UUIDs of the images, by what they hold.
pub const ROOT: &str = "74696e79-6775-4573-8074-0000000000a1";
pub const SWAP: &str = "74696e79-6775-4573-8074-0000000000a2";
pub const BOOT: &str = "74696e79-6775-4573-8074-0000000000a3";
pub const HOME: &str = "74696e79-6775-4573-8074-0000000000a4";
pub const DATA: &str = "74696e79-6775-4573-8074-0000000000a5";

/// What xen-tools writes into a guest's fstab.
pub const FSTAB: &str = "# /etc/fstab: static file system information.\n\
    proc            /proc           proc    defaults        0       0\n\
    /dev/xvda1 none swap sw 0 0\n\
    /dev/xvda2 / ext4 noatime,nodiratime,errors=remount-ro 0 1\n";

/// Drivers that the kernel of [`Field::root`] has built in.
const BUILTIN: &str = "kernel/drivers/virtio/virtio_pci.ko\n\
    kernel/drivers/block/virtio_blk.ko\nkernel/drivers/net/virtio_net.ko\nkernel/fs/ext4/ext4.ko\n";

/// A directory of a domU, removed when dropped; then all its images must be as they were made.
pub struct Field {
    home: TempDir,
    images: RefCell<Vec<Untouched>>,
}

impl Field {
    /// An empty one.
    pub fn new() -> Self {
        let home = TempDir::with_prefix("synthdisk-field-").expect("a temporary directory");
        open_to_all(home.path());
        Self { home, images: RefCell::new(Vec::new()) }
    }

    /// The swap image, root image and config that xen-tools makes.
    pub fn xen_tools() -> (Self, String) {
        let field = Self::new();
        field.root("disk.img", FSTAB);
        field.swap("swap.img", 1 << 20, "oldswap");
        let config = field.config(
            "bootloader = 'pygrub'\nvcpus = '1'\nmemory = '512'\nroot = '/dev/xvda2 ro'\ndisk = [\n\
             \x20   'file:disk.img,xvda2,w',\n    'file:swap.img,xvda1,w',\n]\nname = 'domu'\n\
             vif = [ 'mac=00:16:3E:99:62:75' ]\non_poweroff = 'destroy'\n",
        );
        (field, config)
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// A file in it, for a command line.
    pub fn arg(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").to_owned()
    }

    /// Writes the config and gives its path.
    pub fn config(&self, text: &str) -> String {
        fs::write(self.path("domu.cfg"), text).expect("our own file");
        self.arg("domu.cfg")
    }

    /// Requires that this file does not change from now on.
    pub fn guard(&self, path: &Path) {
        self.images.borrow_mut().push(Untouched::remember(path));
    }

    /// An ext4 image of 16 MiB with these files.
    pub fn ext4(&self, name: &str, uuid: &str, files: &[(&str, &[u8])]) -> PathBuf {
        self.ext4_with(name, uuid, 16 << 20, &["-t", "ext4", "-b", "4096"], files)
    }

    /// An image of `len` bytes, made with these options of mke2fs.
    pub fn ext4_with(
        &self,
        name: &str,
        uuid: &str,
        len: u64,
        options: &[&str],
        files: &[(&str, &[u8])],
    ) -> PathBuf {
        let (image, tree) = (self.path(name), self.path(&format!("{name}.tree")));
        for (path, bytes) in files {
            let file = tree.join(path);
            fs::create_dir_all(file.parent().expect("below the tree")).expect("our own tree");
            fs::write(file, bytes).expect("our own file");
        }
        fs::create_dir_all(&tree).expect("our own tree");
        let file = fs::File::create(&image).expect("a file in our own directory");
        file.set_len(len).expect("a sparse file");
        let (image_text, tree) = (image.to_string_lossy(), tree.to_string_lossy());
        let mut args = vec!["-q", "-F", "-U", uuid, "-E", "lazy_itable_init=1,root_owner=0:0"];
        args.extend(options);
        args.extend(["-d", &tree, &image_text]);
        run("mke2fs", &args);
        // The guard reads all of a file; this one is too large for that.
        if len < 1 << 30 {
            self.guard(&image);
        }
        image
    }

    /// A root filesystem that boots kernel 1, with its modules.
    pub fn root(&self, name: &str, fstab: &str) -> PathBuf {
        let (kernel, initrd, menu) = (fake_kernel(1), initrd(101), menu("1"));
        self.ext4(
            name,
            ROOT,
            &[
                ("boot/vmlinuz-1", &kernel),
                ("boot/initrd.img-1", &initrd),
                ("boot/grub/menu.lst", menu.as_bytes()),
                ("etc/fstab", fstab.as_bytes()),
                ("lib/modules/6.1.0-tiny/modules.dep", b""),
                ("lib/modules/6.1.0-tiny/modules.builtin", BUILTIN.as_bytes()),
            ],
        )
    }

    /// A swap area of `len` bytes with a label.
    pub fn swap(&self, name: &str, len: u64, label: &str) -> PathBuf {
        let image = self.path(name);
        let file = fs::File::create(&image).expect("a file in our own directory");
        file.set_len(len).expect("a sparse file");
        run("chmod", &["600".as_ref(), image.as_os_str()]);
        run("mkswap", &["-q", "-U", SWAP, "-L", label, &image.to_string_lossy()]);
        self.guard(&image);
        image
    }

    /// Mounts the config `text`.
    pub fn mount(&self, text: &str, options: &[&str]) -> Mount {
        let config = self.config(text);
        mount(&config, options)
    }

    /// What `synthdisk mount --config` says when it refuses `text`: one line, exit code 1.
    pub fn refused(&self, text: &str, options: &[&str]) -> String {
        let config = self.config(text);
        let dir = self.path("refused");
        fs::create_dir_all(&dir).expect("our own directory");
        let mut args = vec!["mount", "--config", &config];
        args.extend(options);
        let dir = dir.to_string_lossy();
        args.push(&dir);
        expect_failure(&args, 1)
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.images.borrow().iter().for_each(Untouched::check);
        }
    }
}

/// Mounts what `config` describes.
pub fn mount(config: &str, options: &[&str]) -> Mount {
    let mut all = vec!["--config", config];
    all.extend(options);
    Mount::of(&all, &[])
}

/// What `synthdisk map --json` says of `config`.
pub fn map(config: &str, options: &[&str]) -> Value {
    let mut args = vec!["map", "--json", "--config", config];
    args.extend(options);
    serde_json::from_str(&run_text(SYNTHDISK, &args)).expect("it says JSON")
}

/// The kernel's command line in what [`map`] says.
pub fn cmdline(map: &Value) -> String {
    map["boot"]["cmdline"].as_str().unwrap_or_else(|| panic!("nothing boots: {map:#}")).to_owned()
}

/// The value of `key=` in a kernel's command line.
pub fn word(cmdline: &str, key: &str) -> String {
    let mut words = cmdline.split_whitespace().filter_map(|w| w.strip_prefix(key));
    words.next_back().unwrap_or_else(|| panic!("no {key} in {cmdline}")).to_owned()
}

/// A partition as sfdisk sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Part {
    pub number: u32,
    /// Bytes.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// Two hex digits, or a GUID.
    pub kind: String,
    /// GPT only.
    pub guid: String,
}

/// The table's kind (`dos`, `gpt`) and the partitions as sfdisk sees them.
pub fn table(disk: &Path) -> (String, Vec<Part>) {
    let table = run_text("sfdisk", &["-J", &disk.to_string_lossy()]);
    let table: Value = serde_json::from_str(&table).expect("sfdisk says JSON");
    let table = &table["partitiontable"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let parts = table["partitions"].as_array().expect("there are partitions").iter().map(|p| {
        let node = text(&p["node"]);
        let number = node.strip_prefix(&*disk.to_string_lossy()).expect("named after the disk");
        let bytes = |key: &str| p[key].as_u64().expect("a number") * 512;
        Part {
            number: number.parse().expect("a number"),
            start: bytes("start"),
            len: bytes("size"),
            kind: text(&p["type"]),
            guid: text(&p["uuid"]),
        }
    });
    (text(&table["label"]), parts.collect())
}

/// What blkid reads in `path`.
pub fn blkid(path: &Path, key: &str) -> String {
    let all = run_text("blkid", &["-p", "-o", "export", &path.to_string_lossy()]);
    let value = all.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("blkid says no {key}: {all}")).to_owned()
}

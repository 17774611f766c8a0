//! Tiny guests: an ext4 image of a few MiB with a kernel that only looks like one.
//! Tests that boot nothing are faster with these.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::cpio::Cpio;
use super::process::run;

/// Length in bytes of the kernel that [`fake_kernel`] makes.
pub const KERNEL_LEN: usize = 300_123;
/// Length in bytes of a tiny guest's initrd.
pub const INITRD_LEN: usize = 70_001;
/// UUID of a tiny guest's filesystem.
pub const UUID: &str = "74696e79-6775-4573-8074-000000000001";

/// An initrd as initramfs-tools makes it, without drivers; its length is [`INITRD_LEN`].
pub fn initrd(seed: u64) -> Vec<u8> {
    let mut cpio = Cpio::default();
    cpio.add("conf/initramfs.conf", 0o100_644, b"MODULES=most\n");
    cpio.add("init", 0o100_755, b"#!/bin/sh\n");
    cpio.add("data", 0o100_644, &noise(60_000, seed));
    let mut bytes = cpio.finish();
    assert!(bytes.len() < INITRD_LEN);
    bytes.resize(INITRD_LEN, 0);
    bytes
}

/// A tree and the images made from it, removed when dropped. Every user can read it.
pub struct Tiny {
    home: TempDir,
    /// The bare ext4 image.
    pub image: PathBuf,
}

impl Tiny {
    /// A guest of 16 MiB that boots `/boot/vmlinuz-1` by its menu.lst.
    pub fn new() -> Self {
        Self::with(|_| ())
    }

    /// Like [`Tiny::new`], with its tree changed by `edit` before the image is made.
    pub fn with(edit: impl FnOnce(&Path)) -> Self {
        let home = TempDir::with_prefix("synthdisk-tiny-").expect("a temporary directory");
        open_to_all(home.path());
        let tree = home.path().join("tree");
        fs::create_dir_all(tree.join("boot/grub")).expect("mkdir in our own directory");
        fs::create_dir_all(tree.join("etc")).expect("mkdir in our own directory");
        fs::write(tree.join("boot/vmlinuz-1"), fake_kernel(1)).expect("our own file");
        fs::write(tree.join("boot/initrd.img-1"), initrd(101)).expect("our own file");
        fs::write(tree.join("boot/grub/menu.lst"), menu("1")).expect("our own file");
        fs::write(tree.join("etc/fstab"), format!("UUID={UUID} / ext4 defaults 0 1\n"))
            .expect("our own");
        fs::write(tree.join("data"), noise(3 << 20, 7)).expect("our own file");
        symlink("boot/vmlinuz-1", tree.join("vmlinuz")).expect("a link in our own directory");
        edit(&tree);
        let image = home.path().join("root.img");
        make_ext4(&image, 16 << 20, Some(&tree));
        Self { home, image }
    }

    /// A guest with room for more than one kernel, by the length of its image in bytes.
    pub fn path(&self) -> &Path {
        self.home.path()
    }

    /// A file beside the image.
    pub fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }
}

/// Lets every user enter a directory of ours.
pub fn open_to_all(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("chmod of our own file");
}

/// Makes `image` an ext4 filesystem of `len` bytes that holds `tree`.
pub fn make_ext4(image: &Path, len: u64, tree: Option<&Path>) {
    let file = fs::File::create(image).expect("a file in our own directory");
    file.set_len(len).expect("a sparse file");
    let (image, mut args) = (image.to_string_lossy(), vec!["-q", "-F", "-t", "ext4", "-U", UUID]);
    args.extend(["-b", "4096", "-E", "lazy_itable_init=1,root_owner=0:0"]);
    let tree = tree.map(|t| t.to_string_lossy());
    if let Some(tree) = &tree {
        args.extend(["-d", tree]);
    }
    args.push(&image);
    run("mke2fs", &args);
}

/// A menu.lst that boots kernel and initrd `version`.
pub fn menu(version: &str) -> String {
    format!(
        "default 0\ntimeout 2\n\ntitle Tiny {version}\nroot (hd0,0)\n\
         kernel /boot/vmlinuz-{version} root=/dev/xvda2 ro console=hvc0\n\
         initrd /boot/initrd.img-{version}\n"
    )
}

/// The head of a bzImage with an EFI stub, then noise.
pub fn fake_kernel(seed: u64) -> Vec<u8> {
    let mut kernel = noise(KERNEL_LEN, seed);
    kernel[..0x1400].fill(0);
    kernel[..2].copy_from_slice(b"MZ");
    kernel[0x3c] = 0x40;
    kernel[0x40..0x46].copy_from_slice(b"PE\0\0\x64\x86");
    kernel[0x40 + 68] = 1;
    kernel[0x1f1] = 9;
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
    kernel[0x20e..0x210].copy_from_slice(&0x1000u16.to_le_bytes());
    kernel[0x211] = 1;
    kernel[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    kernel[0x238..0x23c].copy_from_slice(&2047u32.to_le_bytes());
    kernel[0x258..0x260].copy_from_slice(&0x0100_0000u64.to_le_bytes());
    kernel[0x260..0x264].copy_from_slice(&0x0250_0000u32.to_le_bytes());
    let version = format!("6.{seed}.0-tiny (test) #1\0");
    kernel[0x1200..0x1200 + version.len()].copy_from_slice(version.as_bytes());
    kernel
}

/// Pseudo-random bytes; the same `seed` gives the same bytes.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend(state.to_le_bytes());
    }
    out.truncate(len);
    out
}

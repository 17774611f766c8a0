//! The initrd with which a guest's own kernel edits the guest's root filesystem in a throwaway machine:
//! the modules for its disk and its filesystem, and our program.

use super::cpio::Archive;
use super::insmod::{WordSize, program};
use super::load::{DIR, NEEDED, add_modules};
use crate::edit::guest_kernel::{PROGRAM_32, PROGRAM_64};
use crate::fs::GuestFs;
use crate::guest::drivers::Modules;
use crate::{Error, ErrorKind, Result};

/// Checksums that filesystems request by other names, so that no module lists them. Only some of them
/// are needed, and a kernel may have them built in.
const CHECKSUMS: [&str; 6] = [
    "crc32c_generic",
    "crc32c_cryptoapi",
    "libcrc32c",
    "xxhash_generic",
    "sha256_generic",
    "blake2b_generic",
];

/// The initrd for the kernel `version` of the guest whose files are `fs`, and the type of filesystem to
/// mount: that of the first of `drivers` that the kernel has.
///
/// # Errors
/// [`ErrorKind::NotFound`] when the kernel has no such driver; errors from reading its modules.
pub(in crate::plan::examine) fn editing_initrd(
    fs: &dyn GuestFs,
    version: &str,
    drivers: &'static [&'static str],
) -> Result<(Vec<u8>, &'static str)> {
    let lacks = |what: &str| {
        let what = format!("the guest has no {what} for its kernel {version}");
        Error::new(ErrorKind::NotFound, what)
    };
    let modules =
        Modules::of_configuration(fs, version).ok_or_else(|| lacks("directory of modules"))?;
    let mut paths = Vec::new();
    for (name, config) in NEEDED {
        if !modules.is_builtin(name, config) {
            paths.extend(modules.chain(name).ok_or_else(|| lacks(&format!("module {name}")))?);
        }
    }
    let option = |name: &str| format!("{}_FS", name.to_ascii_uppercase());
    let builtin = drivers.iter().find(|name| modules.is_builtin(name, &option(name)));
    let driver = match builtin {
        Some(name) => *name,
        None => {
            let chain = |name: &&'static str| Some((*name, modules.chain(name)?));
            let found = drivers.iter().find_map(chain);
            let (name, chain) =
                found.ok_or_else(|| lacks(&format!("module {}", drivers.join(" or "))))?;
            for checksum in CHECKSUMS {
                paths.extend(modules.chain(checksum).unwrap_or_default());
            }
            paths.extend(chain);
            name
        }
    };
    let mut archive = Archive::default();
    archive.dir(DIR)?;
    archive.dir(&format!("{DIR}/dev"))?;
    archive.dir(&format!("{DIR}/root"))?;
    let loaded = add_modules(&mut archive, &modules, paths)?;
    let init = format!("{DIR}/init");
    let edit = format!("{DIR}/edit");
    match loaded.bits {
        Some(bits) => {
            let own = if bits == WordSize::B64 { PROGRAM_64 } else { PROGRAM_32 };
            archive.file(&edit, 0o755, own)?;
            archive.file(&init, 0o755, &program(bits, &format!("/{edit}"), &loaded.paths)?)?;
        }
        // Nothing says which kind of kernel it is. It tries this one after the other.
        None => {
            archive.file(&init, 0o755, PROGRAM_64)?;
            archive.dir("sbin")?;
            archive.file("sbin/init", 0o755, PROGRAM_32)?;
        }
    }
    Ok((archive.finish()?, driver))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{Budget, MemFs};
    use crate::initrd::{Initrd, Whole};

    /// What is in the initrd, and the driver.
    fn made(fs: &MemFs, drivers: &'static [&'static str]) -> Result<(Vec<String>, &'static str)> {
        let (bytes, driver) = editing_initrd(fs, "6.1", drivers)?;
        let found = Initrd::read(&mut Whole(bytes), &Budget::new())?;
        Ok((found.entries.into_keys().filter(|path| path.contains('.')).collect(), driver))
    }

    fn module() -> Vec<u8> {
        [b"\x7fELF\x02\x01\x01".as_slice(), &[0; 11], &[62, 0], &[0; 50]].concat()
    }

    fn guest(dep: &str, builtin: &str) -> MemFs {
        let dir = "/lib/modules/6.1";
        let mut fs = MemFs::new()
            .file(&format!("{dir}/modules.dep"), dep)
            .file(&format!("{dir}/modules.builtin"), builtin);
        for line in dep.lines() {
            let path = line.split(':').next().unwrap_or_default();
            fs = fs.file(&format!("{dir}/{path}"), module());
        }
        fs
    }

    #[test]
    fn it_has_the_drivers_that_are_modules() {
        let dep = "k/virtio.ko:\nk/virtio_pci.ko: k/virtio.ko\nk/virtio_blk.ko: k/virtio.ko\n\
                   k/xfs.ko: k/libcrc32c.ko\nk/libcrc32c.ko:\nk/crc32c_generic.ko:\n";
        let (files, driver) = made(&guest(dep, ""), &["xfs"]).unwrap();
        assert_eq!(driver, "xfs");
        let names = ["crc32c_generic", "libcrc32c", "virtio", "virtio_blk", "virtio_pci", "xfs"];
        assert_eq!(files, names.map(|name| format!("synthdisk/{name}.ko")));
        let builtin = "k/virtio_pci.ko\nk/virtio_blk.ko\nk/ext4.ko\n";
        assert_eq!(made(&guest("", builtin), &["ext4", "ext3"]).unwrap(), (vec![], "ext4"));
        let builtin = "k/virtio_pci.ko\nk/virtio_blk.ko\n";
        let (files, driver) = made(&guest("k/ext3.ko:\n", builtin), &["ext4", "ext3"]).unwrap();
        assert_eq!((files, driver), (vec!["synthdisk/ext3.ko".into()], "ext3"));
    }

    #[test]
    fn what_a_kernel_lacks_is_named() {
        let why = |fs: &MemFs| made(fs, &["btrfs"]).map(|_| ()).unwrap_err().to_string();
        assert_eq!(why(&guest("", "")), "the guest has no module virtio_pci for its kernel 6.1");
        let virtio = "k/virtio_pci.ko\nk/virtio_blk.ko\n";
        assert_eq!(why(&guest("", virtio)), "the guest has no module btrfs for its kernel 6.1");
    }
}

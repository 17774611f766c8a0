//! Whether the guest's configuration builds initrds with drivers for any machine. This is cheaper
//! to read than the initrd itself.
//!
//! Sources: initramfs.conf(5) and mkinitramfs(8); dracut.conf(5).

use super::generator::Generator;
use crate::fs::{FileKind, GuestFs};

/// Largest configuration file that is read, in bytes.
const MAX_CONFIG: usize = 64 << 10;
/// Maximum number of files in a configuration directory; a larger one is not read.
const MAX_FILES: usize = 100;

/// The program that, according to the guest's configuration, put the drivers of all common disks into
/// the initrd that was created at `made` (seconds since 1970). In doubt, there is none. Another
/// program may have created that initrd: what it contains decides.
pub fn made_for_any_machine(fs: &dyn GuestFs, made: i64) -> Option<Generator> {
    let has = |paths: &[&str]| paths.iter().any(|p| fs.stat(p).is_ok());
    let initramfs_tools = has(&["/usr/sbin/mkinitramfs"]);
    let dracut = has(&["/usr/bin/dracut", "/usr/sbin/dracut", "/sbin/dracut"]);
    match (initramfs_tools, dracut) {
        (true, false) => {
            let dirs = ["/usr/share/initramfs-tools/conf.d", "/etc/initramfs-tools/conf.d"];
            let files = files(fs, "/etc/initramfs-tools/initramfs.conf", &dirs, "", made);
            let most =
                |files: &Vec<String>| last_value(files, "MODULES").as_deref() == Some("most");
            files.filter(most).map(|_| Generator::InitramfsTools)
        }
        (false, true) => {
            let dirs = ["/usr/lib/dracut/dracut.conf.d", "/etc/dracut.conf.d"];
            let files = files(fs, "/etc/dracut.conf", &dirs, ".conf", made);
            let any = |files: &Vec<String>| {
                let limits = |line: &&str| {
                    ["omit_", "drivers=", "dracutmodules="].iter().any(|w| line.contains(w))
                };
                !files.iter().any(|text| lines(text).any(|line| limits(&line)))
                    && last_value(files, "hostonly").as_deref() == Some("no")
            };
            files.filter(any).map(|_| Generator::Dracut)
        }
        _ => None,
    }
}

/// The texts of `main` and of the files in `dirs` whose names end with `ending`, in the order in
/// which they take effect; `None` if one was changed after `made` or cannot be read.
fn files(
    fs: &dyn GuestFs,
    main: &str,
    dirs: &[&str],
    ending: &str,
    made: i64,
) -> Option<Vec<String>> {
    let mut paths = Vec::new();
    if fs.stat(main).is_ok() {
        paths.push(main.to_owned());
    }
    for dir in dirs {
        let Ok(names) = fs.read_dir(dir) else { continue };
        if names.len() > MAX_FILES || fs.stat(dir).ok()?.mtime_secs > made {
            return None;
        }
        let names = names.iter().filter(|n| n.ends_with(ending));
        paths.extend(names.map(|name| format!("{dir}/{name}")));
    }
    let mut out = Vec::new();
    for path in paths {
        let stat = fs.stat(&path).ok()?;
        if stat.kind != FileKind::File {
            continue;
        }
        if stat.mtime_secs > made {
            return None;
        }
        out.push(String::from_utf8_lossy(&fs.read(&path, MAX_CONFIG).ok()?).into_owned());
    }
    Some(out)
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.starts_with('#'))
}

/// The value of the last `key=value` shell assignment, without quotes.
fn last_value(files: &[String], key: &str) -> Option<String> {
    let value = |line: &str| {
        let value = line.strip_prefix(key)?.strip_prefix('=')?.split('#').next()?.trim();
        Some(value.trim_matches(['"', '\'']).to_owned())
    };
    files.iter().flat_map(|text| lines(text)).filter_map(value).last()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFs;

    fn made_for_any_machine(fs: &dyn GuestFs, made: i64) -> bool {
        super::made_for_any_machine(fs, made).is_some()
    }

    #[test]
    fn initramfs_tools() {
        let conf = "/etc/initramfs-tools/initramfs.conf";
        let guest = |text: &str| MemFs::new().file("/usr/sbin/mkinitramfs", "").file(conf, text);
        assert!(made_for_any_machine(&guest("# MODULES=dep\nMODULES=most\n"), 1));
        assert!(!made_for_any_machine(&guest("MODULES=dep\n"), 1));
        assert!(!made_for_any_machine(&guest(""), 1));
        let dir = "/etc/initramfs-tools/conf.d/mine";
        assert!(!made_for_any_machine(&guest("MODULES=most").file(dir, "MODULES=\"list\""), 1));
        assert!(made_for_any_machine(&guest("MODULES=list").file(dir, "MODULES=most # all"), 1));
        // The configuration is newer than the initrd.
        assert!(!made_for_any_machine(&guest("MODULES=most"), -1));
        let both = guest("MODULES=most").file("/usr/bin/dracut", "");
        assert!(!made_for_any_machine(&both, 1));
    }

    #[test]
    fn dracut() {
        let guest = || MemFs::new().file("/usr/bin/dracut", "");
        assert!(!made_for_any_machine(&guest(), 1));
        let dist = "/usr/lib/dracut/dracut.conf.d/01-dist.conf";
        let own = "/etc/dracut.conf.d/own.conf";
        assert!(!made_for_any_machine(&guest().file(dist, "hostonly=\"yes\"\n"), 1));
        let generic = || guest().file(dist, "hostonly=\"yes\"\n").file(own, "hostonly=no\n");
        assert!(made_for_any_machine(&generic(), 1));
        let omits = generic().file("/etc/dracut.conf", "omit_drivers+=\" virtio_blk \"");
        assert!(!made_for_any_machine(&omits, 1));
        let comment = generic().file("/etc/dracut.conf", "#omit_drivers+=\" x \"");
        assert!(made_for_any_machine(&comment, 1));
    }
}

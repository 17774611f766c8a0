//! depmod's files: the modules of a kernel, their dependencies, and what is built in.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::fs::{FileKind, GuestFs};
use crate::initrd::module_name;
use crate::{Error, ErrorKind, Result};

/// Maximum bytes of `modules.dep` and of a kernel's configuration; distributions need less than 1
/// MB.
const MAX_LIST: usize = 8 << 20;
/// Maximum bytes of a module file, compressed or not.
const MAX_MODULE: usize = 32 << 20;
/// Maximum number of modules that one driver may need.
const MAX_CHAIN: usize = 100;

/// The modules of one kernel. Each list is read on first use.
pub struct Modules<'a> {
    fs: &'a dyn GuestFs,
    version: String,
    dir: String,
    builtin: OnceCell<Option<BTreeSet<String>>>,
    config: OnceCell<BTreeSet<String>>,
    list: OnceCell<BTreeMap<String, Module>>,
}

/// A line of `modules.dep`, with its paths verbatim.
struct Module {
    path: String,
    needs: Vec<String>,
}

impl<'a> Modules<'a> {
    /// The modules of the kernel `version`; `None` if `fs` has none for it.
    pub fn open(fs: &'a dyn GuestFs, version: &str) -> Option<Self> {
        if version.is_empty() || version.contains('/') || version.starts_with('.') {
            return None;
        }
        let dirs = ["/lib/modules", "/usr/lib/modules"].map(|dir| format!("{dir}/{version}"));
        let is_dir = |dir: &String| fs.stat(dir).is_ok_and(|stat| stat.kind == FileKind::Dir);
        let dir = dirs.into_iter().find(is_dir)?;
        Some(Self {
            fs,
            version: version.to_owned(),
            dir,
            builtin: OnceCell::new(),
            config: OnceCell::new(),
            list: OnceCell::new(),
        })
    }

    /// The modules of a kernel that may have none in `fs`: what is built in is known from its
    /// configuration, `/boot/config-VERSION`. `None` for what is no version.
    pub fn of_configuration(fs: &'a dyn GuestFs, version: &str) -> Option<Self> {
        Self::open(fs, version).or_else(|| {
            let is_version =
                !version.is_empty() && !version.contains('/') && !version.starts_with('.');
            is_version.then(|| Self {
                fs,
                version: version.to_owned(),
                dir: format!("/lib/modules/{version}"),
                builtin: OnceCell::new(),
                config: OnceCell::new(),
                list: OnceCell::new(),
            })
        })
    }

    /// The directory, as an absolute path.
    pub fn dir(&self) -> &str {
        &self.dir
    }

    fn text(&self, path: &str) -> Option<String> {
        let bytes = self.fs.read(path, MAX_LIST).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Whether a driver is part of the kernel. `config` is its name in the kernel's configuration,
    /// which is consulted if there is no list of built-in modules (before Linux 2.6.33).
    pub fn is_builtin(&self, name: &str, config: &str) -> bool {
        let builtin = self.builtin.get_or_init(|| {
            let text = self.text(&format!("{}/modules.builtin", self.dir))?;
            Some(text.lines().filter_map(module_name).collect())
        });
        match builtin {
            Some(names) => names.contains(name),
            None => self.config().contains(config),
        }
    }

    /// The options that are `=y` in the kernel's configuration, without `CONFIG_`.
    fn config(&self) -> &BTreeSet<String> {
        self.config.get_or_init(|| {
            let places = [format!("/boot/config-{}", self.version), format!("{}/config", self.dir)];
            let text = places.iter().find_map(|path| self.text(path)).unwrap_or_default();
            let yes =
                |line: &str| Some(line.strip_prefix("CONFIG_")?.strip_suffix("=y")?.to_owned());
            text.lines().filter_map(|line| yes(line.trim_end())).collect()
        })
    }

    fn list(&self) -> &BTreeMap<String, Module> {
        self.list.get_or_init(|| {
            let text = self.text(&format!("{}/modules.dep", self.dir)).unwrap_or_default();
            let line = |line: &str| {
                let (path, needs) = line.split_once(':')?;
                let needs = needs.split_ascii_whitespace().map(str::to_owned).collect();
                Some((module_name(path)?, Module { path: path.to_owned(), needs }))
            };
            text.lines().filter_map(line).collect()
        })
    }

    /// The name under which the driver is listed, if it is.
    pub fn find(&self, name: &str) -> Option<String> {
        self.list().contains_key(name).then(|| name.to_owned())
    }

    /// Whether a driver is at the path where Linux's own build installs it. This checks only a few
    /// files, whereas [`find`](Self::find) reads the complete list.
    pub fn is_at(&self, path: &str) -> bool {
        let base = format!("{}/kernel/{path}.ko", self.dir);
        ["", ".xz", ".zst", ".gz"].iter().any(|p| self.fs.stat(&format!("{base}{p}")).is_ok())
    }

    /// The files of a driver and of all its dependencies, in load order; `None` if one of them is
    /// not listed.
    pub fn chain(&self, name: &str) -> Option<Vec<String>> {
        let mut out = Vec::new();
        self.visit(name, &mut out, &mut Vec::new())?;
        Some(out.into_iter().map(|path| self.absolute(path)).collect())
    }

    fn visit<'b>(
        &'b self,
        name: &str,
        out: &mut Vec<&'b str>,
        above: &mut Vec<String>,
    ) -> Option<()> {
        let module = self.list().get(name)?;
        if out.contains(&module.path.as_str()) {
            return Some(());
        }
        // A cycle, or a list that depmod did not write.
        if above.iter().any(|n| n == name) || above.len() + out.len() >= MAX_CHAIN {
            return None;
        }
        above.push(name.to_owned());
        // depmod lists last what must be loaded first.
        for path in module.needs.iter().rev() {
            self.visit(&module_name(path)?, out, above)?;
        }
        above.pop();
        out.push(&module.path);
        Some(())
    }

    /// Old lists have absolute paths.
    fn absolute(&self, path: &str) -> String {
        if path.starts_with('/') { path.to_owned() } else { format!("{}/{path}", self.dir) }
    }

    /// A module's bytes, decompressed: an ELF file.
    ///
    /// # Errors
    /// Errors from reading it; `Corrupt` if it can't be decompressed or is not an ELF file.
    pub fn load(&self, path: &str) -> Result<Vec<u8>> {
        let named = |e: Error| Error::with_source(e.kind(), format!("{path} in the guest"), e);
        let packed = self.fs.read(path, MAX_MODULE)?;
        let module =
            crate::initrd::unpack_file(packed, MAX_MODULE, self.fs.budget()).map_err(named)?;
        if !module.starts_with(b"\x7fELF") {
            let what = format!("{path} in the guest is no kernel module");
            return Err(Error::new(ErrorKind::Corrupt, what));
        }
        Ok(module)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFs;

    fn guest(dep: &str) -> MemFs {
        MemFs::new().file("/lib/modules/1/modules.dep", dep)
    }

    #[test]
    fn chains() {
        let fs = guest("k/a.ko: k/b.ko k/c.ko\nk/b.ko: k/c.ko\nk/c.ko:\nk/d.ko: k/nowhere.ko\n");
        let modules = Modules::open(&fs, "1").unwrap();
        let chain = |name| modules.chain(name).map(|c| c.join(" "));
        let at = |names: &[&str]| {
            let paths: Vec<_> = names.iter().map(|n| format!("/lib/modules/1/k/{n}.ko")).collect();
            Some(paths.join(" "))
        };
        assert_eq!(chain("a"), at(&["c", "b", "a"]));
        assert_eq!(chain("c"), at(&["c"]));
        assert_eq!((chain("d"), chain("e")), (None, None));
        // A cycle, and a chain that is too long.
        let fs = guest("a.ko: b.ko\nb.ko: a.ko\n");
        assert_eq!(Modules::open(&fs, "1").unwrap().chain("a"), None);
        let long: String = (0..1000).map(|i| format!("m{i}.ko: m{}.ko\n", i + 1)).collect();
        assert_eq!(Modules::open(&guest(&long), "1").unwrap().chain("m0"), None);
        // As written by module-init-tools.
        let fs = guest("/lib/modules/1/k/a.ko: /lib/modules/1/k/b.ko\n/lib/modules/1/k/b.ko:\n");
        let chain = Modules::open(&fs, "1").unwrap().chain("a");
        assert_eq!(chain.map(|c| c.join(" ")), at(&["b", "a"]));
    }

    #[test]
    fn versions_that_lead_elsewhere() {
        for version in ["", "..", ".", "1/../1", "2"] {
            assert!(Modules::open(&guest(""), version).is_none(), "{version}");
        }
    }

    #[test]
    fn modules_are_unpacked() {
        let fs = guest("").file("/a.ko", b"\x7fELF and so on".to_vec()).file("/b.ko", "text");
        let fs = fs.file("/c.ko.gz", b"\x1f\x8b\x08 broken".to_vec());
        let modules = Modules::open(&fs, "1").unwrap();
        assert_eq!(modules.load("/a.ko").unwrap(), b"\x7fELF and so on");
        assert_eq!(modules.load("/b.ko").unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(modules.load("/c.ko.gz").unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(modules.load("/d.ko").unwrap_err().kind(), ErrorKind::NotFound);
    }
}

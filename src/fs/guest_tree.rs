//! All of a guest's files: its root filesystem, with others mounted on it.

use super::budget::Budget;
use super::guest_fs::{FileKind, GuestFile, GuestFs, KernelMount, Node, resolve_to};
use crate::Result;

/// Most filesystems that are mounted on a root.
pub const MAX_MOUNTS: usize = 32;

/// A filesystem of a tree.
pub enum Mounted<'a> {
    /// One that others use too.
    Shared(&'a dyn GuestFs),
    /// The tree's own.
    Own(Box<dyn GuestFs + 'a>),
}

impl Mounted<'_> {
    fn fs(&self) -> &dyn GuestFs {
        match self {
            Self::Shared(fs) => *fs,
            Self::Own(fs) => &**fs,
        }
    }
}

/// A root filesystem with others mounted on it. Paths and symlinks lead across mount points, as in
/// the running guest.
pub struct GuestTree<'a> {
    root: Mounted<'a>,
    /// Mount points as canonical paths, and what is mounted there; a later one may be on an earlier
    /// one.
    mounts: Vec<(String, Mounted<'a>)>,
}

impl<'a> GuestTree<'a> {
    /// A tree with nothing mounted on `root`.
    pub fn new(root: Mounted<'a>) -> Self {
        Self { root, mounts: Vec::new() }
    }

    /// Mounts `fs` on the directory `path`; nothing happens if there is no such directory, or after
    /// [`MAX_MOUNTS`].
    pub fn mount(&mut self, path: &str, fs: Mounted<'a>) {
        let Ok((point, _)) = resolve_to(self, path, FileKind::Dir) else { return };
        if point != "/" && self.mounts.len() < MAX_MOUNTS {
            self.mounts.push((point, fs));
        }
    }

    /// The filesystem that has the canonical path `path`, and the path there.
    fn at<'p>(&self, path: &'p str) -> (&dyn GuestFs, &'p str) {
        for (point, fs) in self.mounts.iter().rev() {
            match path.strip_prefix(point.as_str()) {
                Some("") => return (fs.fs(), "/"),
                Some(rest) if rest.starts_with('/') => return (fs.fs(), rest),
                _ => {}
            }
        }
        (self.root.fs(), path)
    }

    /// Whether the canonical path `path`, or the nearest directory above it, is on the root
    /// filesystem itself.
    pub fn is_on_root(&self, path: &str) -> bool {
        let below =
            |point: &str| path.strip_prefix(point).is_some_and(|rest| rest.starts_with('/'));
        !self.mounts.iter().any(|(point, _)| below(point))
    }
}

impl GuestFs for GuestTree<'_> {
    fn node(&self, path: &str, searched: u64) -> Result<Node> {
        let (fs, path) = self.at(path);
        fs.node(path, searched)
    }

    fn read_dir(&self, path: &str) -> Result<Vec<String>> {
        let (full, _) = resolve_to(self, path, FileKind::Dir)?;
        let (fs, path) = self.at(&full);
        fs.read_dir(path)
    }

    fn budget(&self) -> &Budget {
        self.root.fs().budget()
    }

    fn open(&self, path: &str) -> Result<Box<dyn GuestFile + '_>> {
        let (full, _) = resolve_to(self, path, FileKind::File)?;
        let (fs, path) = self.at(&full);
        fs.open(path)
    }

    fn kernel_mount(&self) -> Option<KernelMount> {
        self.root.fs().kernel_mount()
    }

    fn caveat(&self) -> Option<String> {
        let mounts = self.mounts.iter().map(|(_, fs)| fs);
        std::iter::once(&self.root).chain(mounts).find_map(|fs| fs.fs().caveat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFs;

    fn text(tree: &GuestTree<'_>, path: &str) -> String {
        String::from_utf8(tree.read(path, 100).unwrap_or_default()).unwrap()
    }

    #[test]
    fn paths_lead_across_mount_points() {
        let root = MemFs::new()
            .file("/etc/fstab", "")
            .file("/usr/hidden", "x")
            .file("/srv/x", "")
            .symlink("/lib", "usr/lib")
            .symlink("/mnt", "srv");
        let usr = MemFs::new()
            .file("/lib/modules/6.1/modules.dep", "dep")
            .file("/local/hidden", "")
            .symlink("/lib/up", "../../etc/fstab");
        let local = MemFs::new().file("/bin/tool", "tool");
        let srv = MemFs::new().file("/data", "data");
        let mut tree = GuestTree::new(Mounted::Shared(&root));
        tree.mount("/usr", Mounted::Shared(&usr));
        tree.mount("/usr/local/", Mounted::Own(Box::new(local)));
        tree.mount("/mnt", Mounted::Shared(&srv));
        tree.mount("/", Mounted::Shared(&srv));
        tree.mount("/none", Mounted::Shared(&srv));
        assert_eq!(text(&tree, "/lib/modules/6.1/modules.dep"), "dep");
        assert_eq!(text(&tree, "/usr/local/bin/tool"), "tool");
        assert_eq!(text(&tree, "/srv/data"), "data");
        assert!(tree.stat("/usr/hidden").is_err() && tree.stat("/usr/local/hidden").is_err());
        assert_eq!(tree.canonicalize("/lib/up").unwrap(), "/etc/fstab");
        assert_eq!(tree.read_dir("/lib/modules").unwrap(), ["6.1"]);
        assert_eq!(tree.read_dir("/").unwrap(), ["etc", "lib", "mnt", "srv", "usr"]);
        for (path, on_root) in
            [("/etc/x", true), ("/usr", true), ("/usr/x", false), ("/usrx", true)]
        {
            assert_eq!(tree.is_on_root(path), on_root, "{path}");
        }
    }
}

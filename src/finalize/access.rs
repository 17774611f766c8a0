//! Permissions of a result: only users who may read everything that it was made from may read it.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The extended attribute in which Linux filesystems store a file's ACL. If there is one, the group
/// bits of the mode are the ACL's mask and do not show the group's permissions. See acl(5).
const ACCESS_LIST: &str = "system.posix_acl_access";

/// The permissions of the files that a result is made from.
#[derive(Clone, Debug, Default)]
pub struct SourceAccess {
    /// Mode bits and group of each file.
    sources: Vec<(u32, u32)>,
}

impl SourceAccess {
    /// Read the permissions of `sources`. One that cannot be examined counts as private.
    pub fn of(sources: &[PathBuf]) -> Self {
        Self { sources: sources.iter().map(|path| access_of(path)).collect() }
    }

    /// Mode bits for a result of the group `gid`: its owner may read and write it; its group and
    /// all other users may do what they may do with every source.
    pub fn mode_for(&self, gid: u32) -> u32 {
        let allowed = |(mode, group): &(u32, u32)| {
            // A group without a permission must not get it through the bits for other users.
            let others = mode & (mode >> 3) & 0o006;
            let members = if *group == gid { mode & 0o060 } else { others << 3 };
            members | others
        };
        self.sources.iter().map(allowed).fold(0o066, |all, one| all & one) | 0o600
    }

    /// Remove from `file`, which this user owns, the permissions that some source does not grant.
    ///
    /// # Errors
    /// Errors of the system calls. A filesystem without permission bits is not an error.
    pub(super) fn restrict(&self, file: &File) -> io::Result<()> {
        let meta = file.metadata()?;
        let mode = meta.mode() & 0o7777 & self.mode_for(meta.gid());
        match file.set_permissions(Permissions::from_mode(mode)) {
            // For example on FAT.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::EOPNOTSUPP)) => Ok(()),
            result => result,
        }
    }
}

/// Mode bits and group of the file at `path`.
fn access_of(path: &Path) -> (u32, u32) {
    let Ok(meta) = path.metadata() else { return (0o600, u32::MAX) };
    match xattr::get_deref(path, ACCESS_LIST) {
        Ok(Some(_)) => (meta.mode() & 0o700, meta.gid()),
        _ => (meta.mode() & 0o777, meta.gid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_as_open_as_the_least_open_source() {
        for (sources, gid, mode) in [
            (&[(0o644, 0)][..], 0, 0o644),
            (&[(0o644, 5)], 0, 0o644),
            (&[(0o666, 5)], 0, 0o666),
            (&[(0o644, 0), (0o440, 0)], 0, 0o640),
            (&[(0o644, 0), (0o400, 0)], 0, 0o600),
            // A permission of a source's group does not apply to another group.
            (&[(0o660, 5)], 5, 0o660),
            (&[(0o660, 5)], 0, 0o600),
            (&[(0o660, 5), (0o644, 0)], 5, 0o640),
            (&[(0o660, 5), (0o644, 0)], 0, 0o600),
            (&[(0o604, 5)], 0, 0o600),
            (&[], 0, 0o666),
        ] {
            let access = SourceAccess { sources: sources.to_vec() };
            assert_eq!(access.mode_for(gid), mode, "{sources:?} {gid}");
        }
    }

    #[test]
    fn files_are_asked_and_missing_ones_count_as_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let file = File::create(&path).unwrap();
        file.set_permissions(Permissions::from_mode(0o644)).unwrap();
        let gid = file.metadata().unwrap().gid();
        let mut sources = vec![path];
        assert_eq!(SourceAccess::of(&sources).mode_for(gid), 0o644);
        sources.push(dir.path().join("missing"));
        assert_eq!(SourceAccess::of(&sources).mode_for(gid), 0o600);

        let new = tempfile::tempfile_in(dir.path()).unwrap();
        new.set_permissions(Permissions::from_mode(0o666)).unwrap();
        SourceAccess::of(&sources).restrict(&new).unwrap();
        assert_eq!(new.metadata().unwrap().mode() & 0o777, 0o600);
    }
}

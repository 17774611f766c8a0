//! The directory with the chunks of remote images: an entry for each version of each image.
//!
//! ```text
//! chunks/HASH OF THE URL/HASH OF LENGTH AND VERSION/{data,sums}
//! ```
//!
//! Whoever uses an entry holds a shared lock on `data` as long as the file is open anywhere; only who
//! holds an exclusive lock may empty it.

use super::chunk::{CHUNK, count};
use super::options::RemoteOptions;
use super::origin::Identity;
use super::store::{EntryFiles, SUMS_START, empty, sums_len};
use super::url::RemoteUrl;
use crate::{Error, ErrorKind, Result};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Entries that are looked at, at most.
const MOST_ENTRIES: usize = 4096;
/// The part of the cache that is freed for an image when it is opened, if others have it.
const RESERVE: u64 = 4;

/// What the file with the checksums begins with, as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    format: u32,
    chunk: u64,
    /// Without secrets; for people.
    url: String,
    identity: Identity,
}

/// An open entry.
pub(super) struct Entry {
    /// For the fetcher.
    pub(super) files: EntryFiles,
    /// The data, for reading.
    pub(super) data: File,
    /// How much more may be stored.
    pub(super) room: u64,
}

/// A cache directory.
pub(super) struct Cache {
    dir: PathBuf,
    limit: u64,
    /// What the image is compared with: who compares shares no entry with others.
    manifests: String,
}

impl Cache {
    /// The cache that `options` choose; `None` for none.
    ///
    /// # Errors
    /// When its directory cannot be made.
    pub(super) fn open(options: &RemoteOptions) -> Result<Option<Self>> {
        let limit = options.cache_size.unwrap_or(RemoteOptions::DEFAULT_CACHE_SIZE);
        if limit == 0 {
            return Ok(None);
        }
        let Some(dir) = options.cache_dir.clone().or_else(default_dir) else { return Ok(None) };
        let failed = |e| Error::io(format!("cannot use the cache directory {}", dir.display()), e);
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(failed)?;
        let dir = dir.canonicalize().map_err(failed)?;
        let meta = dir.metadata().map_err(failed)?;
        // Its content is believed.
        if meta.uid() != nix::unistd::geteuid().as_raw() || meta.mode() & 0o022 != 0 {
            let what = format!(
                "the cache directory {} belongs to somebody else, or others can write to it; name one \
                 of your own with --cache-dir",
                dir.display()
            );
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        Ok(Some(Self { dir, limit, manifests: digest_of(&options.manifests)? }))
    }

    /// The entry for the image at `url` that is `identity`, made if there is none. One without a
    /// version has no name, and is gone when it is closed.
    ///
    /// # Errors
    /// Errors of the files.
    pub(super) fn entry(&self, url: &RemoteUrl, identity: &Identity) -> io::Result<Entry> {
        let own = identity.version.as_ref().map(|_| self.dir_of(url).join(name_of(identity)));
        let (files, data) = match &own {
            Some(dir) => open_named(dir, url, identity)?,
            None => self.open_unnamed(identity)?,
        };
        let own_bytes = files.data.metadata()?.blocks() * 512;
        let wanted = identity.len.saturating_sub(own_bytes).min(self.limit / RESERVE);
        let used = self.make_room(own.as_deref(), own_bytes, wanted);
        Ok(Entry { files, data, room: self.limit.saturating_sub(used) })
    }

    /// Empty entries other than `own` until there is room for `wanted` bytes, those first that were
    /// not used for longest; those in use stay. Returns what all entries occupy then.
    fn make_room(&self, own: Option<&Path>, own_bytes: u64, wanted: u64) -> u64 {
        let mut entries = self.entries(own);
        entries.sort_by_key(|entry| entry.last_use);
        let mut used = own_bytes + entries.iter().map(|entry| entry.bytes).sum::<u64>();
        for found in entries {
            if used.saturating_add(wanted) <= self.limit {
                break;
            }
            used -= open_files(&found.dir).map_or(0, empty).min(used);
            remove(&found.dir);
        }
        used
    }

    /// The version of the image at `url` that was used last, if it is in the cache.
    pub(super) fn last_identity(&self, url: &RemoteUrl) -> Option<Identity> {
        let dirs = fs::read_dir(self.dir_of(url)).ok()?.flatten().take(MOST_ENTRIES);
        let known = dirs.filter_map(|dir| {
            let sums = File::open(dir.path().join("sums")).ok()?;
            let last_use = sums.metadata().ok()?.modified().ok()?;
            let found = describe(&sums)?.identity;
            (name_of(&found) == dir.file_name().to_str()?).then_some((last_use, found))
        });
        known.max_by_key(|(last_use, _)| *last_use).map(|(_, identity)| identity)
    }

    fn dir_of(&self, url: &RemoteUrl) -> PathBuf {
        self.dir.join(digest(format!("{}{}", url.target(), self.manifests).as_bytes()))
    }

    /// All entries but `own`. Those that were emptied are removed.
    fn entries(&self, own: Option<&Path>) -> Vec<Found> {
        let children =
            |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
        let dirs = children(&self.dir).flat_map(|dir| children(&dir).collect::<Vec<_>>());
        let dirs = dirs.take(MOST_ENTRIES).filter(|dir| Some(dir.as_path()) != own);
        let found = dirs.filter_map(|dir| {
            let sums = dir.join("sums").metadata().ok()?;
            let data = dir.join("data").metadata().ok()?;
            if sums.len() == 0 {
                remove(&dir);
                return None;
            }
            Some(Found { dir, bytes: data.blocks() * 512, last_use: sums.modified().ok()? })
        });
        found.collect()
    }

    fn open_unnamed(&self, identity: &Identity) -> io::Result<(EntryFiles, File)> {
        let (data, sums) =
            (tempfile::NamedTempFile::new_in(&self.dir)?, tempfile::tempfile_in(&self.dir)?);
        let reader = data.reopen()?;
        let files = EntryFiles { data: data.into_file(), sums };
        files.data.set_len(identity.len)?;
        files.sums.set_len(sums_len(count(identity.len)))?;
        Ok((files, reader))
    }
}

/// An entry of the cache.
struct Found {
    dir: PathBuf,
    /// What its data occupy.
    bytes: u64,
    last_use: SystemTime,
}

/// `$XDG_CACHE_HOME/synthdisk/chunks`; root's is in /var/cache.
fn default_dir() -> Option<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Some("/var/cache/synthdisk/chunks".into());
    }
    let named =
        std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    Some(named.or_else(home)?.join("synthdisk/chunks"))
}

/// A text that differs for other contents of `files`; empty if there are none.
fn digest_of(files: &[PathBuf]) -> Result<String> {
    let mut out = String::new();
    for path in files {
        let failed = |e| Error::io(format!("cannot read the manifest {}", path.display()), e);
        let (mut file, mut hash) = (File::open(path).map_err(failed)?, Sha256::new());
        let mut buf = vec![0; 1 << 16];
        loop {
            match io::Read::read(&mut file, &mut buf).map_err(failed)? {
                0 => break,
                n => hash.update(&buf[..n]),
            }
        }
        out.push('\n');
        out.extend(hash.finalize().iter().map(|b| format!("{b:02x}")));
    }
    Ok(out)
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(16).map(|b| format!("{b:02x}")).collect()
}

fn name_of(identity: &Identity) -> String {
    digest(format!("{identity:?}").as_bytes())
}

/// Open the entry in `dir`, and make it what it should be.
fn open_named(dir: &Path, url: &RemoteUrl, identity: &Identity) -> io::Result<(EntryFiles, File)> {
    for _ in 0..10 {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let files = match open_files(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let reader = File::open(dir.join("data"))?;
        // The one that removes entries holds the lock exclusively.
        lock_shared(&files.data)?;
        lock_shared(&reader)?;
        let (ours, read) = (files.data.metadata()?, reader.metadata()?);
        if ours.nlink() == 0 || ours.ino() != read.ino() || files.sums.metadata()?.nlink() == 0 {
            continue;
        }
        // Others that open the entry at the same time write the same.
        if ours.len() != identity.len {
            files.data.set_len(identity.len)?;
        }
        let len = sums_len(count(identity.len));
        if files.sums.metadata()?.len() != len {
            files.sums.set_len(len)?;
        }
        let (url, identity) = (url.name(), identity.clone());
        let description = Description { format: 1, chunk: CHUNK, url, identity };
        let mut head = serde_json::to_vec(&description)?;
        if head.len() < SUMS_START as usize {
            head.resize(SUMS_START as usize, b' ');
            files.sums.write_all_at(&head, 0)?;
        }
        files.sums.set_modified(SystemTime::now())?;
        return Ok((files, reader));
    }
    Err(io::Error::other("somebody keeps removing it"))
}

fn open_files(dir: &Path) -> io::Result<EntryFiles> {
    let open = |name| {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        options.custom_flags(libc::O_NOFOLLOW).open(dir.join(name))
    };
    Ok(EntryFiles { data: open("data")?, sums: open("sums")? })
}

/// Locks `file` until it is closed everywhere.
fn lock_shared(file: &File) -> io::Result<()> {
    rustix::fs::flock(file, rustix::fs::FlockOperation::LockShared)?;
    Ok(())
}

/// Remove an entry that nobody uses.
fn remove(dir: &Path) {
    let Ok(files) = open_files(dir) else { return };
    let Ok(locked) = Flock::lock(files.data, FlockArg::LockExclusiveNonblock) else { return };
    // Somebody may have removed these files, and made others of the same names.
    let is_named = |file: &File, name: &str| {
        let inode = |meta: io::Result<fs::Metadata>| meta.map(|meta| (meta.dev(), meta.ino())).ok();
        let own = inode(file.metadata());
        own.is_some() && own == inode(dir.join(name).metadata())
    };
    let is_it = is_named(&locked, "data") && is_named(&files.sums, "sums");
    if is_it && files.sums.metadata().is_ok_and(|meta| meta.len() == 0) {
        let _ = fs::remove_file(dir.join("data")); // somebody may have removed it just now
        let _ = fs::remove_file(dir.join("sums"));
        let _ = fs::remove_dir(dir);
        let _ = dir.parent().map(fs::remove_dir); // fails while it has other versions
    }
}

/// What `sums` says that it describes.
fn describe(sums: &File) -> Option<Description> {
    let mut head = vec![0; SUMS_START as usize];
    sums.read_exact_at(&mut head, 0).ok()?;
    let found: Description = serde_json::from_slice(&head).ok()?;
    (found.format == 1 && found.chunk == CHUNK && found.identity.len > 0).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::super::origin::Version;
    use super::super::store::Store;
    use super::*;

    #[test]
    fn who_compares_with_a_manifest_shares_with_those_who_do() {
        let dir = tempfile::tempdir().unwrap();
        let [a, same, b] = ["a", "same", "b"].map(|name| dir.path().join(name));
        for (path, text) in [(&a, "1"), (&same, "1"), (&b, "2")] {
            fs::write(path, text).unwrap();
        }
        let of = |manifests: &[&PathBuf]| {
            let files: Vec<PathBuf> = manifests.iter().map(|path| path.to_path_buf()).collect();
            let manifests = digest_of(&files).unwrap();
            Cache { manifests, ..cache(dir.path(), 1) }.dir_of(&url("a"))
        };
        assert_eq!(of(&[&a]), of(&[&same]));
        let all = [of(&[]), of(&[&a]), of(&[&b]), of(&[&a, &b])];
        for (n, one) in all.iter().enumerate() {
            assert!(!all[..n].contains(one), "{n}");
        }
    }

    fn cache(dir: &Path, limit: u64) -> Cache {
        let options = RemoteOptions {
            cache_dir: Some(dir.join("c")),
            cache_size: Some(limit),
            ..Default::default()
        };
        Cache::open(&options).unwrap().unwrap()
    }

    fn url(name: &str) -> RemoteUrl {
        RemoteUrl::parse(&format!("https://u:pw@host/{name}?sig=secret")).unwrap()
    }

    fn identity(tag: &str) -> Identity {
        Identity { len: 3 * CHUNK, version: Some(Version::Tag(format!("\"{tag}\""))) }
    }

    fn store(entry: Entry) -> Store {
        Store::new(entry.files, 3 * CHUNK, entry.room)
    }

    #[test]
    fn entries_are_found_again_by_url_and_version() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path(), 100 * CHUNK);
        assert_eq!(cache.last_identity(&url("a")), None);
        let entry = cache.entry(&url("a"), &identity("1")).unwrap();
        store(entry).put(1, &[7; CHUNK as usize]).unwrap();
        let mut buf = Vec::new();
        let again = store(cache.entry(&url("a"), &identity("1")).unwrap());
        assert!(again.has(1, None, &mut buf) && !again.has(0, None, &mut buf));
        assert!(!store(cache.entry(&url("a"), &identity("2")).unwrap()).has(1, None, &mut buf));
        assert!(!store(cache.entry(&url("b"), &identity("1")).unwrap()).has(1, None, &mut buf));
        assert_eq!(cache.last_identity(&url("a")), Some(identity("2")));
        // No secret is on the disk.
        let found =
            std::process::Command::new("grep").args(["-rlE", "pw|secret"]).arg(dir.path()).output();
        assert!(found.unwrap().stdout.is_empty());
        // Without a version, nothing is found again.
        let unknown = Identity { version: None, ..identity("1") };
        store(cache.entry(&url("a"), &unknown).unwrap()).put(1, &[7; CHUNK as usize]).unwrap();
        assert!(!store(cache.entry(&url("a"), &unknown).unwrap()).has(1, None, &mut buf));
    }

    #[test]
    fn old_entries_give_way_unless_they_are_used() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path(), 2 * CHUNK + 16384);
        let first = cache.entry(&url("a"), &identity("1")).unwrap();
        let reader = first.data.try_clone().unwrap();
        let first = store(first);
        first.put(0, &[1; CHUNK as usize]).unwrap();
        first.put(1, &[1; CHUNK as usize]).unwrap();
        drop(first);
        let second = || store(cache.entry(&url("b"), &identity("1")).unwrap());
        // The first is still read by somebody.
        assert!(second().put(0, &[2; CHUNK as usize]).is_err());
        drop(reader);
        let b = second();
        b.put(0, &[2; CHUNK as usize]).unwrap();
        b.put(1, &[2; CHUNK as usize]).unwrap();
        assert!(b.put(2, &[2; CHUNK as usize]).is_err());
        assert_eq!(cache.entries(None).len(), 1, "the empty one is gone");
        assert_eq!(cache.last_identity(&url("a")), None);
        let mut buf = Vec::new();
        assert!(b.has(0, None, &mut buf) && b.has(1, None, &mut buf));
    }

    #[test]
    fn a_directory_of_others_is_not_believed() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let options =
            RemoteOptions { cache_dir: Some(dir.path().to_path_buf()), ..Default::default() };
        assert_eq!(Cache::open(&options).err().unwrap().kind(), ErrorKind::Invalid);
        let none = RemoteOptions { cache_size: Some(0), ..options };
        assert!(Cache::open(&none).unwrap().is_none());
    }
}

//! Planning a clone: which partition is its root, its new UUID, and which files are edited.

use super::adapting::{Adaptation, LiveGuest, devices, why_read_only};
use super::disk_builder::DiskBuilder;
use super::examine::RemoteFs;
use super::options::SourceOptions;
use super::root_resolver::RootResolver;
use super::source::SourceImage;
use super::types::PartitionNames;
use super::volumes::Volumes;
use crate::bytes::SharedBytes;
use crate::fs::GuestFs;
use crate::fs::ext4::room::may_have_inline_files;
use crate::fs::probe::ImageContent;
use crate::identity::{Clone as CloneOf, RootUuid, UuidChange, propose_with_identity};
use crate::image::Image;
use crate::{Error, ErrorKind, Result};
use std::sync::Arc;
use uuid::Uuid;

/// The error when a root filesystem that will be edited cannot be opened.
fn unreadable(e: Error) -> Error {
    let what =
        format!("cannot edit the guest's root filesystem, as --hostname and the like do: {e}");
    Error::new(e.kind(), what)
}

/// The root filesystem, as an index into the partitions of `resolver`: the one named by `cmdline`,
/// or by the config, or the first that looks like one.
pub(super) fn root_of(
    resolver: &RootResolver,
    cmdline: Option<&str>,
    guests: &LiveGuest<'_>,
) -> Result<usize> {
    let told = resolver.root_partition;
    let named = told.or_else(|| cmdline.and_then(|words| resolver.root_index(words)));
    let named = named.or_else(|| resolver.root_index(resolver.root_hint.as_deref()?));
    named.or_else(|| likely_roots(resolver, guests).next()).ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            "--hostname and the like edit the guest's root filesystem, and none of its partitions \
             can be read as one (ext2, ext3, ext4, XFS or Btrfs)",
        )
    })
}

/// The partitions that look like root filesystems.
fn likely_roots<'a>(
    resolver: &'a RootResolver,
    guests: &'a LiveGuest<'_>,
) -> impl Iterator<Item = usize> + 'a {
    let looks_like_one = |index: usize| {
        let fs = guests.filesystem(resolver, index).ok().flatten();
        fs.is_some_and(|(_, fs)| fs.stat("/etc").is_ok() && fs.stat("/boot/etc").is_err())
    };
    let linux = resolver.partitions.iter().enumerate().filter(|(_, p)| p.kind.may_hold_root());
    linux.map(|(index, _)| index).filter(move |index| looks_like_one(*index))
}

/// The root filesystem that the user or the config names, or the only one that looks like one.
pub(super) fn only_root(resolver: &RootResolver, guests: &LiveGuest<'_>) -> Option<usize> {
    let hint = || resolver.root_index(resolver.root_hint.as_deref()?);
    resolver.root_partition.or_else(hint).or_else(|| {
        let mut found = likely_roots(resolver, guests);
        found.next().filter(|_| found.next().is_none())
    })
}

/// Gives partition `root` of `resolver` the requested UUID; from now on `resolver` uses the new
/// UUID.
///
/// # Errors
/// [`ErrorKind::Unsupported`] for a filesystem that is not ext2/3/4.
pub(super) fn rename_root(
    resolver: &mut RootResolver,
    root: usize,
    wish: RootUuid,
    builders: &[DiskBuilder],
    volumes: &Volumes,
) -> Result<Option<UuidChange>> {
    let Some(names) = resolver.partitions.get_mut(root) else { return Ok(None) };
    let volume = volumes.at(root).map(|found| &found.content);
    let content = volume.or_else(|| source_of(builders, names).map(|source| &source.content));
    if !matches!(content, Some(ImageContent::Ext { .. })) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "--root-uuid can change an ext2, ext3 or ext4 filesystem only",
        ));
    }
    let current = names.uuid.clone().unwrap_or_default();
    let new = match wish {
        RootUuid::Given(uuid) => uuid.hyphenated().to_string(),
        // The clone already has its own UUID.
        RootUuid::New if !names.former.is_empty() => current.clone(),
        RootUuid::New => Uuid::new_v4().hyphenated().to_string(),
    };
    let pending = new != current;
    if pending && !current.is_empty() {
        names.former.push(current);
    }
    names.former.retain(|former| *former != new);
    names.uuid = Some(new.clone());
    Ok(Some(UuidChange { new, former: names.former.clone(), pending }))
}

/// The image of a partition.
fn source_of<'a>(builders: &'a [DiskBuilder], p: &PartitionNames) -> Option<&'a SourceImage> {
    let disk = builders.iter().find(|d| d.source.letters == p.disk)?;
    Some(&disk.partitions().iter().find(|s| s.number == p.number)?.image)
}

/// The root filesystem without what was written to it, if anything was, and its name.
fn pristine(
    guests: &LiveGuest<'_>,
    index: usize,
    root: &PartitionNames,
) -> Option<(String, Arc<SharedBytes>)> {
    let volumes = &guests.places.volumes;
    if let Some(found) = volumes.at(index) {
        let mut builders = guests.builders.iter().enumerate();
        let written_to = builders.any(|(i, d)| volumes.use_disk(i) && d.has_overlay());
        let bytes = || Arc::new(volumes.pristine(found)) as Arc<SharedBytes>;
        return written_to.then(|| (found.file(), bytes()));
    }
    let of_root = |d: &DiskBuilder| d.source.letters == root.disk && d.has_overlay();
    if !guests.builders.iter().any(of_root) {
        return None;
    }
    source_of(guests.builders, root).map(|source| {
        let image: Arc<dyn Image> = Arc::clone(&source.image);
        (image.path().display().to_string(), Arc::new(image) as Arc<SharedBytes>)
    })
}

/// The edits that make the guest a clone, including those of its adaptation.
///
/// # Errors
/// Anything that prevents an edit: a clone must be exactly what was requested.
pub(super) fn clone_edits(
    guests: &LiveGuest<'_>,
    resolver: &RootResolver,
    cmdline: Option<&str>,
    uuid: Option<&UuidChange>,
    options: &SourceOptions,
) -> Result<Option<Adaptation>> {
    let index = root_of(resolver, cmdline, guests)?;
    let root = &resolver.partitions[index];
    if root.read_only {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("--hostname and the like cannot edit it: {}", why_read_only(root)),
        ));
    }
    let opened = guests.filesystem(resolver, index).map_err(unreadable)?;
    let Some((file, fs)) = opened else {
        return Err(Error::new(ErrorKind::NotFound, "the root filesystem is on none of the disks"));
    };
    let pristine = pristine(guests, index, root);
    let open = |(name, bytes): (String, Arc<SharedBytes>)| {
        let source = guests.examiner.add(&name, bytes)?;
        RemoteFs::open(guests.examiner, source).map_err(unreadable)
    };
    let pristine = pristine.map(open).transpose()?;
    let pristine = pristine.as_ref().map(|fs| fs as &dyn GuestFs);
    let clone = CloneOf { identity: &options.identity, pristine, uuid };
    let devices = devices(resolver, root, guests);
    let edits = propose_with_identity(&fs, &devices, &options.adapt, clone)?;
    guests.examiner.check_budget()?;
    let uuid = uuid.filter(|change| change.pending).map(|change| change.new.clone());
    let kernel_mount = fs.kernel_mount();
    let needed = uuid.is_some() || !edits.is_empty();
    let places = guests.places(resolver, index)?.filter(|_| needed);
    let superblock = places.as_ref().and_then(|(root, _)| guests.superblock(root.1));
    let inline_files =
        kernel_mount.is_none() && superblock.as_ref().is_some_and(may_have_inline_files);
    let adaptation = |places| Adaptation { file, edits, uuid, kernel_mount, inline_files, places };
    Ok(places.map(adaptation))
}

//! Reads the user's input, images or a domU config, into one description of a guest.

use super::options::SourceOptions;
use super::root_resolver::root_disk;
use super::source::SourceImage;
use super::types::{
    BootRequest, DiskContent, DiskSource, GuestBootRequest, GuestSpec, PartitionSource, WholeDisk,
};
use crate::fs::probe::ImageContent;
use crate::guest::select::EntrySelector;
use crate::image::{self, InUse, Xva};
use crate::layout::PartitionKind;
use crate::remote::{RemoteUrl, begin_recording};
use crate::xen::{Access, BootMethod, DiskSpec, DomainConfig, GuestDiskContent, Vif};
use crate::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

impl PartitionSource {
    /// A partition that is an image of its own.
    fn of_image(number: u32, image: SourceImage, read_only: bool, listed: usize) -> Self {
        let kind = match () {
            () if image.is_swap() => PartitionKind::Swap,
            () if image.holds_volumes() => PartitionKind::Lvm,
            () => PartitionKind::Linux,
        };
        Self { number, image, kind, partuuid: None, read_only, listed }
    }
}

impl DiskSource {
    fn may_boot(&self) -> bool {
        match &self.content {
            DiskContent::Partitions(partitions) => partitions.iter().any(|p| !p.kind.is_swap()),
            DiskContent::Whole(_) => true,
            DiskContent::Cdrom(_) => false,
        }
    }
}

impl GuestSpec {
    /// Reads the images or the config that `options` name.
    ///
    /// # Errors
    /// Those of the config and of the images, each naming its file.
    pub(super) fn read(options: &SourceOptions) -> Result<Self> {
        if options.verify_source && !options.config.as_deref().is_some_and(Xva::is_meant) {
            return Err(Error::new(
                ErrorKind::Usage,
                "--verify-source compares the checksums of an XVA; other images have none",
            ));
        }
        if let Some(path) = &options.record {
            begin_recording(path)?;
        }
        let mut spec = match &options.config {
            Some(path) => Self::from_config(path, options)?,
            None => Self::from_images(options)?,
        };
        if let Some(loader) = options.bootloader.filter(|l| l.limits().is_none()) {
            if options.kernel.is_some() {
                return Err(Error::new(
                    ErrorKind::Usage,
                    format!("--kernel needs a boot loader; leave out --bootloader {loader}"),
                ));
            }
            spec.boot = BootRequest::Nothing;
        }
        if options.kernel.is_none() && !options.initrds.is_empty() {
            return Err(Error::new(
                ErrorKind::Usage,
                "--initrd needs --kernel: an initrd belongs to the kernel it was made for",
            ));
        }
        if let Some(kernel) = &options.kernel {
            let cmdline = match &spec.boot {
                BootRequest::Host { cmdline, .. } => cmdline.clone(),
                _ => spec.root_hint.clone().unwrap_or_default(),
            };
            let (kernel, initrds) = (kernel.clone(), options.initrds.clone());
            spec.boot = BootRequest::Host { kernel, initrds, cmdline };
        }
        Ok(spec)
    }

    fn from_images(options: &SourceOptions) -> Result<Self> {
        let mut partitions = Vec::new();
        for (index, path) in options.images.iter().enumerate() {
            let image = SourceImage::open(path, &options.open_options(None))?;
            if options.images.len() == 1 && matches!(image.content, ImageContent::WholeDisk(_)) {
                let whole = WholeDisk::new(image, false)?;
                return Ok(Self::one_disk(DiskContent::Whole(whole), options));
            }
            image.require_partition(path)?;
            let same = |p: &PartitionSource| p.image.image.path() == image.image.path();
            if partitions.iter().any(same) {
                let what = format!("{} is named twice", path.display());
                return Err(Error::new(ErrorKind::Usage, what));
            }
            let number = index as u32 + 1;
            partitions.push(PartitionSource::of_image(number, image, false, index));
        }
        let first = partitions.iter().find(|p: &&PartitionSource| !p.kind.is_swap());
        if let Some(first) = first.or(partitions.first()) {
            first.image.require_bootable(&options.images[first.listed], options)?;
        }
        Ok(Self::one_disk(DiskContent::Partitions(partitions), options))
    }

    /// A guest with a disk made from the images that `options` name.
    fn one_disk(content: DiskContent, options: &SourceOptions) -> Self {
        let stem = options.images.first().and_then(|p| p.file_stem()).map(|s| s.to_string_lossy());
        // Of a URL, without its query.
        let stem = stem.as_deref().and_then(|s| s.split('?').next()).filter(|s| !s.is_empty());
        Self {
            name: stem.unwrap_or("guest").to_owned(),
            disks: vec![DiskSource {
                vdev: "xvda".into(),
                letters: "a".into(),
                listed: 0,
                content,
            }],
            boot: BootRequest::Guest(GuestBootRequest {
                entry: options.entry.clone(),
                ..GuestBootRequest::default()
            }),
            root_hint: None,
            macs: Vec::new(),
            memory_mib: None,
            first_listed: false,
            notes: Vec::new(),
        }
    }

    fn from_config(path: &Path, options: &SourceOptions) -> Result<Self> {
        let named = |e: Error| Error::with_source(e.kind(), path.display().to_string(), e);
        let archive = match Xva::is_meant(path) {
            true => Some(open_archive(path, options)?),
            false => None,
        };
        let config = match &archive {
            Some(archive) => DomainConfig::parse_ova(archive.description()).map_err(named)?,
            None => DomainConfig::load(path)?,
        };
        let opener = Opener { options, archive: archive.as_ref().map(|archive| (path, archive)) };
        let mut notes: Vec<String> = config.notes.iter().map(ToString::to_string).collect();
        let mut disks = Vec::new();
        for disk in config.layout().map_err(named)? {
            let content = match &disk.content {
                GuestDiskContent::Whole(spec) => {
                    whole(spec, &opener, &mut notes).map_err(|e| named(at(spec, e)))?
                }
                GuestDiskContent::Partitions(parts) => {
                    Some(partitions(parts, &config, &opener, &mut notes).map_err(named)?)
                }
            };
            if let Some(content) = content {
                let (vdev, letters) = (disk.name(), disk.letters());
                let of_disk = |spec: &DiskSpec| disk.specs().any(|own| own == spec);
                let listed = config.disks.iter().position(of_disk).unwrap_or(usize::MAX);
                disks.push(DiskSource { vdev, letters, listed, content });
            }
        }
        if !disks.iter().any(|d| !matches!(d.content, DiskContent::Cdrom(_))) {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("{} names no disk for its guest", path.display()),
            ));
        }
        let macs: Vec<String> = config.vifs.iter().filter_map(Vif::mac_string).collect();
        notes.extend(shared_macs(&macs));
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned());
        let boot = boot_request(&config, options);
        Ok(Self {
            name: config.name.clone().or(stem).unwrap_or_else(|| "guest".into()),
            disks,
            boot,
            root_hint: config.command_line(),
            macs,
            memory_mib: config.memory_mib,
            first_listed: matches!(config.boot_method(), BootMethod::GuestConfig { .. }),
            notes,
        })
    }

    /// The disk that the firmware will boot. Normally this is the first disk that is neither swap
    /// nor a CD. If pygrub would choose, it is the one listed first; with a kernel of this host, it
    /// is the one that holds the root filesystem.
    pub(super) fn first_disk(&self) -> Option<usize> {
        let mut able: Vec<_> =
            self.disks.iter().enumerate().filter(|(_, d)| d.may_boot()).collect();
        if self.first_listed {
            able.sort_by_key(|(_, d)| d.listed);
        }
        let any = able.first().map(|(i, _)| *i);
        let hint =
            self.root_hint.as_deref().filter(|_| matches!(self.boot, BootRequest::Host { .. }));
        let letters = hint.and_then(root_disk);
        let root = self.disks.iter().position(|d| {
            let is_known = match &d.content {
                DiskContent::Partitions(_) => true,
                DiskContent::Whole(whole) => whole.table.is_ok(),
                DiskContent::Cdrom(_) => false,
            };
            is_known && d.may_boot() && letters.as_ref() == Some(&d.letters)
        });
        let cdrom = |d: &DiskSource| matches!(d.content, DiskContent::Cdrom(_));
        root.or(any).or_else(|| self.disks.iter().position(|d| !cdrom(d)))
    }
}

fn boot_request(config: &DomainConfig, options: &SourceOptions) -> BootRequest {
    let own = GuestBootRequest { entry: options.entry.clone(), ..GuestBootRequest::default() };
    match config.boot_method() {
        BootMethod::Kernel { kernel, ramdisk, command_line }
            if !options.guest_kernel && options.entry.is_none() =>
        {
            BootRequest::Host {
                kernel: kernel.to_path_buf(),
                initrds: ramdisk.map(Path::to_path_buf).into_iter().collect(),
                cmdline: command_line,
            }
        }
        // The dom0's command line names the root partition, whichever kernel it was for.
        BootMethod::Kernel { .. } => BootRequest::Guest(own),
        BootMethod::GuestConfig { entry, kernel, ramdisk, append } => {
            let entry = own.entry.or_else(|| entry.as_deref().map(EntrySelector::parse));
            BootRequest::Guest(GuestBootRequest { entry, kernel, ramdisk, append })
        }
        BootMethod::Firmware | BootMethod::Unspecified => BootRequest::Guest(own),
    }
}

/// Adds to `e` the config line that it refers to.
fn at(spec: &DiskSpec, e: Error) -> Error {
    let what = match spec.line {
        0 => spec.vdev.to_string(),
        line => format!("line {line}: {}", spec.vdev),
    };
    Error::with_source(e.kind(), what, e)
}

/// The XVA at `path`, with its checksums compared if that is requested.
fn open_archive(path: &Path, options: &SourceOptions) -> Result<Xva> {
    let archive = Xva::open(path, &options.open_options(None))?;
    if options.verify_source && archive.verify()? == 0 {
        let what = format!("{} has no checksums; leave out --verify-source", path.display());
        return Err(Error::new(ErrorKind::Invalid, what));
    }
    Ok(archive)
}

/// Opens the images that disk specs name.
struct Opener<'a> {
    options: &'a SourceOptions,
    /// The XVA that contains them, and its path.
    archive: Option<(&'a Path, &'a Xva)>,
}

/// A note for each address that several cards have.
fn shared_macs(macs: &[String]) -> Vec<String> {
    let mut shared: Vec<String> = macs.iter().map(|mac| mac.to_ascii_lowercase()).collect();
    shared.sort_unstable();
    let mut twice: Vec<String> =
        shared.windows(2).filter(|w| w[0] == w[1]).map(|w| w[0].clone()).collect();
    twice.dedup();
    let note = |mac: String| {
        format!("several network cards have the address {mac}; give each its own in the config")
    };
    twice.into_iter().map(note).collect()
}

/// The image that `spec` names; `None` for an empty cdrom drive. A CD that is gone is one, with a note.
fn open(
    spec: &DiskSpec,
    opener: &Opener<'_>,
    notes: &mut Vec<String>,
) -> Result<Option<(PathBuf, SourceImage)>> {
    let options = opener.options;
    if let (Some((path, archive)), Some(name)) = (opener.archive, &spec.target) {
        let image = archive.disk(&name.to_string_lossy(), spec.size.unwrap_or_default())?;
        return Ok(Some((path.to_path_buf(), SourceImage::of(image)?)));
    }
    if let Some(script) = &spec.script {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("its device is made by `{script}` in dom0; name the device itself"),
        ));
    }
    let Some(target) = &spec.target else { return Ok(None) };
    let path = match &spec.target_alternative {
        Some(other) if !target.exists() && other.exists() => other,
        _ => target,
    };
    let (path, url) = match RemoteUrl::of_path(path).transpose()? {
        Some(url) => (&PathBuf::from(url.name()), Some(url)),
        None => (path, None),
    };
    let name = spec.format.name();
    let format = image::Format::by_name(name).ok_or_else(|| image::unread(path, name))?;
    let mut how = options.open_options(Some(format));
    if spec.cdrom && url.is_none() && !path.exists() {
        let (path, vdev) = (path.display(), &spec.vdev);
        notes.push(format!("{path} does not exist, so the CD drive {vdev} is empty"));
        return Ok(None);
    }
    if spec.cdrom {
        // A CD is often shared between guests and never written to.
        how.in_use = InUse::Open;
    }
    how.remote.urls.extend(url);
    let image = SourceImage::open(path, &how)?;
    Ok(Some((path.clone(), image)))
}

fn whole(
    spec: &DiskSpec,
    opener: &Opener<'_>,
    notes: &mut Vec<String>,
) -> Result<Option<DiskContent>> {
    let Some((path, image)) = open(spec, opener, notes)? else { return Ok(None) };
    if spec.cdrom {
        return Ok(Some(DiskContent::Cdrom(image)));
    }
    let read_only = spec.access == Access::ReadOnly;
    Ok(Some(match image.content {
        ImageContent::WholeDisk(_) => DiskContent::Whole(WholeDisk::new(image, read_only)?),
        // A bare filesystem, swap area or physical volume where a disk was expected: Xen accepts
        // this, but KVM's firmware and initrds do not.
        ImageContent::Ext { .. }
        | ImageContent::Xfs { .. }
        | ImageContent::Btrfs { .. }
        | ImageContent::Lvm2Pv
        | ImageContent::Swap { .. } => {
            DiskContent::Partitions(vec![PartitionSource::of_image(1, image, read_only, 0)])
        }
        _ => {
            image.require_partition(&path)?;
            DiskContent::Whole(WholeDisk::new(image, read_only)?)
        }
    }))
}

fn partitions(
    parts: &[(u32, &DiskSpec)],
    config: &DomainConfig,
    opener: &Opener<'_>,
    notes: &mut Vec<String>,
) -> Result<DiskContent> {
    let mut out = Vec::new();
    for (number, spec) in parts {
        let Some((path, image)) = open(spec, opener, notes).map_err(|e| at(spec, e))? else {
            continue;
        };
        image.require_partition(&path).map_err(|e| at(spec, e))?;
        let listed = config.disks.iter().position(|d| d == *spec).unwrap_or(usize::MAX);
        let read_only = spec.access == Access::ReadOnly;
        out.push(PartitionSource::of_image(*number, image, read_only, listed));
    }
    Ok(DiskContent::Partitions(out))
}

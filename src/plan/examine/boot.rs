//! What boots: kernel, initrds and command line, from inside the guest or from the host.

use super::extra_initrd::{
    self, DriverSurvey, Initrds, Root, RootMount, content, drivers_of, mounted_as, remedy, survey,
};
use super::files::{OpenFiles, identity, read_exact};
use super::guests::Guests;
use super::initrds;
use super::question::{
    BootQuestion, FileOrigin, FoundBoot, FoundFile, HostBootQuestion, HostFile, Place, SourceId,
};
use crate::adapt::{DRIVERS, LegacySettings};
use crate::bytes::ReadAt;
use crate::fs::{GuestFs, Mounted, Stat};
use crate::guest::select::{Boot, BootSource, choose};
use crate::initrd::Initrd;
use crate::loader::linux::HEAD_BYTES;
use crate::loader::{Chooses, FirmwareSet, KernelKind, LoaderKind, MenuRules, SetupHeader};
use crate::plan::guest_tree::guest_tree;
use crate::plan::menu_rules::{kernel_names, menu_rules};
use crate::plan::root_resolver::{Finder, RootResolver, last_value};
use crate::plan::types::{BootSummary, DiskDriver, GuestBootRequest};
use crate::{Error, ErrorKind, Result};

/// Largest fstab that is read, in bytes.
const FSTAB_MAX: usize = 1 << 20;

/// What the guest's own boot configuration starts: that of the first candidate that has one.
///
/// # Errors
/// If no candidate has a kernel, the error of the first one: [`ErrorKind::NotFound`] if it has
/// none, otherwise the error from reading its filesystem.
pub(super) fn boot<'a>(
    guests: &Guests<'a>,
    files: &mut OpenFiles<'a>,
    question: &BootQuestion,
) -> Result<FoundBoot> {
    let mut first_error = None;
    for candidate in &question.candidates {
        match from_partition(guests, files, *candidate, question) {
            Ok(found) => return Ok(found),
            Err(e) => drop(first_error.get_or_insert(e)),
        }
        if guests.budget().refused().is_some() {
            break;
        }
    }
    let nothing = || {
        Error::new(
            ErrorKind::NotFound,
            "no partition holds a kernel that can be read; give one with --kernel, or use --bootloader \
             none",
        )
    };
    Err(first_error.unwrap_or_else(nothing))
}

fn from_partition<'a>(
    guests: &Guests<'a>,
    files: &mut OpenFiles<'a>,
    (index, source): Place,
    question: &BootQuestion,
) -> Result<FoundBoot> {
    let BootQuestion { candidates, others, request, resolver, loader, firmware } = question;
    let resolver = &RootResolver { menu: Some(index), ..resolver.clone() };
    let fs = guests.fs(source).map_err(|e| at_partition(guests, resolver, (index, source), e))?;
    let mut boot = boot_of(fs, request)?;
    boot.notes.extend(fs.caveat());
    let EntryFiles { head, found, made } = entry_files(fs, source, &boot)?;
    let header = check_kernel(&head, &boot.kernel, *loader, *firmware)?;
    let likely_root = match fs.stat("/etc") {
        Ok(_) => Some(index),
        Err(_) if resolver.knows_root(&boot.cmdline) => None,
        Err(_) => only_root(guests, question)?,
    };
    let has_initrd = !boot.initrds.is_empty();
    let (words, _) = resolver.adapt(&boot.cmdline, has_initrd, likely_root);
    let version = header.release().map(str::to_owned);
    // A separate /boot has no information about the network and the drivers, but its root has.
    let root_index = resolver.root_index(&words).unwrap_or(index);
    let places = || candidates.iter().chain(others);
    let root = if root_index == index { Some(source) } else { place_of(root_index, places()) };
    let open = |index| Some(Mounted::Shared(guests.fs(place_of(index, places())?).ok()?));
    let tree = root.and_then(|root| {
        Some(guest_tree(Mounted::Shared(guests.fs(root).ok()?), root_index, resolver, open))
    });
    let root_fs = tree.as_ref().map(|tree| tree as &dyn GuestFs);
    let settings = root_fs.map(LegacySettings::of).unwrap_or_default();
    let drivers = root_fs.and_then(|fs| survey(fs, version.as_deref(), made));
    let initrd = read_initrds(guests, &found, drivers.as_ref());
    let resolver = &resolver.found_by(finder(&initrd, &words));
    let (cmdline, mut changes) = resolver.adapt(&boot.cmdline, has_initrd, likely_root);
    let (cmdline, whys) = resolver.with_legacy_settings(cmdline, &settings, has_initrd);
    changes.extend(whys);
    let menu = menu_rules(&boot, &cmdline, index, request, resolver, &settings);
    let menu = MenuRules { drivers_for: kernel_names(&boot), ..menu };
    let summary = BootSummary {
        title: boot.title,
        kernel: kernel_text(&boot.kernel, &header),
        kernel_version: version,
        initrds: boot.initrds,
        cmdline,
        notes: boot.notes.into_iter().chain(changes).collect(),
        ..BootSummary::default()
    };
    let found = FoundBoot { summary, files: found, menu };
    let mount = resolver.place(root_index);
    let early = Early { drivers, root: root_fs.zip(root), initrd, mount };
    finish(guests, files, found, &header, resolver, *loader, early)
}

/// What the kernel has before its root filesystem: its drivers, the guest's files and the source of
/// its root, and the initrds.
struct Early<'t> {
    drivers: Option<DriverSurvey>,
    root: Option<(&'t dyn GuestFs, SourceId)>,
    initrd: Result<Option<Initrd>>,
    /// The index of the root's disk and its number, if it is a partition.
    mount: Option<(u8, u32)>,
}

/// What the initrds among `files`, which follow the kernel, contain.
fn read_initrds(
    guests: &Guests<'_>,
    files: &[FoundFile],
    drivers: Option<&DriverSurvey>,
) -> Result<Option<Initrd>> {
    let (version, outside) = drivers.map_or(("", &[][..]), |d| (&d.version, &d.outside));
    let trusted = drivers.and_then(|d| d.trusted);
    initrds::read(guests, files.get(1..).unwrap_or_default(), version, outside, trusted)
}

/// What finds the root filesystem that `words` name.
fn finder(initrd: &Result<Option<Initrd>>, words: &str) -> Finder {
    let initrd = initrd.as_ref().ok().and_then(Option::as_ref);
    initrds::finder(initrd, &last_value(words, "root").unwrap_or_default())
}

/// How a kernel of this host boots.
///
/// # Errors
/// [`ErrorKind::Unsupported`] and [`ErrorKind::Corrupt`] for a file that is not a bootable kernel;
/// errors from reading it.
pub(super) fn host_boot<'a>(
    guests: &Guests<'a>,
    files: &mut OpenFiles<'a>,
    question: &HostBootQuestion,
) -> Result<FoundBoot> {
    let HostBootQuestion { kernel, initrds, cmdline, candidates, resolver, loader, firmware } =
        question;
    let bytes = guests.bytes(kernel.source)?;
    let mut head = vec![0; bytes.len().min(HEAD_BYTES as u64) as usize];
    bytes
        .read_at(&mut head, 0)
        .map_err(|e| Error::io(format!("cannot read {}", kernel.name), e))?;
    let header = check_kernel(&head, &kernel.name, *loader, *firmware)?;
    let (words, _) = resolver.adapt(cmdline, !initrds.is_empty(), None);
    let root_index = resolver.root_index(&words);
    let root = root_index.and_then(|root| place_of(root, candidates.iter()));
    let open = |index| Some(Mounted::Shared(guests.fs(place_of(index, candidates.iter())?).ok()?));
    let tree = root.zip(root_index).and_then(|(root, index)| {
        Some(guest_tree(Mounted::Shared(guests.fs(root).ok()?), index, resolver, open))
    });
    let root_fs = tree.as_ref().map(|tree| tree as &dyn GuestFs);
    let settings = root_fs.map(LegacySettings::of).unwrap_or_default();
    let version = header.release().map(str::to_owned);
    let drivers = root_fs.and_then(|fs| survey(fs, version.as_deref(), None));
    let found = |file: &HostFile| {
        Ok(FoundFile {
            origin: file.name.clone(),
            len: guests.bytes(file.source)?.len(),
            identity: [0; 16],
            from: FileOrigin::Host(file.source),
        })
    };
    let all: Vec<FoundFile> =
        std::iter::once(kernel).chain(initrds).map(found).collect::<Result<_>>()?;
    let initrd = read_initrds(guests, &all, drivers.as_ref());
    let resolver = &resolver.found_by(finder(&initrd, &words));
    let (adapted, changes) = resolver.adapt(cmdline, !initrds.is_empty(), None);
    let (adapted, _) = resolver.with_legacy_settings(adapted, &settings, !initrds.is_empty());
    let summary = BootSummary {
        title: "a kernel of this host".into(),
        kernel: kernel_text(&kernel.name, &header),
        kernel_version: version,
        initrds: initrds.iter().map(|file| file.name.clone()).collect(),
        cmdline: adapted,
        // An empty command line, from neither the user nor the config, cannot have been changed.
        notes: if cmdline.is_empty() { Vec::new() } else { changes },
        ..BootSummary::default()
    };
    let found = FoundBoot { summary, files: all, menu: MenuRules::default() };
    let mount = root_index.and_then(|index| resolver.place(index));
    let early = Early { drivers, root: root_fs.zip(root), initrd, mount };
    finish(guests, files, found, &header, resolver, *loader, early)
}

/// The partition that looks like a root filesystem: it has `/etc`, and its fstab does not say that
/// it is something else. `None` if there is none.
///
/// # Errors
/// [`ErrorKind::Unsupported`] if there are several.
fn only_root(guests: &Guests<'_>, question: &BootQuestion) -> Result<Option<usize>> {
    let BootQuestion { candidates, others, resolver, .. } = question;
    let mut found = Vec::new();
    for (index, source) in candidates.iter().chain(others) {
        let Ok(fs) = guests.fs(*source) else { continue };
        if fs.stat("/etc").is_err() {
            continue;
        }
        match fstab_root(fs).and_then(|name| resolver.index_of(&name)) {
            Some(root) if root == *index => found.insert(0, (*index, true)),
            Some(_) => {}
            None => found.push((*index, false)),
        }
    }
    // A partition whose own fstab names it is better evidence than one without.
    if found.first().is_some_and(|(_, named)| *named) {
        found.retain(|(_, named)| *named);
    }
    let Some((first, more)) = found.split_first() else { return Ok(None) };
    if more.is_empty() {
        return Ok(Some(first.0));
    }
    found.sort_unstable();
    let names = found.iter().filter_map(|(index, _)| resolver.partitions.get(*index));
    let names = names.map(|p| match &p.volume {
        Some(volume) => volume.device(),
        None => format!("{} of xvd{}", p.number, p.disk),
    });
    Err(Error::new(
        ErrorKind::Unsupported,
        format!(
            "several partitions look like the root filesystem, and the boot entry names none of them: \
             {}; name it with --root-partition N",
            names.collect::<Vec<_>>().join(", ")
        ),
    ))
}

/// Adds to `e` which partition it is about, what it holds, and the way out.
fn at_partition(
    guests: &Guests<'_>,
    resolver: &RootResolver,
    (index, source): Place,
    e: Error,
) -> Error {
    if !matches!(e.kind(), ErrorKind::Unsupported | ErrorKind::Corrupt) {
        return e;
    }
    let name = resolver.partitions.get(index).map_or_else(String::new, |p| match &p.volume {
        Some(volume) => volume.device(),
        None => format!("partition {} of {}", p.number, p.vdev),
    });
    let kind = guests.bytes(source).ok().map_or("unknown", |bytes| content(bytes).short_name());
    let what = format!("{name} ({kind}): {e}; give a kernel with --kernel and --initrd");
    Error::new(e.kind(), what)
}

/// What fstab calls the root filesystem.
fn fstab_root(fs: &dyn GuestFs) -> Option<String> {
    let text = fs.read("/etc/fstab", FSTAB_MAX).ok()?;
    let text = String::from_utf8_lossy(&text);
    let mut roots = text.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let device = fields.next().filter(|field| !field.starts_with('#'))?;
        (fields.next() == Some("/")).then(|| device.to_owned())
    });
    roots.next()
}

/// The source of partition `index`.
fn place_of<'p>(index: usize, mut places: impl Iterator<Item = &'p Place>) -> Option<SourceId> {
    places.find(|(i, _)| *i == index).map(|(_, source)| *source)
}

/// Adds drivers that the guest lacks.
fn finish<'a>(
    guests: &Guests<'a>,
    files: &mut OpenFiles<'a>,
    mut found: FoundBoot,
    header: &SetupHeader,
    resolver: &RootResolver,
    loader: LoaderKind,
    early: Early<'_>,
) -> Result<FoundBoot> {
    let summary = &mut found.summary;
    if early.drivers.is_none() {
        let why = "the kernel's version or its root filesystem is not known, and so its drivers";
        summary.disk_driver = DiskDriver::Unknown(why.into());
    }
    let Early { drivers, root, initrd, .. } = early;
    let wanted = drivers.zip(root).filter(|_| resolver.selection.has(DRIVERS));
    if let Some((survey, (fs, root))) = wanted {
        let room = cmdline_max(header, loader).saturating_sub(summary.cmdline.len());
        let extra = resolver.replace.is_none() && room >= extra_initrd::PARAMETER_MAX;
        let initrds = Initrds { found: initrd, extra };
        let bytes = guests.bytes(root)?;
        // A menu without initrds has no place for one.
        let may_mount = loader.chooses() == Chooses::Planner;
        let place = early.mount.filter(|_| may_mount);
        let mut root = Root { fs, drivers: drivers_of(bytes), mount: None };
        let fs_type = mounted_as(&survey, &root).unwrap_or(content(bytes).short_name()).to_owned();
        root.mount = place.map(|(disk, number)| RootMount { fs_type, disk, number });
        let remedy = remedy(&survey, &root, &initrds, &summary.cmdline);
        summary.hardware = remedy.hardware;
        summary.disk_driver = remedy.disk_driver;
        summary.warnings.extend(remedy.warning);
        if let Some(initrd) = remedy.initrd {
            summary.cmdline = remedy.cmdline;
            summary.extra_initrd = true;
            summary.initrds.insert(0, initrd.origin.clone());
            let file = FoundFile {
                origin: initrd.origin,
                len: initrd.bytes.len() as u64,
                identity: initrd.identity,
                from: FileOrigin::Made(files.made(initrd.bytes)?),
            };
            found.files.insert(1, file);
        }
    }
    check_cmdline(&summary.cmdline, cmdline_max(header, loader))?;
    if !summary.extra_initrd {
        found.menu.drivers_for.clear();
    }
    Ok(found)
}

/// The header of a kernel that `loader` can start under `firmware`.
fn check_kernel(
    head: &[u8],
    name: &str,
    loader: LoaderKind,
    firmware: FirmwareSet,
) -> Result<SetupHeader> {
    // GRUB starts kernels without an EFI stub too.
    let needs_stub = firmware.has_uefi() && loader.chooses() == Chooses::Planner;
    let check = |header: SetupHeader| match needs_stub {
        true => header.efi_stub.check().map(|()| header),
        false => Ok(header),
    };
    KernelKind::detect(head)
        .and_then(KernelKind::bootable)
        .and_then(check)
        .map_err(|e| Error::new(e.kind(), format!("{name} cannot be booted: {e}")))
}

/// Longest command line in bytes, without its NUL, that both the kernel and the loader accept.
fn cmdline_max(header: &SetupHeader, loader: LoaderKind) -> usize {
    let most = loader.limits().map_or(usize::MAX, |limits| limits.cmdline);
    (header.cmdline_size as usize).min(most)
}

fn check_cmdline(cmdline: &str, most: usize) -> Result<()> {
    if cmdline.len() > most {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("the command line has {} bytes; this kernel takes {most}", cmdline.len()),
        ));
    }
    Ok(())
}

fn kernel_text(name: &str, header: &SetupHeader) -> String {
    match header.release() {
        Some(version) => format!("{name} (Linux {version})"),
        None => name.to_owned(),
    }
}

/// The files of a boot entry.
struct EntryFiles {
    /// The first bytes of the kernel.
    head: Vec<u8>,
    /// The kernel, then the initrds.
    found: Vec<FoundFile>,
    /// When the oldest initrd was generated, in seconds since 1970.
    made: Option<i64>,
}

fn entry_files(fs: &dyn GuestFs, source: SourceId, boot: &Boot) -> Result<EntryFiles> {
    let mut out = EntryFiles { head: Vec::new(), found: Vec::new(), made: None };
    for path in std::iter::once(&boot.kernel).chain(&boot.initrds) {
        let mut file = fs.open(path)?;
        let len = file.len();
        if len == 0 {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("{path} in the guest is empty; install it again"),
            ));
        }
        let stat: Stat = fs.stat(path)?;
        if out.found.is_empty() {
            out.head = read_exact(&mut *file, 0, len.min(HEAD_BYTES as u64) as usize)?;
        } else {
            out.made = Some(out.made.map_or(stat.mtime_secs, |made| made.min(stat.mtime_secs)));
        }
        out.found.push(FoundFile {
            origin: format!("{path} in the guest"),
            len,
            identity: identity(&stat, &mut *file)?,
            from: FileOrigin::Guest { source, path: path.clone() },
        });
    }
    Ok(out)
}

/// The entry that boots, with its files replaced by those that the domU config names.
fn boot_of(fs: &dyn GuestFs, request: &GuestBootRequest) -> Result<Boot> {
    let mut boot = match (&request.kernel, choose(fs, request.entry.as_ref())) {
        (_, Ok(boot)) => boot,
        (None, Err(e)) => return Err(e),
        // The config names a kernel inside the guest, so no boot menu is needed.
        (Some(kernel), Err(_)) => Boot {
            title: kernel.clone(),
            source: BootSource::NewestKernel,
            kernel: kernel.clone(),
            initrds: Vec::new(),
            cmdline: String::new(),
            entries: Vec::new(),
            notes: Vec::new(),
        },
    };
    if let Some(kernel) = &request.kernel {
        boot.kernel = fs.canonicalize(kernel)?;
        boot.initrds.clear();
    }
    if let Some(ramdisk) = &request.ramdisk {
        boot.initrds = vec![fs.canonicalize(ramdisk)?];
    }
    if let Some(append) = &request.append {
        boot.cmdline = format!("{} {append}", boot.cmdline).trim().to_owned();
    }
    Ok(boot)
}

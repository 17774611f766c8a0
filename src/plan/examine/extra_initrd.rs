//! Adds virtio drivers that a guest's initrd lacks: they are taken from the guest's own modules and
//! put into an extra initrd.
//!
//! The extra initrd contains the modules and a small program ([`insmod`](mod@insmod)) that
//! `rdinit=` on the command line starts first. The program loads the modules and then executes the
//! guest's own `/init`. So it does not matter which program generated the guest's initrd, or what
//! is in it. The extra initrd precedes the guest's because Linux cannot detect where LZ4 data end.
//!
//! Reading all of an initrd takes a tenth of a second or more, so it is read only as far as needed:
//! until it is known what made it, and to its end only when drivers are not built into the kernel and
//! that program is not configured to generate initrds for any machine.

mod cpio;
pub(super) mod editing;
mod insmod;
mod load;
mod mount_root;

use crate::bytes::ReadAt;
use crate::fs::GuestFs;
use crate::fs::probe::{HEAD_LEN, ImageContent, probe};
use crate::guest::drivers::{KernelDrivers, Modules};
use crate::initrd::{Compression, Generator, Initrd, made_for_any_machine};
use crate::layout::Ids;
use crate::plan::hardware::{Hardware, card, other_bus};
use crate::plan::types::DiskDriver;
use crate::qemu::{DiskBus, NicModel};
use crate::{Error, ErrorKind, Result};
use cpio::Archive;
use insmod::{WordSize, program};
use load::{DIR, Loaded, NEEDED, add_modules};
pub(super) use mount_root::RootMount;

/// Maximum growth of the command line in bytes.
pub(super) const PARAMETER_MAX: usize = " rdinit=/synthdisk/init".len();

/// Facts about the kernel's drivers from a few small files in the guest's root filesystem.
#[derive(Clone, Debug)]
pub(super) struct DriverSurvey {
    pub(super) version: String,
    nic: NicModel,
    /// Whether the guest has modules for this kernel.
    has_modules: bool,
    /// Drivers that only the initrd can provide in time.
    pub(super) outside: Vec<&'static str>,
    /// The program that is configured to put all of them into the initrds that it makes.
    pub(super) trusted: Option<Generator>,
}

/// Surveys the guest's drivers without reading an initrd. `made` is when the guest's initrd was
/// generated, in seconds since 1970; `None` if it has none, or one that is not the guest's own.
/// Returns `None` for a kernel that does not say which version it is.
pub(super) fn survey(
    fs: &dyn GuestFs,
    version: Option<&str>,
    made: Option<i64>,
) -> Option<DriverSurvey> {
    let version = version?;
    let modules = Modules::of_configuration(fs, version)?;
    let has_modules = Modules::open(fs, version).is_some();
    let outside = NEEDED.iter().filter(|(name, config)| !modules.is_builtin(name, config));
    let outside: Vec<&str> = outside.map(|(name, _)| *name).collect();
    let asked = made.filter(|_| !outside.is_empty());
    Some(DriverSurvey {
        version: version.to_owned(),
        nic: if has_modules { card(&modules) } else { NicModel::default() },
        has_modules,
        trusted: asked.and_then(|made| made_for_any_machine(fs, made)),
        outside,
    })
}

/// What to do about the guest's drivers.
#[derive(Clone, Debug, Default)]
pub(super) struct Remedy {
    /// The initrd to put before the guest's.
    pub(super) initrd: Option<ExtraInitrd>,
    /// The command line to use with it.
    pub(super) cmdline: String,
    /// Hardware that the guest can boot on.
    pub(super) hardware: Hardware,
    /// Whether it has a driver for its disk there.
    pub(super) disk_driver: DiskDriver,
    /// A warning for the user.
    pub(super) warning: Option<String>,
}

/// An initrd with drivers.
#[derive(Clone, Debug)]
pub(super) struct ExtraInitrd {
    /// What it contains, for display.
    pub(super) origin: String,
    pub(super) bytes: Vec<u8>,
    /// Changes whenever the bytes do.
    pub(super) identity: [u8; 16],
}

/// The initrds that the kernel boots with.
pub(super) struct Initrds {
    /// What they contain, or why that is not known; `None` without any.
    pub(super) found: Result<Option<Initrd>>,
    /// Whether another one may be added to them.
    pub(super) extra: bool,
}

/// The guest's files and their root filesystem.
pub(super) struct Root<'t> {
    pub(super) fs: &'t dyn GuestFs,
    /// Drivers for it, any one of which is enough.
    pub(super) drivers: &'static [&'static str],
    /// How to mount it without the guest's own initrd; `None` if that cannot be done.
    pub(super) mount: Option<RootMount>,
}

/// Makes sure that the kernel detects its disk, and without an initrd its root filesystem; `cmdline` is
/// the kernel's.
pub(super) fn remedy(
    survey: &DriverSurvey,
    root: &Root<'_>,
    initrds: &Initrds,
    cmdline: &str,
) -> Remedy {
    let hardware = Hardware { nic: survey.nic, ..Hardware::default() };
    let mut out = Remedy { cmdline: cmdline.to_owned(), hardware, ..Remedy::default() };
    let found = match &initrds.found {
        Ok(found) => found.as_ref(),
        Err(e) => return unsure(out, &e.to_string()),
    };
    if let Err(e) = fix(survey, root, found, initrds.extra, &mut out) {
        return unsure(out, &e.to_string());
    }
    out
}

fn unsure(mut out: Remedy, why: &str) -> Remedy {
    let what = format!("cannot tell whether the guest's initrd has a driver for its disk: {why}");
    out.warning = Some(what.clone());
    out.disk_driver = DiskDriver::Unknown(what);
    out
}

/// The drivers that the kernel lacks until its root filesystem is mounted. Nobody knows whether an
/// initrd of unknown making loads the modules that it has.
fn lacking(survey: &DriverSurvey, found: Option<&Initrd>) -> Vec<&'static str> {
    let has = |name: &&&str| {
        found.is_some_and(|initrd| {
            survey.trusted == Some(initrd.generator) && initrd.is_for_most_machines()
                || (initrd.generator != Generator::Other
                    && initrd.has_driver(&survey.version, name))
        })
    };
    survey.outside.iter().filter(|name| !has(name)).copied().collect()
}

fn fix(
    survey: &DriverSurvey,
    root: &Root<'_>,
    found: Option<&Initrd>,
    extra: bool,
    out: &mut Remedy,
) -> Result<()> {
    let mut lacking = lacking(survey, found);
    if found.is_none() && survey.has_modules {
        lacking.extend(missing_filesystem(survey, root));
    }
    let problem = found.and_then(|initrd| initrd.problem.as_deref());
    if lacking.is_empty() {
        out.disk_driver = match problem {
            // The kernel has the drivers, but this initrd may not get further.
            Some(problem) => DiskDriver::Unknown(format!("the initrd is damaged: {problem}")),
            None if found.is_none() && cannot_mount(survey, root) => DiskDriver::Unknown(format!(
                "there is no initrd, and kernel {} has no driver for the root filesystem ({}) that \
                 could be found, neither built in nor as a module",
                survey.version,
                root.drivers.join(" or ")
            )),
            None => DiskDriver::Present("virtio is there from the start".into()),
        };
        return Ok(());
    }
    if !survey.has_modules {
        let version = &survey.version;
        let has = |name: &&str| found.is_some_and(|i| i.has_driver(version, name));
        out.disk_driver = DiskDriver::Unknown(match lacking.iter().all(has) {
            true => "the initrd has virtio, and it is not known whether it loads it".into(),
            false => format!(
                "the guest has no modules and no configuration of kernel {version}, and its initrd \
                 no {}, which may be built in",
                lacking.join(" and no ")
            ),
        });
        return Ok(());
    }
    let no_modules =
        || Error::new(ErrorKind::NotFound, "the guest's kernel modules have been removed");
    let modules = Modules::open(root.fs, &survey.version).ok_or_else(no_modules)?;
    let drivers = KernelDrivers::of(Some(&modules), &survey.version, found);
    let (init, cmdline) = with_rdinit(&out.cmdline);
    let first = match (found, &root.mount) {
        (Some(initrd), _) if extra && can_be_joined(initrd, &init) => Some(First::Of(&init)),
        (None, Some(mount)) if extra => Some(First::Mounts(mount, &out.cmdline)),
        _ => None,
    };
    let built = match first {
        Some(first) => build(&modules, &drivers, (&lacking, root.drivers), first),
        None => Ok(None),
    };
    if let Ok(Some(built)) = built {
        out.disk_driver = DiskDriver::Present(match found {
            Some(_) => "the initrd lacks virtio, /lib/modules has it".into(),
            None => "there is no initrd; one is made from /lib/modules".into(),
        });
        out.initrd = Some(built);
        out.cmdline = cmdline;
        return Ok(());
    }
    if let Some(problem) = problem {
        return Err(Error::new(ErrorKind::Corrupt, problem));
    }
    let lacks = match found {
        None => format!(
            "the guest has {} as modules, and no initrd to load them",
            lacking.join(" and ")
        ),
        Some(_) => format!("the guest's initrd has no {}", lacking.join(" and no ")),
    };
    let why = built.err().map(|e| format!(" ({e})")).unwrap_or_default();
    match other_bus(&drivers) {
        Some(bus) => {
            out.hardware.bus = bus;
            let name = bus_name(bus);
            out.warning = Some(format!("{lacks}{why}, so its disk must be attached to {name}"));
            out.disk_driver = DiskDriver::Present(format!("no virtio; the disk goes to {name}"));
        }
        None => {
            let what = format!(
                "{lacks}{why}, nor a driver for any other disk controller: it will not find its \
                 root filesystem; make a new initrd in the guest, or give one with --kernel and \
                 --initrd"
            );
            out.warning = Some(what.clone());
            out.disk_driver = DiskDriver::Missing(what);
        }
    }
    Ok(())
}

/// The name of a bus in messages.
pub(super) fn bus_name(bus: DiskBus) -> &'static str {
    match bus {
        DiskBus::Virtio => "virtio",
        DiskBus::VirtioScsi => "virtio-scsi",
        DiskBus::Nvme => "NVMe",
        DiskBus::Ahci => "AHCI",
        DiskBus::Ide => "IDE",
    }
}

/// Whether another initrd can precede `initrd`: it must be an archive, not a disk image as used up
/// to Linux 2.6, and it must contain the `init` that our program starts.
fn can_be_joined(initrd: &Initrd, init: &str) -> bool {
    let unread = initrd.segments.iter().any(|s| s.compression == Compression::Lzo);
    let has_init = initrd.entries.contains_key(init.trim_start_matches('/'));
    unread || (!initrd.entries.is_empty() && (has_init || initrd.problem.is_some()))
}

/// The init that Linux would start from the initrd, and the command line that starts our program
/// instead.
fn with_rdinit(cmdline: &str) -> (String, String) {
    let (kernel, init_args) = match cmdline.split_once(" -- ") {
        Some((kernel, args)) => (kernel, format!(" -- {args}")),
        None => (cmdline, String::new()),
    };
    let is_rdinit = |word: &&str| word.starts_with("rdinit=");
    let given = kernel.split(' ').rfind(is_rdinit).and_then(|w| w.strip_prefix("rdinit="));
    let init = given.filter(|path| path.starts_with('/')).unwrap_or("/init").to_owned();
    let words: Vec<&str> = kernel.split(' ').filter(|w| !is_rdinit(w)).collect();
    (init, format!("{} rdinit=/{DIR}/init{init_args}", words.join(" ").trim_end()))
}

/// What a partition holds.
pub(super) fn content(partition: &impl ReadAt) -> ImageContent {
    let mut head = vec![0; partition.len().min(HEAD_LEN as u64) as usize];
    match partition.read_at(&mut head, 0) {
        Ok(()) => probe(&head, partition.len()),
        Err(_) => ImageContent::Unknown,
    }
}

/// Drivers for the filesystem in `root`, any one of which is enough.
pub(super) fn drivers_of(root: &impl ReadAt) -> &'static [&'static str] {
    match content(root) {
        ext @ ImageContent::Ext { .. } => match ext.short_name() {
            "ext2" => &["ext4", "ext2"],
            "ext3" => &["ext4", "ext3"],
            _ => &["ext4"],
        },
        ImageContent::Xfs { .. } => &["xfs"],
        ImageContent::Btrfs { .. } => &["btrfs"],
        _ => &[],
    }
}

/// The driver that the kernel has for the root filesystem, and whether it is built in.
fn filesystem_driver(survey: &DriverSurvey, root: &Root<'_>) -> Option<(&'static str, bool)> {
    let modules = Modules::open(root.fs, &survey.version)?;
    let option = |name: &str| format!("{}_FS", name.to_ascii_uppercase());
    let builtin = root.drivers.iter().find(|name| modules.is_builtin(name, &option(name)));
    let module = || root.drivers.iter().find(|name| modules.find(name).is_some());
    builtin.map(|name| (*name, true)).or_else(|| module().map(|name| (*name, false)))
}

/// The driver that the kernel has for the root filesystem, as it is named in mount(2).
pub(super) fn mounted_as(survey: &DriverSurvey, root: &Root<'_>) -> Option<&'static str> {
    filesystem_driver(survey, root).map(|(name, _)| name)
}

/// Whether no driver for the root filesystem is found among those of the kernel.
fn cannot_mount(survey: &DriverSurvey, root: &Root<'_>) -> bool {
    survey.has_modules && !root.drivers.is_empty() && mounted_as(survey, root).is_none()
}

/// The driver for the root filesystem, if it is a module.
fn missing_filesystem(survey: &DriverSurvey, root: &Root<'_>) -> Option<&'static str> {
    filesystem_driver(survey, root).filter(|(_, builtin)| !builtin).map(|(name, _)| name)
}

/// What our program starts.
#[derive(Clone, Copy)]
enum First<'a> {
    /// The init of the guest's initrd.
    Of(&'a str),
    /// A program that mounts the root filesystem for this command line.
    Mounts(&'a RootMount, &'a str),
}

/// The extra initrd with the missing drivers, and one for the root filesystem if the guest's initrd
/// has none; `None` if the guest does not have the missing drivers either.
///
/// # Errors
/// Errors from reading the modules.
fn build(
    modules: &Modules<'_>,
    drivers: &KernelDrivers,
    (lacking, for_root): (&[&str], &[&str]),
    first: First<'_>,
) -> Result<Option<ExtraInitrd>> {
    let mut paths: Vec<String> = Vec::new();
    for driver in lacking {
        let Some(chain) = modules.chain(driver) else { return Ok(None) };
        paths.extend(chain);
    }
    // Under Xen this initrd found its root filesystem, but perhaps with a different kernel.
    if !for_root.iter().any(|name| drivers.early(&[name])) {
        // Filesystems request it as "crc32c", so no module dependency lists it.
        for driver in ["crc32c_generic"].iter().chain(for_root.first()) {
            paths.extend(modules.chain(driver).unwrap_or_default());
        }
    }
    let mut archive = Archive::default();
    archive.dir(DIR)?;
    let Loaded { names, paths: loaded, bits } = add_modules(&mut archive, modules, paths)?;
    let Some(bits) = bits else { return Ok(None) };
    let own = format!("/{DIR}/mountroot");
    let init = match first {
        First::Of(init) => init,
        First::Mounts(..) if bits != WordSize::B64 => {
            let what = "a 32-bit kernel without an initrd; make one in the guest";
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        First::Mounts(root, cmdline) => {
            archive.dir(&format!("{DIR}/dev"))?;
            archive.dir(&format!("{DIR}/root"))?;
            let program = mount_root::program(root, cmdline)?;
            archive.file(own.trim_start_matches('/'), 0o755, &program)?;
            &own
        }
    };
    archive.file(&format!("{DIR}/init"), 0o755, &program(bits, init, &loaded)?)?;
    let bytes = archive.finish()?;
    Ok(Some(ExtraInitrd {
        origin: format!("{} from {} in the guest", names.join(", "), modules.dir()),
        identity: *Ids::fingerprint(&[&bytes]).as_bytes(),
        bytes,
    }))
}

//! What boots: kernel, initrds and command line, from this host or from inside the guest.

use super::guest_files;
use super::options::SourceOptions;
use crate::boot::KernelKind;
use crate::boot::linux::{HEAD_BYTES, SetupHeader};
use crate::boot::loader::CMDLINE_MAX;
use crate::disk::Source;
use crate::guest::cmdline::{CmdlineContext, adapt};
use crate::guest::fs::ReadAt;
use crate::guest::select::EntrySelector;
use crate::image::{Image, RawImage};
use crate::{Error, ErrorKind, Result};
use std::path::Path;
use std::sync::Arc;

/// A file that the loader is to load.
#[derive(Clone, Debug)]
pub(super) struct PayloadFile {
    /// Where it is, for a person.
    pub(super) origin: String,
    /// Length in bytes.
    pub(super) len: u64,
    pub(super) source: Source,
    /// Bytes that change when the file does.
    pub(super) identity: Vec<u8>,
}

/// All that the loader needs.
#[derive(Clone, Debug)]
pub(super) struct Payload {
    pub(super) kernel: PayloadFile,
    pub(super) initrds: Vec<PayloadFile>,
    pub(super) cmdline: String,
    pub(super) summary: BootSummary,
}

/// What will boot, for a person.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct BootSummary {
    /// Title of the boot entry, or where the kernel is from.
    pub title: String,
    /// The kernel: where it is, and its version.
    pub kernel: String,
    /// The initrds, in order.
    pub initrds: Vec<String>,
    /// The command line as the kernel gets it.
    pub cmdline: String,
    /// What was changed in the guest's command line, and what else a user should know.
    pub notes: Vec<String>,
}

/// Everything about the command line that does not depend on the guest's boot entry.
#[derive(Clone, Debug)]
pub(super) struct CmdlineBase {
    pub(super) root_uuid: Option<String>,
    pub(super) root_partuuid: String,
    pub(super) swap_uuid: Option<String>,
    pub(super) append: Option<String>,
    pub(super) replace: Option<String>,
}

impl CmdlineBase {
    /// The command line for KVM and what was changed.
    fn adapt(&self, cmdline: &str, has_initrd: bool) -> (String, Vec<String>) {
        let adapted = adapt(
            cmdline,
            &CmdlineContext {
                has_initrd,
                root_uuid: self.root_uuid.clone(),
                root_partuuid: self.root_partuuid.clone(),
                swap_uuid: self.swap_uuid.clone(),
                append: self.append.clone(),
                replace: self.replace.clone(),
            },
        );
        (adapted.cmdline, adapted.changes)
    }
}

/// The payload made of the host's files that `options` name; `None` when they name none.
///
/// # Errors
/// Those of opening the files; [`ErrorKind::Unsupported`] and [`ErrorKind::Corrupt`] for a file
/// that is no bootable kernel.
pub(super) fn from_host(options: &SourceOptions, base: &CmdlineBase) -> Result<Option<Payload>> {
    let Some(kernel_path) = &options.kernel else {
        if options.initrds.is_empty() {
            return Ok(None);
        }
        return Err(Error::new(
            ErrorKind::Invalid,
            "--initrd needs --kernel: an initrd belongs to the kernel it was made for",
        ));
    };
    let kernel = host_file(kernel_path)?;
    let mut head = vec![0; kernel.len().min(HEAD_BYTES as u64) as usize];
    kernel
        .read_at(&mut head, 0)
        .map_err(|e| Error::io(format!("cannot read {}", kernel_path.display()), e))?;
    let header = check_kernel(&head, &kernel_path.display().to_string())?;
    let initrds = options.initrds.iter().map(|p| host_file(p)).collect::<Result<Vec<_>>>()?;
    let (cmdline, changes) = base.adapt("", !initrds.is_empty());
    let describe = |image: &Arc<RawImage>| image.path().display().to_string();
    let file = |image: Arc<RawImage>| PayloadFile {
        origin: describe(&image),
        len: image.len(),
        identity: Vec::new(),
        source: Source::Image { image, offset: 0 },
    };
    let summary = BootSummary {
        title: "a kernel of this host".into(),
        kernel: kernel_text(&describe(&kernel), &header),
        initrds: initrds.iter().map(describe).collect(),
        cmdline: cmdline.clone(),
        // The words were made up here, so there is nothing to say about changes to them.
        notes: if base.replace.is_some() { changes } else { Vec::new() },
    };
    let kernel = file(kernel);
    check_cmdline(&cmdline, &header)?;
    Ok(Some(Payload { kernel, initrds: initrds.into_iter().map(file).collect(), cmdline, summary }))
}

fn host_file(path: &Path) -> Result<Arc<RawImage>> {
    RawImage::open(path).map(Arc::new)
}

/// The payload that the guest's own boot configuration names, read through `reader`.
///
/// # Errors
/// [`ErrorKind::NotFound`] when there is no kernel; what reading the filesystem gives.
pub(super) fn from_guest(
    reader: impl ReadAt + Send + 'static,
    entry: Option<&EntrySelector>,
    base: &CmdlineBase,
) -> Result<Payload> {
    let opened = guest_files::open(reader, entry)?;
    let boot = opened.boot;
    let header = check_kernel(&opened.kernel_head, &boot.kernel)?;
    let (cmdline, changes) = base.adapt(&boot.cmdline, !boot.initrds.is_empty());
    check_cmdline(&cmdline, &header)?;
    let mut files = opened.files.into_iter();
    let kernel = files
        .next()
        .ok_or_else(|| Error::new(ErrorKind::NotFound, "the guest's boot entry has no kernel"))?;
    let summary = BootSummary {
        title: boot.title,
        kernel: kernel_text(&boot.kernel, &header),
        initrds: boot.initrds,
        cmdline: cmdline.clone(),
        notes: boot.notes.into_iter().chain(changes).collect(),
    };
    Ok(Payload { kernel, initrds: files.collect(), cmdline, summary })
}

fn check_kernel(head: &[u8], name: &str) -> Result<SetupHeader> {
    KernelKind::detect(head)
        .and_then(KernelKind::bootable)
        .map_err(|e| Error::new(e.kind(), format!("{name} cannot be booted: {e}")))
}

fn check_cmdline(cmdline: &str, header: &SetupHeader) -> Result<()> {
    let most = (header.cmdline_size as usize).min(CMDLINE_MAX);
    if cmdline.len() > most {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("the command line has {} bytes; this kernel takes {most}", cmdline.len()),
        ));
    }
    Ok(())
}

fn kernel_text(name: &str, header: &SetupHeader) -> String {
    match &header.kernel_version {
        // The rest of the string says who built it and when.
        Some(version) => {
            format!("{name} (Linux {})", version.split(' ').next().unwrap_or_default())
        }
        None => name.to_owned(),
    }
}

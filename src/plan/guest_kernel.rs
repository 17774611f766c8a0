//! What a throwaway machine needs to edit a guest with the guest's own kernel.

use super::adapting::Adaptation;
use super::examine::{EditorQuestion, Examiner};
use super::root_resolver::RootResolver;
use super::types::PlannedBoot;
use crate::bytes::ReadAt;
use crate::disk::Source;
use crate::loader::PayloadFile;
use crate::{Error, ErrorKind, Result};

/// Longest kernel that is read, in bytes.
const MAX_KERNEL: u64 = 256 << 20;

/// A kernel with the drivers for a guest's root filesystem.
#[derive(Clone, Debug)]
pub struct GuestKernel {
    /// The kernel: where it is, and its version.
    pub name: String,
    /// A bzImage.
    pub kernel: Vec<u8>,
    /// Modules, and the program that makes edits (`src/edit/guest_kernel/editor.c`).
    pub initrd: Vec<u8>,
    /// The filesystem's type, as in mount(2).
    pub fs_type: String,
    /// Options of the filesystem, as in mount(2).
    pub options: String,
}

/// The kernel of a plan.
#[derive(Clone, Debug)]
pub(super) struct GuestKernelFile {
    file: PayloadFile,
    version: Option<String>,
}

impl GuestKernelFile {
    /// The kernel that `boot` starts.
    pub(super) fn of(boot: &PlannedBoot) -> Self {
        let file = boot.payload.kernel.clone();
        Self { file, version: boot.summary.kernel_version.clone() }
    }

    /// # Errors
    /// [`ErrorKind::TooLarge`] for more than 256 MiB; errors from reading it.
    fn read(&self) -> Result<Vec<u8>> {
        let PayloadFile { origin, len, source, .. } = &self.file;
        if *len > MAX_KERNEL {
            let what = format!("{origin} has {len} bytes; this is no kernel that can edit a guest");
            return Err(Error::new(ErrorKind::TooLarge, what));
        }
        let mut bytes = vec![0; *len as usize];
        let read = match source {
            Source::Bytes(stored) => {
                let len = bytes.len().min(stored.len());
                bytes[..len].copy_from_slice(&stored[..len]);
                Ok(())
            }
            Source::Zeros => Ok(()),
            Source::Image { image, offset } => image.read_at(&mut bytes, *offset),
            Source::File(file) => file.read_at(&mut bytes, 0),
        };
        read.map_err(|e| Error::io(format!("cannot read {origin}"), e))?;
        Ok(bytes)
    }
}

impl GuestKernel {
    /// Reads `kernel` and makes an initrd from its modules among the files of the guest that
    /// `adaptation` edits.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without a kernel, and when it lacks modules; errors from reading them.
    pub(super) fn read(
        kernel: Option<&GuestKernelFile>,
        adaptation: &Adaptation,
        resolver: &RootResolver,
        examiner: &Examiner,
    ) -> Result<Self> {
        let none = |what: &str| Error::new(ErrorKind::NotFound, what);
        let kernel = kernel.ok_or_else(|| none("it is not known which kernel the guest boots"))?;
        let version = kernel.version.clone();
        let version =
            version.ok_or_else(|| none("the guest's kernel does not say which version it is"))?;
        let name = format!("Linux {version}");
        let (root, others) = adaptation.places.clone();
        let resolver = resolver.clone();
        let (initrd, driver) =
            examiner.editor(EditorQuestion { root, others, resolver, version })?;
        let (fs_type, options) = match &adaptation.kernel_mount {
            Some(mount) => (mount.fs_type, mount.options.clone()),
            None => (driver, String::new()),
        };
        Ok(Self { name, kernel: kernel.read()?, initrd, fs_type: fs_type.to_owned(), options })
    }
}

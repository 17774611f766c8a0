//! Arguments that several subcommands share.

use crate::loader::LoaderKind;
use crate::plan::SourceOptions;
use crate::{Error, ErrorKind, Result};
use clap::Args;
use std::path::PathBuf;

/// The source of a disk; the images themselves are positional arguments.
#[derive(Clone, Debug, Args)]
pub(super) struct SourceArgs {
    /// Read the guest's disks from its domU config (xl.cfg) instead of naming images
    #[arg(long, value_name = "DOMU.cfg", help_heading = "Source")]
    pub(super) config: Option<PathBuf>,

    #[command(flatten)]
    options: SourceOptions,
}

impl SourceArgs {
    /// Whether `--force` was given.
    pub(super) fn force(&self) -> bool {
        self.options.force
    }

    /// The boot loader that `--bootloader` names.
    pub(super) fn bootloader(&self) -> Option<LoaderKind> {
        self.options.bootloader
    }

    /// The options for a guest that consists of `images` or is described by the config.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] unless exactly one of the two is given.
    pub(super) fn into_options(self, images: Vec<PathBuf>) -> Result<SourceOptions> {
        if images.is_empty() == self.config.is_none() {
            return Err(Error::new(
                ErrorKind::Usage,
                "name either the guest's images or, with --config, its domU config",
            ));
        }
        Ok(SourceOptions { images, config: self.config, ..self.options })
    }
}

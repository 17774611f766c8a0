//! Arguments that several subcommands share.

use crate::disk::temporary_dir;
use crate::image::Xva;
use crate::layout::parse_size;
use crate::loader::LoaderKind;
use crate::plan::{OverlayChoice, SourceOptions};
use crate::remote::RemoteUrl;
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
        let mut urls = Vec::new();
        let images = without_secrets(images, &mut urls)?;
        let config = without_secrets(self.config.into_iter().collect(), &mut urls)?.pop();
        let options = SourceOptions { urls, ..self.options };
        // An XVA describes its guest, as a config does.
        match <[PathBuf; 1]>::try_from(images) {
            Ok([path]) if Xva::is_meant(&path) => {
                Ok(SourceOptions { config: Some(path), ..options })
            }
            Ok(images) => Ok(SourceOptions { images: images.into(), ..options }),
            Err(images) => Ok(SourceOptions { images, config, ..options }),
        }
    }
}

/// The names of `images`: what is a URL goes to `urls`, and is replaced by its name, which may be shown.
pub(super) fn without_secrets(
    images: Vec<PathBuf>,
    urls: &mut Vec<RemoteUrl>,
) -> Result<Vec<PathBuf>> {
    let name = |path: PathBuf| match RemoteUrl::of_path(&path) {
        None => Ok(path),
        Some(url) => {
            let url = url?;
            let name = PathBuf::from(url.name());
            urls.push(url);
            Ok(name)
        }
    };
    images.into_iter().map(name).collect()
}

/// Where the writes of an export go.
#[derive(Debug, Args)]
pub(super) struct OverlayArgs {
    /// Keep writes in this qcow2 file, created on first use [default: discard them at the end]
    #[arg(long, value_name = "FILE", conflicts_with = "read_only", help_heading = "Overlay")]
    pub(super) overlay: Option<PathBuf>,

    /// Keep writes in this directory, one qcow2 file per disk
    #[arg(long, value_name = "DIR", conflicts_with_all = ["overlay", "read_only"])]
    #[arg(help_heading = "Overlay")]
    pub(super) overlay_dir: Option<PathBuf>,

    /// Let the overlay of each disk occupy at most this much storage (512M, 20G); further writes
    /// fail with ENOSPC
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "read_only")]
    #[arg(help_heading = "Overlay")]
    pub(super) overlay_limit: Option<u64>,

    /// Refuse all writes
    #[arg(long, help_heading = "Overlay")]
    pub(super) read_only: bool,
}

impl OverlayArgs {
    /// The overlay that they ask for; a temporary one without any.
    pub(super) fn choice(self, read_only: bool) -> OverlayChoice {
        match (self.overlay, self.overlay_dir) {
            (Some(path), _) => OverlayChoice::File(path),
            (None, Some(dir)) => OverlayChoice::Dir(dir),
            (None, None) if read_only => OverlayChoice::ReadOnly,
            (None, None) => OverlayChoice::Temporary(temporary_dir()),
        }
    }
}

//! Copy options.

use crate::process::Stop;

/// Whether blocks are shared with images and overlays.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum Reflink {
    /// Where the filesystem supports it
    #[default]
    Auto,
    /// All whole blocks of images and overlays, or fail
    Always,
    /// None
    Never,
}

/// Copy options.
#[derive(Clone, Copy, Debug)]
pub struct CopyOptions<'a> {
    /// Whether blocks are shared.
    pub reflink: Reflink,
    /// Copy even if there may not be enough space.
    pub force: bool,
    /// Do not print progress.
    pub quiet: bool,
    /// The result's name in messages.
    pub name: &'a str,
    /// Stops the copy when raised.
    pub stop: &'a Stop,
}

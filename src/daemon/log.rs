//! Messages about errors while serving.

use crate::Result;
use crate::private_file::{self, Existing};
use std::path::Path;
use std::sync::Arc;

/// Start logging to the file `path`, or to standard error if there is none.
///
/// # Errors
/// Fails if the file cannot be opened.
pub(super) fn start_log(path: Option<&Path>) -> Result<()> {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("SYNTHDISK_LOG").unwrap_or_else(|_| "warn".into());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
    match path {
        Some(path) => {
            let file = private_file::open(path, "the log", Existing::Append)?;
            builder.with_writer(Arc::new(file)).init();
        }
        None => builder.with_writer(std::io::stderr).init(),
    }
    Ok(())
}

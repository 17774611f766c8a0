//! Messages about errors while serving.

use crate::{Error, Result};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Start logging to the file `path`, else to standard error.
///
/// # Errors
/// That of opening the file.
pub(super) fn start_log(path: Option<&Path>) -> Result<()> {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("SYNTHDISK_LOG").unwrap_or_else(|_| "warn".into());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
    match path {
        Some(path) => {
            let file = File::options().append(true).create(true).open(path);
            let file =
                file.map_err(|e| Error::io(format!("cannot open the log {}", path.display()), e))?;
            builder.with_writer(Arc::new(file)).init();
        }
        None => builder.with_writer(std::io::stderr).init(),
    }
    Ok(())
}

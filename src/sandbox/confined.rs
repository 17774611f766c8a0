//! What is in force in a process.

use super::profile::Mode;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A part of the confinement.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// A user ID without rights, and no capabilities.
    Account,
    /// Programs that it executes gain no privileges (PR_SET_NO_NEW_PRIVS).
    NoNewPrivileges,
    /// Other processes of the user cannot inspect it, and it leaves no core file.
    NotDumpable,
    /// Its root directory is empty.
    EmptyRoot,
    /// Landlock: no path can be opened.
    Landlock,
    /// Only the system calls that it needs.
    SystemCalls,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Account => "account",
            Self::NoNewPrivileges => "no-new-privileges",
            Self::NotDumpable => "not-dumpable",
            Self::EmptyRoot => "empty-root",
            Self::Landlock => "landlock",
            Self::SystemCalls => "system-calls",
        })
    }
}

/// A layer that could not be applied.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Missing {
    /// The layer.
    pub layer: Layer,
    /// Why it could not be applied.
    pub reason: String,
}

/// The layers in force in a process.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Confined {
    /// What was asked for.
    pub mode: Mode,
    /// The layers in force.
    pub active: Vec<Layer>,
    /// The layers that could not be applied. A layer that has no use for the process, such as
    /// another user ID for a process that root did not start, is neither here nor in `active`.
    pub missing: Vec<Missing>,
}

impl fmt::Display for Confined {
    /// One line: `account, system-calls (missing: landlock, because …)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.active.is_empty() {
            f.write_str("none")?;
        }
        for (i, layer) in self.active.iter().enumerate() {
            write!(f, "{}{layer}", if i == 0 { "" } else { ", " })?;
        }
        for (i, Missing { layer, reason }) in self.missing.iter().enumerate() {
            write!(f, "{}{layer} ({reason})", if i == 0 { "; missing: " } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_says_it_all() {
        let mut confined = Confined::default();
        assert_eq!(confined.to_string(), "none");
        confined.active = vec![Layer::Account, Layer::SystemCalls];
        assert_eq!(confined.to_string(), "account, system-calls");
        let missing = |layer, reason: &str| Missing { layer, reason: reason.into() };
        confined.missing = vec![missing(Layer::Landlock, "x"), missing(Layer::EmptyRoot, "y")];
        let expected = "account, system-calls; missing: landlock (x), empty-root (y)";
        assert_eq!(confined.to_string(), expected);
    }

    #[test]
    fn layers_have_one_name() {
        for layer in [Layer::Account, Layer::NoNewPrivileges, Layer::NotDumpable] {
            assert_eq!(serde_json::to_value(layer).unwrap(), layer.to_string());
        }
        for layer in [Layer::EmptyRoot, Layer::Landlock, Layer::SystemCalls] {
            assert_eq!(serde_json::to_value(layer).unwrap(), layer.to_string());
        }
    }
}

//! Which steps are selected.

use super::steps::STEPS;
use crate::{Error, ErrorKind, Result};
use std::fmt;

/// The selected steps, by name.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Selection(Wanted);

#[derive(Clone, Debug, Default, Eq, PartialEq)]
enum Wanted {
    #[default]
    All,
    Only(Vec<&'static str>),
}

impl Selection {
    /// Every step.
    pub fn auto() -> Self {
        Self(Wanted::All)
    }

    /// No step.
    pub fn none() -> Self {
        Self(Wanted::Only(Vec::new()))
    }

    /// Parse `auto`, `none` or the names of steps, separated by commas.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`], listing the available steps.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "auto" => return Ok(Self::auto()),
            "none" => return Ok(Self::none()),
            _ => {}
        }
        let name = |word: &str| {
            let found = STEPS.iter().map(|step| step.name).find(|name| *name == word.trim());
            found.ok_or_else(|| {
                let all: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
                let what = format!("'{word}' is none of auto, none, {}", all.join(", "));
                Error::new(ErrorKind::Usage, what)
            })
        };
        Ok(Self(Wanted::Only(text.split(',').map(name).collect::<Result<_>>()?)))
    }

    /// Whether the step `name` is selected.
    pub fn has(&self, name: &str) -> bool {
        match &self.0 {
            Wanted::All => true,
            Wanted::Only(names) => names.contains(&name),
        }
    }

    /// Whether no step is selected.
    pub fn is_none(&self) -> bool {
        matches!(&self.0, Wanted::Only(names) if names.is_empty())
    }
}

impl TryFrom<String> for Selection {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<Selection> for String {
    fn from(selection: Selection) -> Self {
        selection.to_string()
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Wanted::All => f.write_str("auto"),
            Wanted::Only(names) if names.is_empty() => f.write_str("none"),
            Wanted::Only(names) => f.write_str(&names.join(",")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for text in ["auto", "none", "fstab", "inittab,fstab"] {
            assert_eq!(Selection::parse(text).unwrap().to_string(), text);
        }
        assert!(Selection::parse("auto").unwrap().has("fstab"));
        assert!(!Selection::parse("none").unwrap().has("fstab"));
        assert!(Selection::parse("none").unwrap().is_none());
        let some = Selection::parse("fstab, network").unwrap();
        assert!(some.has("fstab") && some.has("network") && !some.has("inittab"));
        let e = Selection::parse("fstab,nonsense").unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Usage);
        assert!(e.to_string().contains("nonsense") && e.to_string().contains("inittab"));
    }
}

//! A share of a fleet: which guests one of several processes boots.
//!
//! Sources: sbatch(1), "--array" and its output environment variables; Kubernetes, "Indexed Job".

use crate::{Error, ErrorKind, Result};
use std::fmt;

/// Every `count`-th guest of a list, beginning with number `index`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shard {
    /// From 0 to `count - 1`.
    index: u64,
    /// At least 1.
    count: u64,
}

impl Shard {
    /// Whether the guest at `position`, counted from 0, belongs to this share.
    pub fn has(self, position: usize) -> bool {
        position as u64 % self.count == self.index
    }

    /// From the text of the option: `I/N` counted from 1, `auto`, or `auto/N`. `auto` asks the
    /// environment for the number of a Slurm array's task or of an indexed job's pod.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for other texts, numbers out of range, and an environment that does not
    /// tell.
    pub fn parse(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let wrong = || {
            let what = format!(
                "invalid shard '{text}'; write it like 2/8, counted from 1, or auto, or auto/8"
            );
            Error::new(ErrorKind::Usage, what)
        };
        let number = |text: &str| text.parse::<u64>().ok();
        match text.split_once('/') {
            Some(("auto", count)) => Self::counted(number(count).ok_or_else(wrong)?, variable),
            Some((index, count)) => {
                let (index, count) = number(index).zip(number(count)).ok_or_else(wrong)?;
                match (1..=count).contains(&index) {
                    true => Ok(Self { index: index - 1, count }),
                    false => Err(wrong()),
                }
            }
            None if text == "auto" => Self::from_environment(variable),
            None => Err(wrong()),
        }
    }

    /// Whatever part of the array was submitted, its numbers begin at 0 and there are `count`.
    fn counted(count: u64, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let known = ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"];
        let found = known.iter().find_map(|name| Some((*name, variable(name)?)));
        let Some((name, value)) = found else { return Err(unknown()) };
        match value.parse::<u64>() {
            Ok(index) if index < count => Ok(Self { index, count }),
            _ => {
                let what = format!(
                    "--shard auto/{count}: {name} must be between 0 and {}, not '{value}'",
                    count.saturating_sub(1)
                );
                Err(Error::new(ErrorKind::Usage, what))
            }
        }
    }

    fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let read = |name: &str| -> Result<Option<u64>> {
            let Some(value) = variable(name) else { return Ok(None) };
            let parsed = value.parse().map_err(|_| {
                let what = format!("--shard auto: {name} is no number: '{value}'");
                Error::new(ErrorKind::Usage, what)
            });
            parsed.map(Some)
        };
        if let Some(task) = read("SLURM_ARRAY_TASK_ID")? {
            let step = read("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
            let (Some(count), Some(first)) =
                (read("SLURM_ARRAY_TASK_COUNT")?, read("SLURM_ARRAY_TASK_MIN")?)
            else {
                return Err(unknown());
            };
            let offset = task.checked_sub(first).filter(|offset| offset % step == 0);
            return match offset.map(|offset| offset / step) {
                Some(index) if index < count => Ok(Self { index, count }),
                // As with --array=1,5,7: the task's place in that list is not known.
                _ => Err(Error::new(
                    ErrorKind::Usage,
                    "--shard auto: the tasks of this Slurm array are not numbered evenly; number \
                     them from 0, and use --shard auto/N",
                )),
            };
        }
        if let Some(index) = read("JOB_COMPLETION_INDEX")? {
            let Some(count) = read("JOB_COMPLETIONS")? else {
                return Err(Error::new(
                    ErrorKind::Usage,
                    "--shard auto: a pod of an indexed job does not know the number of pods; use \
                     --shard auto/N, or set JOB_COMPLETIONS",
                ));
            };
            return Self::counted(count, |name| {
                (name == "JOB_COMPLETION_INDEX").then(|| index.to_string())
            });
        }
        Err(unknown())
    }
}

fn unknown() -> Error {
    Error::new(
        ErrorKind::Usage,
        "--shard auto: neither SLURM_ARRAY_TASK_ID (with its _COUNT and _MIN) nor \
         JOB_COMPLETION_INDEX is set; use --shard I/N",
    )
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index + 1, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(text: &str, set: &[(&str, &str)]) -> Result<Shard> {
        let value = |name: &str| set.iter().find(|(n, _)| *n == name);
        Shard::parse(text, |name| value(name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn every_guest_is_in_one_share() {
        for count in 1..6 {
            let texts = (1..=count).map(|i| format!("{i}/{count}"));
            let shards: Vec<_> = texts.map(|text| shard(&text, &[]).unwrap()).collect();
            for guest in 0..20 {
                assert_eq!(shards.iter().filter(|s| s.has(guest)).count(), 1);
            }
        }
    }

    #[test]
    fn from_engines() {
        let slurm = |id, first, count, step| {
            [
                ("SLURM_ARRAY_TASK_ID", id),
                ("SLURM_ARRAY_TASK_MIN", first),
                ("SLURM_ARRAY_TASK_COUNT", count),
                ("SLURM_ARRAY_TASK_STEP", step),
            ]
        };
        for (text, set, expected) in [
            ("3/8", &[][..], "3/8"),
            ("auto", &slurm("3", "1", "8", "1"), "3/8"),
            ("auto", &slurm("0", "0", "8", "1"), "1/8"),
            ("auto", &slurm("14", "0", "8", "2"), "8/8"),
            // One task of the array again: its number says which, not the array.
            ("auto/8", &slurm("3", "3", "1", "1"), "4/8"),
            ("auto/8", &[("JOB_COMPLETION_INDEX", "7")], "8/8"),
            ("auto", &[("JOB_COMPLETION_INDEX", "0"), ("JOB_COMPLETIONS", "2")], "1/2"),
        ] {
            assert_eq!(shard(text, set).unwrap().to_string(), expected, "{text} {set:?}");
        }
        for (text, set, part) in [
            ("auto", &[][..], "SLURM_ARRAY_TASK_ID"),
            ("auto", &slurm("5", "1", "3", "1"), "not numbered evenly"),
            ("auto", &slurm("5", "0", "3", "2"), "not numbered evenly"),
            ("auto", &slurm("x", "0", "3", "2"), "no number"),
            ("auto", &[("JOB_COMPLETION_INDEX", "0")], "auto/N"),
            ("auto/8", &[("JOB_COMPLETION_INDEX", "8")], "between 0 and 7"),
            ("auto/0", &[("JOB_COMPLETION_INDEX", "0")], "not '0'"),
            ("0/8", &[], "counted from 1"),
            ("9/8", &[], "counted from 1"),
            ("8", &[], "counted from 1"),
            ("", &[], "counted from 1"),
        ] {
            let e = shard(text, set).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Usage);
            assert!(e.to_string().contains(part), "{text}: {e}");
        }
    }
}

//! What the guest's own words say about it: facts become checks.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The script that collects the facts inside the guest.
pub(super) const SCRIPT: &str = include_str!("facts.sh");

/// How a check ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// Not as usual, but no reason to fail; or unknown.
    Warn,
    /// The guest does not run as it should.
    Fail,
}

impl Outcome {
    /// In one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Warn => "warn",
            Outcome::Fail => "fail",
        }
    }
}

/// One check of a guest that runs.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct CheckResult {
    /// What was checked: `system`, `network`, …, or the name of a script.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// One sentence.
    pub detail: String,
}

impl CheckResult {
    pub(super) fn new(name: &str, outcome: Outcome, detail: impl Into<String>) -> Self {
        Self { name: name.into(), outcome, detail: detail.into() }
    }
}

fn check(name: &str, outcome: Outcome, detail: impl Into<String>) -> CheckResult {
    CheckResult::new(name, outcome, detail)
}

/// Facts that are kept of one kind: a hostile guest may print any number.
const MOST: usize = 50;

/// What the script has printed so far.
#[derive(Debug, Default)]
pub(super) struct Facts(BTreeMap<String, Vec<String>>);

impl Facts {
    /// Take a line without its mark: `KEY VALUE…`.
    pub(super) fn add(&mut self, line: &str) {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        if key.len() > 20 || (self.0.len() >= MOST && !self.0.contains_key(key)) {
            return;
        }
        let values = self.0.entry(key.to_owned()).or_default();
        if values.len() < MOST {
            values.push(value.trim().chars().take(200).collect());
        }
    }

    /// Whether the script has printed everything.
    pub(super) fn is_complete(&self) -> bool {
        self.0.contains_key("end")
    }

    fn all(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    fn one(&self, key: &str) -> Option<&str> {
        self.all(key).first().map(String::as_str)
    }
}

/// How far the clock may be off, in seconds: the guest reads it some time before this process does.
const CLOCK: u64 = 120;

/// The address of each of `cards`, the network cards that the guest sees, of `given` that it has. An address
/// may be on what uses a card: a bridge, a bond, a VLAN.
fn address(facts: &Facts, cards: &[String], given: usize) -> CheckResult {
    if cards.len() < given {
        let what = format!("the guest sees {} of {given} network cards", cards.len());
        return check("address", Outcome::Fail, what);
    }
    let pairs = |key| facts.all(key).iter().filter_map(|fact| fact.split_once(' '));
    let (mut none, mut local) = (Vec::new(), Vec::new());
    for card in cards {
        let mut devices = vec![card.as_str()];
        // `pairs` has at most MOST of them, and each device is visited once.
        let mut next = 0;
        while let Some(device) = devices.get(next).copied() {
            for (_, upper) in pairs("upper").filter(|(lower, _)| *lower == device) {
                if !devices.contains(&upper) {
                    devices.push(upper);
                }
            }
            next += 1;
        }
        let mut addresses = pairs("address").filter(|(device, _)| devices.contains(device));
        match addresses.next() {
            None => none.push(card.as_str()),
            // Source: RFC 3927, 2.1: what a host takes that no DHCP server has answered.
            Some((_, first)) if first.starts_with("169.254.") => {
                if addresses.all(|(_, address)| address.starts_with("169.254.")) {
                    local.push(card.as_str());
                }
            }
            Some(_) => {}
        }
    }
    if !none.is_empty() {
        return check("address", Outcome::Fail, format!("no address: {}", none.join(", ")));
    }
    if !local.is_empty() {
        let what = format!("only an address that nobody gave (169.254/16): {}", local.join(", "));
        return check("address", Outcome::Warn, what);
    }
    check("address", Outcome::Ok, facts.all("address").join(", "))
}

/// The checks. `now`: this host's time when the facts were complete, in seconds since 1970; `given`: how many
/// network cards the machine has.
pub(super) fn judge(facts: &Facts, now: u64, given: usize) -> Vec<CheckResult> {
    let missing = || "the guest did not say".to_owned();
    let mut out = Vec::new();
    out.push(match facts.one("tty") {
        Some(tty) if tty.starts_with("/dev/") => {
            check("console", Outcome::Ok, format!("root logged in on {tty}"))
        }
        _ => check("console", Outcome::Ok, "root logged in"),
    });
    let failed = facts.all("failed").join(", ");
    out.push(match (facts.one("init"), facts.one("state")) {
        (Some("systemd"), Some("running")) => {
            check("system", Outcome::Ok, "systemd says 'running'; no unit failed")
        }
        (Some("systemd"), Some(state)) if !failed.is_empty() => {
            check("system", Outcome::Fail, format!("systemd says '{state}'; failed: {failed}"))
        }
        (Some("systemd"), Some(state)) => {
            let jobs = facts.all("job").join(", ");
            let waits = if jobs.is_empty() { jobs } else { format!("; it waits for {jobs}") };
            check("system", Outcome::Fail, format!("systemd says '{state}'{waits}"))
        }
        (Some("other"), _) => {
            check("system", Outcome::Warn, "no systemd, which would know what failed")
        }
        _ => check("system", Outcome::Fail, missing()),
    });
    let cards = facts.all("card");
    if cards.is_empty() && given == 0 {
        out.push(check("address", Outcome::Warn, "the guest has no network card"));
    } else {
        // Facts are limited, so of a machine with more cards some are not known.
        out.push(address(facts, cards, given.min(MOST)));
        out.push(match facts.all("route") {
            [] => check("route", Outcome::Fail, "there is no default route"),
            some => check("route", Outcome::Ok, format!("default route by {}", some.join(", "))),
        });
    }
    let swap = facts.one("swap").and_then(|text| {
        let (active, wanted) = text.split_once(' ')?;
        Some((active.parse::<u32>().ok()?, wanted.parse::<u32>().ok()?))
    });
    out.push(match swap {
        Some((active, wanted)) if active < wanted => {
            let missing = facts.all("noswap").join(", ");
            let detail =
                format!("{active} of {wanted} swap areas in /etc/fstab are in use, not {missing}");
            check("swap", Outcome::Fail, detail)
        }
        Some((0, _)) => check("swap", Outcome::Ok, "none wanted"),
        Some((active, _)) => check("swap", Outcome::Ok, format!("{active} in use")),
        None => check("swap", Outcome::Fail, missing()),
    });
    out.push(match facts.one("root") {
        Some("rw") => check("root", Outcome::Ok, "mounted read-write"),
        Some("ro") => check("root", Outcome::Fail, "mounted read-only"),
        _ => check("root", Outcome::Fail, missing()),
    });
    out.push(match facts.one("clock").and_then(|text| text.parse::<u64>().ok()) {
        Some(theirs) if theirs.abs_diff(now) <= CLOCK => check("clock", Outcome::Ok, "right"),
        Some(theirs) => {
            let off = theirs.abs_diff(now);
            let way = if theirs > now { "fast" } else { "slow" };
            check(
                "clock",
                Outcome::Fail,
                format!("{off} s {way}; is localtime right in the config?"),
            )
        }
        None => check("clock", Outcome::Fail, missing()),
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(lines: &[&str]) -> Vec<(String, Outcome, String)> {
        let mut facts = Facts::default();
        lines.iter().for_each(|line| facts.add(line));
        judge(&facts, 1_000_000, 1).into_iter().map(|c| (c.name, c.outcome, c.detail)).collect()
    }

    const GOOD: [&str; 9] = [
        "tty /dev/ttyS0",
        "init systemd",
        "state running",
        "card ens3",
        "route ens3",
        "address ens3 10.0.2.15/24",
        "swap 1 1",
        "root rw",
        "clock 1000050",
    ];

    #[test]
    fn all_is_well() {
        let all = judged(&GOOD);
        assert!(all.iter().all(|(_, outcome, _)| *outcome == Outcome::Ok), "{all:?}");
        assert_eq!(all.len(), 7);
    }

    #[test]
    fn each_fault_is_one_failed_check() {
        for (name, old, new, detail) in [
            ("system", "state running", &["state degraded", "failed a.service"][..], "a.service"),
            ("system", "state running", &["state starting", "job b.service"], "waits for b.serv"),
            ("address", "address ens3 10.0.2.15/24", &[], "no address: ens3"),
            ("address", "address ens3 10.0.2.15/24", &["address docker0 172.17.0.1/16"], "ens3"),
            ("address", "-", &["card ens4"], "no address: ens4"),
            ("address", "card ens3", &[], "0 of 1 network cards"),
            ("route", "route ens3", &[], "no default route"),
            (
                "swap",
                "swap 1 1",
                &["swap 0 1", "noswap UUID=5"],
                "0 of 1 swap areas in /etc/fstab are in use, not UUID=5",
            ),
            ("root", "root rw", &["root ro"], "read-only"),
            ("clock", "clock 1000050", &["clock 1003600"], "3600 s fast"),
            ("clock", "clock 1000050", &["clock x"], "did not say"),
            ("swap", "swap 1 1", &["swap x"], "did not say"),
        ] {
            let lines: Vec<_> = GOOD.iter().filter(|l| **l != old).chain(new).copied().collect();
            let all = judged(&lines);
            let bad: Vec<_> = all.iter().filter(|(_, o, _)| *o != Outcome::Ok).collect();
            assert_eq!(bad.len(), 1, "{bad:?}");
            assert_eq!((bad[0].0.as_str(), bad[0].1), (name, Outcome::Fail));
            assert!(bad[0].2.contains(detail), "{bad:?}");
        }
        assert!(judged(&[]).iter().any(|(_, outcome, _)| *outcome == Outcome::Fail));
    }

    #[test]
    fn addresses_of_a_bridge_and_of_nobody() {
        let with = |more: &[&'static str]| {
            let lines: Vec<_> =
                GOOD.iter().filter(|l| !l.starts_with("address")).chain(more).copied().collect();
            let found = judged(&lines).into_iter().find(|(name, ..)| name == "address");
            found.map(|(_, outcome, _)| outcome)
        };
        let bridge = ["upper ens3 bond0", "upper bond0 br0", "upper br0 ens3"];
        assert_eq!(with(&bridge), Some(Outcome::Fail));
        let bridge = [&bridge[..], &["address br0 10.0.2.15/24"]].concat();
        assert_eq!(with(&bridge), Some(Outcome::Ok));
        assert_eq!(with(&["address ens3 169.254.3.4/16"]), Some(Outcome::Warn));
        let both = ["address ens3 169.254.3.4/16", "address ens3 10.0.2.15/24"];
        assert_eq!(with(&both), Some(Outcome::Ok));
    }

    #[test]
    fn a_guest_cannot_fill_the_memory() {
        let mut facts = Facts::default();
        for n in 0..10_000 {
            facts.add(&format!("k{n} {}", "x".repeat(1000)));
            facts.add("failed x.service");
        }
        assert!(facts.0.len() <= MOST + 1);
        assert!(facts.0.values().all(|v| v.len() <= MOST && v.iter().all(|t| t.len() <= 200)));
    }
}

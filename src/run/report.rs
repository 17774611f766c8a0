//! Results of test boots: a table for a person, JSON for a script, JUnit for a CI server.

use super::check::{CheckResult, Outcome};
use super::duration::show;
use crate::text::in_a_line;
use crate::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

/// The version of the JSON outputs of test boots; see docs/VERSIONING.md.
pub const SCHEMA_VERSION: u32 = 1;

/// The result for one guest.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The expected text appeared.
    Passed,
    /// The guest ran, but the text did not appear.
    Failed,
    /// The guest could not be run.
    Error,
    /// The guest was run without an expected text, and has ended.
    Ended,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Failed => "failed",
            Verdict::Error => "error",
            Verdict::Ended => "ended",
        }
    }
}

/// Why a guest did not pass.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// The guest, its images or its config: running it again gives the same.
    Guest,
    /// The host lacks or refuses something, or the run was interrupted: running it again, here or
    /// elsewhere, may succeed.
    Host,
}

/// One guest's result. Times are in seconds from QEMU's start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GuestReport {
    /// The guest's name.
    pub guest: String,
    /// Its config.
    pub config: Option<PathBuf>,
    /// Its images, if there is no config.
    pub images: Vec<PathBuf>,
    /// The verdict.
    pub verdict: Verdict,
    /// Why it did not pass; `None` if it did.
    pub fault: Option<Fault>,
    /// When the kernel's first line appeared.
    pub seconds_to_kernel: Option<f64>,
    /// When the expected text appeared.
    pub seconds_to_match: Option<f64>,
    /// How long the guest ran.
    pub seconds: f64,
    /// The line with the expected text.
    pub matched: Option<String>,
    /// Why the verdict is not `passed`.
    pub reason: Option<String>,
    /// The file to which the console was written.
    pub log: Option<PathBuf>,
    /// The console's last lines, if the guest did not pass.
    pub tail: Vec<String>,
    /// What was checked inside the guest.
    #[serde(default)]
    pub checks: Vec<CheckResult>,
    /// The file with a picture of its screen.
    #[serde(default)]
    pub screenshot: Option<PathBuf>,
}

impl GuestReport {
    /// A report that contains only the verdict.
    pub fn new(guest: &str, verdict: Verdict, ran: Duration) -> Self {
        Self {
            guest: guest.to_owned(),
            config: None,
            images: Vec::new(),
            verdict,
            fault: (verdict == Verdict::Failed).then_some(Fault::Guest),
            seconds_to_kernel: None,
            seconds_to_match: None,
            seconds: ran.as_secs_f64(),
            matched: None,
            reason: None,
            log: None,
            tail: Vec::new(),
            checks: Vec::new(),
            screenshot: None,
        }
    }

    /// The guest did not pass, for this reason.
    pub(super) fn fail(&mut self, why: String) {
        self.verdict = Verdict::Failed;
        self.fault = Some(Fault::Guest);
        self.reason = Some(why);
    }

    /// Whether the checks ended with the guest's power off.
    pub(super) fn has_powered_off(&self) -> bool {
        self.checks.iter().any(|c| c.name == "poweroff" && c.outcome == Outcome::Ok)
    }

    /// The verdict follows from the checks, and a guest that passed needs no lines of its console.
    pub(super) fn conclude_checks(&mut self) {
        let bad = self.checks.iter().filter(|c| c.outcome == Outcome::Fail);
        let bad: Vec<_> = bad.map(|c| format!("{}: {}", c.name, c.detail)).collect();
        if !bad.is_empty() {
            self.fail(bad.join("; "));
        }
        if self.verdict == Verdict::Passed {
            self.tail.clear();
        }
    }

    /// The report of a guest that could not be run.
    pub fn error(guest: &str, reason: &Error) -> Self {
        let mut report = Self::new(guest, Verdict::Error, Duration::ZERO);
        report.fault = Some(if reason.is_of_host() { Fault::Host } else { Fault::Guest });
        report.reason = Some(reason.to_string());
        report
    }

    /// One line: the result, and the reason for a failure.
    pub fn sentence(&self) -> String {
        match (&self.reason, self.seconds_to_match) {
            (Some(reason), _) => format!("{}: {}", self.verdict.as_str(), one_line(reason)),
            (None, Some(at)) => format!("{} after {}", self.verdict.as_str(), seconds(Some(at))),
            (None, None) => self.verdict.as_str().to_owned(),
        }
    }
}

fn seconds(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |s| show(Duration::from_secs_f64(s.max(0.0))))
}

/// Replaces characters that would break a table or affect a terminal.
fn one_line(text: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    in_a_line(&text.trim().chars().map(clean).collect::<String>()).into_owned()
}

/// A table with one row per guest; reasons are in the last column and are not truncated.
pub fn table(reports: &[GuestReport]) -> String {
    let head = ["GUEST", "VERDICT", "KERNEL", "MATCH", "WHY NOT"].map(String::from);
    let rows = reports.iter().map(|r| {
        [
            one_line(&r.guest),
            r.verdict.as_str().into(),
            seconds(r.seconds_to_kernel),
            seconds(r.seconds_to_match),
            r.reason.as_deref().map(one_line).unwrap_or_default(),
        ]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    let width = |i: usize| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or_default();
    let [w0, w1, w2, w3] = [0, 1, 2, 3].map(width);
    let mut out = String::new();
    for [guest, verdict, kernel, found, why] in &rows {
        let line = format!("{guest:w0$}  {verdict:w1$}  {kernel:>w2$}  {found:>w3$}  {why}");
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

/// Whether all guests passed.
///
/// # Errors
/// [`ErrorKind::Host`] if one could not be tested because of the host, else [`ErrorKind::Io`] if one
/// did not pass.
pub fn conclusion(reports: &[GuestReport]) -> Result<()> {
    let host = reports.iter().any(|r| r.fault == Some(Fault::Host));
    let kind = if host { ErrorKind::Host } else { ErrorKind::Io };
    match reports {
        [one] if one.verdict == Verdict::Passed => Ok(()),
        [one] => {
            let reason = one.reason.as_deref().unwrap_or_default();
            Err(Error::new(kind, format!("{}: {reason}", one.guest)))
        }
        several => {
            let bad = several.iter().filter(|r| r.verdict != Verdict::Passed).count();
            let untested = several.iter().filter(|r| r.fault == Some(Fault::Host)).count();
            if bad == 0 {
                return Ok(());
            }
            let mut what = format!("{bad} of {} guests did not pass", several.len());
            if untested > 0 {
                what.push_str(&format!(", {untested} of them because of this host"));
            }
            Err(Error::new(kind, what))
        }
    }
}

/// The reports as JSON, with a newline at the end.
pub fn json(reports: &[GuestReport]) -> String {
    let value = serde_json::json!({
        "schema_version": SCHEMA_VERSION,
        "version": env!("CARGO_PKG_VERSION"),
        "passed": reports.iter().filter(|r| r.verdict == Verdict::Passed).count(),
        "guests": reports,
    });
    format!("{value:#}\n")
}

/// The reports in the XML format of JUnit's Ant task: one test case per guest.
pub fn junit(reports: &[GuestReport]) -> String {
    let count = |verdict| reports.iter().filter(|r| r.verdict == verdict).count();
    let total: f64 = reports.iter().map(|r| r.seconds).sum();
    let counts = format!(
        "tests=\"{}\" failures=\"{}\" errors=\"{}\" time=\"{total:.3}\"",
        reports.len(),
        count(Verdict::Failed),
        count(Verdict::Error)
    );
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites {counts}>\n  \
         <testsuite name=\"synthdisk run\" {counts}>\n"
    );
    for r in reports {
        let name = escape(&r.guest);
        let _ = write!(
            out,
            "    <testcase classname=\"synthdisk.run\" name=\"{name}\" time=\"{:.3}\"",
            r.seconds
        );
        let tag = match r.verdict {
            Verdict::Failed => "failure",
            Verdict::Error => "error",
            Verdict::Passed | Verdict::Ended => {
                let _ = writeln!(out, "/>");
                continue;
            }
        };
        let reason = escape(&one_line(r.reason.as_deref().unwrap_or_default()));
        let tail = escape(&r.tail.join("\n"));
        let _ =
            writeln!(out, ">\n      <{tag} message=\"{reason}\">{tail}</{tag}>\n    </testcase>");
    }
    out + "  </testsuite>\n</testsuites>\n"
}

/// `text` escaped for XML content or an attribute; characters that XML 1.0 does not allow become
/// U+FFFD. Source: XML 1.0, 2.2 and 2.4.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\n' => out.push('\n'),
            '\t' => out.push_str("&#9;"),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reports() -> Vec<GuestReport> {
        let mut web = GuestReport::new("web1", Verdict::Passed, Duration::from_millis(18_250));
        web.seconds_to_kernel = Some(1.04);
        web.seconds_to_match = Some(18.2);
        web.matched = Some("web1 login:".into());
        let mut db = GuestReport::new("db-<1>", Verdict::Failed, Duration::from_secs(3));
        let missing = Error::new(ErrorKind::NotFound, "cannot open /a.img");
        db.reason = Some("kernel panic: \"no\" root\nat all".into());
        db.tail = vec!["a < b & c".into(), "bell \u{7}".into()];
        vec![web, db, GuestReport::error("old", &missing)]
    }

    #[test]
    fn a_table() {
        let expected = "\
GUEST   VERDICT  KERNEL   MATCH  WHY NOT
web1    passed    1.0 s  18.2 s
db-<1>  failed        -       -  kernel panic: \"no\" root at all
old     error         -       -  cannot open /a.img
";
        assert_eq!(table(&reports()), expected);
    }

    #[test]
    fn junit_xml() {
        let xml = junit(&reports());
        let expected = "\
<?xml version=\"1.0\" encoding=\"UTF-8\"?>
<testsuites tests=\"3\" failures=\"1\" errors=\"1\" time=\"21.250\">
  <testsuite name=\"synthdisk run\" tests=\"3\" failures=\"1\" errors=\"1\" time=\"21.250\">
    <testcase classname=\"synthdisk.run\" name=\"web1\" time=\"18.250\"/>
    <testcase classname=\"synthdisk.run\" name=\"db-&lt;1&gt;\" time=\"3.000\">
      <failure message=\"kernel panic: &quot;no&quot; root at all\">a &lt; b &amp; c
bell \u{fffd}</failure>
    </testcase>
    <testcase classname=\"synthdisk.run\" name=\"old\" time=\"0.000\">
      <error message=\"cannot open /a.img\"></error>
    </testcase>
  </testsuite>
</testsuites>
";
        assert_eq!(xml, expected);
    }

    #[test]
    fn json_for_scripts() {
        let value: serde_json::Value = serde_json::from_str(&json(&reports())).unwrap();
        assert_eq!(value["passed"], 1);
        let faults = [0, 1, 2].map(|i| value["guests"][i]["fault"].as_str());
        assert_eq!(faults, [None, Some("guest"), Some("guest")]);
        assert_eq!(value["guests"][0]["verdict"], "passed");
        assert_eq!(value["guests"][0]["seconds_to_match"], 18.2);
        assert_eq!(value["guests"][1]["seconds_to_kernel"], serde_json::Value::Null);
        assert_eq!(value["guests"][2]["reason"], "cannot open /a.img");
    }

    #[test]
    fn the_host_comes_first() {
        let mut all = reports();
        let kind = |reports: &[GuestReport]| conclusion(reports).map_err(|e| e.kind());
        assert_eq!(kind(&all[..1]), Ok(()));
        assert_eq!(kind(&all), Err(ErrorKind::Io));
        all.push(GuestReport::error("new", &Error::new(ErrorKind::Host, "no memory")));
        assert_eq!(kind(&all), Err(ErrorKind::Host));
        assert_eq!(kind(&all[3..]), Err(ErrorKind::Host));
        let text = conclusion(&all).unwrap_err().to_string();
        assert_eq!(text, "3 of 4 guests did not pass, 1 of them because of this host");
    }

    #[test]
    fn sentences() {
        let sentences: Vec<_> = reports().iter().map(GuestReport::sentence).collect();
        assert_eq!(
            sentences,
            [
                "passed after 18.2 s",
                "failed: kernel panic: \"no\" root at all",
                "error: cannot open /a.img"
            ]
        );
    }
}

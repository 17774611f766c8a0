//! The results that `finalize` prints at the end.

use crate::finalize::Written;
use crate::layout::format_size;
use serde_json::{Value, json};
use std::io::Write;

/// Print what was written: for a person to standard error, for a script to standard output.
pub(super) fn results(written: &[Written], as_json: bool, quiet: bool) {
    let mut out = String::new();
    for one in written {
        if !quiet {
            eprintln!("wrote:   {}", sentence(one));
            if let Some(sum) = &one.sha256 {
                eprintln!("sha256:  {sum}");
            }
        }
        out.push_str(&format!("{}\n", one.path.display()));
    }
    if as_json {
        let files: Vec<Value> = written.iter().map(json_of).collect();
        out = format!("{:#}\n", json!({ "files": files }));
    }
    // A reader that exits early (head) does not count as an error.
    let _ = std::io::stdout().write_all(out.as_bytes());
}

/// One result in a sentence, for a person.
fn sentence(one: &Written) -> String {
    let mut text = format!("{} {}", one.path.display(), format_size(one.disk_len));
    if one.copied.is_none() {
        text.push_str(&format!(" as {}", one.format.name()));
    }
    let mut facts = Vec::new();
    facts.extend(one.allocated.map(|n| format!("takes {}", format_size(n))));
    if let Some(copied) = one.copied {
        if copied.shared > 0 {
            facts.push(format!("shares {}", format_size(copied.shared)));
        }
        facts.push(format!("copied {}", format_size(copied.written)));
    }
    facts.extend(one.verified.then(|| "verified".into()));
    facts.push(format!("{:.2} s", one.took.as_secs_f64()));
    text + ", " + &facts.join(", ")
}

fn json_of(one: &Written) -> Value {
    json!({
        "path": one.path,
        "format": one.format.name(),
        "disk_length": one.disk_len,
        "file_length": one.len,
        "allocated": one.allocated,
        "shared": one.copied.map(|c| c.shared),
        "copied": one.copied.map(|c| c.written),
        "sha256": one.sha256,
        "verified": one.verified,
        "seconds": one.took.as_secs_f64(),
    })
}

//! A report that one looks at: one HTML page for any number of guests, with everything in it.
//!
//! Nothing on the page is loaded from elsewhere, and the page's own policy forbids it. What comes from
//! guests is text and stays text: names, consoles and diffs are escaped here, in one place, and the only
//! script is ours, named by its digest.

mod ansi;
mod drawing;
mod html;

pub use drawing::{Part, PartKind};

use crate::layout::format_size;
use html::{Html, base64};
use sha2::{Digest, Sha256};

const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");

/// The most of a console that is shown, in bytes: its end.
pub const CONSOLE_MAX: usize = 256 << 10;

/// How a guest did, which gives the colour and the word.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mood {
    /// As it should.
    Good,
    /// With a reservation, or unknown.
    Doubtful,
    /// Not as it should.
    Bad,
    /// Not tried, for a reason that is not the guest's.
    Untried,
}

impl Mood {
    fn class(self) -> &'static str {
        match self {
            Mood::Good => "good",
            Mood::Doubtful => "doubtful",
            Mood::Bad => "bad",
            Mood::Untried => "untried",
        }
    }

    /// A sign besides the colour.
    fn sign(self) -> &'static str {
        match self {
            Mood::Good => "✓",
            Mood::Doubtful => "!",
            Mood::Bad => "✗",
            Mood::Untried => "–",
        }
    }
}

/// A disk.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// The name of its file, and what the guest calls it.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
    /// What is on it, in order, without gaps.
    pub parts: Vec<Part>,
}

/// An edit of a file in a guest.
#[derive(Clone, Debug, Default)]
pub struct EditedFile {
    /// Its path.
    pub path: String,
    /// What was done, and why.
    pub why: String,
    /// As a unified diff.
    pub diff: String,
}

/// Something that was checked.
#[derive(Clone, Debug)]
pub struct Checked {
    /// What.
    pub name: String,
    /// How it is.
    pub mood: Mood,
    /// The outcome in one word.
    pub word: String,
    /// One sentence.
    pub detail: String,
}

/// A guest.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// How it did.
    pub mood: Mood,
    /// The verdict in one word.
    pub verdict: String,
    /// The verdict in a sentence; may be empty.
    pub sentence: String,
    /// Names and values: what boots, its config, …
    pub facts: Vec<(&'static str, String)>,
    /// When something happened, in seconds from QEMU's start, in order.
    pub timeline: Vec<(&'static str, f64)>,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// What was edited in it.
    pub edits: Vec<EditedFile>,
    /// What was checked.
    pub checks: Vec<Checked>,
    /// What a user should know.
    pub warnings: Vec<String>,
    /// What the console printed.
    pub console: Option<Vec<u8>>,
    /// A picture of the screen, as PNG.
    pub screenshot: Option<Vec<u8>>,
    /// What to do next: a sentence and a command, which may be empty.
    pub next: Vec<(String, String)>,
}

/// The page, in UTF-8. `title`: what it is about; `made_by`: the program and its version.
pub fn render(title: &str, made_by: &str, guests: &[Guest]) -> String {
    let digest = |text: &str| base64(&Sha256::digest(text.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; img-src data:; \
         base-uri 'none'; form-action 'none'",
        digest(STYLE),
        digest(SCRIPT)
    );
    let mut out = Html::default();
    out.raw("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    out.raw("<meta http-equiv=\"Content-Security-Policy\" content=\"").text(&policy).raw("\">\n");
    out.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    out.raw("<meta name=\"color-scheme\" content=\"light dark\">\n<title>").text(title);
    out.raw("</title>\n<style>").raw(STYLE).raw("</style>\n</head>\n<body>\n");
    out.raw("<a class=\"skip\" href=\"#guests\">Skip to the guests</a>\n<header>\n<h1>");
    out.text(title).raw("</h1>\n<p class=\"made\">").text(made_by).raw("</p>\n");
    summary(&mut out, guests);
    out.raw("</header>\n<main>\n");
    if guests.len() > 1 {
        table(&mut out, guests);
    }
    out.raw("<section id=\"guests\" aria-label=\"Guests\">\n");
    guests.iter().enumerate().for_each(|(n, guest)| article(&mut out, n, guest, guests.len()));
    out.raw("</section>\n</main>\n<script>").raw(SCRIPT).raw("</script>\n</body>\n</html>\n");
    out.into_string()
}

/// How many guests are in which mood, and a bar that shows it.
fn summary(out: &mut Html, guests: &[Guest]) {
    let moods = [Mood::Good, Mood::Doubtful, Mood::Bad, Mood::Untried];
    let count = |mood| guests.iter().filter(|g| g.mood == mood).count();
    out.raw("<ul class=\"tally\">\n");
    for mood in moods.into_iter().filter(|m| count(*m) > 0) {
        let mut words: Vec<&str> = Vec::new();
        for guest in guests.iter().filter(|g| g.mood == mood) {
            if !words.contains(&&*guest.verdict) && words.len() < 5 {
                words.push(&guest.verdict);
            }
        }
        out.raw("<li class=\"").raw(mood.class()).raw("\"><b>").number(count(mood) as f64, 0);
        out.raw("</b> ").text(&words.join(", ")).raw("</li>\n");
    }
    out.raw("</ul>\n");
    if guests.len() > 1 {
        out.raw("<svg class=\"share\" viewBox=\"0 0 1000 10\" preserveAspectRatio=\"none\" aria-hidden=\"true\">");
        let mut x = 0.0;
        for mood in moods {
            let width = 1000.0 * count(mood) as f64 / guests.len() as f64;
            out.raw("<rect class=\"").raw(mood.class()).raw("\" height=\"10\" x=\"").number(x, 2);
            out.raw("\" width=\"").number(width, 2).raw("\"/>");
            x += width;
        }
        out.raw("</svg>\n");
    }
}

const COLUMNS: [(&str, &str); 7] = [
    ("Guest", "text"),
    ("Verdict", "text"),
    ("Kernel", "number"),
    ("Login", "number"),
    ("Edits", "number"),
    ("Checks failed", "number"),
    ("Why", "text"),
];

fn at(guest: &Guest, label: &str) -> Option<f64> {
    guest.timeline.iter().find(|(l, _)| *l == label).map(|(_, at)| *at)
}

fn table(out: &mut Html, guests: &[Guest]) {
    out.raw("<section class=\"fleet\" aria-labelledby=\"fleet\">\n<h2 id=\"fleet\">Fleet</h2>\n");
    out.raw("<p class=\"filters\"><label>Filter <input id=\"filter\" type=\"search\" placeholder=\"name, verdict, reason\" autocomplete=\"off\"></label> ");
    out.raw("<span id=\"shown\" role=\"status\"></span></p>\n<div class=\"scroll\"><table id=\"table\">\n<thead><tr>");
    for (name, kind) in COLUMNS {
        let class = if kind == "number" { " class=\"n\"" } else { "" };
        out.raw("<th scope=\"col\" aria-sort=\"none\"").raw(class);
        out.raw("><button type=\"button\" data-kind=\"").raw(kind);
        out.raw("\">").raw(name).raw("</button></th>");
    }
    out.raw("</tr></thead>\n<tbody>\n");
    for (n, guest) in guests.iter().enumerate() {
        let seconds = |label| at(guest, label);
        let failed = guest.checks.iter().filter(|c| c.mood == Mood::Bad).count();
        out.raw("<tr><th scope=\"row\"><a href=\"#g").number(n as f64, 0).raw("\">");
        out.text(&guest.name).raw("</a></th><td>");
        badge(out, guest.mood, &guest.verdict);
        out.raw("</td>");
        for value in [seconds("kernel"), seconds("login")] {
            out.raw("<td class=\"n\">");
            if let Some(value) = value {
                out.number(value, 1).raw(" s");
            }
            out.raw("</td>");
        }
        for value in [guest.edits.len(), failed] {
            out.raw("<td class=\"n\">").number(value as f64, 0).raw("</td>");
        }
        out.raw("<td class=\"why\">").text(&guest.sentence).raw("</td></tr>\n");
    }
    out.raw("</tbody>\n</table></div>\n</section>\n");
}

fn badge(out: &mut Html, mood: Mood, word: &str) {
    out.raw("<span class=\"badge ").raw(mood.class()).raw("\"><span aria-hidden=\"true\">");
    out.raw(mood.sign()).raw("</span> ").text(word).raw("</span>");
}

fn article(out: &mut Html, n: usize, guest: &Guest, total: usize) {
    // One guest, and guests that need attention, are open from the start.
    let open = if total == 1 || (guest.mood != Mood::Good && total <= 20) { " open" } else { "" };
    out.raw("<article id=\"g").number(n as f64, 0).raw("\" class=\"").raw(guest.mood.class());
    out.raw("\">\n<details").raw(open).raw(">\n<summary><h2>").text(&guest.name).raw("</h2> ");
    badge(out, guest.mood, &guest.verdict);
    out.raw("</summary>\n");
    if !guest.sentence.is_empty() {
        out.raw("<p class=\"sentence\">").text(&guest.sentence).raw("</p>\n");
    }
    next(out, &guest.next);
    if !guest.facts.is_empty() {
        out.raw("<dl>\n");
        for (name, value) in &guest.facts {
            out.raw("<dt>").text(name).raw("</dt><dd>").text(value).raw("</dd>\n");
        }
        out.raw("</dl>\n");
    }
    if !guest.warnings.is_empty() {
        out.raw("<h3>Notes</h3>\n<ul class=\"notes\">\n");
        guest.warnings.iter().for_each(|w| {
            out.raw("<li>").text(w).raw("</li>\n");
        });
        out.raw("</ul>\n");
    }
    drawing::timeline(out, &guest.timeline);
    checks(out, &guest.checks);
    guest.disks.iter().for_each(|disk| {
        let length = format_size(disk.len);
        drawing::disk(out, &disk.name, disk.len, &length, &disk.parts);
    });
    edits(out, &guest.edits);
    if let Some(picture) = &guest.screenshot {
        out.raw("<h3>Screen</h3>\n<img alt=\"The guest's screen\" src=\"data:image/png;base64,");
        out.raw(&base64(picture)).raw("\">\n");
    }
    if let Some(console) = &guest.console {
        let cut = console.len().saturating_sub(CONSOLE_MAX);
        out.raw("<h3>Console</h3>\n");
        if cut > 0 {
            out.raw("<p>The first ").number(cut as f64, 0).raw(" bytes are left out.</p>\n");
        }
        out.raw("<pre class=\"console\" tabindex=\"0\" aria-label=\"Console\">");
        ansi::write(out, &console[cut..]);
        out.raw("</pre>\n");
    }
    out.raw("</details>\n</article>\n");
}

fn next(out: &mut Html, next: &[(String, String)]) {
    if next.is_empty() {
        return;
    }
    out.raw("<div class=\"next\"><h3>What to do next</h3>\n<ul>\n");
    for (sentence, command) in next {
        out.raw("<li>").text(sentence);
        if !command.is_empty() {
            out.raw(": <code>").text(command).raw("</code>");
        }
        out.raw("</li>\n");
    }
    out.raw("</ul></div>\n");
}

fn checks(out: &mut Html, checks: &[Checked]) {
    if checks.is_empty() {
        return;
    }
    out.raw("<h3>Checks</h3>\n<table class=\"checks\"><tbody>\n");
    for check in checks {
        out.raw("<tr><td>");
        badge(out, check.mood, &check.word);
        out.raw("</td><th scope=\"row\">").text(&check.name).raw("</th><td>");
        out.text(&check.detail).raw("</td></tr>\n");
    }
    out.raw("</tbody></table>\n");
}

fn edits(out: &mut Html, edits: &[EditedFile]) {
    if edits.is_empty() {
        return;
    }
    out.raw("<h3>Edits in the overlay</h3>\n");
    for edit in edits {
        out.raw("<details class=\"edit\"><summary><code>").text(&edit.path).raw("</code> ");
        out.text(&edit.why).raw("</summary>\n<pre class=\"diff\" tabindex=\"0\">");
        for line in edit.diff.lines() {
            let class = match line.as_bytes() {
                [b'+', b'+', b'+', ..] | [b'-', b'-', b'-', ..] | [b'd', ..] => "head",
                [b'+', ..] => "plus",
                [b'-', ..] => "minus",
                [b'@', ..] => "hunk",
                _ => "same",
            };
            out.raw("<span class=\"").raw(class).raw("\">").text(line).raw("\n</span>");
        }
        out.raw("</pre></details>\n");
    }
}

#[cfg(test)]
#[path = "page/tests.rs"]
mod tests;

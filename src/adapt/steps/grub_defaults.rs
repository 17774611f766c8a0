//! `/etc/default/grub`: the words that `update-grub` puts on every kernel command line. A GRUB that the
//! guest installs on KVM uses them without our help. See the GRUB manual, "Simple configuration
//! handling".

use super::lines::{assigned, edit_lines, in_short};
use crate::Result;
use crate::adapt::devices::{Devices, Meaning};
use crate::adapt::step::Step;
use crate::edit::Draft;

pub(super) const STEP: Step = Step {
    name: "grub",
    what: "`GRUB_CMDLINE_LINUX` in `/etc/default/grub`: Xen's consoles and devices",
    draft,
};

/// The variables, as in `grub-mkconfig`.
const VARIABLES: [&str; 3] =
    ["GRUB_CMDLINE_LINUX", "GRUB_CMDLINE_LINUX_DEFAULT", "GRUB_CMDLINE_LINUX_RECOVERY"];
/// The screen, and the serial port, which is the last and therefore `/dev/console`.
const CONSOLES: [&str; 2] = ["console=tty0", "console=ttyS0"];

fn draft(draft: &mut Draft, devices: &Devices) -> Result<()> {
    let mut files = draft.paths("/etc/default/grub.d");
    files.retain(|file| file.ends_with(".cfg"));
    files.push("/etc/default/grub".to_owned());
    for file in files {
        draft.edit(&file, |text| edit_lines(text, |line| variable(line, devices)));
    }
    Ok(())
}

/// `line` with corrected words, if it assigns one of the variables.
fn variable(line: &str, devices: &Devices) -> Option<(String, String)> {
    let value = VARIABLES.iter().find_map(|name| assigned(line, name))?;
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
    let words = match quote {
        // A value with quotes inside is left alone, and so is one with a comment after it.
        Some(quote) => value.strip_prefix(quote)?.strip_suffix(quote)?,
        None => value,
    };
    if words.contains(['"', '\'', '\\', '`', '$', '#']) {
        return None;
    }
    let (new, whys) = corrected(words, devices);
    if whys.is_empty() {
        return None;
    }
    let quote = quote.unwrap_or('"');
    let front = line.split_once('=')?.0;
    Some((format!("{front}={quote}{new}{quote}"), in_short(&whys)))
}

/// The words for KVM, and what was changed.
fn corrected(words: &str, devices: &Devices) -> (String, Vec<String>) {
    let is_xen_console = |word: &str| {
        let device = word.strip_prefix("console=").unwrap_or_default();
        ["hvc", "xvc", "xen"].iter().any(|name| device.starts_with(name))
    };
    let is_xen = |word: &str| {
        word.starts_with("xencons=") || matches!(word, "clocksource=xen" | "earlyprintk=xen")
    };
    let mut out: Vec<String> = Vec::new();
    let mut whys = Vec::new();
    let mut add_consoles = false;
    for word in words.split_ascii_whitespace() {
        let device = word.strip_prefix("root=").or_else(|| word.strip_prefix("resume="));
        let meaning = device.map(|device| devices.meaning(device));
        if is_xen_console(word) {
            add_consoles = true;
            whys.push(format!("{word} became {}", CONSOLES.join(" ")));
        } else if is_xen(word) {
            whys.push(format!("{word} dropped"));
        } else if meaning.is_none_or(|meaning| meaning == Meaning::Unrelated) {
            out.push(word.to_owned());
        } else if word.starts_with("root=") {
            // update-grub names the root filesystem itself.
            whys.push(format!("{word} dropped"));
        } else {
            let swap = devices.swaps().next();
            let new = swap.map_or("noresume".into(), |swap| format!("resume={}", swap.spec));
            whys.push(format!("{word} became {new}"));
            out.push(new);
        }
    }
    if add_consoles {
        out.retain(|word| !CONSOLES.contains(&word.as_str()));
        out.extend(CONSOLES.map(str::to_owned));
    }
    (out.join(" "), whys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_xen() {
        let devices = Devices::of(&[("a", 2, "UUID=r", false), ("a", 1, "UUID=s", true)], true);
        for (line, expected) in [
            (
                "GRUB_CMDLINE_LINUX=\"console=hvc0\"",
                "GRUB_CMDLINE_LINUX=\"console=tty0 console=ttyS0\"",
            ),
            (
                "GRUB_CMDLINE_LINUX_DEFAULT='quiet console=tty0 console=hvc0,9600 splash'",
                "GRUB_CMDLINE_LINUX_DEFAULT='quiet splash console=tty0 console=ttyS0'",
            ),
            (
                "GRUB_CMDLINE_LINUX=\"root=/dev/xvda2 ro resume=/dev/xvda1 earlyprintk=xen\"",
                "GRUB_CMDLINE_LINUX=\"ro resume=UUID=s\"",
            ),
            (
                "GRUB_CMDLINE_LINUX=console=hvc0",
                "GRUB_CMDLINE_LINUX=\"console=tty0 console=ttyS0\"",
            ),
        ] {
            let (new, _) = variable(line, &devices).unwrap();
            assert_eq!(new, expected);
            assert_eq!(variable(&new, &devices), None, "once is enough");
        }
        for same in [
            "GRUB_CMDLINE_LINUX=\"quiet console=ttyS0,115200n8 root=UUID=r\"",
            "GRUB_CMDLINE_LINUX=\"console=hvc0 $MORE\"",
            "GRUB_CMDLINE_LINUX=\"console=hvc0",
            "GRUB_CMDLINE_XEN=\"console=hvc0\"",
            "GRUB_TIMEOUT=5",
        ] {
            assert_eq!(variable(same, &devices), None, "{same}");
        }
    }
}

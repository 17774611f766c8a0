//! upstart jobs: the getty on Xen's console moves to the serial port. See init(5) of upstart;
//! before 2010 jobs were in `/etc/event.d`.

use super::console::{SERIAL, is_systemd, names_serial, xen_tty};
use super::lines::{is_comment, replace_word};
use crate::Result;
use crate::adapt::devices::Devices;
use crate::adapt::step::Step;
use crate::edit::Draft;

pub(super) const STEP: Step = Step {
    name: "upstart",
    what: "`/etc/init/hvc0.conf`, `/etc/event.d/hvc0`: the getty runs on `ttyS0`",
    draft,
};

const DIRS: [&str; 2] = ["/etc/init", "/etc/event.d"];

fn draft(draft: &mut Draft, _: &Devices) -> Result<()> {
    if is_systemd(draft) {
        return Ok(());
    }
    for dir in DIRS {
        let is_job = |path: &String| dir != DIRS[0] || path.ends_with(".conf");
        let jobs: Vec<(String, String)> = draft
            .paths(dir)
            .into_iter()
            .filter(is_job)
            .filter_map(|path| Some((draft.text(&path)?, path)))
            .map(|(text, path)| (path, text))
            .collect();
        let mut has_serial = jobs.iter().any(|(_, text)| entries(text).any(names_serial));
        for (path, text) in &jobs {
            let Some(tty) = entries(text).filter(|line| runs(line)).find_map(xen_tty) else {
                continue;
            };
            if has_serial {
                draft.remove(path, format!("{tty} is not there: getty disabled"));
            } else {
                let why = format!("getty on {tty} moved to {SERIAL}");
                draft.rewrite(path, replace_word(text, tty, SERIAL), why);
                has_serial = true;
            }
        }
    }
    Ok(())
}

fn entries(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !is_comment(line))
}

/// Whether the line starts a getty, rather than only mentioning the console.
fn runs(line: &str) -> bool {
    line.contains("getty") || line.contains("login")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::steps::test::{edits, is_settled};
    use crate::fs::MemFs;

    /// Ubuntu 10.04 and the like, as xen-tools changes it.
    const HVC0: &str = "# hvc0 - getty\n#\n# This service maintains a getty on hvc0 from the point the \
                        system is\n# started until it is shut down again.\n\n\
                        start on stopped rc RUNLEVEL=[2345]\nstop on runlevel [!2345]\n\n\
                        respawn\nexec /sbin/getty -8 38400 hvc0\n";
    const TTY1: &str = "start on stopped rc RUNLEVEL=[2345]\nexec /sbin/getty -8 38400 tty1\n";

    #[test]
    fn the_job_changes_its_terminal() {
        for path in ["/etc/init/hvc0.conf", "/etc/event.d/xvc0"] {
            let (from, to) = (path.contains("xvc").then(|| HVC0.replace("hvc0", "xvc0")), "ttyS0");
            let text = from.unwrap_or_else(|| HVC0.to_owned());
            let fs = MemFs::new().file(path, text).file("/etc/init/tty1.conf", TTY1);
            assert_eq!(edits(&fs, &STEP), [format!("{path} = {}", HVC0.replace("hvc0", to))]);
            assert!(is_settled(fs, &STEP));
        }
    }

    #[test]
    fn a_second_getty_goes() {
        let serial = HVC0.replace("hvc0", "ttyS0");
        let fs =
            MemFs::new().file("/etc/init/hvc0.conf", HVC0).file("/etc/init/ttyS0.conf", serial);
        assert_eq!(edits(&fs, &STEP), ["/etc/init/hvc0.conf removed"]);
        assert!(is_settled(fs, &STEP));
    }

    #[test]
    fn others_stay() {
        let text = "start on started\nscript\n  [ -c /dev/hvc0 ] && echo hvc0\nend script\n";
        let fs = MemFs::new().file("/etc/init/other.conf", text).file("/etc/init/tty1.conf", TTY1);
        assert_eq!(edits(&fs, &STEP), [""; 0]);
        let systemd = MemFs::new()
            .file("/etc/init/hvc0.conf", HVC0)
            .file("/lib/systemd/systemd", "")
            .symlink("/sbin/init", "/lib/systemd/systemd");
        assert_eq!(edits(&systemd, &STEP), [""; 0]);
    }
}

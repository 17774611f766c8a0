//! Adapting a Xen guest's kernel command line for KVM.
//!
//! Sources: Linux `Documentation/admin-guide/kernel-parameters.txt`; `lib/cmdline.c` for quotes;
//! `init/do_mounts.c` for what the kernel resolves without an initrd (`PARTUUID=`, but not
//! `UUID=`).

use crate::device_name::DeviceName;

/// Facts about the disk and the boot method that the command line depends on.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CmdlineContext {
    /// Whether an initrd is loaded: only it can resolve `UUID=` and `LABEL=`.
    pub has_initrd: bool,
    /// The root filesystem, as `root=` names it on KVM.
    pub root: String,
    /// Names of the root filesystem that do not, or not only, mean it: `UUID=…`, `LABEL=…`.
    pub stale_names: Vec<String>,
    /// The root partition as `DISKSIG-NN`: 8 hex digits, a dash, 2 hex digits.
    pub root_partuuid: String,
    /// The swap area, as `resume=` names it, if the disk has one.
    pub swap: Option<String>,
    /// Names of swap areas that another partition has too.
    pub stale_swaps: Vec<String>,
    /// UUIDs of all filesystems and swap areas; `None` unless the list is known to be complete.
    pub all_uuids: Option<Vec<String>>,
    /// Parameters to add at the end (`--append`).
    pub append: Option<String>,
    /// A complete command line that replaces the guest's (`--cmdline`).
    pub replace: Option<String>,
}

/// A command line and what was changed in it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Adapted {
    /// The new command line.
    pub cmdline: String,
    /// One short sentence for each change, for the user.
    pub changes: Vec<String>,
}

/// Adapts `cmdline`, the guest's own, to a KVM machine. Parameters that do not concern the root
/// device, consoles, resume or Xen stay unchanged and in order. Parameters after `--` belong to
/// init and are left alone.
pub fn adapt(cmdline: &str, ctx: &CmdlineContext) -> Adapted {
    if let Some(replace) = &ctx.replace {
        return Adapted { cmdline: replace.trim().to_owned(), changes: Vec::new() };
    }
    let mut words: Vec<String> = split(cmdline).into_iter().map(str::to_owned).collect();
    let init_args = match words.iter().position(|w| w == "--") {
        Some(at) => words.split_off(at),
        None => Vec::new(),
    };
    let mut changes = Vec::new();
    drop_xen(&mut words, &mut changes);
    root(&mut words, ctx, &mut changes);
    read_only(&mut words, &mut changes);
    consoles(&mut words, &mut changes);
    resume(&mut words, ctx, &mut changes);
    if let Some(append) = &ctx.append {
        words.extend(split(append).into_iter().map(str::to_owned));
    }
    words.extend(init_args);
    Adapted { cmdline: words.join(" "), changes }
}

/// Splits at blanks outside of double quotes, as the kernel's `next_arg` does.
fn split(cmdline: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let (mut start, mut quoted) = (None, false);
    for (at, c) in cmdline.char_indices() {
        if c.is_whitespace() && !quoted {
            words.extend(start.take().map(|s| &cmdline[s..at]));
            continue;
        }
        quoted ^= c == '"';
        start.get_or_insert(at);
    }
    words.extend(start.map(|s| &cmdline[s..]));
    words
}

/// The value of a `key=value` word, without quotes.
fn value<'a>(word: &'a str, key: &str) -> Option<&'a str> {
    let rest = word.trim_matches('"').strip_prefix(key)?.strip_prefix('=')?;
    Some(rest.trim_matches('"'))
}

/// `cmdline` without its `key=` parameters; those of init, after `--`, are left alone.
pub fn without(cmdline: &str, key: &str) -> String {
    let words = split(cmdline);
    let init = words.iter().position(|w| *w == "--").unwrap_or(words.len());
    let kept = words.iter().enumerate().filter(|(i, w)| *i >= init || value(w, key).is_none());
    kept.map(|(_, word)| *word).collect::<Vec<_>>().join(" ")
}

fn drop_xen(words: &mut Vec<String>, changes: &mut Vec<String>) {
    words.retain(|word| {
        let xen = value(word, "xencons").is_some()
            || value(word, "clocksource") == Some("xen")
            || value(word, "earlyprintk").is_some_and(|v| v.split(',').any(|p| p == "xen"))
            || value(word, "earlycon").is_some_and(|v| v.split(',').any(|p| p == "xenboot"));
        if xen {
            changes.push(format!("{word} dropped: there is no Xen"));
        }
        !xen
    });
}

fn root(words: &mut Vec<String>, ctx: &CmdlineContext, changes: &mut Vec<String>) {
    let wanted = format!("root={}", ctx.root);
    // As in the kernel, the last root= wins.
    let Some(last) = words.iter().rposition(|w| value(w, "root").is_some()) else {
        changes.push(format!("{wanted} added"));
        words.insert(0, wanted);
        return;
    };
    let device = value(&words[last], "root").unwrap_or_default().to_owned();
    let upper = device.to_ascii_uppercase();
    let by_name = upper.starts_with("UUID=")
        || upper.starts_with("LABEL=")
        || device.starts_with("/dev/disk/by-");
    let is_stale = ctx.stale_names.iter().any(|name| is_name(&device, name));
    let is_device = DeviceName::parse(&device).is_some();
    let new = if device.is_empty() || is_device || is_stale || (by_name && !ctx.has_initrd) {
        wanted
    } else if upper.starts_with("PARTUUID=")
        && !device[9..].eq_ignore_ascii_case(&ctx.root_partuuid)
    {
        // A partition that the guest had on another disk; on this disk it has a different
        // identifier.
        wanted
    } else {
        return;
    };
    if words[last] != new {
        changes.push(format!("{} became {new}", words[last]));
        words[last] = new;
    }
    // Earlier root= parameters have no effect, but would confuse an initrd that uses the first.
    let mut at = 0;
    words.retain(|w| {
        at += 1;
        at > last || value(w, "root").is_none()
    });
}

/// Whether `device` is `name`, which begins with `UUID=`, `LABEL=` or `PARTUUID=`, or udev's link of
/// that meaning.
fn is_name(device: &str, name: &str) -> bool {
    let links = [("UUID=", "/by-uuid/"), ("LABEL=", "/by-label/"), ("PARTUUID=", "/by-partuuid/")];
    let link = links.iter().find_map(|(key, dir)| Some((*dir, name.strip_prefix(key)?)));
    let link = link.map(|(dir, value)| format!("/dev/disk{dir}{value}"));
    device.eq_ignore_ascii_case(name) || link.is_some_and(|link| device.eq_ignore_ascii_case(&link))
}

fn read_only(words: &mut Vec<String>, changes: &mut Vec<String>) {
    if words.iter().any(|w| w == "ro" || w == "rw") {
        return;
    }
    let at = words.iter().rposition(|w| value(w, "root").is_some()).map_or(0, |i| i + 1);
    words.insert(at, "ro".to_owned());
    changes.push("ro added".to_owned());
}

fn consoles(words: &mut Vec<String>, changes: &mut Vec<String>) {
    let console = |w: &String| value(w, "console").map(str::to_owned);
    let device = |v: &str| v.split(',').next().unwrap_or_default().to_owned();
    let is_xen = |v: &str| {
        let d = device(v);
        d.starts_with("hvc") || d.starts_with("xvc") || d == "xen"
    };
    let all: Vec<String> = words.iter().filter_map(console).collect();
    let replace = all.iter().any(|v| is_xen(v));
    if !replace && !all.is_empty() {
        // The guest's own choice of a hardware console is as good as ours.
        return;
    }
    let dropped: Vec<String> =
        words.iter().filter(|w| console(w).is_some_and(|v| is_xen(&v))).cloned().collect();
    // An empty word marks the position of the first Xen console.
    match words.iter().position(|w| console(w).is_some_and(|v| is_xen(&v))) {
        Some(at) => words[at].clear(),
        None => words.push(String::new()),
    }
    words.retain(|w| !console(w).is_some_and(|v| is_xen(&v)));
    // The last console= becomes /dev/console, which is where a serial login is expected.
    let serial = words.iter().position(|w| console(w).is_some_and(|v| device(&v) == "ttyS0"));
    let serial = serial.map_or("console=ttyS0".to_owned(), |i| words.remove(i));
    let mut new = Vec::new();
    if !words.iter().any(|w| console(w).is_some_and(|v| device(&v) == "tty0")) {
        new.push("console=tty0".to_owned());
    }
    new.push(serial);
    let place = words.iter().position(String::is_empty).unwrap_or(words.len());
    let last_other = words.iter().rposition(|w| console(w).is_some()).map_or(0, |i| i + 1);
    let at = place.max(last_other);
    changes.push(match dropped.as_slice() {
        [] => format!("{} added", new.join(" ")),
        dropped => format!("{} became {}", dropped.join(" "), new.join(" ")),
    });
    words.splice(at..at, new);
    words.retain(|w| !w.is_empty());
}

fn resume(words: &mut Vec<String>, ctx: &CmdlineContext, changes: &mut Vec<String>) {
    // An initrd waits half a minute or longer for a missing swap area.
    let is_lost = |device: &str| {
        let uuid =
            device.strip_prefix("UUID=").or_else(|| device.strip_prefix("/dev/disk/by-uuid/"));
        let all = ctx.all_uuids.as_ref();
        uuid.zip(all).is_some_and(|(uuid, all)| !all.iter().any(|u| u.eq_ignore_ascii_case(uuid)))
    };
    let mends = |w: &String| {
        let is_stale = |d: &str| ctx.stale_swaps.iter().any(|name| is_name(d, name));
        let is_old = |d: &str| DeviceName::parse(d).is_some() || is_lost(d) || is_stale(d);
        value(w, "resume").is_some_and(is_old)
    };
    let Some(first) = words.iter().position(mends) else { return };
    let new = match &ctx.swap {
        // Without an initrd, nothing resolves a UUID.
        Some(swap) if ctx.has_initrd => format!("resume={swap}"),
        _ => "noresume".to_owned(),
    };
    changes.push(format!("{} became {new}", words[first]));
    words[first] = new;
    let mut at = 0;
    words.retain(|w| {
        at += 1;
        at - 1 == first || !(mends(w) || (w == "noresume"))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ctx(has_initrd: bool) -> CmdlineContext {
        CmdlineContext {
            has_initrd,
            root: if has_initrd { "UUID=u1".into() } else { "PARTUUID=0badcafe-01".into() },
            root_partuuid: "0badcafe-01".into(),
            swap: Some("UUID=s1".into()),
            ..CmdlineContext::default()
        }
    }

    #[test]
    fn table_with_initrd() {
        let tail = "console=tty0 console=ttyS0";
        for (given, want) in [
            ("", format!("root=UUID=u1 ro {tail}")),
            ("root=/dev/xvda2 ro elevator=noop", format!("root=UUID=u1 ro elevator=noop {tail}")),
            ("root=/dev/sda1 quiet", format!("root=UUID=u1 ro quiet {tail}")),
            ("quiet root=/dev/hda1 rw", format!("quiet root=UUID=u1 rw {tail}")),
            ("root=/dev/xvda ro", format!("root=UUID=u1 ro {tail}")),
            ("root=/dev/vda1 ro", format!("root=UUID=u1 ro {tail}")),
            ("root=xvda1 ro", format!("root=UUID=u1 ro {tail}")),
            ("root=\"/dev/xvda1\" ro", format!("root=UUID=u1 ro {tail}")),
            ("root=/dev/sda1 root=/dev/xvda1 ro", format!("root=UUID=u1 ro {tail}")),
            ("root=UUID=other ro", format!("root=UUID=other ro {tail}")),
            ("root=LABEL=/ ro", format!("root=LABEL=/ ro {tail}")),
            ("root=/dev/mapper/vg-root ro", format!("root=/dev/mapper/vg-root ro {tail}")),
            ("root=/dev/nfs ro", format!("root=/dev/nfs ro {tail}")),
            ("root=PARTUUID=0BADCAFE-01 ro", format!("root=PARTUUID=0BADCAFE-01 ro {tail}")),
            ("root=PARTUUID=12345678-01 ro", format!("root=UUID=u1 ro {tail}")),
            ("root=UUID=x ro console=hvc0 quiet", format!("root=UUID=x ro {tail} quiet")),
            ("root=UUID=x ro console=hvc0,115200 console=xvc0", format!("root=UUID=x ro {tail}")),
            ("root=UUID=x ro console=tty0 console=hvc0", format!("root=UUID=x ro {tail}")),
            ("root=UUID=x ro console=hvc0 console=tty0", format!("root=UUID=x ro {tail}")),
            (
                "root=UUID=x ro console=ttyS0,9600 console=hvc0 a",
                "root=UUID=x ro console=tty0 console=ttyS0,9600 a".into(),
            ),
            ("root=UUID=x ro console=ttyS0,9600", "root=UUID=x ro console=ttyS0,9600".into()),
            ("root=UUID=x ro console=tty1", "root=UUID=x ro console=tty1".into()),
            (
                "root=UUID=x ro xencons=tty clocksource=xen earlyprintk=xen earlycon=xenboot a=\"b c\"",
                format!("root=UUID=x ro a=\"b c\" {tail}"),
            ),
            ("root=UUID=x ro clocksource=tsc", format!("root=UUID=x ro clocksource=tsc {tail}")),
            ("root=UUID=x ro resume=/dev/xvda1", format!("root=UUID=x ro resume=UUID=s1 {tail}")),
            (
                "root=UUID=x ro resume=/dev/xvda1 resume=/dev/sda2 noresume",
                format!("root=UUID=x ro resume=UUID=s1 {tail}"),
            ),
            ("root=UUID=x ro resume=UUID=a", format!("root=UUID=x ro resume=UUID=a {tail}")),
            (
                "root=UUID=x ro a=\"x  y\" -- root=/dev/sda1",
                format!("root=UUID=x ro a=\"x  y\" {tail} -- root=/dev/sda1"),
            ),
        ] {
            assert_eq!(adapt(given, &ctx(true)).cmdline, want, "{given}");
            // Adapting an adapted command line changes nothing.
            let again = adapt(&want, &ctx(true));
            assert_eq!((again.cmdline, again.changes), (want, vec![]), "{given}");
        }
    }

    #[test]
    fn table_without_initrd() {
        let part = "root=PARTUUID=0badcafe-01";
        let tail = "console=tty0 console=ttyS0";
        for (given, want) in [
            ("", format!("{part} ro {tail}")),
            ("root=/dev/xvda1 ro", format!("{part} ro {tail}")),
            ("root=UUID=u1 ro", format!("{part} ro {tail}")),
            ("root=LABEL=x ro", format!("{part} ro {tail}")),
            ("root=/dev/disk/by-uuid/u1 ro", format!("{part} ro {tail}")),
            ("root=/dev/nfs ro", format!("root=/dev/nfs ro {tail}")),
            ("root=/dev/xvda1 ro resume=/dev/xvda2", format!("{part} ro noresume {tail}")),
        ] {
            assert_eq!(adapt(given, &ctx(false)).cmdline, want, "{given}");
        }
    }

    #[test]
    fn options() {
        let mut c = ctx(true);
        c.swap = None;
        c.root = "PARTUUID=0badcafe-01".into();
        let got = adapt("root=/dev/xvda1 ro resume=/dev/xvda2 console=ttyS0", &c);
        assert_eq!(got.cmdline, "root=PARTUUID=0badcafe-01 ro noresume console=ttyS0");
        assert_eq!(got.changes.len(), 2);
        c.all_uuids = Some(vec!["U1".into()]);
        let got =
            |resume: &str| adapt(&format!("root=UUID=u1 ro console=ttyS0 {resume}"), &c).cmdline;
        for (given, want) in [
            ("resume=UUID=lost", "noresume"),
            ("resume=/dev/disk/by-uuid/lost", "noresume"),
            ("resume=UUID=u1", "resume=UUID=u1"),
            ("resume=/dev/mapper/vg-swap", "resume=/dev/mapper/vg-swap"),
        ] {
            assert_eq!(got(given), format!("root=UUID=u1 ro console=ttyS0 {want}"));
        }
        c.append = Some(" single a=\"b  c\" ".into());
        let got = adapt("root=LABEL=x ro console=ttyS0 -- init", &c);
        assert_eq!(got.cmdline, "root=LABEL=x ro console=ttyS0 single a=\"b  c\" -- init");
        c.replace = Some("root=/dev/vda1".into());
        assert_eq!(adapt("x", &c).cmdline, "root=/dev/vda1");
    }
}

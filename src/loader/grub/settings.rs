//! The script that GRUB executes: settings of the guest, then `menu.cfg`.

use crate::loader::payload::MenuRules;
use std::fmt::Write;

/// What does not depend on the guest.
const MENU: &str = include_str!("menu.cfg");

/// What the script depends on.
#[derive(Debug)]
pub(super) struct Script<'a> {
    /// The guest's entries; `None` if nothing is known of the guest.
    pub(super) rules: Option<&'a MenuRules>,
    /// A message to show before the menu.
    pub(super) message: Option<&'a str>,
    /// First sector and number of sectors of the linux module for a BIOS.
    pub(super) bios_module: Option<(u64, u64)>,
    /// The same for UEFI.
    pub(super) uefi_module: Option<(u64, u64)>,
    /// First sector and number of sectors of the initrd with drivers.
    pub(super) drivers: Option<(u64, u64)>,
    /// Length of the script in bytes.
    pub(super) len: usize,
}

/// The text of the script, filled up with a comment. Settings that do not fit are left out, with a
/// message that says so.
pub(super) fn script(script: &Script<'_>) -> String {
    let text = settings(script) + MENU;
    let mut text = if text.len() <= script.len {
        text
    } else {
        let message = Some("the settings of this guest are too long for GRUB");
        settings(&Script { rules: None, message, drivers: None, ..*script }) + MENU
    };
    // Lines of moderate length: grub-script-check, which tests use, has a limit.
    while text.len() + 2 <= script.len {
        let blanks = (script.len - text.len() - 2).min(120);
        let _ = writeln!(text, "#{:blanks$}", "");
    }
    text.extend(std::iter::repeat_n('\n', script.len - text.len()));
    text
}

fn settings(script: &Script<'_>) -> String {
    let mut out = String::new();
    let mut set = |name: &str, value: &str| {
        // Nothing fails when writing to a String.
        let _ = writeln!(out, "set synthdisk_{name}={}\nexport synthdisk_{name}", quoted(value));
    };
    let place = |(lba, len): (u64, u64)| format!("{lba}+{len}");
    set("module", &script.bios_module.map(place).unwrap_or_default());
    set("efi_module", &script.uefi_module.map(place).unwrap_or_default());
    set("message", script.message.unwrap_or_default());
    set("drivers", &script.drivers.map(place).unwrap_or_default());
    let none = MenuRules::default();
    let rules = script.rules.unwrap_or(&none);
    let (kernel, initrds) = rules.kernel.clone().unwrap_or_default();
    set(
        "partition",
        &if rules.partition == 0 { String::new() } else { rules.partition.to_string() },
    );
    let volume = rules.volume.as_ref().map(|name| format!("lvm/{name}"));
    set("volume", volume.as_deref().unwrap_or_default());
    set("copied", if rules.is_copied { "y" } else { "" });
    set("entry", rules.entry.as_deref().unwrap_or_default());
    set("kernel", &kernel);
    set("initrds", &initrds.join(" "));
    set("root", &rules.root);
    set("swap", rules.swap.as_deref().unwrap_or_default());
    set("defaults", &rules.defaults.join(" "));
    set("extra", &rules.extra);
    set("append", &rules.append);
    set("cmdline", rules.replace.as_deref().unwrap_or_default());
    set("drivers_for", &rules.drivers_for.join(" "));
    out + &device_function(&rules.devices)
}

/// The function that sets `synthdisk_value` to the replacement of the device `$1`.
fn device_function(devices: &[(String, String)]) -> String {
    let mut out = String::from("function synthdisk_device {\n  set synthdisk_value=\n");
    for (old, new) in devices {
        let (old, new) = (quoted(old), quoted(new));
        let _ = writeln!(out, "  if [ \"$1\" = {old} ]; then set synthdisk_value={new}; fi");
    }
    out + "  true\n}\n"
}

/// `text` as one word of GRUB's script language. Line ends and other control characters become
/// spaces.
fn quoted(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("'{}'", plain.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn rules() -> MenuRules {
        MenuRules {
            partition: 2,
            entry: Some("Bob's $(kernel) \"6\"; `x`\nreboot".into()),
            root: "UUID=r".into(),
            devices: vec![("a2".into(), "UUID=r".into()), ("b1".into(), "UUID='d'".into())],
            ..MenuRules::default()
        }
    }

    fn of(rules: Option<&MenuRules>, len: usize) -> String {
        let (bios_module, uefi_module) = (Some((10, 2)), Some((20, 2)));
        script(&Script { rules, message: None, bios_module, uefi_module, drivers: None, len })
    }

    fn check(text: &str) -> bool {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        let status = Command::new("/usr/bin/grub-script-check").arg(file.path()).status();
        status.expect("grub-script-check cannot be started; install grub-common").success()
    }

    #[test]
    fn values_cannot_become_commands() {
        let text = of(Some(&rules()), 32768);
        let entry = r#"set synthdisk_entry='Bob'\''s $(kernel) "6"; `x` reboot'"#;
        assert!(text.lines().any(|line| line == entry), "{text}");
        let device = r#"  if [ "$1" = 'b1' ]; then set synthdisk_value='UUID='\''d'\'''; fi"#;
        assert!(text.lines().any(|line| line == device), "{text}");
        assert_eq!(text.len(), 32768);
        assert!(text.ends_with(" \n") || text.ends_with("\n\n"));
    }

    #[test]
    fn the_script_is_one_for_grub() {
        assert!(check(&of(Some(&rules()), 32768)));
        assert!(check(&of(None, 32768)));
        assert!(!check("if true; then"), "the checker finds errors");
    }

    #[test]
    fn what_is_too_long_is_left_out() {
        let long = MenuRules { append: "x".repeat(30_000), ..rules() };
        let text = of(Some(&long), 32768);
        assert_eq!(text.len(), 32768);
        assert!(text.contains("too long for GRUB") && !text.contains("xxxx"));
    }
}

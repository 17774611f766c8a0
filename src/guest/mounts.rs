//! The filesystems that a guest mounts on its root.

use crate::fs::{GuestFs, MAX_MOUNTS};

/// Largest fstab that is read, in bytes.
const FSTAB_MAX: usize = 1 << 20;

/// Devices and the directories that fstab(5) mounts them on, those higher up first: what the guest
/// needs to come up may be there. Not `/etc`, which must be on the root filesystem, and no bind
/// mounts.
pub fn mounts(root: &dyn GuestFs) -> Vec<(String, String)> {
    let Ok(bytes) = root.read("/etc/fstab", FSTAB_MAX) else { return Vec::new() };
    let text = String::from_utf8_lossy(&bytes);
    let mut out: Vec<(String, String)> = Vec::new();
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let &[device, point, kind, ..] = fields.as_slice() else { continue };
        let options = fields.get(3).copied().unwrap_or_default();
        let is_bind = options.split(',').any(|o| o == "bind" || o == "rbind") || kind == "none";
        let is_etc = point == "/etc" || point.starts_with("/etc/");
        let is_plain = point.starts_with('/') && !point.contains('\\');
        if is_plain && point != "/" && !is_etc && !is_bind && kind != "swap" {
            out.push((device.to_owned(), point.to_owned()));
        }
    }
    out.sort_by_key(|(_, point)| point.matches('/').count());
    out.truncate(MAX_MOUNTS);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFs;

    #[test]
    fn what_fstab_mounts() {
        let text = "# /dev/x /x ext4\nUUID=r / ext4 defaults 0 1\n/dev/xvda5 /usr/local ext4\n\
                    /dev/xvda3 /usr ext4 ro 0 2\n/dev/xvda4 none swap sw 0 0\n\
                    /srv/a /var none bind 0 0\n/dev/xvda6 /etc ext4 x 0 0\n";
        let found = mounts(&MemFs::new().file("/etc/fstab", text));
        let found: Vec<_> = found.iter().map(|(d, p)| (d.as_str(), p.as_str())).collect();
        assert_eq!(found, [("/dev/xvda3", "/usr"), ("/dev/xvda5", "/usr/local")]);
    }
}

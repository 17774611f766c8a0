//! Names of volume groups and logical volumes.

/// Longest name in bytes, as in lvm2's `NAME_LEN`.
const MAX_NAME: usize = 127;

/// The name of a volume in `/dev/mapper`, as dmsetup(8) makes it: hyphens within a name are doubled.
/// Distinct volumes have distinct names.
pub fn mapper_name(group: &str, volume: &str) -> String {
    format!("{}-{}", group.replace('-', "--"), volume.replace('-', "--"))
}

/// Whether lvm(8) allows this name. Such a name is one component of a path.
pub fn is_valid(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"+_.-".contains(&b);
    !matches!(name, "" | "." | "..")
        && name.len() <= MAX_NAME
        && !name.starts_with('-')
        && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(mapper_name("vg", "root"), "vg-root");
        assert_eq!(mapper_name("my-vg", "a-b"), "my--vg-a--b");
        for name in ["a", "VolGroup00", "a-b.c+d_e", "..."] {
            assert!(is_valid(name), "{name}");
        }
        for name in ["", ".", "..", "-a", "a/b", "a b", "ä", "a\0", &"x".repeat(128)] {
            assert!(!is_valid(name), "{name}");
        }
    }
}

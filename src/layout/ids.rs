//! Identifiers derived from the image: the same input gives the same disk.

use super::TableKind;
use uuid::Uuid;

/// Namespace of all generated identifiers: the UUIDv5 of "synthdisk" in the DNS namespace.
fn namespace() -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"synthdisk")
}

/// Identifiers of one disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ids {
    /// MBR disk signature; never 0.
    pub disk_id: u32,
    /// GPT disk GUID, from which the partition GUIDs are derived.
    pub disk_guid: Uuid,
    /// UUID of the synthesised swap area.
    pub swap_uuid: Uuid,
}

impl Ids {
    /// Derives the identifiers from what identifies the root image (`seed`): its filesystem's UUID
    /// if it has one, else its first bytes.
    pub fn derive(seed: &[u8]) -> Self {
        let root = Uuid::new_v5(&namespace(), seed);
        let named = |name: &[u8]| Uuid::new_v5(&root, name);
        let disk = named(b"disk signature").as_u128() as u32;
        Self {
            disk_id: disk.max(1),
            disk_guid: named(b"disk guid"),
            swap_uuid: named(b"swap uuid"),
        }
    }

    /// A fingerprint of `parts`, in order, to distinguish images. Not a security boundary.
    pub fn fingerprint(parts: &[&[u8]]) -> Uuid {
        parts
            .iter()
            .fold(Uuid::new_v5(&namespace(), b"fingerprint"), |acc, part| Uuid::new_v5(&acc, part))
    }

    /// GUID of partition `number` in a GPT.
    pub fn partition_guid(&self, number: u32) -> Uuid {
        Uuid::new_v5(&self.disk_guid, &number.to_le_bytes())
    }

    /// `PARTUUID` of partition `number` as the kernel prints it: for an MBR, the signature in 8 hex
    /// digits, a dash and the number in 2 hex digits; for a GPT, the partition's GUID.
    pub fn partuuid(&self, table: TableKind, number: u32) -> String {
        match table {
            TableKind::Mbr => format!("{:08x}-{number:02x}", self.disk_id),
            TableKind::Gpt => self.partition_guid(number).to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_ids_are_stable_and_differ() {
        let a = Ids::derive(b"one image");
        assert_eq!(a, Ids::derive(b"one image"));
        assert_ne!(a, Ids::derive(b"another"));
        // Pinned: a disk must be the same today as years ago.
        assert_eq!(a.disk_id, 565_589_527);
        assert_eq!(a.swap_uuid.to_string(), "06fadeab-0e7a-56ea-8463-e0c301694c51");
        assert_eq!(Ids { disk_id: 0xab, ..a }.partuuid(TableKind::Mbr, 2), "000000ab-02");
        assert_ne!(a.partition_guid(1), a.partition_guid(2));
        assert_eq!(a.partuuid(TableKind::Gpt, 1), a.partition_guid(1).to_string());
    }

    #[test]
    fn fingerprints_keep_parts_apart() {
        assert_ne!(Ids::fingerprint(&[b"ab", b"c"]), Ids::fingerprint(&[b"a", b"bc"]));
    }
}

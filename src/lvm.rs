//! LVM2: the logical volumes that lie in a guest's images.
//!
//! Reads physical volumes (label, header, metadata areas) and turns the text of their metadata into
//! a map of each linear or striped volume. Every byte is the guest's: counts, lengths and depths are
//! bounded, and every mapped byte is checked to lie in its physical volume.
//!
//! Sources: lvm2 `lib/label/label.h`, `lib/format_text/layout.h` and `lib/format_text/format-text.c`
//! for the binary structures, `libdm/libdm-config.c` for the grammar of the text, and
//! `lib/format_text/import_vsn1.c` for its meaning.

mod bytes;
mod crc;
mod filter;
mod group;
mod label;
mod map;
mod metadata;
mod name;
mod survey;
#[cfg(test)]
mod testing;
mod text;

pub use bytes::VolumeBytes;
pub use filter::rejecting_settings;
pub use map::{Piece, Range, Segment, Stripe, VolumeMap};
pub use name::{is_valid as is_valid_name, mapper_name};
pub use survey::{PhysicalVolume, Survey, Volume, survey};

//! What a keeper and its server say to each other.
//!
//! The keeper sends the request, the sockets for [`PARSERS`] and [`FIRST_PARSER`], the device when the server asks for it,
//! and at last [`FINISH`]. The server sends [`DEVICE`] and [`REPLY`].

use super::channel::Channel;
use super::request::MountReply;
use crate::sandbox::send_descriptor;
use crate::{Error, Result};
use std::os::fd::AsFd;

/// A socket over which the server may ask for parsers.
pub(super) const PARSERS: u8 = b'k';
/// A socket to a parser that starts at the same time as the server.
pub(super) const FIRST_PARSER: u8 = b'e';
/// The server asks for the device of a mount. The keeper answers with the same byte, and with the
/// device.
pub(super) const DEVICE: u8 = b'd';
/// A [`MountReply`] follows.
pub(super) const REPLY: u8 = b'r';
/// The server is to store the last writes and to end.
pub(super) const FINISH: u8 = b'f';

/// Longest reply in bytes. A server that was taken over must not fill its keeper's memory.
pub(super) const REPLY_MAX: u32 = 16 << 20;

/// Send `reply` to the keeper.
///
/// # Errors
/// When the keeper has ended.
pub(super) fn send_reply(keeper: &mut Channel, reply: &MountReply) -> Result<()> {
    keeper.send_byte(REPLY)?;
    keeper.send(reply)
}

/// Send an open file with its purpose.
///
/// # Errors
/// When the other process has ended.
pub(super) fn send_file(channel: &Channel, purpose: u8, file: &impl AsFd) -> Result<()> {
    send_descriptor(channel, purpose, file)
        .map_err(|e| Error::io("cannot reach the other process", e))
}

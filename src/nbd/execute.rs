//! Doing one request, and writing its reply.

use super::protocol::{Chunk, HOLE_OF_ZEROS, NbdError, Request, Style, command, flag};
use super::target::Target;
use std::io;

/// Extents in a reply about block status, at most.
const MAX_EXTENTS: usize = 8192;

/// Do `request`, which [`Target::check`] has accepted, and append its reply to `out`. `payload` is
/// what a write has sent. A read must be short enough for its reply to be kept in memory.
pub(super) fn execute(
    target: &Target,
    style: Style,
    request: &Request,
    payload: &[u8],
    out: &mut Vec<u8>,
) {
    match request.command {
        command::READ => read(target, style, request, out),
        command::BLOCK_STATUS => block_status(target, style, request, out),
        _ => finish(change(target, request, payload), style, request, out),
    }
}

/// Append the reply to a request that has no other content.
pub(super) fn finish(
    result: Result<(), NbdError>,
    style: Style,
    request: &Request,
    out: &mut Vec<u8>,
) {
    match result {
        Ok(()) => style.done(out, request),
        Err(e) => style.failed(out, request, e),
    }
}

/// The error for a client; it is logged unless it is the answer to a normal request.
pub(super) fn error_of(e: &io::Error) -> NbdError {
    let error = NbdError::from(e);
    if error != NbdError::NotPermitted {
        tracing::warn!("I/O error: {e}");
    }
    error
}

fn read(target: &Target, style: Style, request: &Request, out: &mut Vec<u8>) {
    if request.len == 0 {
        return style.done(out, request);
    }
    let start = out.len();
    style.data(out, request, (request.offset, request.len), Chunk::Last);
    let data = out.len();
    out.resize(data + request.len as usize, 0);
    if let Err(e) = target.read_at(&mut out[data..], request.offset) {
        out.truncate(start);
        style.failed(out, request, error_of(&e));
    }
}

fn change(target: &Target, request: &Request, payload: &[u8]) -> Result<(), NbdError> {
    let done = match request.command {
        command::WRITE => target.write_at(payload, request.offset),
        command::TRIM => target.zero(request),
        command::WRITE_ZEROES => {
            // Zeros that have to be written are no faster than a write.
            if request.has(flag::FAST_ZERO) && request.has(flag::NO_HOLE) {
                return Err(NbdError::NotSupported);
            }
            target.zero(request)
        }
        _ => target.flush(),
    };
    done.and_then(|()| sync(target, request)).map_err(|e| error_of(&e))
}

/// Flush if the request asks for that.
///
/// # Errors
/// Errors of the overlay.
pub(super) fn sync(target: &Target, request: &Request) -> io::Result<()> {
    if request.has(flag::FUA) { target.flush() } else { Ok(()) }
}

fn block_status(target: &Target, style: Style, request: &Request, out: &mut Vec<u8>) {
    let most = if request.has(flag::REQ_ONE) { 1 } else { MAX_EXTENTS };
    match extents(target, request, most) {
        Ok(found) if !found.is_empty() => style.block_status(out, request, &found),
        Ok(_) => style.failed(out, request, NbdError::Invalid),
        Err(e) => style.failed(out, request, error_of(&e)),
    }
}

/// Lengths and status of at most `most` extents from the start of the request's range on.
fn extents(target: &Target, request: &Request, most: usize) -> io::Result<Vec<(u64, u32)>> {
    let mut found = Vec::new();
    let mut at = request.offset;
    let end = request.offset + request.len;
    while at < end && found.len() < most {
        let extent = target.extent_within(at, end)?;
        found.push((extent.end - at, if extent.data { 0 } else { HOLE_OF_ZEROS }));
        at = extent.end;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(target: &Target, request: Request, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        match target.check(&request) {
            Ok(()) => execute(target, Style::Structured, &request, payload, &mut out),
            Err(e) => finish(Err(e), Style::Structured, &request, &mut out),
        }
        out
    }

    #[test]
    fn requests_that_cannot_be_done() {
        let target = Target::of_text("status", b"text".to_vec());
        let request = Request { flags: 0, command: command::READ, cookie: 1, offset: 0, len: 4 };
        assert!(ask(&target, request, b"").ends_with(b"text"));
        let error = |request: Request| {
            let reply = ask(&target, request, b"....");
            let at = if reply.len() == 16 { 4 } else { 20 };
            u32::from_be_bytes(reply[at..at + 4].try_into().unwrap())
        };
        for (command, offset, len, expected) in [
            (command::READ, 1, 4, NbdError::Invalid),
            (command::READ, u64::MAX, 4, NbdError::Invalid),
            (command::WRITE, 0, 4, NbdError::NotPermitted),
            (command::TRIM, 0, 4, NbdError::NotPermitted),
            (command::WRITE_ZEROES, 0, 4, NbdError::NotPermitted),
            (command::BLOCK_STATUS, 0, 0, NbdError::Invalid),
            (77, 0, 0, NbdError::Invalid),
        ] {
            let request = Request { command, offset, len, ..request };
            assert_eq!(error(request), expected as u32, "{request:?}");
        }
    }
}

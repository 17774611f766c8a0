//! Sending open files between processes: one byte that says what for, with at most one descriptor.
//!
//! Source: unix(7), SCM_RIGHTS.

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

/// Send `purpose` and the open file `fd` over `socket`.
///
/// # Errors
/// Errors of sendmsg(2).
pub fn send_descriptor(socket: &impl AsFd, purpose: u8, fd: &impl AsFd) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    // The buffer has room for one descriptor.
    let _ = control.push(SendAncillaryMessage::ScmRights(&fds));
    // A closed socket is an error and not a signal.
    let sent = sendmsg(socket, &[IoSlice::new(&[purpose])], &mut control, SendFlags::NOSIGNAL);
    sent.map(drop).map_err(Into::into)
}

/// Receive a purpose, and the open file that was sent with it, if any. `None` if the other end is
/// closed.
///
/// # Errors
/// Errors of recvmsg(2); `InvalidData` when more than one descriptor was sent.
pub fn receive_descriptor(socket: &impl AsFd) -> io::Result<Option<(u8, Option<OwnedFd>)>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut parts = [IoSliceMut::new(&mut byte)];
        match recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(None),
            other => break other?,
        }
    };
    if received.bytes == 0 {
        return Ok(None);
    }
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    if fds.len() > 1 || received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(Some((byte[0], fds.pop())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn an_open_file_crosses() {
        let (a, b) = UnixStream::pair().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        send_descriptor(&a, b'x', &writer).unwrap();
        drop(writer);
        (&a).write_all(b"yz").unwrap();
        let (purpose, fd) = receive_descriptor(&b).unwrap().unwrap();
        assert_eq!(purpose, b'x');
        std::fs::File::from(fd.unwrap()).write_all(b"through").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        // Bytes without a descriptor, each a message of its own.
        for expected in [b'y', b'z'] {
            let (purpose, fd) = receive_descriptor(&b).unwrap().unwrap();
            assert!(purpose == expected && fd.is_none());
        }
        drop(a);
        assert!(receive_descriptor(&b).unwrap().is_none());
    }

    #[test]
    fn more_descriptors_than_expected_are_refused() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [a.as_fd(), a.as_fd(), a.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&a, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
        assert!(receive_descriptor(&b).is_err());
    }
}

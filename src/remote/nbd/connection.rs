//! A connection on which requests are sent, one at a time.

use super::super::origin::Failure;
use super::negotiate::{Export, broken, choose, greet, start_tls};
use super::stream::{Stream, Tls};
use std::io::{Read, Write};
use std::time::Instant;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;

/// A negotiated connection.
pub(super) struct Connection {
    stream: Stream,
    export: Export,
    cookie: u64,
    /// Whether all that was requested was received.
    clean: bool,
}

impl Connection {
    /// Negotiate the export called `name`.
    ///
    /// # Errors
    /// Those of the negotiation and of the TLS handshake.
    pub(super) fn open(mut stream: Stream, name: &str, tls: Option<&Tls>) -> Result<Self, Failure> {
        greet(&mut stream)?;
        if let Some(tls) = tls {
            start_tls(&mut stream)?;
            stream = tls.encrypt(stream)?;
        }
        let export = choose(&mut stream, name)?;
        if export.len % u64::from(export.block) != 0 {
            let what = format!(
                "its length, {} bytes, is no multiple of the server's block size, {} bytes",
                export.len, export.block
            );
            return Err(Failure::Lasting(what));
        }
        Ok(Self { stream, export, cookie: 0, clean: true })
    }

    /// What the server said about the export.
    pub(super) fn export(&self) -> Export {
        self.export
    }

    /// Whether further requests can be sent: not if a reply may still come, or part of one.
    pub(super) fn is_clean(&self) -> bool {
        self.clean
    }

    /// From now on, fail after `end`.
    pub(super) fn limit(&mut self, end: Instant) {
        self.stream.limit(end);
    }

    /// Fill `buf` from `offset`: a range of whole chunks, or to the end.
    ///
    /// # Errors
    /// Errors of the stream; `Passing` for an error of the server.
    pub(super) fn read(&mut self, buf: &mut [u8], offset: u64) -> Result<(), Failure> {
        let most = self.export.payload / self.export.block * self.export.block;
        for (part, at) in
            buf.chunks_mut(most.max(1) as usize).zip((offset..).step_by(most.max(1) as usize))
        {
            self.cookie += 1;
            self.clean = false;
            let error = request(&mut self.stream, part, at, self.cookie)?;
            self.clean = true;
            if let Some(error) = error {
                let what = format!("the server cannot read at {at} (error {error})");
                return Err(Failure::Passing(what));
            }
        }
        Ok(())
    }
}

/// Request `buf.len()` bytes at `offset`, and receive them; returns the server's error, if it has one.
///
/// # Errors
/// As [`Connection::read`].
pub(super) fn request(
    stream: &mut (impl Read + Write),
    buf: &mut [u8],
    offset: u64,
    cookie: u64,
) -> Result<Option<u32>, Failure> {
    let mut head = Vec::with_capacity(28);
    head.extend(REQUEST_MAGIC.to_be_bytes());
    head.extend([0; 4]); // no flags, NBD_CMD_READ
    head.extend(cookie.to_be_bytes());
    head.extend(offset.to_be_bytes());
    head.extend((buf.len() as u32).to_be_bytes()); // at most some chunks
    stream.write_all(&head).map_err(broken)?;
    stream.flush().map_err(broken)?;
    let mut reply = [0; 16];
    stream.read_exact(&mut reply).map_err(broken)?;
    let word =
        |at: usize| u32::from_be_bytes([reply[at], reply[at + 1], reply[at + 2], reply[at + 3]]);
    if word(0) != REPLY_MAGIC || reply[8..] != cookie.to_be_bytes() {
        return Err(Failure::Passing("the server does not follow the NBD protocol".into()));
    }
    match word(4) {
        0 => stream.read_exact(buf).map_err(broken).map(|()| None),
        error => Ok(Some(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::negotiate::{CAN_MULTI_CONN, negotiate};
    use super::*;
    use std::io;

    /// Reads what a server says, and forgets what it is told.
    struct Says<'a>(&'a [u8]);

    impl Read for Says<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.0.read(buf)
        }
    }

    impl Write for Says<'_> {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            Ok(buf.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn option_reply(kind: u32, data: &[u8]) -> Vec<u8> {
        let len = (data.len() as u32).to_be_bytes();
        let magic = 0x0003_e889_0455_65a9u64.to_be_bytes();
        [&magic[..], &7u32.to_be_bytes(), &kind.to_be_bytes(), &len, data].concat()
    }

    fn export(len: u64) -> Vec<u8> {
        option_reply(3, &[&[0, 0][..], &len.to_be_bytes(), &CAN_MULTI_CONN.to_be_bytes()].concat())
    }

    fn greeting() -> Vec<u8> {
        b"NBDMAGICIHAVEOPT\0\x03".to_vec()
    }

    fn outcome(says: &[Vec<u8>]) -> Result<Export, Failure> {
        negotiate(&mut Says(&says.concat()), "x")
    }

    #[test]
    fn negotiation() {
        let sizes = [&[0, 3][..], &512u32.to_be_bytes(), &[0; 4], &8192u32.to_be_bytes()].concat();
        let good = [greeting(), export(4096), option_reply(3, &sizes), option_reply(1, b"")];
        let found = outcome(&good).unwrap();
        assert_eq!((found.len, found.block, found.payload), (4096, 512, 8192));
        assert_eq!(found.flags, CAN_MULTI_CONN);
        // All that is too short.
        let all = good.concat();
        for len in 0..all.len() {
            assert!(outcome(&[all[..len].to_vec()]).is_err());
        }
        let long = [
            &0x0003_e889_0455_65a9u64.to_be_bytes()[..],
            &[0, 0, 0, 7, 0, 0, 0, 3, 255, 255, 255, 255],
        ];
        for (says, words) in [
            (vec![b"SSH-2.0-OpenSSH_9.2p1 Debian".to_vec()], "does not follow"),
            (vec![b"NBDMAGICIHAVEOPT\0\0".to_vec()], "too old"),
            (vec![greeting(), option_reply(1, b"")], "does not follow"),
            (vec![greeting(), option_reply(3, b"\0\0short")], "does not follow"),
            (
                vec![greeting(), option_reply(3, &[0, 3, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 9])],
                "does not follow",
            ),
            (vec![greeting(), option_reply(1 << 31 | 6, b"")], "no export 'x'"),
            (vec![greeting(), option_reply(1 << 31 | 5, b"")], "requires encryption"),
            (vec![greeting(), option_reply(1 << 31 | 77, b"")], "(error 77)"),
            (vec![greeting(), long.concat()], "does not follow"),
            ([vec![greeting()], vec![export(1); 100]].concat(), "does not follow"),
        ] {
            let failure = outcome(&says).unwrap_err();
            assert!(failure.to_string().contains(words), "{failure}");
        }
    }

    #[test]
    fn replies() {
        let mut buf = [0; 4];
        let reply = |magic: u32, error: u32, cookie: u64| {
            [&magic.to_be_bytes()[..], &error.to_be_bytes(), &cookie.to_be_bytes(), b"data"]
                .concat()
        };
        request(&mut Says(&reply(REPLY_MAGIC, 0, 9)), &mut buf, 0, 9).unwrap();
        assert_eq!(&buf, b"data");
        assert_eq!(request(&mut Says(&reply(REPLY_MAGIC, 5, 9)), &mut buf, 0, 9), Ok(Some(5)));
        for bad in [reply(REPLY_MAGIC, 0, 8), reply(1, 0, 9)] {
            assert!(request(&mut Says(&bad), &mut buf, 0, 9).is_err());
        }
        assert!(request(&mut Says(&reply(REPLY_MAGIC, 0, 9)[..18]), &mut buf, 0, 9).is_err());
    }
}

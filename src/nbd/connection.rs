//! Reading and writing an export: the transmission phase of a connection.
//!
//! One thread has the socket. It does requests itself as long as they find their bytes in memory,
//! and sends the replies of requests that arrived together in one go. Requests that wait for storage
//! go to the [`Pool`].

use super::execute::{error_of, execute, finish, sync};
use super::input::{Input, PIECE};
use super::pace::Class;
use super::pool::{Jobs, Pool};
use super::protocol::{Chunk, MAX_PAYLOAD, NbdError, Request, Style, command, flag};
use super::target::Target;
use super::transport::Transport;
use crate::disk::Chunk as Bytes;
use crate::process::poll_until;
use nix::poll::{PollFd, PollFlags};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Reads up to this length are copied beside other replies; longer ones are sent from where they are.
const COPIED: u64 = 32 << 10;
/// Requests up to this length may be handed to other threads.
const HANDED: u64 = 256 << 10;
/// From this length on, zeroing may take as long as writing to storage.
const LONG_ZEROS: u64 = 1 << 20;
/// Replies are sent when there are this many bytes of them.
const ENOUGH: usize = 256 << 10;
/// Or when the requests since the last time took this long: a client goes on with what it has while
/// the others are done.
const LONG_ENOUGH: Duration = Duration::from_micros(20);

/// What a client has chosen.
#[derive(Debug)]
pub(super) struct Session {
    pub target: Arc<Target>,
    pub style: Style,
    /// Whether it may ask for block status.
    pub block_status: bool,
}

/// Answer the requests of one client until it ends.
///
/// # Errors
/// When the connection breaks, and when the client does not keep to the protocol.
pub(super) fn transmit(transport: Transport, session: Session, pool: &Arc<Pool>) -> io::Result<()> {
    let (input, jobs) = (Input::new(), Jobs::new(pool)?);
    let (out, buffer) = (Vec::new(), Vec::new());
    let unsent = Duration::ZERO;
    let mut connection = Connection { transport, session, input, out, unsent, buffer, jobs };
    let ended = connection.serve();
    // The requests of a broken connection take memory until they are done: its place is not free
    // before.
    while connection.jobs.outstanding() > 0 {
        connection.jobs.collect(&mut connection.out)?;
        connection.out.clear();
    }
    ended
}

struct Connection {
    transport: Transport,
    session: Session,
    input: Input,
    /// Replies that are to be sent.
    out: Vec<u8>,
    /// How long the requests took that they belong to.
    unsent: Duration,
    /// For data that cannot be sent from where it is.
    buffer: Vec<u8>,
    jobs: Jobs,
}

/// The client does not keep to the protocol.
fn nonsense(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Connection {
    /// Until the client has the last reply.
    fn serve(&mut self) -> io::Result<()> {
        self.answer()?;
        while self.jobs.outstanding() > 0 {
            self.wait_for_job()?;
        }
        self.send()?;
        self.transport.finish();
        Ok(())
    }

    /// Until the client disconnects.
    fn answer(&mut self) -> io::Result<()> {
        let len = self.session.style.request_len();
        loop {
            if self.input.bytes().len() < len && !self.wait_for_input(len)? {
                return match self.input.bytes() {
                    [] => Ok(()),
                    _ => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
            let request = self.session.style.request(self.input.bytes());
            let request = request.ok_or_else(|| nonsense("no request where one should be"))?;
            self.input.consume(len);
            if request.command == command::DISCONNECT {
                return Ok(());
            }
            self.handle(request)?;
            if self.out.len() >= ENOUGH || self.unsent >= LONG_ENOUGH {
                self.send()?;
            }
        }
    }

    /// Send what is to be sent, and wait for `want` bytes. Meanwhile, replies of other threads are
    /// sent. Returns false if the client sends no more.
    fn wait_for_input(&mut self, want: usize) -> io::Result<bool> {
        self.send()?;
        while self.jobs.outstanding() > 0 && !self.transport.has_buffered() {
            let listen = |fd| PollFd::new(fd, PollFlags::POLLIN);
            let mut fds = [listen(self.jobs.signal()), listen(self.transport.as_fd())];
            let ready = poll_until(&mut fds, None).map_err(io::Error::other)?;
            if ready[0] {
                self.jobs.collect(&mut self.out)?;
                self.send()?;
            }
            if ready[1] {
                break;
            }
        }
        let transport = &mut self.transport;
        self.input.fill(want, |buf| transport.read(buf))
    }

    /// Wait for replies of other threads.
    fn wait_for_job(&mut self) -> io::Result<()> {
        self.send()?;
        self.jobs.collect(&mut self.out)
    }

    fn send(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.transport.send(&[&self.out])?;
            self.out.clear();
        }
        self.unsent = Duration::ZERO;
        Ok(())
    }

    fn handle(&mut self, request: Request) -> io::Result<()> {
        let style = self.session.style;
        // With extended headers, a flag says so of every payload. QEMU's client (10.0) forgets it with
        // writes, and its server accepts that.
        let flagged = style == Style::Extended && request.has(flag::PAYLOAD_LEN);
        let payload = if flagged || request.command == command::WRITE { request.len } else { 0 };
        if payload > MAX_PAYLOAD {
            return Err(nonsense("a payload of more than 32 MiB"));
        }
        if let Err(e) = self.check(&request) {
            self.discard(payload)?;
            finish(Err(e), style, &request, &mut self.out);
            return Ok(());
        }
        if request.command == command::WRITE {
            return self.write(request);
        }
        if request.command == command::READ && request.len > self.most_in_memory() {
            return self.read(request);
        }
        self.do_or_hand_over(request, 0);
        Ok(())
    }

    fn check(&self, request: &Request) -> Result<(), NbdError> {
        // Clients may set FUA wherever they like.
        let known = flag::FUA
            | match request.command {
                command::READ => flag::DF,
                command::WRITE if self.session.style == Style::Extended => flag::PAYLOAD_LEN,
                command::WRITE | command::FLUSH | command::TRIM => 0,
                command::WRITE_ZEROES => flag::NO_HOLE | flag::FAST_ZERO,
                command::BLOCK_STATUS if self.session.block_status => flag::REQ_ONE,
                _ => return Err(NbdError::Invalid),
            };
        if request.flags & !known != 0 {
            return Err(NbdError::Invalid);
        }
        if request.command == command::READ && request.len > MAX_PAYLOAD {
            return Err(NbdError::Invalid);
        }
        self.session.target.check(request)
    }

    /// The longest read whose reply is made in memory, in bytes.
    fn most_in_memory(&self) -> u64 {
        if self.jobs.paces().is_slow(Class::Read) { HANDED } else { COPIED }
    }

    /// Do a request here, or have it done if it will wait for storage. The first `payload` bytes of
    /// the input belong to it.
    fn do_or_hand_over(&mut self, request: Request, payload: usize) {
        let class = match request.command {
            command::READ | command::BLOCK_STATUS => Class::Read,
            command::FLUSH => Class::Flush,
            _ if request.has(flag::FUA) => Class::Flush,
            _ => Class::Write,
        };
        let long = matches!(request.command, command::TRIM | command::WRITE_ZEROES)
            && request.len >= LONG_ZEROS;
        let Session { target, style, .. } = &self.session;
        let data = &self.input.bytes()[..payload];
        // Zeros that must be stored are written for as long as the client likes: by its own thread.
        let stored = request.command == command::WRITE_ZEROES && request.has(flag::NO_HOLE);
        let short = payload as u64 <= HANDED && !(long && stored);
        if short && (long || self.jobs.paces().is_slow(class)) && !self.jobs.is_full() {
            self.jobs.hand_over(target, *style, class, request, data.to_vec());
        } else {
            let began = Instant::now();
            execute(target, *style, &request, data, &mut self.out);
            let time = began.elapsed();
            self.jobs.paces().took(class, time);
            self.unsent += time;
        }
        self.input.consume(payload);
    }

    /// Receive `want` bytes of a payload.
    fn receive(&mut self, want: usize) -> io::Result<()> {
        if self.input.bytes().len() >= want || self.wait_for_input(want)? {
            return Ok(());
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    fn write(&mut self, request: Request) -> io::Result<()> {
        if request.len <= PIECE as u64 {
            let len = request.len as usize;
            self.receive(len)?;
            self.do_or_hand_over(request, len);
            return Ok(());
        }
        let mut done = 0;
        let mut result = Ok(());
        while done < request.len {
            let n = (request.len - done).min(PIECE as u64) as usize;
            self.receive(n)?;
            if result.is_ok() {
                let at = request.offset + done;
                result = self.session.target.write_at(&self.input.bytes()[..n], at);
            }
            self.input.consume(n);
            done += n as u64;
        }
        let result = result.and_then(|()| sync(&self.session.target, &request));
        let result = result.map_err(|e| error_of(&e));
        finish(result, self.session.style, &request, &mut self.out);
        Ok(())
    }

    /// Receive and ignore a payload.
    fn discard(&mut self, len: u64) -> io::Result<()> {
        let mut rest = len;
        while rest > 0 {
            let n = rest.min(PIECE as u64) as usize;
            self.receive(n)?;
            self.input.consume(n);
            rest -= n as u64;
        }
        Ok(())
    }

    /// A read that is sent in pieces, from where its bytes are. A client that did not ask for chunks
    /// gets one header for all of it, so an error after that ends the connection.
    fn read(&mut self, request: Request) -> io::Result<()> {
        let style = self.session.style;
        let in_chunks = style != Style::Simple && !request.has(flag::DF);
        if style != Style::Simple && !in_chunks && request.len > PIECE as u64 {
            style.failed(&mut self.out, &request, NbdError::Overflow);
            return Ok(());
        }
        let end = request.offset + request.len;
        let mut at = request.offset;
        while at < end {
            let mut limit = end.min(at + PIECE as u64);
            if in_chunks {
                match self.session.target.extent_within(at, end) {
                    Ok(extent) if extent.data => limit = limit.min(extent.end),
                    Ok(extent) => {
                        let last = last_if(extent.end == end);
                        style.hole(&mut self.out, &request, (at, extent.end - at), last);
                        at = extent.end;
                        continue;
                    }
                    Err(e) => {
                        style.failed(&mut self.out, &request, error_of(&e));
                        return Ok(());
                    }
                }
            }
            let header = match (in_chunks, at == request.offset) {
                (true, _) => Some(((at, limit - at), last_if(limit == end))),
                (false, true) => Some(((at, request.len), Chunk::Last)),
                (false, false) => None,
            };
            if let Err(e) = self.send_data(&request, (at, limit - at), header)? {
                if header.is_none() {
                    return Err(e);
                }
                style.failed(&mut self.out, &request, error_of(&e));
                return Ok(());
            }
            at = limit;
        }
        Ok(())
    }

    /// Send the bytes of a range after their header. The inner error is that of reading them; nothing
    /// has been sent then.
    fn send_data(
        &mut self,
        request: &Request,
        (at, len): (u64, u64),
        header: Option<((u64, u64), Chunk)>,
    ) -> io::Result<io::Result<()>> {
        let began = Instant::now();
        let len = len as usize;
        let target = &self.session.target;
        let read = if self.transport.is_plain() {
            target.read(at, len, &mut self.buffer)
        } else {
            // Mapped bytes are for the kernel only.
            self.buffer.resize(len.max(self.buffer.len()), 0);
            target.read_at(&mut self.buffer[..len], at).map(|()| Bytes::Buffer(&self.buffer[..len]))
        };
        let read = read.and_then(|bytes| match bytes {
            Bytes::Mapped(slice) => slice.populate().map(|()| Bytes::Mapped(slice)),
            Bytes::Buffer(bytes) if bytes.len() == len => Ok(Bytes::Buffer(bytes)),
            Bytes::Buffer(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        });
        if len as u64 <= HANDED {
            self.jobs.paces().took(Class::Read, began.elapsed());
        }
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(e) => return Ok(Err(e)),
        };
        if let Some((range, end)) = header {
            self.session.style.data(&mut self.out, request, range, end);
        }
        let bytes = match &bytes {
            Bytes::Mapped(slice) => slice.for_syscall(),
            Bytes::Buffer(bytes) => bytes,
        };
        self.transport.send(&[&self.out, bytes])?;
        self.out.clear();
        Ok(Ok(()))
    }
}

fn last_if(yes: bool) -> Chunk {
    if yes { Chunk::Last } else { Chunk::More }
}

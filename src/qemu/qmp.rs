//! A client of QEMU's machine protocol: commands and events, one JSON value per line.
//!
//! Source: QEMU's docs/interop/qmp-spec.rst and qemu-qmp-ref(7).

use crate::process::{Stop, poll_until};
use crate::{Error, ErrorKind, Result};
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// The longest message that is accepted, in bytes. The list of a machine's block nodes is the longest
/// that we ask for.
const MESSAGE_MAX: usize = 16 << 20;

/// How long QEMU may take to greet. It serves one client of a socket at a time.
const GREETING: Duration = Duration::from_secs(5);

/// Something that happened in QEMU.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its name, in upper case.
    pub name: String,
    /// What it says; null if nothing.
    pub data: Value,
}

/// A connection to a QEMU that is ready for commands.
#[derive(Debug)]
pub struct Qmp<'a> {
    stream: UnixStream,
    /// Ends waiting for QEMU when it is raised.
    stop: Option<&'a Stop>,
    /// Bytes of messages that are incomplete.
    input: Vec<u8>,
    /// How many of them are known to contain no end of a line.
    scanned: usize,
    events: VecDeque<Event>,
    last_id: u64,
    /// When QEMU must have answered everything that it is asked.
    deadline: Option<Instant>,
}

impl<'a> Qmp<'a> {
    /// Connect to the Unix socket `path`, on which QEMU listens.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] if QEMU does not greet, as when it serves another client; errors of the
    /// connection, and when `stop` is raised.
    pub fn connect(path: &Path, stop: Option<&'a Stop>) -> Result<Self> {
        let shown = path.display();
        let stream = UnixStream::connect(path)
            .map_err(|e| Error::io(format!("cannot connect to the QMP socket {shown}"), e))?;
        Self::greeted(stream, stop, Some(Instant::now() + GREETING), None)
    }

    /// Use `stream`, whose other end a QEMU has that serves nobody else there.
    ///
    /// # Errors
    /// Errors of the connection, and when `stop` is raised.
    pub fn over(stream: UnixStream, stop: Option<&'a Stop>) -> Result<Self> {
        Self::greeted(stream, stop, None, None)
    }

    /// As [`over`](Self::over), for a QEMU that must greet, and answer each request, before `deadline`.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] if it does not, here and in requests; as [`over`](Self::over).
    pub fn over_before(
        stream: UnixStream,
        stop: Option<&'a Stop>,
        deadline: Instant,
    ) -> Result<Self> {
        Self::greeted(stream, stop, Some(deadline), Some(deadline))
    }

    fn greeted(
        stream: UnixStream,
        stop: Option<&'a Stop>,
        greets_before: Option<Instant>,
        deadline: Option<Instant>,
    ) -> Result<Self> {
        let (input, events) = Default::default();
        let mut qmp = Self { stream, stop, input, scanned: 0, events, last_id: 0, deadline };
        let greeting = qmp.message(greets_before)?.ok_or_else(|| {
            let what =
                "QEMU does not answer on its QMP socket; is another program connected to it?";
            Error::new(ErrorKind::Busy, what)
        })?;
        if greeting.get("QMP").is_none() {
            let what = "the program at the QMP socket is not QEMU, or the socket is not for QMP";
            return Err(Error::new(ErrorKind::Invalid, what));
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// From now on, wait for QEMU even if the process was asked to end.
    pub fn ignore_stop(&mut self) {
        self.stop = None;
    }

    /// Execute a command and return its result.
    ///
    /// # Errors
    /// QEMU's error, by its description; [`ErrorKind::Io`] if the connection ends and when `stop` is
    /// raised.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.request(command, arguments, None)
    }

    /// Give QEMU the open file `fd`. It can then open `/dev/fdset/N`, where N is the result, in the
    /// mode in which `fd` is open. `label` is shown in its list of open files.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub fn add_fd(&mut self, fd: BorrowedFd<'_>, label: &str) -> Result<u64> {
        let added = self.request("add-fd", json!({ "opaque": label }), Some(fd))?;
        let number = added.get("fdset-id").and_then(Value::as_u64);
        number.ok_or_else(|| Error::new(ErrorKind::Io, "QEMU took an open file without a number"))
    }

    /// The next event, in order; `None` if none comes before `deadline`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the connection ends and when `stop` is raised.
    pub fn next_event(&mut self, deadline: Instant) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            match self.message(Some(deadline))? {
                Some(message) => self.keep_event(message),
                None => return Ok(None),
            }
        }
    }

    fn request(
        &mut self,
        command: &str,
        arguments: Value,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Value> {
        self.last_id += 1;
        let id = self.last_id;
        let request = json!({ "execute": command, "arguments": arguments, "id": id });
        self.send(format!("{request}\n").as_bytes(), fd).map_err(ended)?;
        loop {
            let Some(mut message) = self.message(self.deadline)? else {
                let what = format!("QEMU has not answered {command} in time");
                return Err(Error::new(ErrorKind::Busy, what));
            };
            if message.get("id").and_then(Value::as_u64) == Some(id) {
                if let Some(error) = message.get("error") {
                    let why = error.get("desc").and_then(Value::as_str).unwrap_or("no reason");
                    let what = format!("QEMU refuses {command}: {why}");
                    return Err(Error::new(ErrorKind::Invalid, what));
                }
                return Ok(message.get_mut("return").map_or(Value::Null, Value::take));
            }
            // A reply to another request is one that was given up.
            self.keep_event(message);
        }
    }

    fn send(&mut self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let raw = fd.map(|fd| [fd.as_raw_fd()]);
        let rights = raw.as_ref().map(|raw| ControlMessage::ScmRights(raw));
        let control: Vec<_> = rights.into_iter().collect();
        let n = sendmsg::<()>(
            self.stream.as_raw_fd(),
            &[IoSlice::new(bytes)],
            &control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?;
        self.stream.write_all(&bytes[n..])
    }

    fn keep_event(&mut self, mut message: Value) {
        let data = message.get_mut("data").map_or(Value::Null, Value::take);
        if let Some(name) = message.get("event").and_then(Value::as_str) {
            self.events.push_back(Event { name: name.into(), data });
        }
    }

    /// The next message; `None` if none comes before `deadline`.
    fn message(&mut self, deadline: Option<Instant>) -> Result<Option<Value>> {
        let mut buffer = [0; 16 << 10];
        loop {
            if let Some(n) = self.input[self.scanned..].iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.input.drain(..=self.scanned + n).collect();
                self.scanned = 0;
                let message = serde_json::from_slice(&line).map_err(|e| {
                    Error::with_source(ErrorKind::Invalid, "the QMP socket does not speak QMP", e)
                })?;
                return Ok(Some(message));
            }
            self.scanned = self.input.len();
            let mut fds = vec![PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
            fds.extend(self.stop.map(|stop| PollFd::new(stop.as_fd(), PollFlags::POLLIN)));
            let ready = poll_until(&mut fds, deadline)?;
            if let Some(stop) = self.stop.filter(|_| ready.get(1) == Some(&true)) {
                return Err(stop.error());
            }
            if !ready[0] {
                return Ok(None);
            }
            let n = self.stream.read(&mut buffer).map_err(ended)?;
            if n == 0 {
                return Err(ended(io::ErrorKind::UnexpectedEof.into()));
            }
            if self.input.len() + n > MESSAGE_MAX {
                let what = "the QMP socket sends messages without an end";
                return Err(Error::new(ErrorKind::Invalid, what));
            }
            self.input.extend_from_slice(&buffer[..n]);
        }
    }
}

fn ended(e: io::Error) -> Error {
    Error::io("the connection to QEMU has ended", e)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{ControlMessageOwned, recvmsg};
    use std::io::{BufRead, BufReader, IoSliceMut};
    use std::thread;

    const HELLO: &str = "{\"QMP\": {\"version\": {}}}\n";

    /// Answers each command as `answer` says, after greeting.
    fn qemu(answer: impl Fn(&Value) -> String + Send + 'static) -> UnixStream {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            theirs.write_all(HELLO.as_bytes()).unwrap();
            let lines = BufReader::new(theirs.try_clone().unwrap()).lines();
            for line in lines.map_while(io::Result::ok) {
                let request: Value = serde_json::from_str(&line).unwrap();
                let answer = answer(&request).replace("ID", &request["id"].to_string());
                if theirs.write_all(answer.as_bytes()).is_err() {
                    break;
                }
            }
        });
        ours
    }

    #[test]
    fn replies_events_and_errors_are_told_apart() {
        let ours = qemu(|request| {
            match request["execute"].as_str().unwrap() {
            "query-status" => "{\"event\": \"STOP\"}\n{\"return\": 1, \"id\": 0}\n\
                {\"event\": \"RESUME\", \"data\": {\"a\": 1}}\n{\"return\": {\"x\": 2}, \"id\": ID}\n"
                .into(),
            "bad" => "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}, \"id\": ID}\n".into(),
            _ => "{\"return\": {}, \"id\": ID}\n".into(),
        }
        });
        let mut qmp = Qmp::over(ours, None).unwrap();
        assert_eq!(qmp.execute("query-status", json!({})).unwrap()["x"], 2);
        let e = qmp.execute("bad", json!({})).unwrap_err();
        assert_eq!(e.to_string(), "QEMU refuses bad: no");
        let now = Instant::now();
        assert_eq!(qmp.next_event(now).unwrap().unwrap().name, "STOP");
        assert_eq!(qmp.next_event(now).unwrap().unwrap().data["a"], 1);
        assert_eq!(qmp.next_event(now).unwrap(), None);
    }

    #[test]
    fn a_qemu_that_is_stuck_is_given_up() {
        let ours = qemu(|request| match request["execute"].as_str().unwrap() {
            "screendump" => String::new(),
            _ => "{\"return\": {}, \"id\": ID}\n".into(),
        });
        let mut qmp = Qmp::over(ours, None).unwrap();
        qmp.deadline = Some(Instant::now());
        let e = qmp.execute("screendump", json!({})).unwrap_err();
        assert_eq!((e.kind(), e.to_string().contains("screendump")), (ErrorKind::Busy, true));
    }

    #[test]
    fn what_is_not_qemu_is_refused() {
        for (text, word) in [
            ("SSH-2.0\n", "does not speak QMP"),
            ("{}\n", "not QEMU"),
            ("", "has ended"),
            ("{\"QMP\": {}}", "has ended"),
        ] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(text.as_bytes()).unwrap();
            drop(theirs);
            let e = Qmp::over(ours, None).unwrap_err();
            assert!(e.to_string().contains(word), "{text:?}: {e}");
        }
    }

    #[test]
    fn endless_messages_are_refused() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let sender = thread::spawn(move || while theirs.write_all(&[b'x'; 1 << 16]).is_ok() {});
        let e = Qmp::over(ours, None).unwrap_err();
        assert!(e.to_string().contains("without an end"), "{e}");
        sender.join().unwrap();
    }

    #[test]
    fn open_files_are_sent_along() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let receiver = thread::spawn(move || {
            theirs.write_all(HELLO.as_bytes()).unwrap();
            let mut line = String::new();
            let mut reader = BufReader::new(theirs.try_clone().unwrap());
            reader.read_line(&mut line).unwrap();
            theirs.write_all(b"{\"return\": {}, \"id\": 1}\n").unwrap();
            let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
            let mut buffer = [0; 256];
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let (fd, flags) = (theirs.as_raw_fd(), MsgFlags::empty());
            let got = recvmsg::<()>(fd, &mut parts, Some(&mut space), flags).unwrap();
            let rights = got.cmsgs().unwrap().next();
            assert!(matches!(rights, Some(ControlMessageOwned::ScmRights(fds)) if fds.len() == 1));
            theirs.write_all(b"{\"return\": {\"fdset-id\": 7, \"fd\": 9}, \"id\": 2}\n").unwrap();
        });
        let mut qmp = Qmp::over(ours, None).unwrap();
        let file = tempfile::tempfile().unwrap();
        assert_eq!(qmp.add_fd(file.as_fd(), "x").unwrap(), 7);
        receiver.join().unwrap();
    }
}

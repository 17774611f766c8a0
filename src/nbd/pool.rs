//! Threads that do requests which wait for storage, for all connections.
//!
//! They touch no socket: a finished reply goes back to the thread of its connection, so a client
//! that does not read its replies holds up nobody else.

use super::execute::{execute, finish};
use super::pace::{Class, Paces};
use super::protocol::{NbdError, Request, Style};
use super::target::Target;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

/// Requests of one connection that other threads may have at a time: half of the threads, so that
/// another client finds one.
const MOST: usize = 8;

/// A request that some thread of the pool does.
struct Job {
    target: Arc<Target>,
    style: Style,
    request: Request,
    payload: Vec<u8>,
    class: Class,
    back: Arc<Finished>,
}

/// The threads' queue.
#[derive(Default)]
pub(super) struct Pool {
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl Pool {
    /// Start `threads` threads.
    ///
    /// # Errors
    /// Errors of starting a thread.
    pub fn start(threads: usize) -> io::Result<Arc<Self>> {
        let pool = Arc::new(Self::default());
        for _ in 0..threads {
            let own = Arc::clone(&pool);
            let named = std::thread::Builder::new().name("request".into());
            if let Err(e) = named.spawn(move || own.work()) {
                pool.close();
                return Err(e);
            }
        }
        Ok(pool)
    }

    /// End the threads once nothing is queued.
    pub fn close(&self) {
        self.queue.lock().closed = true;
        self.wake.notify_all();
    }

    fn add(&self, job: Job) {
        self.queue.lock().jobs.push_back(job);
        self.wake.notify_one();
    }

    fn next(&self) -> Option<Job> {
        let mut queue = self.queue.lock();
        loop {
            match queue.jobs.pop_front() {
                Some(job) => return Some(job),
                None if queue.closed => return None,
                None => self.wake.wait(&mut queue),
            }
        }
    }

    fn work(&self) {
        while let Some(Job { target, style, request, payload, class, back }) = self.next() {
            let began = Instant::now();
            let mut reply = Vec::new();
            let done = AssertUnwindSafe(|| {
                execute(&target, style, &request, &payload, &mut reply);
            });
            if catch_unwind(done).is_err() {
                // The client must not wait for ever for the answer to a request with which this
                // program cannot cope.
                reply.clear();
                finish(Err(NbdError::Io), style, &request, &mut reply);
            }
            back.paces.took(class, began.elapsed());
            back.give(reply);
        }
    }
}

/// What comes back to a connection.
#[derive(Debug)]
struct Finished {
    replies: Mutex<Vec<Vec<u8>>>,
    /// Gets a byte when the first reply is there.
    signal: UnixStream,
    paces: Paces,
}

impl Finished {
    fn give(&self, reply: Vec<u8>) {
        let mut replies = self.replies.lock();
        replies.push(reply);
        if replies.len() == 1 {
            // At most one byte per collection, which there is always room for.
            let _ = (&self.signal).write(&[0]);
        }
    }
}

/// The requests of one connection that the pool has.
pub(super) struct Jobs {
    pool: Arc<Pool>,
    finished: Arc<Finished>,
    signal: UnixStream,
    outstanding: usize,
}

impl Jobs {
    /// No requests yet.
    ///
    /// # Errors
    /// Errors of socketpair(2).
    pub fn new(pool: &Arc<Pool>) -> io::Result<Self> {
        let (signal, theirs) = UnixStream::pair()?;
        let (replies, paces) = (Mutex::default(), Paces::default());
        let finished = Arc::new(Finished { replies, signal: theirs, paces });
        Ok(Self { pool: Arc::clone(pool), finished, signal, outstanding: 0 })
    }

    /// How long this connection's requests take.
    pub fn paces(&self) -> &Paces {
        &self.finished.paces
    }

    /// Number of requests that have not come back.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Whether one has to come back before another is handed over.
    pub fn is_full(&self) -> bool {
        self.outstanding >= MOST
    }

    /// Have `request` done by another thread.
    pub fn hand_over(
        &mut self,
        target: &Arc<Target>,
        style: Style,
        class: Class,
        request: Request,
        payload: Vec<u8>,
    ) {
        let (target, back) = (Arc::clone(target), Arc::clone(&self.finished));
        self.outstanding += 1;
        self.pool.add(Job { target, style, request, payload, class, back });
    }

    /// Becomes readable when [`Jobs::collect`] has something.
    pub fn signal(&self) -> BorrowedFd<'_> {
        self.signal.as_fd()
    }

    /// Append the replies that have come back. Only when [`Jobs::signal`] is readable.
    ///
    /// # Errors
    /// Errors of the socket.
    pub fn collect(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        self.signal.read_exact(&mut [0])?;
        let replies = std::mem::take(&mut *self.finished.replies.lock());
        self.outstanding -= replies.len();
        replies.iter().for_each(|reply| out.extend_from_slice(reply));
        Ok(())
    }
}

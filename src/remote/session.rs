//! What the fetcher does for each request: look in the cache, ask the server, keep what came.

use super::chunk::{CHUNK, Sum, count, range, sum_of};
use super::deadline::{Deadline, READ_TIME};
use super::manifest::Manifest;
use super::origin::{Failure, Identity, Origin};
use super::recording::Recorder;
use super::store::{Store, run_of};
use super::wire::{Reply, Request};
use lru::LruCache;
use parking_lot::{Condvar, Mutex};
use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Chunks that are kept in memory when they cannot be kept in the cache.
const MOST_RECENT: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// An image that is being read.
pub(super) struct Session {
    origin: Box<dyn Origin>,
    identity: Identity,
    kept: Kept,
    /// Chunks that a thread is dealing with.
    claimed: Mutex<HashSet<u64>>,
    released: Condvar,
    recent: Mutex<LruCache<u64, Arc<[u8]>>>,
    /// Set once the image has changed.
    changed: Mutex<Option<Failure>>,
}

/// Files for the chunks of an image.
#[derive(Default)]
pub(super) struct Kept {
    /// Where they are kept.
    pub(super) store: Option<Store>,
    /// What they must be.
    pub(super) manifest: Option<Manifest>,
    /// Where it is written that they are used.
    pub(super) recorder: Option<Recorder>,
}

/// Chunks that this thread deals with, until this is dropped.
struct Claim<'a> {
    session: &'a Session,
    chunks: Vec<u64>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut claimed = self.session.claimed.lock();
        claimed.retain(|number| !self.chunks.contains(number));
        self.session.released.notify_all();
    }
}

impl Session {
    /// The image that is `identity`, from `origin`.
    pub(super) fn new(origin: Box<dyn Origin>, identity: Identity, kept: Kept) -> Self {
        Self {
            origin,
            identity,
            kept,
            claimed: Mutex::default(),
            released: Condvar::new(),
            recent: Mutex::new(LruCache::new(MOST_RECENT)),
            changed: Mutex::default(),
        }
    }

    /// Do what `request` asks for, and record it.
    pub(super) fn answer(&self, request: Request) -> Reply {
        let reply = self.provide(request);
        if let Some(recorder) = &self.kept.recorder {
            match reply {
                Reply::Stored(n) => recorder.note(request.first, n),
                Reply::Bytes(_) => recorder.note(request.first, 1),
                Reply::Failed(_) => {}
            }
        }
        reply
    }

    /// Fetch the chunks from `first` on, `count` of them, into the cache. `false` if there is no cache
    /// for them, or no such image any more.
    pub(super) fn prefetch(&self, first: u64, count: u32) -> bool {
        let millis = READ_TIME.as_millis() as u32;
        let mut done = 0;
        while done < count {
            let (first, count) = (first + u64::from(done), count - done);
            match self.provide(Request { first, count, millis }) {
                Reply::Stored(n) => done += n.max(1),
                Reply::Failed(Failure::Passing(_)) => return true,
                Reply::Bytes(_) | Reply::Failed(_) => return false,
            }
        }
        true
    }

    /// The checksum that chunk `number` must have, if that is known.
    fn expected(&self, number: u64) -> Result<Option<Sum>, Failure> {
        let unreadable = |e| Failure::Lasting(format!("its manifest cannot be read: {e}"));
        self.kept
            .manifest
            .as_ref()
            .map(|manifest| manifest.sum(number))
            .transpose()
            .map_err(unreadable)
    }

    fn provide(&self, request: Request) -> Reply {
        let time = Duration::from_millis(request.millis.into()).min(READ_TIME);
        let mut deadline = Deadline::within(time);
        if request.first >= count(self.identity.len) {
            return Reply::Failed(Failure::Lasting("past the end of the image".into()));
        }
        let Some(mut claim) = self.claim(request.first, &deadline) else {
            return Reply::Failed(Failure::Passing("the server did not answer in time".into()));
        };
        if let Some(reply) = self.known(request) {
            return reply;
        }
        if let Some(changed) = &*self.changed.lock() {
            return Reply::Failed(changed.clone());
        }
        let most = self.extend(&mut claim, request);
        match self.fetch(request.first, most, &mut deadline) {
            Ok(bytes) => self.keep(request.first, &bytes),
            Err(failure) => {
                if matches!(failure, Failure::Changed(_)) {
                    *self.changed.lock() = Some(failure.clone());
                }
                Reply::Failed(failure)
            }
        }
    }

    /// Claim chunk `number`; `None` if another thread keeps it until the deadline.
    fn claim(&self, number: u64, deadline: &Deadline) -> Option<Claim<'_>> {
        let mut claimed = self.claimed.lock();
        while claimed.contains(&number) {
            let until = Instant::now() + deadline.left()?;
            self.released.wait_until(&mut claimed, until);
        }
        claimed.insert(number);
        Some(Claim { session: self, chunks: vec![number] })
    }

    /// The reply if the first chunk is in the cache or in memory.
    fn known(&self, request: Request) -> Option<Reply> {
        if let Some(store) = &self.kept.store {
            let buf = std::cell::RefCell::new(Vec::new());
            let n = run_of(request.first, request.count.max(1), |n| {
                // What must not be compared does not count, and fails when it is fetched.
                let expected = self.expected(n);
                expected.is_ok_and(|sum| store.has(n, sum, &mut buf.borrow_mut()))
            });
            if n > 0 {
                return Some(Reply::Stored(n));
            }
        }
        let bytes = self.recent.lock().get(&request.first).cloned()?;
        Some(Reply::Bytes(bytes.to_vec()))
    }

    /// Claim the chunks after the first one that are wanted, too, as far as they are missing; returns
    /// how many chunks are to be fetched.
    fn extend(&self, claim: &mut Claim<'_>, request: Request) -> u32 {
        let mut claimed = self.claimed.lock();
        let chunks = count(self.identity.len);
        let is_missing = |n: u64| {
            let is_kept = || self.kept.store.as_ref().is_some_and(|store| store.may_have(n));
            n == request.first || n < chunks && !claimed.contains(&n) && !is_kept()
        };
        // What is not kept in a file is fetched again, and nobody waits for it.
        let most = if self.kept.store.is_some() { request.count.max(1) } else { 1 };
        let n = run_of(request.first, most, is_missing);
        for number in request.first + 1..request.first + u64::from(n) {
            claimed.insert(number);
            claim.chunks.push(number);
        }
        n
    }

    /// The bytes of `n` chunks from `first` on.
    fn fetch(&self, first: u64, n: u32, deadline: &mut Deadline) -> Result<Vec<u8>, Failure> {
        let (start, len) = range(first, n.into(), self.identity.len);
        let mut bytes = vec![0; len as usize];
        let mut last = Failure::Passing("there was no time to ask the server".into());
        while let Some(time) = deadline.attempt() {
            match self.origin.read(&mut bytes, start, &self.identity, time) {
                Ok(()) => return self.check(first, &bytes).map(|()| bytes),
                Err(failure @ Failure::Passing(_)) => {
                    last = failure;
                    // Over a slow line, one chunk may arrive in time where several do not.
                    bytes.truncate(range(first, 1, self.identity.len).1 as usize);
                }
                Err(failure) => return Err(failure),
            }
            tracing::debug!("chunk {first}: {last}");
            if !deadline.pause() {
                break;
            }
        }
        Err(last)
    }

    /// Compare the chunks in `bytes`, from `first` on, with the manifest.
    fn check(&self, first: u64, bytes: &[u8]) -> Result<(), Failure> {
        for (number, chunk) in (first..).zip(bytes.chunks(CHUNK as usize)) {
            if self.expected(number)?.is_some_and(|expected| expected != sum_of(chunk)) {
                return Err(Failure::Lasting(format!(
                    "chunk {number} is not what the manifest says: it is another image, or was changed"
                )));
            }
        }
        Ok(())
    }

    /// Keep the chunks in `bytes`, from `first` on; returns the reply.
    fn keep(&self, first: u64, bytes: &[u8]) -> Reply {
        let mut stored = 0;
        for (number, chunk) in (first..).zip(bytes.chunks(CHUNK as usize)) {
            let kept =
                self.kept.store.as_ref().is_some_and(|store| store.put(number, chunk).is_ok());
            match kept {
                true if u64::from(stored) == number - first => stored += 1,
                true => {}
                false => drop(self.recent.lock().put(number, chunk.into())),
            }
        }
        match stored {
            0 => Reply::Bytes(bytes[..bytes.len().min(CHUNK as usize)].to_vec()),
            stored => Reply::Stored(stored),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::{EntryFiles, sums_len};
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    const LEN: u64 = 9 * CHUNK + 7;

    /// Answers with the number of the chunk in each byte.
    #[derive(Default)]
    struct Counting {
        requests: Arc<AtomicU32>,
        bytes: Arc<AtomicU32>,
        failures: Mutex<Vec<Failure>>,
    }

    impl Origin for Counting {
        fn identify(&self, _: Duration) -> Result<Identity, Failure> {
            Ok(Identity { len: LEN, version: None })
        }

        fn read(
            &self,
            buf: &mut [u8],
            offset: u64,
            _: &Identity,
            _: Duration,
        ) -> Result<(), Failure> {
            self.requests.fetch_add(1, Ordering::Relaxed);
            if let Some(failure) = self.failures.lock().pop() {
                return Err(failure);
            }
            // Others have time to ask for the same.
            std::thread::sleep(Duration::from_millis(5));
            self.bytes.fetch_add(buf.len() as u32, Ordering::Relaxed);
            buf.iter_mut().zip(offset..).for_each(|(b, at)| *b = (at / CHUNK) as u8 + 1);
            Ok(())
        }
    }

    fn store(room: u64) -> Option<Store> {
        let files =
            EntryFiles { data: tempfile::tempfile().unwrap(), sums: tempfile::tempfile().unwrap() };
        files.data.set_len(LEN).unwrap();
        files.sums.set_len(sums_len(10)).unwrap();
        Some(Store::new(files, LEN, room))
    }

    fn session(origin: Counting, store: Option<Store>) -> Session {
        let kept = Kept { store, ..Kept::default() };
        Session::new(Box::new(origin), Identity { len: LEN, version: None }, kept)
    }

    fn ask(session: &Session, first: u64, count: u32) -> Reply {
        session.answer(Request { first, count, millis: 20_000 })
    }

    #[test]
    fn each_chunk_is_fetched_once() {
        let origin = Counting::default();
        let bytes = Arc::clone(&origin.bytes);
        let session = session(origin, store(u64::MAX));
        std::thread::scope(|scope| {
            for thread in 0..8u64 {
                let session = &session;
                scope.spawn(move || {
                    for n in 0..10 {
                        let first = (n + thread) % 10;
                        assert!(matches!(ask(session, first, 3), Reply::Stored(1..=3)));
                    }
                });
            }
        });
        assert_eq!(u64::from(bytes.load(Ordering::Relaxed)), LEN);
        assert!(matches!(ask(&session, 10, 1), Reply::Failed(_)));
    }

    #[test]
    fn without_room_it_goes_on() {
        for store in [None, store(CHUNK)] {
            let session = session(Counting::default(), store);
            for n in [0, 3, 9, 3, 0] {
                let (_, len) = range(n, 1, LEN);
                match ask(&session, n, 4) {
                    Reply::Bytes(bytes) => assert_eq!(bytes, vec![n as u8 + 1; len as usize]),
                    Reply::Stored(1) => assert_eq!(n, 0),
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    fn what_may_pass_is_tried_again() {
        let origin = Counting::default();
        *origin.failures.lock() = vec![Failure::Passing("busy".into()); 2];
        let requests = Arc::clone(&origin.requests);
        let session = session(origin, store(u64::MAX));
        assert_eq!(ask(&session, 2, 1), Reply::Stored(1));
        assert_eq!(requests.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_changed_image_stays_changed() {
        let origin = Counting::default();
        let changed = Failure::Changed("it changed".into());
        origin.failures.lock().push(changed.clone());
        let session = session(origin, store(u64::MAX));
        assert_eq!(ask(&session, 2, 1), Reply::Failed(changed.clone()));
        // The server would answer now.
        assert_eq!(ask(&session, 2, 1), Reply::Failed(changed));
        let busy = Counting::default();
        *busy.failures.lock() = vec![Failure::Passing("busy".into()); 1000];
        let busy = self::session(busy, None);
        let reply = busy.answer(Request { first: 0, count: 1, millis: 50 });
        assert_eq!(reply, Reply::Failed(Failure::Passing("busy".into())));
        *busy.changed.lock() = None;
    }
}

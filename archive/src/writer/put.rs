//! One put, carried through: retried for as long as it takes, compared where the answer was lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;

use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::Writer;
use super::spool::ReadBack;
use crate::error::ArchiveError;
use crate::layout;
use crate::object::{Preamble, Sealed, TRAILER_BYTES};
use crate::store::{Piece, StoreError, found};

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(20);
/// A store that does not answer for so long is tried anew.
const CALL_DEADLINE: Duration = Duration::from_secs(60);
/// A put of a large object over a slow line may take longer: as long as its bytes take at this rate.
const SLOWEST_BYTES_PER_SECOND: u64 = 64 * 1024;
/// Trouble is logged when it begins, and again so often.
const REMIND: Duration = Duration::from_secs(60);

/// What keeps one object from being put.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// Since when.
    pub since: Instant,
    /// In the store's words.
    pub reason: String,
}

/// The troubles of a writer, by object. Empty when all is well.
#[derive(Clone, Debug, Default)]
pub struct Troubles(Arc<Mutex<BTreeMap<String, Trouble>>>);

impl Troubles {
    /// The one that lasts longest.
    #[must_use]
    pub fn oldest(&self) -> Option<Trouble> {
        self.lock()
            .values()
            .min_by_key(|trouble| trouble.since)
            .cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Trouble>> {
        self.0.lock().expect("no holder panics")
    }
}

/// One object's trouble: entered when a call fails, taken back when the put ends or is given up.
struct Watch<'a> {
    troubles: &'a Troubles,
    key: &'a str,
    logged: Option<Instant>,
}

impl Watch<'_> {
    fn failed(&mut self, error: &StoreError) {
        let (since, reason) = (Instant::now(), error.to_string());
        let mut troubles = self.troubles.lock();
        let trouble = troubles.entry(self.key.into()).or_insert(Trouble {
            since,
            reason: String::new(),
        });
        trouble.reason = reason;
        if self.logged.is_none_or(|at| at.elapsed() > REMIND) {
            let seconds = trouble.since.elapsed().as_secs();
            tracing::warn!(key = self.key, %error, seconds, "the store does not take an object; trying again");
            self.logged = Some(Instant::now());
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if self.troubles.lock().remove(self.key).is_some() && !std::thread::panicking() {
            tracing::info!(key = self.key, "the store answers again");
        }
    }
}

/// A sealed segment on its way to the store: in memory, until the spool keeps it.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) key: String,
    hash: [u8; 32],
    held: Mutex<Option<Arc<InMemory>>>,
    released: Notify,
}

/// The bytes of a sealed segment, and the memory they count for: a try that is under way holds both.
#[derive(Debug)]
pub(super) struct InMemory {
    pub(super) bytes: Bytes,
    _memory: Vec<OwnedSemaphorePermit>,
}

impl Outgoing {
    pub(super) fn new(key: String, sealed: Sealed, memory: Vec<OwnedSemaphorePermit>) -> Self {
        Self {
            key,
            hash: sealed.hash,
            held: Mutex::new(Some(Arc::new(InMemory {
                bytes: sealed.bytes,
                _memory: memory,
            }))),
            released: Notify::new(),
        }
    }

    /// One that is in the spool.
    pub(super) fn spooled(key: String, hash: [u8; 32]) -> Self {
        Self {
            key,
            hash,
            held: Mutex::new(None),
            released: Notify::new(),
        }
    }

    /// Its bytes, until the spool has them.
    pub(super) fn in_memory(&self) -> Option<Arc<InMemory>> {
        self.held.lock().expect("no holder panics").clone()
    }

    /// The hash in its trailer.
    pub(super) fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// The spool keeps it: its memory is free as soon as the try that is under way has let go of it.
    pub(super) fn release(&self) {
        self.held.lock().expect("no holder panics").take();
        self.released.notify_one();
    }
}

/// What an object's tries have in common.
struct Carrying<'a> {
    watch: Watch<'a>,
    backoff: Backoff,
}

impl<'a> Carrying<'a> {
    fn new(troubles: &'a Troubles, key: &'a str) -> Self {
        let watch = Watch {
            troubles,
            key,
            logged: None,
        };
        Self {
            watch,
            backoff: Backoff::new(),
        }
    }
}

impl Writer {
    /// Puts `body` under `key`, for as long as it takes. Ends with an error only where trying again cannot help: somebody
    /// else's object is there, or the medium is broken.
    pub async fn put(&self, key: &str, body: Bytes) -> Result<(), ArchiveError> {
        self.keys_are_durable(key).await?;
        let mut carrying = Carrying::new(&self.troubles, key);
        loop {
            if let Some(done) = self.attempt(key, body.clone(), &mut carrying).await {
                return done;
            }
            carrying.backoff.wait().await;
        }
    }

    /// The same for a segment, which may go over into the spool meanwhile.
    pub(super) async fn put_outgoing(&self, outgoing: &Outgoing) -> Result<(), ArchiveError> {
        let key = &outgoing.key;
        self.keys_are_durable(key).await?;
        let mut carrying = Carrying::new(&self.troubles, key);
        loop {
            // Read again for each try: what waits takes no memory.
            let done = if let Some(held) = outgoing.in_memory() {
                tokio::select! {
                    biased;
                    done = self.attempt(key, held.bytes.clone(), &mut carrying) => done,
                    // A store that is silent would keep the memory until the deadline. What became of this try the next one finds out.
                    () = outgoing.released.notified() => continue,
                }
            } else {
                let read = self.read_back(outgoing).await?;
                self.attempt(key, read.bytes.clone(), &mut carrying).await
            };
            if let Some(done) = done {
                return done;
            }
            carrying.backoff.wait().await;
        }
    }

    async fn read_back(&self, outgoing: &Outgoing) -> Result<ReadBack, ArchiveError> {
        let key = &outgoing.key;
        let broken = |reason: String| StoreError::Broken {
            key: key.clone(),
            reason: format!("in the spool: {reason}; the source has it still"),
        };
        let spool = self.spool().ok_or_else(|| broken("there is none".into()))?;
        let read = spool.read(key).await;
        let read = read.map_err(|error| broken(error.to_string()))?;
        let body = read.bytes.len().saturating_sub(TRAILER_BYTES);
        if *blake3::hash(&read.bytes[..body]).as_bytes() != outgoing.hash {
            return Err(broken("its bytes are other ones".into()).into());
        }
        Ok(read)
    }

    /// What is sealed with a data key is put after it.
    async fn keys_are_durable(&self, key: &str) -> Result<(), ArchiveError> {
        if key.starts_with(layout::KEYS) {
            return Ok(());
        }
        let mut under_way = self.keys_under_way.subscribe();
        let ended = under_way.wait_for(|keys| keys.count == 0 || keys.failed.is_some());
        let keys = ended.await.expect("the sender lives in self");
        match &keys.failed {
            None => Ok(()),
            Some(reason) => Err(StoreError::Broken {
                key: key.into(),
                reason: reason.clone(),
            }
            .into()),
        }
    }

    /// One try; `None` if another one may help.
    async fn attempt(
        &self,
        key: &str,
        body: Bytes,
        carrying: &mut Carrying<'_>,
    ) -> Option<Result<(), ArchiveError>> {
        let put = self.archive.store().put_if_absent(key, body.clone());
        let put = within(call_deadline(body.len() as u64), key, put).await;
        let error = match put {
            Ok(()) => return Some(Ok(())),
            Err(StoreError::AlreadyExists { .. }) => match self.is_ours(key, &body).await {
                Ok(()) => return Some(Ok(())),
                Err(ArchiveError::Store(error)) => error,
                Err(error) => return Some(Err(error)),
            },
            Err(error) => error,
        };
        if matches!(error, StoreError::Broken { .. }) {
            return Some(Err(error.into()));
        }
        carrying.watch.failed(&error);
        None
    }

    /// The object exists: either an earlier try of ours succeeded and its answer was lost, or we are fenced.
    async fn is_ours(&self, key: &str, body: &Bytes) -> Result<(), ArchiveError> {
        let get = self.archive.store().get(key, Piece::Whole);
        let fetched = within(call_deadline(body.len() as u64), key, get).await;
        let theirs = found(fetched)?.ok_or_else(|| StoreError::Unavailable {
            key: key.into(),
            reason: "it says that the object exists and then that it does not".into(),
        })?;
        if theirs.bytes == body {
            return Ok(());
        }
        let writer = match Preamble::decode(&theirs.bytes, self.archive.writer()) {
            Ok(preamble) => preamble.header.writer_id.to_string(),
            Err(fault) => format!("unknown: {fault}"),
        };
        Err(ArchiveError::Fenced {
            key: key.into(),
            writer,
        })
    }
}

/// How long a call may take that moves so many bytes: when it takes longer it has failed, and its object is in trouble.
#[must_use]
pub fn call_deadline(bytes: u64) -> Duration {
    CALL_DEADLINE + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND)
}

/// A call that takes longer than the deadline has failed; what it did is not known.
pub(super) async fn with_deadline<T>(
    key: &str,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    within(CALL_DEADLINE, key, call).await
}

async fn within<T>(
    deadline: Duration,
    key: &str,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    tokio::time::timeout(deadline, call)
        .await
        .unwrap_or_else(|_| {
            let reason = format!("no answer within {} s", deadline.as_secs());
            Err(StoreError::Unavailable {
                key: key.into(),
                reason,
            })
        })
}

/// Exponential backoff with full jitter.
struct Backoff {
    ceiling: Duration,
}

impl Backoff {
    fn new() -> Self {
        Self {
            ceiling: BACKOFF_FIRST,
        }
    }

    async fn wait(&mut self) {
        let mut random = [0; 4];
        // Without randomness there is no jitter, and the wait is the longest.
        let share = getrandom::fill(&mut random).map_or(1.0, |()| {
            f64::from(u32::from_be_bytes(random)) / f64::from(u32::MAX)
        });
        tokio::time::sleep(self.ceiling.mul_f64(share.max(0.1))).await;
        self.ceiling = (self.ceiling * 2).min(BACKOFF_MAX);
    }
}

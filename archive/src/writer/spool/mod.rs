//! The spool: sealed objects that the store has not taken yet, on a local disk, so that a long outage stops nobody from reading. It
//! holds what was never acknowledged and never counts as durable; `drain` brings what is left in it into the store at a start.
//!
//! What lies in it goes on where the store ends, without a hole: an object is kept only when all before it is kept or stored, and
//! removed only when all before it is stored.

mod drain;
mod keeping;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

pub(super) use keeping::Spooling;

use super::compressor::KIB;
use crate::error::ArchiveError;
use crate::layout;
use crate::object::Id;
use crate::store::{DirectoryStore, Piece, Store, StoreError, found};

/// What is read back for puts that are under way may take so much memory, or one object.
const READING_KIB: usize = 24 * 1024;
/// Objects, at most: each takes a little memory as well.
const OBJECTS_MAX: usize = 1 << 17;
/// After a failure nothing is kept for so long.
const REST: Duration = Duration::from_secs(30);
/// Where an object lies that the archive will never take.
const ASIDE: &str = "aside/";
/// Above every letter of a key.
const LAST: &str = "~";

/// Where spooled objects lie: a store whose objects can be removed again.
#[async_trait]
pub trait SpoolMedium: Store {
    /// Removes an object; one that is not there is no error.
    async fn remove(&self, key: &str) -> Result<(), StoreError>;
}

#[async_trait]
impl SpoolMedium for DirectoryStore {
    async fn remove(&self, key: &str) -> Result<(), StoreError> {
        self.delete(key).await
    }
}

/// How full a spool is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SpoolFill {
    /// Objects that the store does not have yet.
    pub objects: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of objects that the archive will never take, for an operator to look at.
    pub aside_bytes: u64,
    /// Bytes that it may hold in all.
    pub bytes_max: u64,
}

/// A spool of one archive. One process at a time uses it.
#[derive(Debug)]
pub struct Spool {
    medium: Arc<dyn SpoolMedium>,
    bytes_max: u64,
    held: Mutex<Held>,
    reading: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Held {
    objects: BTreeMap<String, u64>,
    bytes: u64,
    failed: Option<Instant>,
}

/// An object read back, and the memory it stands for.
#[derive(Debug)]
pub(super) struct ReadBack {
    pub(super) bytes: Bytes,
    _memory: OwnedSemaphorePermit,
}

impl Spool {
    /// The spool of the archive `archive` on `medium`, with what an earlier start left there.
    ///
    /// # Errors
    /// If the medium cannot be read, or belongs to another archive.
    pub async fn open(
        medium: Arc<dyn SpoolMedium>,
        bytes_max: u64,
        archive: Id,
    ) -> Result<Self, ArchiveError> {
        let mark = Bytes::from(archive.to_string());
        match medium.put_if_absent(layout::ARCHIVE, mark.clone()).await {
            Ok(()) | Err(StoreError::AlreadyExists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let there = medium.get(layout::ARCHIVE, Piece::Whole).await?.bytes;
        if there != mark {
            return Err(ArchiveError::Foreign {
                what: "spool",
                found: String::from_utf8_lossy(&there).into_owned(),
                ours: archive.to_string(),
            });
        }
        let mut held = Held::default();
        let mut prefixes = vec![layout::KEYS.to_owned()];
        for root in [layout::LOG, ASIDE] {
            let names = medium.children(root).await?;
            prefixes.extend(names.iter().map(|name| format!("{root}{name}/")));
        }
        for prefix in prefixes {
            let last = format!("{prefix}{LAST}");
            for object in medium.list(&prefix, &prefix..&last).await? {
                held.bytes += object.object_bytes;
                held.objects.insert(object.key, object.object_bytes);
            }
        }
        Ok(Self {
            medium,
            bytes_max,
            held: Mutex::new(held),
            reading: Arc::new(Semaphore::new(READING_KIB)),
        })
    }

    /// How full it is.
    #[must_use]
    pub fn fill(&self) -> SpoolFill {
        let held = self.held();
        let aside = held
            .objects
            .iter()
            .filter(|(key, _)| key.starts_with(ASIDE));
        let (aside, aside_bytes) =
            aside.fold((0, 0), |(count, all), (_, bytes)| (count + 1, all + bytes));
        SpoolFill {
            objects: held.objects.len() - aside,
            bytes: held.bytes - aside_bytes,
            aside_bytes,
            bytes_max: self.bytes_max,
        }
    }

    /// True if an object of so many bytes may be kept.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        let held = self.held();
        let rests = held.failed.is_some_and(|at| at.elapsed() < REST);
        !rests && held.bytes + bytes <= self.bytes_max && held.objects.len() < OBJECTS_MAX
    }

    /// Keeps an object. False: it is not kept, and nothing is until the medium had a rest.
    pub(super) async fn keep(&self, key: &str, body: &Bytes) -> bool {
        let bytes = body.len() as u64;
        if !self.has_room(bytes) {
            return false;
        }
        let kept = match self.medium.put_if_absent(key, body.clone()).await {
            // Left by an earlier start, and not in the way of this one.
            Err(StoreError::AlreadyExists { .. }) => match self.medium.remove(key).await {
                Ok(()) => self.medium.put_if_absent(key, body.clone()).await,
                Err(error) => Err(error),
            },
            kept => kept,
        };
        let mut held = self.held();
        match kept {
            Ok(()) => {
                held.bytes += bytes;
                held.failed = None;
                if let Some(before) = held.objects.insert(key.into(), bytes) {
                    held.bytes -= before;
                }
                true
            }
            Err(error) => {
                tracing::error!(%error, "the spool does not take an object; without it reading stops when memory is full");
                held.failed = Some(Instant::now());
                false
            }
        }
    }

    /// Reads an object back. Waits while others take the memory.
    pub(super) async fn read(&self, key: &str) -> Result<ReadBack, StoreError> {
        let bytes = self.held().objects.get(key).copied().unwrap_or(0);
        let permits = (bytes as usize).div_ceil(KIB).clamp(1, READING_KIB);
        let memory = Arc::clone(&self.reading)
            .acquire_many_owned(permits as u32)
            .await
            .expect("the semaphore is never closed");
        let bytes = self.medium.get(key, Piece::Whole).await?.bytes;
        Ok(ReadBack {
            bytes,
            _memory: memory,
        })
    }

    /// Removes what the store holds.
    pub(super) async fn remove(&self, key: &str) {
        match self.medium.remove(key).await {
            Ok(()) => {
                let mut held = self.held();
                let bytes = held.objects.remove(key).unwrap_or(0);
                held.bytes -= bytes;
            }
            // It is compared with the store's, and removed, at the next start.
            Err(error) => tracing::warn!(%error, "an object that is stored stays in the spool"),
        }
    }

    /// Keys of what is held below `prefix`, in order.
    fn keys(&self, prefix: &str) -> Vec<String> {
        let held = self.held();
        let below = held.objects.keys().filter(|key| key.starts_with(prefix));
        below.cloned().collect()
    }

    /// Moves an object to where no start looks for it. Its bytes were acknowledged to nobody; they are not thrown away all the same.
    async fn set_aside(&self, key: &str) -> Result<(), StoreError> {
        let Some(fetched) = found(self.medium.get(key, Piece::Whole).await)? else {
            return Ok(());
        };
        let name = format!("{ASIDE}{}/{}", Id::random(), key.replace('/', "_"));
        let bytes = fetched.object_bytes;
        self.medium.put_if_absent(&name, fetched.bytes).await?;
        self.remove(key).await;
        let mut held = self.held();
        held.bytes += bytes;
        held.objects.insert(name, bytes);
        Ok(())
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("no holder panics")
    }
}

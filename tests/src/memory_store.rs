//! A store in memory: the medium under the fault store. It knows what is durable, and can lose the rest.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use pitr_archive::store::{Fetched, Listed, Piece, Store, StoreError, is_key};
use pitr_archive::writer::SpoolMedium;

#[derive(Clone, Debug)]
struct Entry {
    body: Bytes,
    durable: bool,
}

/// A store in memory; clones share their objects.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    objects: Arc<Mutex<BTreeMap<String, Entry>>>,
}

/// All objects of a store at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot(BTreeMap<String, Entry>);

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Every key, in order.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// The bytes under a key.
    #[must_use]
    pub fn object(&self, key: &str) -> Option<Bytes> {
        self.lock().get(key).map(|entry| entry.body.clone())
    }

    /// Puts bytes under a key behind everybody's back.
    pub fn damage(&self, key: &str, body: impl Into<Bytes>) {
        let body = body.into();
        self.lock().insert(
            key.into(),
            Entry {
                body,
                durable: true,
            },
        );
    }

    /// Deletes an object behind everybody's back.
    ///
    /// # Panics
    /// If there is none: a test that deletes nothing proves nothing.
    pub fn delete(&self, key: &str) {
        assert!(self.lock().remove(key).is_some(), "{key} is not there");
    }

    /// What the store holds now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.lock().clone())
    }

    /// Goes back to an earlier state.
    pub fn roll_back(&self, snapshot: &Snapshot) {
        *self.lock() = snapshot.0.clone();
    }

    /// A store of its own that holds what `snapshot` holds.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Self {
        Self {
            objects: Arc::new(Mutex::new(snapshot.0.clone())),
        }
    }

    /// Forgets what readers have seen and no put has made durable.
    pub fn lose_power(&self) {
        self.lock().retain(|_, entry| entry.durable);
    }

    /// What a process leaves that dies between making an object visible and making it durable.
    pub(crate) fn put_visible_only(&self, key: &str, body: Bytes) {
        self.lock().entry(key.into()).or_insert(Entry {
            body,
            durable: false,
        });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.objects.lock().expect("no holder panics")
    }
}

#[async_trait]
impl SpoolMedium for MemoryStore {
    async fn remove(&self, key: &str) -> Result<(), StoreError> {
        self.lock().remove(key);
        Ok(())
    }
}

fn check(key: &str) -> Result<(), StoreError> {
    if is_key(key) {
        Ok(())
    } else {
        Err(StoreError::Broken {
            key: key.into(),
            reason: "not a key of an object".into(),
        })
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        check(key)?;
        let mut objects = self.lock();
        if let Some(entry) = objects.get_mut(key) {
            entry.durable = true;
            return Err(StoreError::AlreadyExists { key: key.into() });
        }
        let durable = true;
        objects.insert(key.into(), Entry { body, durable });
        Ok(())
    }

    async fn put_replacing(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        check(key)?;
        let durable = true;
        self.lock().insert(key.into(), Entry { body, durable });
        Ok(())
    }

    async fn get(&self, key: &str, piece: Piece) -> Result<Fetched, StoreError> {
        check(key)?;
        let body = self
            .object(key)
            .ok_or_else(|| StoreError::NotFound { key: key.into() })?;
        let object_bytes = body.len() as u64;
        let range = match piece {
            Piece::Whole => 0..object_bytes,
            Piece::Range(range) => {
                let end = range.end.min(object_bytes);
                range.start.min(end)..end
            }
        };
        let bytes = body.slice(range.start as usize..range.end as usize);
        Ok(Fetched {
            bytes,
            object_bytes,
        })
    }

    async fn list(&self, prefix: &str, keys: Range<&str>) -> Result<Vec<Listed>, StoreError> {
        let objects = self.lock();
        let listed = objects.iter().filter(|(key, _)| {
            let level = key.strip_prefix(prefix);
            level.is_some_and(|name| !name.contains('/')) && keys.contains(&key.as_str())
        });
        let listed = listed.map(|(key, entry)| Listed {
            key: key.clone(),
            object_bytes: entry.body.len() as u64,
        });
        Ok(listed.collect())
    }

    async fn children(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let objects = self.lock();
        let below = objects.keys().filter_map(|key| key.strip_prefix(prefix));
        let mut names: Vec<String> = below
            .filter_map(|rest| rest.split_once('/').map(|(name, _)| name.to_owned()))
            .collect();
        names.dedup();
        Ok(names)
    }

    async fn settle(&self, prefix: &str) -> Result<(), StoreError> {
        for (_, entry) in self
            .lock()
            .iter_mut()
            .filter(|(key, _)| key.starts_with(prefix))
        {
            entry.durable = true;
        }
        Ok(())
    }
}

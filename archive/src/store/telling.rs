//! A store that tells what is put into it, for those who copy it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::{Fetched, Listed, Piece, Probed, SharedStore, Store, StoreError};

/// Keys that may wait for a listener. One who is further behind looks for himself what is missing.
const WAITING_MAX: usize = 4096;

/// Tells keys to listeners.
#[derive(Debug)]
pub struct TellingStore {
    inner: SharedStore,
    listeners: Vec<(mpsc::Sender<String>, Arc<AtomicBool>)>,
}

/// Hears of keys, in the order in which they became durable.
#[derive(Debug)]
pub struct Told {
    keys: mpsc::Receiver<String>,
    missed: Arc<AtomicBool>,
}

impl TellingStore {
    /// Over `inner`, with so many listeners.
    #[must_use]
    pub fn new(inner: SharedStore, listeners: usize) -> (Self, Vec<Told>) {
        let make = |_| {
            let (sender, keys) = mpsc::channel(WAITING_MAX);
            let missed = Arc::new(AtomicBool::new(false));
            ((sender, Arc::clone(&missed)), Told { keys, missed })
        };
        let (listeners, told) = (0..listeners).map(make).unzip();
        (Self { inner, listeners }, told)
    }

    fn tell(&self, key: &str) {
        for (keys, missed) in &self.listeners {
            if keys.try_send(key.into()).is_err() {
                missed.store(true, Ordering::Release);
            }
        }
    }
}

impl Told {
    /// The next key; `None` when the store is gone.
    pub async fn next(&mut self) -> Option<String> {
        self.keys.recv().await
    }

    /// Keys that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.keys.len()
    }

    /// True if keys were dropped since the last call.
    pub fn missed(&self) -> bool {
        self.missed.swap(false, Ordering::AcqRel)
    }

    /// Forgets what waits: whoever calls it looks at everything next.
    pub fn forget(&mut self) {
        self.missed.store(false, Ordering::Release);
        while self.keys.try_recv().is_ok() {}
    }
}

#[async_trait]
impl Store for TellingStore {
    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        let put = self.inner.put_if_absent(key, body).await;
        // Also what is there already: it may be ours, of a try whose answer was lost.
        if matches!(put, Ok(()) | Err(StoreError::AlreadyExists { .. })) {
            self.tell(key);
        }
        put
    }

    async fn put_replacing(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        self.inner.put_replacing(key, body).await?;
        self.tell(key);
        Ok(())
    }

    async fn get(&self, key: &str, piece: Piece) -> Result<Fetched, StoreError> {
        self.inner.get(key, piece).await
    }

    async fn list(&self, prefix: &str, keys: Range<&str>) -> Result<Vec<Listed>, StoreError> {
        self.inner.list(prefix, keys).await
    }

    async fn children(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.inner.children(prefix).await
    }

    async fn settle(&self, prefix: &str) -> Result<(), StoreError> {
        self.inner.settle(prefix).await
    }

    async fn probe_medium(&self) -> Result<Vec<Probed>, StoreError> {
        self.inner.probe_medium().await
    }
}

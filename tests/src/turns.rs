//! Two daemons whose puts of segments happen one at a time, in an order that is laid down.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use pitr_archive::store::{Fetched, Listed, Piece, Store, StoreError};
use tokio::sync::{Notify, oneshot};

use crate::memory_store::MemoryStore;

/// Held while a put happens.
type Happening = oneshot::Sender<()>;

#[derive(Debug, Default)]
struct Waiting {
    /// Each daemon's puts that are under way, oldest first.
    puts: [Vec<oneshot::Sender<Option<Happening>>>; 2],
    ended: [bool; 2],
    is_over: bool,
}

/// The order. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    waiting: Arc<Mutex<Waiting>>,
    changed: Arc<Notify>,
}

impl Turns {
    /// `medium` as daemon `who`, 0 or 1, sees it.
    #[must_use]
    pub fn store(&self, medium: &MemoryStore, who: usize) -> TurnStore {
        TurnStore {
            inner: medium.clone(),
            turns: self.clone(),
            who,
        }
    }

    /// Daemon `who` has ended.
    pub fn end(&self, who: usize) {
        self.waiting().ended[who] = true;
        self.changed.notify_one();
    }

    /// Lets a put of daemon `who` happen: the one that was begun after `younger_than` others that are under way. Waits for it, unless
    /// the daemon ends.
    pub async fn grant(&self, who: usize, younger_than: usize) {
        loop {
            let changed = self.changed.notified();
            let put = {
                let mut waiting = self.waiting();
                if waiting.ended[who] {
                    return;
                }
                let puts = &mut waiting.puts[who];
                // What a fenced daemon gave up.
                puts.retain(|put| !put.is_closed());
                (puts.len() > younger_than).then(|| puts.remove(younger_than))
            };
            let Some(put) = put else {
                changed.await;
                continue;
            };
            let (happening, happened) = oneshot::channel();
            if put.send(Some(happening)).is_ok() {
                // Ends when the other half is dropped.
                let _ = happened.await;
                return;
            }
        }
    }

    /// From now on nobody waits for a turn.
    pub fn finish(&self) {
        let mut waiting = self.waiting();
        waiting.is_over = true;
        for put in waiting.puts.iter_mut().flat_map(std::mem::take) {
            // Nobody is there if its daemon has ended.
            let _ = put.send(None);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no holder panics")
    }

    async fn turn(&self, who: usize) -> Option<Happening> {
        let (send, granted) = oneshot::channel();
        {
            let mut waiting = self.waiting();
            if waiting.is_over {
                return None;
            }
            waiting.puts[who].push(send);
        }
        self.changed.notify_one();
        granted.await.expect("the order outlives the daemons")
    }
}

/// A store that a daemon shares with the other one.
#[derive(Debug)]
pub struct TurnStore {
    inner: MemoryStore,
    turns: Turns,
    who: usize,
}

#[async_trait]
impl Store for TurnStore {
    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        let _happening = if key.starts_with("log/") {
            self.turns.turn(self.who).await
        } else {
            None
        };
        self.inner.put_if_absent(key, body).await
    }

    async fn put_replacing(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        self.inner.put_replacing(key, body).await
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
}

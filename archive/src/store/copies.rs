//! Several stores as one: a writer's, in which what is acknowledged lies in all of them, and a reader's, which takes the bytes from
//! whichever has them.
//!
//! The first store is the primary. It alone numbers: who loses there is fenced, and nothing of his reaches a copy.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::try_join_all;
use tokio::sync::Mutex;

use super::{Fetched, IsSound, Listed, Piece, Probed, SharedStore, Store, StoreError, found};
use crate::copying::Copying;
use crate::layout;

/// Stores as a writer sees them that acknowledges what all of them hold.
#[derive(Debug)]
pub struct AllStores {
    primary: SharedStore,
    copies: Vec<SharedStore>,
    /// What brings each copy up to the primary.
    catching_up: Mutex<Vec<Copying>>,
}

impl AllStores {
    /// `copies` hold whatever `primary` holds, once they have caught up.
    #[must_use]
    pub fn new(primary: SharedStore, copies: Vec<SharedStore>) -> Self {
        let catching_up = copies
            .iter()
            .map(|copy| Copying::new(Arc::clone(&primary), Arc::clone(copy)).past_holes());
        Self {
            catching_up: Mutex::new(catching_up.collect()),
            primary,
            copies,
        }
    }

    async fn put_copies(&self, key: &str, body: &Bytes) -> Result<(), StoreError> {
        let puts = self.copies.iter().map(|copy| put_same(&**copy, key, body));
        try_join_all(puts).await.map(drop)
    }
}

/// What a place is that is to be a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A copy of the archive.
    Copy,
    /// It holds no archive: it is new, or its file system is not mounted.
    Empty,
    /// It holds an archive, and another one.
    Other,
}

/// What the place `copy` is to the archive in `archive`.
pub async fn standing(archive: &dyn Store, copy: &dyn Store) -> Result<Standing, StoreError> {
    let ours = archive.get(layout::ARCHIVE, Piece::Whole).await?.bytes;
    let theirs = found(copy.get(layout::ARCHIVE, Piece::Whole).await)?;
    Ok(match theirs {
        None => Standing::Empty,
        Some(theirs) if theirs.bytes == ours => Standing::Copy,
        Some(_) => Standing::Other,
    })
}

/// Makes an empty place a copy of the archive, by its first object. Nothing but an operator's word may do that: whoever archives
/// would take an empty mount point for a new copy.
pub async fn begin_copy(archive: &dyn Store, copy: &dyn Store) -> Result<(), StoreError> {
    let first = archive.get(layout::ARCHIVE, Piece::Whole).await?.bytes;
    put_same(copy, layout::ARCHIVE, &first).await
}

/// Refuses a place that is no copy of the archive.
pub(crate) async fn require_copy(archive: &dyn Store, copy: &dyn Store) -> Result<(), StoreError> {
    let reason = match standing(archive, copy).await? {
        Standing::Copy => return Ok(()),
        Standing::Empty => {
            "no copy is there; mount its file system, or make it one with pitr-tool init --config FILE"
        }
        Standing::Other => "another archive is there",
    };
    Err(StoreError::Unavailable {
        key: layout::ARCHIVE.into(),
        reason: reason.into(),
    })
}

/// Puts what must be there and may be already.
pub(crate) async fn put_same(store: &dyn Store, key: &str, body: &Bytes) -> Result<(), StoreError> {
    match store.put_if_absent(key, body.clone()).await {
        Err(StoreError::AlreadyExists { .. }) => {}
        result => return result.map_err(in_a_copy),
    }
    let there = store.get(key, Piece::Whole).await.map_err(in_a_copy)?;
    if there.bytes == body {
        return Ok(());
    }
    // Passes when somebody takes the copy away or makes it anew.
    Err(StoreError::Unavailable {
        key: key.into(),
        reason: "a copy holds other bytes under this key".into(),
    })
}

/// A copy that does not answer is not the primary, and a broken copy can be replaced.
fn in_a_copy(error: StoreError) -> StoreError {
    match error {
        StoreError::NotFound { key } | StoreError::AlreadyExists { key } => {
            StoreError::Unavailable {
                key,
                reason: "a copy says that the object exists and that it does not".into(),
            }
        }
        StoreError::Broken { key, reason } => StoreError::Unavailable {
            key,
            reason: format!("in a copy: {reason}"),
        },
        StoreError::Full { key, reason } => StoreError::Full {
            key,
            reason: format!("in a copy: {reason}"),
        },
        StoreError::Denied { key, reason } => StoreError::Denied {
            key,
            reason: format!("in a copy: {reason}"),
        },
        StoreError::Unavailable { key, reason } => StoreError::Unavailable {
            key,
            reason: format!("in a copy: {reason}"),
        },
    }
}

#[async_trait]
impl Store for AllStores {
    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        let put = self.primary.put_if_absent(key, body.clone()).await;
        match put {
            Ok(()) => self.put_copies(key, &body).await,
            Err(StoreError::AlreadyExists { .. }) => {
                // Ours, of a try whose answer was lost or that died before the copies? Then they need it, too.
                let there = found(self.primary.get(key, Piece::Whole).await)?;
                if there.is_some_and(|there| there.bytes == body) {
                    self.put_copies(key, &body).await?;
                }
                put
            }
            Err(_) => put,
        }
    }

    async fn put_replacing(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        self.primary.put_replacing(key, body.clone()).await?;
        for copy in &self.copies {
            let put = copy.put_replacing(key, body.clone()).await;
            put.map_err(in_a_copy)?;
        }
        Ok(())
    }

    async fn get(&self, key: &str, piece: Piece) -> Result<Fetched, StoreError> {
        self.primary.get(key, piece).await
    }

    async fn list(&self, prefix: &str, keys: Range<&str>) -> Result<Vec<Listed>, StoreError> {
        self.primary.list(prefix, keys).await
    }

    async fn children(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.primary.children(prefix).await
    }

    /// What the primary shows may not have reached the copies: it does before anybody believes that it is durable.
    async fn settle(&self, prefix: &str) -> Result<(), StoreError> {
        self.primary.settle(prefix).await?;
        for copying in &mut *self.catching_up.lock().await {
            copying.run(&mut |_| ()).await.map_err(in_a_copy)?;
        }
        for copy in &self.copies {
            copy.settle(prefix).await.map_err(in_a_copy)?;
        }
        Ok(())
    }

    async fn probe_medium(&self) -> Result<Vec<Probed>, StoreError> {
        self.primary.probe_medium().await
    }
}

/// Stores as a reader sees them: what one does not have, or has damaged, another one may have.
#[derive(Debug)]
pub struct AnyStore {
    stores: Vec<SharedStore>,
}

impl AnyStore {
    /// Asks `stores` in this order. They are copies of one archive.
    #[must_use]
    pub fn new(stores: Vec<SharedStore>) -> Self {
        Self { stores }
    }
}

#[async_trait]
impl Store for AnyStore {
    /// What is there is there; nothing is put.
    async fn put_if_absent(&self, key: &str, _: Bytes) -> Result<(), StoreError> {
        match found(self.get(key, Piece::Range(0..1)).await)? {
            Some(_) => Err(StoreError::AlreadyExists { key: key.into() }),
            None => Err(read_only(key)),
        }
    }

    async fn put_replacing(&self, key: &str, _: Bytes) -> Result<(), StoreError> {
        Err(read_only(key))
    }

    /// Whole objects are compared with their own hash; of a piece nothing can be told here.
    async fn get(&self, key: &str, piece: Piece) -> Result<Fetched, StoreError> {
        let is_whole = piece == Piece::Whole;
        let sound = |fetched: &Fetched| !is_whole || crate::copying::is_intact(key, &fetched.bytes);
        self.get_sound(key, piece, &sound).await
    }

    /// The first sound answer; if there is none, the first one; if there is none, an error. Missing is only what every store says
    /// is missing.
    async fn get_sound(
        &self,
        key: &str,
        piece: Piece,
        sound: &IsSound<'_>,
    ) -> Result<Fetched, StoreError> {
        let (mut damaged, mut missing, mut failed) = (None, None, None);
        for (number, store) in self.stores.iter().enumerate() {
            match store.get(key, piece.clone()).await {
                Ok(fetched) if sound(&fetched) => {
                    if number > 0 {
                        tracing::warn!(key, copy = number, "read from a copy");
                    }
                    return Ok(fetched);
                }
                Ok(fetched) => damaged = damaged.or(Some(fetched)),
                Err(error @ StoreError::NotFound { .. }) => missing = Some(error),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match (damaged, failed, missing) {
            (Some(fetched), _, _) => Ok(fetched),
            (None, Some(error), _) | (None, None, Some(error)) => Err(error),
            (None, None, None) => Err(StoreError::NotFound { key: key.into() }),
        }
    }

    /// What any of the stores lists. A store that does not answer leaves out what only it has.
    async fn list(&self, prefix: &str, keys: Range<&str>) -> Result<Vec<Listed>, StoreError> {
        let (mut all, mut answered, mut failed) = (BTreeMap::new(), false, None);
        for store in &self.stores {
            match store.list(prefix, keys.clone()).await {
                Ok(listed) => {
                    answered = true;
                    for object in listed {
                        all.entry(object.key.clone()).or_insert(object);
                    }
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            Some(error) if !answered => Err(error),
            _ => Ok(all.into_values().collect()),
        }
    }

    async fn children(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let (mut all, mut answered, mut failed) = (Vec::new(), false, None);
        for store in &self.stores {
            match store.children(prefix).await {
                Ok(names) => {
                    answered = true;
                    all.extend(names);
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        all.sort_unstable();
        all.dedup();
        match failed {
            Some(error) if !answered => Err(error),
            _ => Ok(all),
        }
    }

    async fn settle(&self, _: &str) -> Result<(), StoreError> {
        Ok(())
    }
}

fn read_only(key: &str) -> StoreError {
    StoreError::Broken {
        key: key.into(),
        reason: "several places are named, and those are only read".into(),
    }
}

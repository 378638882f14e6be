//! A copy that cannot take one object.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::store::{DirectoryStore, Fetched, Store};

/// A place that never takes one object.
#[derive(Debug)]
struct Refusing {
    inner: DirectoryStore,
    key: String,
}

#[async_trait]
impl Store for Refusing {
    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        if key == self.key {
            // Those that are on their way with it get there meanwhile.
            tokio::time::sleep(Duration::from_secs(1)).await;
            return Err(StoreError::Unavailable {
                key: key.into(),
                reason: "never".into(),
            });
        }
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

#[tokio::test(start_paused = true)]
async fn however_often_passes_break_off_at_an_object_few_get_past_it() {
    let directory = tempfile::tempdir().unwrap();
    let archive = DirectoryStore::new(directory.path().join("archive"));
    let place = DirectoryStore::new(directory.path().join("copy"));
    for store in [&archive, &place] {
        let body = Bytes::from_static(b"{}");
        store.put_if_absent(layout::ARCHIVE, body).await.unwrap();
    }
    let prefix = "timelines/";
    let key = |number: u64| format!("{prefix}{number:08x}");
    let mut listed = Vec::new();
    for number in 0..100 {
        let body = Bytes::from(vec![7; TRAILER_BYTES]);
        let hash = *blake3::hash(b"").as_bytes();
        let body = Bytes::from([&hash[..], &body[32..]].concat());
        archive.put_if_absent(&key(number), body).await.unwrap();
        listed.push(Listed {
            key: key(number),
            object_bytes: TRAILER_BYTES as u64,
        });
    }
    let refusing = Refusing {
        inner: place.clone(),
        key: key(10),
    };
    let copying = Copying::new(Arc::new(archive), Arc::new(refusing));
    for _ in 0..20 {
        let (mut copied, mut progress) = (Copied::default(), |_| ());
        let pass = copying.missing(prefix, prefix, listed.clone(), &mut copied, &mut progress);
        assert!(pass.await.is_err());
    }
    let there = place.list(prefix, prefix.."timelines/~").await.unwrap();
    let there: Vec<_> = there.into_iter().map(|object| object.key).collect();
    assert!(
        there.iter().take(10).cloned().eq((0..10).map(key)),
        "{there:?}"
    );
    assert!(there.len() < 10 + PARALLEL, "{there:?}");
}

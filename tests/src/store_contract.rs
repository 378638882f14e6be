//! The contract of a store as a suite that every store must pass.

use std::sync::Arc;

use bytes::Bytes;
use pitr_archive::store::{Piece, SharedStore, Store, StoreError};

const CALLERS: u8 = 16;

/// Holds a store against its contract. `make` gives a new, empty one.
///
/// # Panics
/// Where the store breaks the contract.
pub async fn store_contract(make: impl Fn() -> SharedStore) {
    of_many_puts_exactly_one_succeeds(&*ready(&make).await).await;
    reads_see_what_was_put(&*ready(&make).await).await;
    ranges_end_where_the_object_ends(&*ready(&make).await).await;
    replacing_replaces_whole_objects(ready(&make).await).await;
    listings_are_of_one_level_and_in_order(&*ready(&make).await).await;
    what_is_no_key_is_refused(&*ready(&make).await).await;
    settling_what_is_not_there_is_no_error(&*make()).await;
}

/// A store that holds the first object of an archive, which makes it one.
async fn ready(make: &impl Fn() -> SharedStore) -> SharedStore {
    let store = make();
    put(&*store, "archive.json", b"{}").await.unwrap();
    store
}

async fn put(store: &dyn Store, key: &str, body: &[u8]) -> Result<(), StoreError> {
    store.put_if_absent(key, Bytes::copy_from_slice(body)).await
}

async fn read(store: &dyn Store, key: &str) -> Bytes {
    store.get(key, Piece::Whole).await.unwrap().bytes
}

async fn of_many_puts_exactly_one_succeeds(store: &dyn Store) {
    let bodies: Vec<Vec<u8>> = (0..CALLERS)
        .map(|caller| vec![caller; 100 * usize::from(caller) + 1])
        .collect();
    let puts = bodies.iter().map(|body| put(store, "log/a/0", body));
    let results = futures_util::future::join_all(puts).await;
    let winners: Vec<_> = (0..).zip(&results).filter(|(_, r)| r.is_ok()).collect();
    assert_eq!(winners.len(), 1, "{results:?}");
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        assert!(
            matches!(error, StoreError::AlreadyExists { key } if key == "log/a/0"),
            "{error}"
        );
    }
    let winner: usize = winners[0].0;
    assert_eq!(read(store, "log/a/0").await, bodies[winner]);
}

async fn reads_see_what_was_put(store: &dyn Store) {
    let missing = store.get("log/a/1", Piece::Whole).await;
    assert!(
        matches!(missing, Err(StoreError::NotFound { ref key }) if key == "log/a/1"),
        "{missing:?}"
    );
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    for (key, body) in [
        ("log/a/1", large.as_slice()),
        ("empty", b""),
        ("a/b/c/d", b"deep"),
    ] {
        put(store, key, body).await.unwrap();
        assert_eq!(read(store, key).await, body, "{key}");
    }
    // A directory is not an object.
    for prefix in ["a", "a/b", "log"] {
        let got = store.get(prefix, Piece::Whole).await;
        assert!(
            matches!(got, Err(StoreError::NotFound { .. })),
            "{prefix}: {got:?}"
        );
    }
}

async fn ranges_end_where_the_object_ends(store: &dyn Store) {
    put(store, "digits", b"0123456789").await.unwrap();
    for (range, wanted) in [
        (0..3, "012"),
        (8..20, "89"),
        (0..10, "0123456789"),
        (10..11, ""),
        (30..40, ""),
        (4..4, ""),
        (9..u64::MAX, "9"),
    ] {
        let got = store
            .get("digits", Piece::Range(range.clone()))
            .await
            .unwrap();
        assert_eq!(got.bytes, wanted, "{range:?}");
        assert_eq!(got.object_bytes, 10, "{range:?}");
    }
    let missing = store.get("none", Piece::Range(0..1)).await;
    assert!(
        matches!(missing, Err(StoreError::NotFound { .. })),
        "{missing:?}"
    );
}

async fn replacing_replaces_whole_objects(store: SharedStore) {
    let write = |n: u8| Bytes::from(vec![n; 1000 * (usize::from(n) + 1)]);
    store.put_replacing("log/a/head", write(0)).await.unwrap();
    let writers = (0..CALLERS).map(|n| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.put_replacing("log/a/head", write(n)).await })
    });
    let writers: Vec<_> = writers.collect();
    for _ in 0..50 {
        let seen = read(&*store, "log/a/head").await;
        assert_eq!(seen, write(seen[0]), "a reader saw part of an object");
        tokio::task::yield_now().await;
    }
    for writer in writers {
        writer.await.unwrap().unwrap();
    }
    store.put_replacing("log/a/head", write(3)).await.unwrap();
    assert_eq!(read(&*store, "log/a/head").await, write(3));
    let taken = put(&*store, "log/a/head", b"x").await;
    assert!(
        matches!(taken, Err(StoreError::AlreadyExists { .. })),
        "{taken:?}"
    );
}

async fn listings_are_of_one_level_and_in_order(store: &dyn Store) {
    for key in [
        "log/a/2",
        "log/a/10",
        "log/a/1",
        "log/a/deep/3",
        "log/b/9",
        "log/aa/7",
    ] {
        put(store, key, key.as_bytes()).await.unwrap();
    }
    let listed = |keys: std::ops::Range<&'static str>| async move {
        let listed = store.list("log/a/", keys).await.unwrap();
        for object in &listed {
            assert_eq!(object.object_bytes, object.key.len() as u64);
        }
        listed.into_iter().map(|l| l.key).collect::<Vec<_>>()
    };
    let all = ["log/a/1", "log/a/10", "log/a/2"];
    assert_eq!(listed("log/a/".."log/a/~").await, all);
    assert_eq!(listed("log/a/1".."log/a/2").await, all[..2]);
    assert_eq!(listed("log/a/3".."log/a/4").await, all[..0]);
    assert_eq!(store.children("log/").await.unwrap(), ["a", "aa", "b"]);
    assert_eq!(store.children("log/a/").await.unwrap(), ["deep"]);
    assert!(store.children("base/").await.unwrap().is_empty());
    assert!(
        store
            .list("base/", "base/".."base/~")
            .await
            .unwrap()
            .is_empty()
    );
}

async fn what_is_no_key_is_refused(store: &dyn Store) {
    for key in ["", "/", "../x", "a//b", ".hidden", "a/.tmp", "a b", "a/"] {
        let put = put(store, key, b"x").await;
        assert!(
            put.as_ref().is_err_and(StoreError::is_permanent),
            "{key}: {put:?}"
        );
        let replaced = store.put_replacing(key, Bytes::new()).await;
        assert!(
            replaced.as_ref().is_err_and(StoreError::is_permanent),
            "{key}: {replaced:?}"
        );
        let got = store.get(key, Piece::Whole).await;
        assert!(
            got.as_ref().is_err_and(StoreError::is_permanent),
            "{key}: {got:?}"
        );
    }
}

async fn settling_what_is_not_there_is_no_error(store: &dyn Store) {
    put(store, "archive.json", b"{}").await.unwrap();
    store.settle("log/a/").await.unwrap();
    put(store, "log/a/0", b"x").await.unwrap();
    store.settle("log/a/").await.unwrap();
    assert_eq!(read(store, "log/a/0").await, "x");
}

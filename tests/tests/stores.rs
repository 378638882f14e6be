//! Every store keeps the contract of the trait; the fault store does what its script says.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pitr_archive::store::{DirectoryStore, Piece, Store, StoreError};
use pitr_tests::fault_store::{Failure, Fault, FaultStore};
use pitr_tests::memory_store::MemoryStore;
use pitr_tests::store_contract::store_contract;

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_store_keeps_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    let number = std::sync::atomic::AtomicU32::new(0);
    store_contract(|| {
        let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Arc::new(DirectoryStore::new(
            directory.path().join(number.to_string()),
        ))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_store_keeps_the_contract() {
    store_contract(|| Arc::new(MemoryStore::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_store_without_faults_keeps_the_contract() {
    store_contract(|| Arc::new(FaultStore::new(MemoryStore::new()))).await;
}

async fn put(store: &FaultStore, key: &str) -> Result<(), StoreError> {
    store.put_if_absent(key, Bytes::from_static(b"body")).await
}

#[tokio::test(start_paused = true)]
async fn a_scripted_fault_happens_as_often_as_it_says_and_where() {
    let medium = MemoryStore::new();
    let store = FaultStore::new(medium.clone());
    store.inject(2, Fault::FailBefore(Failure::Full), |call| call.key == "a");
    store.inject(1, Fault::FailAfter(Failure::Unavailable), |call| {
        call.key == "b"
    });
    store.inject(1, Fault::LieDone, |call| call.key == "c");
    for _ in 0..2 {
        assert!(matches!(
            put(&store, "a").await,
            Err(StoreError::Full { .. })
        ));
    }
    assert_eq!(medium.keys(), Vec::<String>::new());
    put(&store, "a").await.unwrap();
    assert!(matches!(
        put(&store, "b").await,
        Err(StoreError::Unavailable { .. })
    ));
    assert!(matches!(
        put(&store, "b").await,
        Err(StoreError::AlreadyExists { .. })
    ));
    put(&store, "c").await.unwrap();
    assert_eq!(medium.keys(), ["a", "b"]);
    assert_eq!(store.calls().len(), 6);

    store.at(6, Fault::LieBytes(Bytes::from_static(b"lies")));
    let lied = store.get("a", Piece::Whole).await.unwrap();
    assert_eq!(lied.bytes, "lies");
    store.at(7, Fault::HangAfter);
    let hung = tokio::time::timeout(Duration::from_secs(3600), put(&store, "d")).await;
    assert!(hung.is_err());
    assert!(medium.object("d").is_some());
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_nothing_is_done_any_more_and_power_takes_what_is_not_durable() {
    let medium = MemoryStore::new();
    let store = FaultStore::new(medium.clone());
    store.at(0, Fault::CrashTorn);
    tokio::select! {
        _ = put(&store, "torn") => panic!("a dead process got an answer"),
        () = store.crashed() => {}
    }
    let late = tokio::time::timeout(Duration::from_secs(3600), put(&store, "late")).await;
    assert!(late.is_err());
    assert_eq!(medium.keys(), ["torn"]);
    let settled = MemoryStore::of(&medium.snapshot());
    settled.settle("").await.unwrap();
    settled.lose_power();
    assert_eq!(settled.keys(), ["torn"]);
    medium.lose_power();
    assert_eq!(medium.keys(), Vec::<String>::new());
}

//! The S3 store against real servers: it keeps the contract of every store, makes a read again that went wrong, and says of a store
//! what is wrong with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use pitr_archive::store::{Piece, Probed, S3Store, SharedStore, Store, StoreError, Verdict, probe};
use pitr_integration::{BUCKET, BenchStore, Call, Dialect, Fault, FaultProxy, ObjectServer, Site};
use pitr_tests::store_contract::store_contract;
use tokio::runtime::Runtime;

fn keeps_the_contract(dialect: Dialect, name: &str) {
    let site = Site::new(name);
    let server = ObjectServer::start(&site, dialect);
    keeps_the_contract_at(|number| server.url(&format!("contract/{number}")));
}

fn keeps_the_contract_at(url: impl Fn(u32) -> String) {
    let runtime = Runtime::new().unwrap();
    let number = AtomicU32::new(0);
    // Connecting waits for the credentials only, so it is done before, for as many stores as the suite may ask for.
    let stores: Vec<SharedStore> = runtime.block_on(async {
        let mut stores: Vec<SharedStore> = Vec::new();
        for number in 0..10 {
            let settings = url(number).parse().unwrap();
            stores.push(Arc::new(S3Store::connect(settings).await.unwrap()));
        }
        stores
    });
    let make = || stores[number.fetch_add(1, Ordering::Relaxed) as usize].clone();
    runtime.block_on(store_contract(make));
}

#[test]
fn the_contract_is_kept_on_ministack() {
    keeps_the_contract(Dialect::Ministack, "s3c-mini");
}

#[test]
fn the_contract_is_kept_on_moto() {
    keeps_the_contract(Dialect::Moto, "s3c-moto");
}

#[test]
fn the_contract_is_kept_on_the_store_of_the_benchmarks() {
    let site = Site::new("s3c-bench");
    let server = BenchStore::start(Duration::ZERO).unwrap();
    let credentials = site.path("credentials");
    let text = "[default]\naws_access_key_id = bench\naws_secret_access_key = not-a-secret\n";
    site.write(&credentials, text, 0o600);
    let url = format!(
        "s3://{BUCKET}/contract?endpoint=http://127.0.0.1:{}&credentials_file={}",
        server.port(),
        credentials.display()
    );
    keeps_the_contract_at(|number| url.replace("/contract", &format!("/contract/{number}")));
    // A probe finds nothing wrong with it either, but for whom it lets in.
    let runtime = Runtime::new().unwrap();
    let store = runtime
        .block_on(S3Store::connect(url.parse().unwrap()))
        .unwrap();
    let probed = runtime.block_on(probe(&store)).unwrap();
    let doubts = probed.iter().filter(|one| one.verdict != Verdict::Sound);
    let doubts: Vec<_> = doubts.map(|one| one.detail.as_str()).collect();
    assert!(
        doubts
            .iter()
            .all(|doubt| doubt.starts_with("s3:DeleteObject")),
        "{doubts:?}"
    );
}

/// A store behind a proxy, and the runtime it lives in.
fn behind_a_proxy(
    name: &str,
    dialect: Dialect,
) -> (Runtime, S3Store, FaultProxy, ObjectServer, Arc<Site>) {
    let site = Site::new(name);
    let server = ObjectServer::start(&site, dialect);
    let proxy = FaultProxy::start(server.number());
    let settings = server.url_through(proxy.port(), "faults").parse().unwrap();
    let runtime = Runtime::new().unwrap();
    let store = runtime.block_on(S3Store::connect(settings)).unwrap();
    (runtime, store, proxy, server, site)
}

#[test]
fn a_read_that_breaks_flips_or_drips_is_made_again() {
    let (runtime, store, proxy, _server, _site) = behind_a_proxy("s3read", Dialect::Ministack);
    let body: Bytes = (0..100_000_u32).map(|n| n as u8).collect::<Vec<_>>().into();
    runtime.block_on(async {
        store.put_if_absent("log/a/0", body.clone()).await.unwrap();
        for fault in [
            Fault::BreakAnswer,
            Fault::Truncate,
            Fault::FlipBit,
            Fault::LoseAnswer,
            Fault::Refuse(500, "InternalError"),
            Fault::Refuse(503, "SlowDown"),
            Fault::Drip,
        ] {
            let before = proxy.faults();
            proxy.inject(1, fault, |call| call.gets("log/a/0"));
            let read = store.get("log/a/0", Piece::Whole).await.unwrap();
            assert_eq!(read.bytes, body, "{fault:?}");
            assert_eq!(proxy.faults(), before + 1, "{fault:?}");
        }
        for fault in [Fault::BreakAnswer, Fault::Truncate, Fault::LoseAnswer] {
            proxy.inject(1, fault, |call| call.gets("log/a/0"));
            let read = store
                .get("log/a/0", Piece::Range(1000..3000))
                .await
                .unwrap();
            assert_eq!(read.bytes, body[1000..3000], "{fault:?}");
        }
    });
}

#[test]
fn an_object_of_more_than_64_mib_is_put_and_read_whole() {
    let (runtime, store, proxy, _server, _site) = behind_a_proxy("s3large", Dialect::Ministack);
    let body: Bytes = (0..80_u32 << 20)
        .map(|n| (n >> 7) as u8)
        .collect::<Vec<_>>()
        .into();
    runtime.block_on(async {
        store.put_if_absent("log/a/0", body.clone()).await.unwrap();
        proxy.inject(1, Fault::BreakAnswer, |call| call.gets("log/a/0"));
        let read = store.get("log/a/0", Piece::Whole).await.unwrap();
        assert!(read.bytes == body && read.object_bytes == body.len() as u64);
        assert_eq!(proxy.faults(), 1);
        let again = store.put_if_absent("log/a/0", body.clone()).await;
        assert!(
            matches!(again, Err(StoreError::AlreadyExists { .. })),
            "{again:?}"
        );
    });
}

#[test]
fn bytes_that_stay_wrong_are_handed_on_so_that_the_damage_is_named() {
    let (runtime, store, proxy, _server, _site) = behind_a_proxy("s3flip", Dialect::Ministack);
    runtime.block_on(async {
        store
            .put_if_absent("log/a/0", "0123456789".into())
            .await
            .unwrap();
        proxy.inject(u64::MAX, Fault::FlipBit, |call| call.gets("log/a/0"));
        let read = store.get("log/a/0", Piece::Whole).await.unwrap();
        assert_ne!(read.bytes, "0123456789");
        assert!(
            proxy.faults() > 1,
            "it was not tried again: does the store tell a checksum?"
        );
    });
}

#[test]
fn only_the_store_can_say_that_an_object_is_missing() {
    let (runtime, store, proxy, _server, _site) = behind_a_proxy("s3miss", Dialect::Moto);
    runtime.block_on(async {
        let get = || store.get("log/a/0", Piece::Whole);
        let missing = get().await.unwrap_err();
        assert!(matches!(missing, StoreError::NotFound { .. }), "{missing}");
        for (status, code, denied) in [
            (404, "NoSuchBucket", false),
            (404, "", false),
            (403, "AccessDenied", true),
            (400, "ExpiredToken", true),
        ] {
            proxy.inject(u64::MAX, Fault::Refuse(status, code), |_| true);
            let error = get().await.unwrap_err();
            let kind = matches!(error, StoreError::Denied { .. });
            assert_eq!(kind, denied, "{status} {code}: {error}");
            assert!(!error.is_permanent(), "{status} {code}: {error}");
        }
        proxy.heal();
        let missing = get().await.unwrap_err();
        assert!(matches!(missing, StoreError::NotFound { .. }), "{missing}");
    });
}

#[test]
fn an_answer_that_is_not_the_store_s_is_no_success() {
    let (runtime, store, proxy, _server, _site) = behind_a_proxy("s3portal", Dialect::Ministack);
    runtime.block_on(async {
        // As a captive portal answers, or a proxy with a page of its own.
        proxy.inject(u64::MAX, Fault::Refuse(200, "Welcome"), |_| true);
        let put = store.put_if_absent("log/a/0", "0123456789".into()).await;
        assert!(
            matches!(put, Err(StoreError::Unavailable { .. })),
            "{put:?}"
        );
        let put = store.put_replacing("log/a/head", "01".into()).await;
        assert!(
            matches!(put, Err(StoreError::Unavailable { .. })),
            "{put:?}"
        );
        let list = store.list("log/a/", "log/a/".."log/a/~").await;
        assert!(list.is_err(), "{list:?}");
        proxy.heal();
        let missing = store.get("log/a/0", Piece::Whole).await;
        assert!(
            matches!(missing, Err(StoreError::NotFound { .. })),
            "{missing:?}"
        );
    });
}

#[test]
fn what_a_store_refuses_is_named_by_its_permission() {
    let (runtime, store, proxy, _server, _site) = behind_a_proxy("s3perm", Dialect::Ministack);
    let refused = |rule: fn(&Call) -> bool| {
        proxy.inject(u64::MAX, Fault::Refuse(403, "AccessDenied"), rule);
        runtime.block_on(probe(&store)).unwrap()
    };
    let named = |probed: &[Probed], permission: &str| {
        let denied = probed.iter().filter(|one| one.verdict == Verdict::Denied);
        denied.filter(|one| one.detail.contains(permission)).count() > 0
    };
    assert!(named(&refused(|call| call.method == "PUT"), "s3:PutObject"));
    assert!(named(&refused(|call| call.method == "GET"), "s3:GetObject"));
    assert!(named(
        &refused(|call| call.gets("probe/absent")),
        "s3:ListBucket"
    ));
    let probed = refused(|call| call.method == "DELETE");
    assert!(
        probed.iter().all(|one| one.verdict == Verdict::Sound),
        "{probed:?}"
    );
    proxy.heal();
    let probed = runtime.block_on(probe(&store)).unwrap();
    let doubtful = |text: &str| {
        let mut doubts = probed.iter().filter(|one| one.verdict == Verdict::Doubtful);
        doubts.any(|one| one.detail.contains(text))
    };
    assert!(doubtful("s3:DeleteObject is given"), "{probed:?}");
}

#[test]
fn a_store_that_takes_wrong_checksums_is_named() {
    let (runtime, store, _proxy, _server, _site) = behind_a_proxy("s3sum", Dialect::Moto);
    let probed = runtime.block_on(probe(&store)).unwrap();
    assert!(
        probed
            .iter()
            .any(|one| one.detail.contains("checksums are not verified")),
        "{probed:?}"
    );
    assert!(
        probed.iter().all(|one| one.verdict < Verdict::Denied),
        "{probed:?}"
    );
}

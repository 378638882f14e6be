//! The source's two logs: how a daemon follows each, and what stands in it.

use std::time::Duration;

use bson::{Timestamp, doc};
use futures_util::TryStreamExt;
use mongodb::options::CursorType;
use pitr_integration::{Daemon, Mongo, Settings};
use pitr_mongodb::{ClusterTime, LogKind};

/// Settings of a daemon that follows the log `kind`.
pub(crate) fn settings(kind: LogKind, set: &Mongo) -> Settings {
    match kind {
        LogKind::Oplog => Settings::mongodb(set, "pitrd"),
        LogKind::Events => Settings::events(set, "pitrd"),
    }
}

/// How a stream of our own is asked for events.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// With documents as they were before, where a collection keeps that.
    PreImages,
    Plain,
    /// Plainly, and one by one.
    Single,
}

/// A daemon that follows the log `kind`.
pub(crate) fn follow(kind: LogKind, set: &Mongo) -> Daemon {
    let mut daemon = Daemon::prepare(set.site(), settings(kind, set));
    daemon.start();
    daemon.wait_following(1);
    daemon
}

/// Everything that is archived is what the source has, word for word, in one unbroken run.
#[track_caller]
pub(crate) fn assert_whole(kind: LogKind, daemon: &Daemon, set: &Mongo, context: &str) {
    let (archive, identity) = (daemon.archive(), daemon.identity());
    let runs = archive.oplog_runs(identity);
    assert_eq!(
        runs.len(),
        1,
        "{context}: a break was recorded\n{}",
        daemon.log()
    );
    match kind {
        LogKind::Oplog => {
            let archived = archive.oplog(identity, runs[0]);
            set.assert_archived(set.wait_primary(), &archived, context);
        }
        LogKind::Events => assert_shown(daemon, set, runs[0], Asked::PreImages, context),
    }
}

/// Everything that is archived in `run` is what a stream of our own shows.
#[track_caller]
pub(crate) fn assert_shown(
    daemon: &Daemon,
    set: &Mongo,
    run: (ClusterTime, ClusterTime),
    asked: Asked,
    context: &str,
) {
    let archived = daemon.archive().oplog(daemon.identity(), run);
    let own = shown(set, run.0, run.1, asked);
    let different = archived.iter().zip(&own).position(|(a, b)| a != b);
    assert!(
        archived.len() == own.len() && different.is_none(),
        "{context}: {} events are archived and {} in the stream, the first that differs is {different:?}",
        archived.len(),
        own.len()
    );
    assert!(!archived.is_empty(), "{context}: nothing is archived");
}

/// Every event from `from` up to and including `to`, word for word, as a stream of our own sees it.
fn shown(set: &Mongo, from: ClusterTime, to: ClusterTime, asked: Asked) -> Vec<Vec<u8>> {
    let mut stage = doc! {
        "allChangesForCluster": true, "showExpandedEvents": true, "showRawUpdateDescription": true, "showSystemEvents": true,
        "showMigrationEvents": true, "startAtOperationTime": Timestamp::from(from),
    };
    if asked == Asked::PreImages {
        stage.insert("fullDocumentBeforeChange", "whenAvailable");
    }
    let batch: u32 = if asked == Asked::Single { 1 } else { 1000 };
    let command = doc! {
        "aggregate": 1, "pipeline": [{ "$changeStream": stage }], "cursor": { "batchSize": i64::from(batch) },
        "readConcern": { "level": "majority" },
    };
    let client = set.client();
    set.block_on(async {
        let admin = client.database("admin");
        let run = admin.run_cursor_command(command);
        let run = run
            .cursor_type(CursorType::TailableAwait)
            .batch_size(batch)
            .max_time(Duration::from_secs(1));
        let mut batches = run.batch().await.expect("open a change stream");
        let (mut all, mut last, mut waited) = (Vec::new(), ClusterTime::default(), 0);
        while let Some(batch) = batches.try_next().await.expect("read a change stream") {
            let mut is_empty = true;
            for event in batch.doc_slices().expect("a batch") {
                let event = event.expect("BSON").as_document().expect("a document");
                let time = event.get_timestamp("clusterTime").expect("a time");
                last = ClusterTime::from(time);
                if last > to {
                    return all;
                }
                all.push(event.as_bytes().to_vec());
                is_empty = false;
            }
            waited += u32::from(is_empty);
            // Nothing may have happened at the very end.
            if is_empty && (last >= to || waited == 30) {
                return all;
            }
        }
        all
    })
}

/// Operations of every kind, a transaction among them whose events share one cluster time.
pub(crate) fn work(set: &Mongo) {
    let orders = set.collection("shop.orders");
    set.block_on(async {
        for number in 0..300 {
            let order = doc! { "_id": number, "items": [1, 2, 3], "text": "x".repeat(200) };
            orders.insert_one(order).await?;
        }
        orders
            .update_many(doc! {}, doc! { "$set": { "items.1": "two" } })
            .await?;
        orders.delete_many(doc! { "_id": { "$lt": 50 } }).await
    })
    .expect("write");
    transaction(set, 1000..1100);
    set.run(
        "shop",
        doc! { "createIndexes": "orders", "indexes": [{ "key": { "text": 1 }, "name": "text_1" }] },
    );
    set.run(
        "shop",
        doc! { "create": "capped", "capped": true, "size": 4096 },
    );
    set.run(
        "shop",
        doc! { "create": "view", "viewOn": "orders", "pipeline": [] },
    );
    set.run(
        "admin",
        doc! { "renameCollection": "shop.orders", "to": "shop.renamed" },
    );
    for name in ["capped", "view"] {
        set.run("shop", doc! { "drop": name });
    }
}

/// One transaction.
pub(crate) fn transaction(set: &Mongo, ids: std::ops::Range<i32>) {
    let orders = set.collection("shop.orders");
    set.block_on(async {
        let mut session = set.client().start_session().await?;
        session.start_transaction().await?;
        for number in ids {
            let order = doc! { "_id": number, "pad": "y".repeat(1000) };
            orders.insert_one(order).session(&mut session).await?;
        }
        session.commit_transaction().await
    })
    .expect("a transaction");
}

//! What is told of an archived change stream, and events that the server cannot send.

use std::time::Duration;

use bson::{Document, doc};
use mongodb::options::WriteConcern;
use pitr_integration::{Daemon, Mongo, Settings, Site, wait_until};
use pitr_mongodb::{ClusterTime, LogKind};

use crate::both::{archived_over_a_restart, assert_a_gap_is_never_bridged};
use crate::source::{Asked, assert_shown, follow};

#[test]
fn every_event_is_archived_as_the_stream_shows_it() {
    let (_site, _set, mut daemon) = archived_over_a_restart(LogKind::Events);
    assert!(
        daemon.log().contains("does not see users and roles"),
        "{}",
        daemon.log()
    );
    let check = daemon.check().success("pitrd --check");
    for said in ["change stream", "not seen"] {
        assert!(check.stdout.contains(said), "{said}: {}", check.stdout);
    }
    let status = daemon.tool().run(&["status"]).success("status");
    assert!(
        status.stdout.contains("change-stream)")
            && status.stdout.contains("unseen   users and roles"),
        "{}",
        status.stdout
    );
    let json = daemon
        .tool()
        .run(&["status", "--json"])
        .success("status --json");
    let json: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(json["archive"]["capture"], "change-stream");
    assert_eq!(
        json["archive"]["cannot_see"].as_array().map(Vec::len),
        Some(2)
    );
    the_other_log_is_refused(&mut daemon);
}

/// An archive has one of the source's logs.
fn the_other_log_is_refused(daemon: &mut Daemon) {
    let text = std::fs::read_to_string(daemon.configuration()).expect("read the configuration");
    let mut other = daemon.beside("other", &text.replace("change-stream", "oplog"));
    other.start();
    assert_eq!(other.wait_end(), 2, "{}", other.log());
    assert!(
        other.log().contains("an archive has one of them"),
        "{}",
        other.log()
    );
    let refused = other.tool().run(&["backup"]);
    assert_eq!(refused.code, 2, "{}", refused.said());
}

/// A document of so many MiB.
fn large(text: &str, mib: usize) -> Document {
    doc! { "_id": 1, "text": text.repeat(mib << 20) }
}

#[test]
fn an_event_that_is_too_large_with_what_came_before_is_archived_without() {
    let site = Site::new("elarge");
    let set = Mongo::single(&site, "rs0");
    let pre_images =
        doc! { "create": "orders", "changeStreamPreAndPostImages": { "enabled": true } };
    set.run("shop", pre_images);
    let daemon = follow(LogKind::Events, &set);
    let orders = set.collection("shop.orders");
    set.block_on(async {
        orders.insert_one(large("x", 9)).await?;
        orders.replace_one(doc! { "_id": 1 }, large("y", 9)).await?;
        orders.delete_one(doc! { "_id": 1 }).await
    })
    .expect("write");
    daemon.wait_covered(&set);
    let said = "without documents as they were before";
    assert!(daemon.log().contains(said), "{}", daemon.log());
    let runs = daemon.archive().oplog_runs(daemon.identity());
    assert_eq!(runs.len(), 1, "no break is recorded");
    assert_shown(&daemon, &set, runs[0], Asked::Plain, "an event of 18 MiB");
}

/// What is archived once a gap was recorded: the run before it, and the one behind it.
fn runs_with_a_gap(daemon: &mut Daemon) -> Vec<(ClusterTime, ClusterTime)> {
    let mut runs = Vec::new();
    wait_until("the gap to be recorded", Duration::from_secs(180), || {
        runs = daemon.archive().oplog_runs(daemon.identity());
        assert!(daemon.runs(), "{}", daemon.log());
        runs.len() == 2
    });
    runs
}

/// One transaction of so many MiB.
fn transaction_of(set: &Mongo, mib: i32) {
    let orders = set.collection("shop.orders");
    set.block_on(async {
        let mut session = set.client().start_session().await?;
        session.start_transaction().await?;
        for _ in 0..mib {
            let row = doc! { "text": "x".repeat(1 << 20) };
            orders.insert_one(row).session(&mut session).await?;
        }
        session.commit_transaction().await
    })
    .expect("a transaction");
}

#[test]
fn a_transaction_of_more_than_is_held_in_memory_is_a_gap() {
    let site = Site::new("etxn");
    let set = Mongo::single(&site, "rs0");
    let mut settings = Settings::events(&set, "pitrd");
    settings.source += "\ntransaction_bytes_max = \"64 MiB\"";
    let mut daemon = Daemon::prepare(&site, settings);
    daemon.start();
    daemon.wait_following(1);
    set.run("shop", doc! { "create": "orders" });
    transaction_of(&set, 40);
    daemon.wait_covered(&set);
    assert_eq!(daemon.archive().oplog_runs(daemon.identity()).len(), 1);
    let good = set.mark();
    transaction_of(&set, 70);
    let runs = runs_with_a_gap(&mut daemon);
    assert!(good <= runs[0].1, "{good} came before it: {runs:?}");
    assert_shown(&daemon, &set, (runs[0].0, good), Asked::Plain, "before it");
    let said = "a transaction's events are more than 67108864 bytes";
    assert!(daemon.log().contains(said), "{}", daemon.log());
    daemon.wait_covered(&set);
    let runs = daemon.archive().oplog_runs(daemon.identity());
    assert_eq!(runs.len(), 2, "one break is recorded");
}

#[test]
fn what_no_server_can_send_is_a_gap_behind_all_that_came_before_it() {
    let site = Site::new("ehuge");
    let set = Mongo::single(&site, "rs0");
    let mut daemon = follow(LogKind::Events, &set);
    let first = set.mark();
    daemon.wait_covered(&set);
    daemon.tool().backup(&[]);
    assert_eq!(daemon.stop(), 0);
    // With the huge one the server throws away what it would have sent in the same batch.
    let orders = set.collection("shop.orders");
    set.block_on(async {
        let rows = (0..100).map(|id| doc! { "_id": id });
        orders.insert_many(rows).await
    })
    .expect("insert");
    let good = set.mark();
    set.mark();
    // It stands in the event three times: as the document, as its key, and, twice as long, in the resume token. A server refuses so
    // long a key while its cache is full.
    let huge = doc! { "_id": "x".repeat(9 << 19) };
    wait_until("the huge row to be there", Duration::from_secs(120), || {
        let inserted = set.block_on(async {
            let insert = orders.insert_one(huge.clone());
            insert.write_concern(WriteConcern::majority()).await
        });
        inserted.is_ok()
    });

    // Nothing else happens: where the log goes on is durable all the same.
    daemon.start();
    let runs = runs_with_a_gap(&mut daemon);
    assert!(good <= runs[0].1, "{good} came before it: {runs:?}");
    assert_shown(
        &daemon,
        &set,
        (runs[0].0, good),
        Asked::Single,
        "before the huge event",
    );
    let said = "the server cannot send an event";
    assert!(daemon.log().contains(said), "{}", daemon.log());
    let lost = set.mark();
    daemon.wait_covered(&set);
    assert_a_gap_is_never_bridged(&daemon, &set, (first, good, lost));
    let runs = daemon.archive().oplog_runs(daemon.identity());
    assert_eq!(runs.len(), 2, "one break is recorded");
}

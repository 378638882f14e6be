//! A change stream, archived event by event: through elections, kills of the daemon and of mongod, and a roll-over that nothing
//! bridges.

use std::time::Duration;

use bson::{Timestamp, doc};
use futures_util::TryStreamExt;
use mongodb::options::CursorType;
use pitr_integration::{Daemon, Mongo, MongoLoad, Settings, Site, wait_until};
use pitr_mongodb::ClusterTime;

/// Every event from `from` up to and including `to`, word for word, as a stream of our own sees it.
fn events(set: &Mongo, from: ClusterTime, to: ClusterTime, pre_images: bool) -> Vec<Vec<u8>> {
    let mut stage = doc! {
        "allChangesForCluster": true, "showExpandedEvents": true, "showRawUpdateDescription": true, "showSystemEvents": true,
        "showMigrationEvents": true, "startAtOperationTime": Timestamp::from(from),
    };
    if pre_images {
        stage.insert("fullDocumentBeforeChange", "whenAvailable");
    }
    let command = doc! {
        "aggregate": 1, "pipeline": [{ "$changeStream": stage }], "cursor": {}, "readConcern": { "level": "majority" },
    };
    let client = set.client();
    set.block_on(async {
        let admin = client.database("admin");
        let run = admin.run_cursor_command(command);
        let run = run
            .cursor_type(CursorType::TailableAwait)
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

/// Everything that is archived is what the source's stream shows, word for word, in one unbroken run.
#[track_caller]
fn assert_whole(daemon: &Daemon, set: &Mongo, context: &str) {
    assert_same(daemon, set, true, context);
}

#[track_caller]
fn assert_same(daemon: &Daemon, set: &Mongo, pre_images: bool, context: &str) {
    let (archive, identity) = (daemon.archive(), daemon.identity());
    let runs = archive.oplog_runs(identity);
    assert_eq!(
        runs.len(),
        1,
        "{context}: a break was recorded\n{}",
        daemon.log()
    );
    let archived = archive.oplog(identity, runs[0]);
    let own = events(set, runs[0].0, runs[0].1, pre_images);
    let different = archived.iter().zip(&own).position(|(a, b)| a != b);
    assert!(
        archived.len() == own.len() && different.is_none(),
        "{context}: {} events are archived and {} in the stream, the first that differs is {different:?}",
        archived.len(),
        own.len()
    );
    assert!(!archived.is_empty(), "{context}: nothing is archived");
}

/// Operations of every kind, a transaction among them whose events share one cluster time.
fn work(set: &Mongo) {
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
    for name in ["capped", "view", "renamed"] {
        set.run("shop", doc! { "drop": name });
    }
}

fn transaction(set: &Mongo, ids: std::ops::Range<i32>) {
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

#[test]
fn every_event_is_archived_as_the_stream_shows_it() {
    let site = Site::new("eround");
    let set = Mongo::single(&site, "rs0");
    let mut daemon = Daemon::follow_events(&set, "pitrd");
    assert!(
        daemon.log().contains("does not see users and roles"),
        "{}",
        daemon.log()
    );
    work(&set);
    daemon.wait_covered(&set);
    assert_whole(&daemon, &set, "while it runs");
    assert_eq!(daemon.stop(), 0);
    work(&set);
    daemon.start();
    daemon.wait_covered(&set);
    assert_whole(&daemon, &set, "after a restart");
    daemon.tool().run(&["verify", "--deep"]).success("verify");
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

#[test]
fn kills_of_the_daemon_under_load_neither_lose_nor_double_an_event() {
    let kills: u64 = std::env::var("PITRD_KILLS").map_or(6, |text| text.parse().expect("a number"));
    let site = Site::new("ekills");
    let set = Mongo::single(&site, "rs0");
    let mut settings = Settings::events(&set, "pitrd");
    settings.bytes_max = "64 KiB".to_owned();
    let mut daemon = Daemon::prepare(&site, settings);
    daemon.start();
    daemon.wait_following(1);
    let load = MongoLoad::start(&set.uri(), 3);
    for kill in 0..kills {
        // Larger than a segment: its events lie in one all the same.
        let first = 10_000 + 200 * i32::try_from(kill).expect("a few kills");
        transaction(&set, first..first + 120);
        // Some lives end while they are starting.
        let life = if kill % 3 == 2 {
            60
        } else {
            300 + 137 * kill % 500
        };
        std::thread::sleep(Duration::from_millis(life));
        assert!(daemon.runs(), "life {kill}:\n{}", daemon.log());
        daemon.kill();
        daemon.start();
    }
    let written = load.finish();
    daemon.wait_covered(&set);
    assert_whole(
        &daemon,
        &set,
        &format!("after {kills} kills, {written} writes"),
    );
    daemon.tool().run(&["verify", "--deep"]).success("verify");
}

#[test]
fn an_election_and_a_killed_primary_lose_nothing() {
    let site = Site::new("eelect");
    let mut set = Mongo::three(&site, "rs0");
    let daemon = Daemon::follow_events(&set, "pitrd");
    let load = MongoLoad::start(&set.uri(), 2);
    let writes_go_on = |load: &MongoLoad| {
        let before = load.count();
        wait_until("writes", Duration::from_secs(90), || {
            load.count() > before + 50
        });
    };
    writes_go_on(&load);
    set.step_down();
    writes_go_on(&load);
    daemon.wait_covered(&set);
    assert_whole(&daemon, &set, "after an election");
    let primary = set.wait_primary();
    set.kill(primary);
    writes_go_on(&load);
    set.start(primary);
    load.finish();
    daemon.wait_covered(&set);
    assert_whole(&daemon, &set, "after the primary was killed");
}

#[test]
fn a_killed_server_that_comes_back_loses_nothing() {
    let site = Site::new("ekill1");
    let mut set = Mongo::single(&site, "rs0");
    let daemon = Daemon::follow_events(&set, "pitrd");
    let load = MongoLoad::start(&set.uri(), 2);
    std::thread::sleep(Duration::from_secs(1));
    set.kill(0);
    std::thread::sleep(Duration::from_millis(500));
    set.start(0);
    set.wait_primary();
    let before = load.count();
    wait_until("writes after the restart", Duration::from_secs(90), || {
        load.count() > before + 50
    });
    load.finish();
    daemon.wait_covered(&set);
    assert_whole(&daemon, &set, "after the server was killed");
}

#[test]
fn an_oplog_that_rolled_over_is_a_gap_that_is_named_and_never_bridged() {
    let site = Site::new("eroll");
    let set = Mongo::start_new(&site, "rs0", 1, &["--oplogSize", "2"]);
    let mut daemon = Daemon::follow_events(&set, "pitrd");
    let first = set.mark();
    daemon.wait_covered(&set);
    daemon.tool().backup(&["--label", "before"]);
    let good = set.mark();
    daemon.wait_covered(&set);
    assert_eq!(daemon.stop(), 0);
    let bulk = set.collection("shop.bulk");
    let end = daemon
        .archive()
        .oplog_end(daemon.identity())
        .expect("something is archived");
    wait_until("the oplog to roll over", Duration::from_secs(300), || {
        let rows = (0..200).map(|_| doc! { "text": "x".repeat(10_000) });
        set.block_on(async { bulk.insert_many(rows).await })
            .expect("insert");
        let oldest = set.run(
            "local",
            doc! { "find": "oplog.rs", "limit": 1, "singleBatch": true },
        );
        let batch = oldest
            .get_document("cursor")
            .and_then(|cursor| cursor.get_array("firstBatch"));
        let entry = batch.expect("a batch")[0]
            .as_document()
            .expect("an entry")
            .clone();
        ClusterTime::from(entry.get_timestamp("ts").expect("a time")) > end
    });

    daemon.start();
    daemon.wait_following(2);
    let lost = set.mark();
    daemon.wait_covered(&set);
    let runs = daemon.archive().oplog_runs(daemon.identity());
    assert_eq!(runs.len(), 2, "one break is recorded");
    assert!(runs[0].1 < runs[1].0);
    assert!(daemon.log().contains("rolled over"), "{}", daemon.log());
    let tool = daemon.tool();
    let status = tool.run(&["status"]).said();
    assert!(status.contains("gap      ts:"), "{status}");

    // Before the gap all is well, past it nothing is promised until there is a new base copy.
    let plan = |ts: ClusterTime| tool.run(&["plan", "--to", &format!("ts:{ts}")]);
    plan(good).success("plan before the gap");
    plan(first).exits(3, "plan before the base copy");
    let refused = plan(lost).exits(3, "plan past the gap");
    assert!(refused.said().contains("gap"), "{}", refused.said());
    tool.backup(&[]);
    let after = set.mark();
    daemon.wait_covered(&set);
    plan(after).success("plan after a new base copy");
    plan(lost).exits(3, "plan between the gap and the base copy");
}

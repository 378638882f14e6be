//! The oplog, archived entry by entry: through elections, kills of the daemon and of mongod, and a roll-over that nothing bridges.

use std::time::Duration;

use bson::doc;
use pitr_integration::{Daemon, Mongo, MongoLoad, Settings, Site, wait_until};

/// Operations of every kind.
fn work(set: &Mongo) {
    let orders = set.collection("shop.orders");
    set.block_on(async {
        for number in 0..500 {
            let order = doc! { "_id": number, "items": [1, 2, 3], "text": "x".repeat(200) };
            orders.insert_one(order).await?;
        }
        orders
            .update_many(doc! {}, doc! { "$set": { "items.1": "two" } })
            .await?;
        orders.delete_many(doc! { "_id": { "$lt": 50 } }).await?;
        let mut session = set.client().start_session().await?;
        session.start_transaction().await?;
        for number in 1000..1100 {
            let order = doc! { "_id": number };
            orders.insert_one(order).session(&mut session).await?;
        }
        session.commit_transaction().await
    })
    .expect("write");
    set.run(
        "shop",
        doc! { "createIndexes": "orders", "indexes": [{ "key": { "text": 1 }, "name": "text_1" }] },
    );
    set.run(
        "shop",
        doc! { "create": "capped", "capped": true, "size": 4096 },
    );
    set.run(
        "admin",
        doc! { "renameCollection": "shop.orders", "to": "shop.renamed" },
    );
    set.run("shop", doc! { "drop": "capped" });
}

/// Everything that is archived is what the source has, word for word, in one unbroken run.
fn assert_whole(daemon: &Daemon, set: &Mongo, context: &str) {
    let (archive, identity) = (daemon.archive(), daemon.identity());
    let runs = archive.oplog_runs(identity);
    assert_eq!(runs.len(), 1, "{context}: a break was recorded");
    let archived = archive.oplog(identity, runs[0]);
    set.assert_archived(set.wait_primary(), &archived, context);
}

#[test]
fn every_entry_is_archived_as_the_source_has_it() {
    let site = Site::new("mround");
    let set = Mongo::single(&site, "rs0");
    let mut daemon = Daemon::follow(&set, "pitrd");
    work(&set);
    daemon.wait_covered(&set);
    assert_whole(&daemon, &set, "while it runs");
    assert_eq!(daemon.stop(), 0);
    work_again(&set);
    daemon.start();
    daemon.wait_covered(&set);
    assert_whole(&daemon, &set, "after a restart");
    daemon.tool().run(&["verify", "--deep"]).success("verify");
    let check = daemon.check().success("pitrd --check");
    assert!(check.stdout.contains("oplog window"), "{}", check.stdout);
}

fn work_again(set: &Mongo) {
    set.run("shop", doc! { "drop": "renamed" });
    work(set);
}

#[test]
fn an_election_in_the_middle_loses_nothing() {
    let site = Site::new("melect");
    let set = Mongo::three(&site, "rs0");
    let daemon = Daemon::follow(&set, "pitrd");
    let load = MongoLoad::start(&set.uri(), 3);
    for election in 0..2 {
        std::thread::sleep(Duration::from_secs(2));
        set.step_down();
        let before = load.count();
        wait_until("writes after the election", Duration::from_secs(90), || {
            load.count() > before + 50
        });
        daemon.wait_covered(&set);
        assert_whole(&daemon, &set, &format!("after election {election}"));
    }
    assert!(load.finish() > 100);
}

#[test]
fn a_killed_primary_loses_nothing() {
    let site = Site::new("mkillp");
    let mut set = Mongo::three(&site, "rs0");
    let daemon = Daemon::follow(&set, "pitrd");
    let load = MongoLoad::start(&set.uri(), 3);
    std::thread::sleep(Duration::from_secs(1));
    let primary = set.wait_primary();
    set.kill(primary);
    let before = load.count();
    wait_until(
        "writes to the next primary",
        Duration::from_secs(90),
        || load.count() > before + 50,
    );
    set.start(primary);
    load.finish();
    daemon.wait_covered(&set);
    assert_whole(&daemon, &set, "after the primary was killed");
}

#[test]
fn a_killed_server_that_comes_back_loses_nothing() {
    let site = Site::new("mkill1");
    let mut set = Mongo::single(&site, "rs0");
    let daemon = Daemon::follow(&set, "pitrd");
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
fn kills_of_the_daemon_under_load_lose_nothing() {
    let kills: u64 = std::env::var("PITRD_KILLS").map_or(6, |text| text.parse().expect("a number"));
    let site = Site::new("mkills");
    let set = Mongo::single(&site, "rs0");
    let mut settings = Settings::mongodb(&set, "pitrd");
    settings.bytes_max = "64 KiB".to_owned();
    let mut daemon = Daemon::prepare(&site, settings);
    daemon.start();
    daemon.wait_following(1);
    let load = MongoLoad::start(&set.uri(), 4);
    for kill in 0..kills {
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
fn an_oplog_that_rolled_over_is_a_gap_that_is_named_and_never_bridged() {
    let site = Site::new("mroll");
    let set = Mongo::start_new(&site, "rs0", 1, &["--oplogSize", "2"]);
    let mut daemon = Daemon::follow(&set, "pitrd");
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
    wait_until("the oplog to roll over", Duration::from_secs(120), || {
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
        pitr_mongodb::ClusterTime::from(entry.get_timestamp("ts").expect("a time")) > end
    });

    daemon.start();
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
    let plan = |ts: pitr_mongodb::ClusterTime| tool.run(&["plan", "--to", &format!("ts:{ts}")]);
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

#[test]
fn another_replica_set_is_refused() {
    let site = Site::new("mother");
    let set = Mongo::single(&site, "rs0");
    let mut daemon = Daemon::follow(&set, "pitrd");
    assert_eq!(daemon.stop(), 0);
    let other = Mongo::start_new(&site, "rs0x", 1, &[]);
    let text = std::fs::read_to_string(daemon.configuration()).expect("read the configuration");
    let mut beside = daemon.beside("other", &text.replace(&set.uri(), &other.uri()));
    beside.start();
    assert_eq!(beside.wait_end(), 5, "{}", beside.log());
    assert!(
        beside.log().contains("another replica set"),
        "{}",
        beside.log()
    );
}

#[test]
fn a_plan_ends_where_it_is_told_and_names_the_first_entry_left_out() {
    let site = Site::new("mplan");
    let set = Mongo::single(&site, "rs0");
    let daemon = Daemon::follow(&set, "pitrd");
    work(&set);
    let taken = daemon.tool().backup(&["--label", "nightly", "--json"]);
    let taken: serde_json::Value = serde_json::from_str(&taken.stdout).expect("JSON");
    assert_eq!(taken["restorable"], true, "{taken}");
    let first = set.mark();
    set.run("shop", doc! { "drop": "renamed" });
    let after = set.mark();
    daemon.wait_covered(&set);

    let plan = |arguments: &[&str]| {
        let mut all = vec!["plan", "--json", "--to"];
        all.extend_from_slice(arguments);
        let finished = daemon.tool().run(&all).success(&format!("{arguments:?}"));
        serde_json::from_str::<serde_json::Value>(&finished.stdout).expect("JSON")["way"].clone()
    };
    let way = plan(&[&format!("ts:{first}")]);
    assert_eq!(way["stop"], first.to_string());
    assert_eq!(way["last_in"]["ts"], first.to_string());
    assert_eq!(way["first_left_out"]["operation"], "drop", "{way}");
    let drop = format!(
        "ts:{}",
        way["first_left_out"]["ts"].as_str().expect("a time")
    );
    let way = plan(&[&drop, "--before"]);
    assert_eq!(way["first_left_out"]["operation"], "drop", "{way}");
    let time = way["first_left_out"]["time"]
        .as_str()
        .expect("a time")
        .to_owned();
    assert_eq!(plan(&[&drop])["last_in"]["operation"], "drop");
    assert_eq!(plan(&[&time])["last_in"]["operation"], "drop");
    assert_eq!(
        plan(&[&time, "--before"])["first_left_out"]["operation"],
        "drop"
    );
    assert_eq!(plan(&["latest"])["first_left_out"], serde_json::Value::Null);
    assert_eq!(plan(&["immediate"])["stop"], taken["t1"]);
    for (target, code) in [
        ("ts:1.1", 3),
        ("lsn:0/3000028", 2),
        ("2001-01-01T00:00:00+00:00", 3),
    ] {
        daemon
            .tool()
            .run(&["plan", "--to", target])
            .exits(code, target);
    }
    let beyond = format!("ts:{}.1", after.seconds() + 3600);
    daemon
        .tool()
        .run(&["plan", "--to", &beyond])
        .exits(3, "past the end");
}

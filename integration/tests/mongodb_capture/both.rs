//! What holds of either log: elections, kills of the daemon and of mongod lose nothing, and nothing bridges a roll-over.

use std::sync::Arc;
use std::time::Duration;

use bson::doc;
use pitr_integration::{Daemon, Mongo, MongoLoad, Site, wait_until};
use pitr_mongodb::{ClusterTime, LogKind};

use crate::source::{assert_whole, follow, settings, transaction, work};

fn site(kind: LogKind, name: &str) -> Arc<Site> {
    let prefix = match kind {
        LogKind::Oplog => 'm',
        LogKind::Events => 'e',
    };
    Site::new(&format!("{prefix}{name}"))
}

/// A daemon and its source, compared when it has run, ended and run again. To be dropped from right to left.
pub(crate) fn archived_over_a_restart(kind: LogKind) -> (Arc<Site>, Mongo, Daemon) {
    let site = site(kind, "round");
    let set = Mongo::single(&site, "rs0");
    let mut daemon = follow(kind, &set);
    work(&set);
    daemon.wait_covered(&set);
    assert_whole(kind, &daemon, &set, "while it runs");
    assert_eq!(daemon.stop(), 0);
    set.run("shop", doc! { "drop": "renamed" });
    work(&set);
    daemon.start();
    daemon.wait_covered(&set);
    assert_whole(kind, &daemon, &set, "after a restart");
    daemon.tool().run(&["verify", "--deep"]).success("verify");
    (site, set, daemon)
}

fn elections_and_a_killed_primary(kind: LogKind) {
    let site = site(kind, "elect");
    let mut set = Mongo::three(&site, "rs0");
    let daemon = follow(kind, &set);
    let load = MongoLoad::start(&set.uri(), 2);
    let writes_go_on = |load: &MongoLoad| {
        let before = load.count();
        wait_until("writes", Duration::from_secs(90), || {
            load.count() > before + 50
        });
    };
    writes_go_on(&load);
    for election in 0..2 {
        set.step_down();
        writes_go_on(&load);
        daemon.wait_covered(&set);
        assert_whole(kind, &daemon, &set, &format!("after election {election}"));
    }
    let primary = set.wait_primary();
    set.kill(primary);
    writes_go_on(&load);
    set.start(primary);
    load.finish();
    daemon.wait_covered(&set);
    assert_whole(kind, &daemon, &set, "after the primary was killed");
}

#[test]
fn elections_and_a_killed_primary_lose_no_entry() {
    elections_and_a_killed_primary(LogKind::Oplog);
}

#[test]
fn elections_and_a_killed_primary_lose_no_event() {
    elections_and_a_killed_primary(LogKind::Events);
}

fn a_killed_server_that_comes_back(kind: LogKind) {
    let site = site(kind, "kill1");
    let mut set = Mongo::single(&site, "rs0");
    let daemon = follow(kind, &set);
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
    assert_whole(kind, &daemon, &set, "after the server was killed");
}

#[test]
fn a_killed_server_that_comes_back_loses_no_entry() {
    a_killed_server_that_comes_back(LogKind::Oplog);
}

#[test]
fn a_killed_server_that_comes_back_loses_no_event() {
    a_killed_server_that_comes_back(LogKind::Events);
}

fn kills_of_the_daemon(kind: LogKind) {
    let kills: u64 = std::env::var("PITRD_KILLS").map_or(6, |text| text.parse().expect("a number"));
    let site = site(kind, "kills");
    let set = Mongo::single(&site, "rs0");
    let mut settings = settings(kind, &set);
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
    let context = format!("after {kills} kills, {written} writes");
    assert_whole(kind, &daemon, &set, &context);
    daemon.tool().run(&["verify", "--deep"]).success("verify");
}

#[test]
fn kills_of_the_daemon_under_load_neither_lose_nor_double_an_entry() {
    kills_of_the_daemon(LogKind::Oplog);
}

#[test]
fn kills_of_the_daemon_under_load_neither_lose_nor_double_an_event() {
    kills_of_the_daemon(LogKind::Events);
}

/// Writes until the oldest entry of the oplog comes after `end`.
fn roll_over(set: &Mongo, end: ClusterTime) {
    let bulk = set.collection("shop.bulk");
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
        let entry = batch.expect("a batch")[0].as_document().expect("an entry");
        ClusterTime::from(entry.get_timestamp("ts").expect("a time")) > end
    });
}

fn an_oplog_that_rolled_over(kind: LogKind) {
    let site = site(kind, "roll");
    let set = Mongo::start_new(&site, "rs0", 1, &["--oplogSize", "2"]);
    let mut daemon = follow(kind, &set);
    let first = set.mark();
    daemon.wait_covered(&set);
    daemon.tool().backup(&["--label", "before"]);
    let good = set.mark();
    daemon.wait_covered(&set);
    assert_eq!(daemon.stop(), 0);
    let end = daemon.archive().oplog_end(daemon.identity());
    roll_over(&set, end.expect("something is archived"));

    daemon.start();
    daemon.wait_following(2);
    let lost = set.mark();
    daemon.wait_covered(&set);
    let runs = daemon.archive().oplog_runs(daemon.identity());
    assert_eq!(runs.len(), 2, "one break is recorded");
    assert!(runs[0].1 < runs[1].0);
    assert!(daemon.log().contains("rolled over"), "{}", daemon.log());
    assert_a_gap_is_never_bridged(&daemon, &set, (first, good, lost));
}

/// Before the gap all is well, past it nothing is promised until there is a new base copy. Of the three moments one lies before the
/// base copy, one behind it and before the gap, and one behind the gap.
#[track_caller]
pub(crate) fn assert_a_gap_is_never_bridged(
    daemon: &Daemon,
    set: &Mongo,
    (first, good, lost): (ClusterTime, ClusterTime, ClusterTime),
) {
    let tool = daemon.tool();
    let status = tool.run(&["status"]).said();
    assert!(status.contains("gap      ts:"), "{status}");
    let plan = |ts: ClusterTime| tool.run(&["plan", "--to", &format!("ts:{ts}")]);
    plan(good).success("plan before the gap");
    plan(first).exits(3, "plan before the base copy");
    let refused = plan(lost).exits(3, "plan past the gap");
    assert!(refused.said().contains("gap"), "{}", refused.said());
    tool.backup(&[]);
    let after = set.mark();
    daemon.wait_covered(set);
    plan(after).success("plan after a new base copy");
    plan(lost).exits(3, "plan between the gap and the base copy");
}

#[test]
fn an_oplog_that_rolled_over_is_a_gap_that_is_named_and_never_bridged() {
    an_oplog_that_rolled_over(LogKind::Oplog);
}

#[test]
fn a_stream_whose_oplog_rolled_over_has_a_gap_that_is_named_and_never_bridged() {
    an_oplog_that_rolled_over(LogKind::Events);
}

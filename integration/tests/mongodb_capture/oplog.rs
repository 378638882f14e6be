//! What is told of an archived oplog: whose it is, where a plan ends, under which feature compatibility version it was written.

use bson::doc;
use pitr_integration::{Daemon, Mongo, Settings, Site};
use pitr_mongodb::{ClusterTime, LogKind, LogSummary};

use crate::both::archived_over_a_restart;
use crate::source::work;

#[test]
fn every_entry_is_archived_as_the_source_has_it() {
    let (_site, _set, daemon) = archived_over_a_restart(LogKind::Oplog);
    let check = daemon.check().success("pitrd --check");
    assert!(check.stdout.contains("oplog window"), "{}", check.stdout);
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
    // The drop has a millisecond of its own: a target that is a wall-clock time takes in all that was written in it.
    let apart = || std::thread::sleep(std::time::Duration::from_millis(5));
    let first = set.mark();
    apart();
    set.run("shop", doc! { "drop": "renamed" });
    apart();
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

/// The changes of the feature compatibility version that the oplog tells of: when, and to what.
fn version_changes(set: &Mongo) -> Vec<(ClusterTime, String)> {
    let change = |entry: &bson::RawDocumentBuf| {
        let of = entry.get_document("o2").ok()?.get_str("_id").ok()?;
        let version = entry.get_document("o").ok()?.get_str("version").ok()?;
        let at = entry.get_timestamp("ts").ok()?.into();
        (of == "featureCompatibilityVersion").then(|| (at, version.to_owned()))
    };
    set.oplog(0).iter().filter_map(change).collect()
}

/// How many segments carry each version. Every one carries the one that held at its end; those before a change that the daemon knew to
/// lie ahead may carry none.
#[track_caller]
fn assert_versions(set: &Mongo, segments: &[(std::ops::Range<u64>, LogSummary)]) -> [usize; 3] {
    let changes = version_changes(set);
    let mut counts = [0; 3];
    for (positions, summary) in segments {
        let before = |(at, _): &&(ClusterTime, String)| at.0 < positions.end;
        let held = changes.iter().rfind(before);
        let held = held.map_or("6.0", |(_, version)| version);
        let found = ["6.0", "5.0", ""]
            .iter()
            .position(|fcv| *fcv == summary.fcv);
        assert!(
            summary.fcv == held || summary.fcv.is_empty(),
            "{positions:?} carries {:?} and not {held:?}: {changes:?}",
            summary.fcv
        );
        counts[found.expect("one of them")] += 1;
    }
    counts
}

fn set_version(set: &Mongo, version: &str) {
    set.run(
        "admin",
        doc! { "setFeatureCompatibilityVersion": version, "writeConcern": { "w": "majority" } },
    );
}

#[test]
fn segments_carry_the_compatibility_version_that_held_at_their_end() {
    let site = Site::new("mfcv");
    let set = Mongo::single(&site, "rs0");
    let mut settings = Settings::mongodb(&set, "pitrd");
    settings.bytes_max = "64 KiB".to_owned();
    let mut daemon = Daemon::prepare(&site, settings);
    daemon.start();
    daemon.wait_following(1);
    for version in ["5.0", "6.0"] {
        daemon.wait_covered(&set);
        set_version(&set, version);
    }
    daemon.wait_covered(&set);
    let segments = daemon.archive().summaries(daemon.identity());
    let [new, old, unknown] = assert_versions(&set, &segments);
    assert!(
        new >= 2 && old >= 1 && unknown == 0,
        "{new} {old} {unknown}"
    );

    // A daemon that was away meets the change later than whoever asks the server, which still has the version of then.
    assert_eq!(daemon.stop(), 0);
    change_amid_bulk(&set, "5.0");
    daemon.start();
    daemon.wait_covered(&set);
    let segments = daemon.archive().summaries(daemon.identity());
    let [_, later, unknown] = assert_versions(&set, &segments);
    assert!(later > old && unknown == 0, "{later} {unknown}");

    // Or no longer has it: what comes before the change is not said to be of any version.
    set.run(
        "admin",
        doc! { "setParameter": 1, "minSnapshotHistoryWindowInSeconds": 0 },
    );
    assert_eq!(daemon.stop(), 0);
    change_amid_bulk(&set, "6.0");
    daemon.start();
    daemon.wait_covered(&set);
    let segments = daemon.archive().summaries(daemon.identity());
    let [again, _, unknown] = assert_versions(&set, &segments);
    assert!(again > new && unknown >= 2, "{again} {unknown}");
}

/// Several segments before the change, and several after it.
fn change_amid_bulk(set: &Mongo, version: &str) {
    let bulk = set.collection("shop.bulk");
    let insert = || {
        let rows = (0..200).map(|_| doc! { "text": "x".repeat(1000) });
        set.block_on(async { bulk.insert_many(rows).await })
            .expect("insert")
    };
    insert();
    set_version(set, version);
    insert();
}

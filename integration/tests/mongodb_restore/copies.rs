//! Base copies that nobody waits for: one that is killed leaves nothing that looks whole, and the daemon takes them by itself.

use std::time::Duration;

use bson::doc;
use pitr_integration::{Daemon, Mongo, Settings, Signal, Site, wait_until};

use crate::compare::assert_restored;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(180);

#[test]
fn a_base_copy_that_is_killed_leaves_nothing_that_looks_whole() {
    let site = Site::new("mkillb");
    let source = Mongo::single(&site, "source");
    let rows = source.collection("shop.rows");
    // More than one part, so that one is there when the kill comes.
    for first in (0..5000).step_by(1000) {
        let batch = (first..first + 1000).map(|id| doc! { "_id": id, "text": "z".repeat(20_000) });
        source
            .block_on(async { rows.insert_many(batch).await })
            .unwrap();
    }
    let daemon = Daemon::follow(&source, "pitrd");
    let tool = daemon.tool();
    let mut copy = tool.spawn(&["backup", "--rate", "16 MiB/s"], "killed.log");
    wait_until("a part of the copy", PATIENCE, || {
        assert!(
            copy.ended().is_none(),
            "it ended first:\n{}",
            copy.log_tail()
        );
        !daemon.archive().base().is_empty()
    });
    copy.signal(Signal::Kill);
    copy.wait(PATIENCE);
    assert_eq!(daemon.archive().manifests(), Vec::<String>::new());
    daemon.wait_covered(&source);
    let status = tool.status();
    assert_eq!(status["base_backups"].as_array().map(Vec::len), Some(0));
    assert_eq!(
        status["incomplete_backups"].as_array().map(Vec::len),
        Some(1),
        "{status}"
    );
    tool.run(&["plan", "--to", "latest"])
        .exits(3, "a plan on a killed copy");
    tool.run(&["verify"]).success("verify beside a killed copy");

    // The next one is whole, and not mixed with what the killed one left.
    tool.backup(&[]);
    source.run(
        "shop",
        doc! { "insert": "rows", "documents": [{ "_id": -1 }] },
    );
    assert_restored(&site, &source, &daemon);
}

#[test]
fn the_daemon_takes_a_base_copy_at_once_and_the_next_when_that_is_old() {
    let site = Site::new("mevery");
    let source = Mongo::single(&site, "source");
    source.run(
        "shop",
        doc! { "insert": "rows", "documents": [{ "_id": 1 }] },
    );
    let mut settings = Settings::mongodb(&source, "pitrd");
    settings.more = "[backup]\nevery = \"60s\"".to_owned();
    let mut daemon = Daemon::prepare(&site, settings);
    daemon.start();
    let count = || daemon.archive().manifests().len();
    wait_until("the first base copy", PATIENCE, || count() == 1);
    wait_until("the second", PATIENCE, || count() == 2);
    daemon.wait_covered(&source);
    let status = daemon.tool().status();
    let moment = |index: usize| {
        let id = status["base_backups"][index]["id"].as_str().expect("an id");
        let parsed = jiff::fmt::strtime::parse("%Y%m%dT%H%M%SZ", id);
        let moment = parsed.and_then(|parsed| parsed.to_datetime());
        moment.expect("an id is a moment")
    };
    let between = moment(0).duration_until(moment(1));
    assert!(between.as_secs() >= 60, "they began {between} apart");
    let into = site.path("files");
    let restored = daemon.tool().restore(&["latest"], &into);
    restored.success("a restore on a scheduled copy");
    assert!(into.join("shop/rows.bson").exists());
}

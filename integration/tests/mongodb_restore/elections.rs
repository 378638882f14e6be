//! A replica set of three members whose primary changes and dies while it is archived: what is restored to behind that is what the
//! set held.

use std::time::Duration;

use bson::doc;
use pitr_integration::{Daemon, Mongo, MongoLoad, Site, wait_until};

use crate::compare::assert_restored;

fn writes_go_on(load: &MongoLoad) {
    let before = load.count();
    wait_until("writes", Duration::from_secs(120), || {
        load.count() > before + 50
    });
}

fn restored_behind_elections(name: &str, follow: fn(&Mongo, &str) -> Daemon) {
    let site = Site::new(name);
    let mut source = Mongo::three(&site, "source");
    source.run(
        "shop",
        doc! { "insert": "rows", "documents": [{ "_id": 1, "of": "the first primary" }] },
    );
    let daemon = follow(&source, "pitrd");
    let load = MongoLoad::start(&source.uri(), 2);
    writes_go_on(&load);
    daemon.tool().backup(&[]);
    writes_go_on(&load);
    let first = source.wait_primary();
    let second = source.step_down();
    assert_ne!(first, second);
    writes_go_on(&load);
    source.kill(second);
    writes_go_on(&load);
    source.start(second);
    let written = load.finish();
    source.run(
        "shop",
        doc! { "insert": "rows", "documents": [{ "_id": 2, "of": "the last primary" }], "writeConcern": { "w": "majority" } },
    );
    let held = assert_restored(&site, &source, &daemon);
    assert!(written > 200 && held.collections.contains_key("load.w0"));
}

#[test]
fn what_is_restored_to_behind_elections_is_what_the_set_held() {
    restored_behind_elections("melected", Daemon::follow);
}

#[test]
fn what_is_restored_to_behind_elections_from_a_change_stream_is_what_the_set_held() {
    restored_behind_elections("eelected", Daemon::follow_events);
}

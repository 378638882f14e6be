//! A later 6.0, whose change streams cut events that are too large for one reply into fragments: nothing of them is left out, and both
//! of its logs are restored from.

use bson::{Document, RawDocumentBuf, doc};
use pitr_integration::{Daemon, Mongo, Release, Site};

use crate::compare::assert_restored;
use crate::workload;

/// What one reply of a server holds.
const REPLY_BYTES_MAX: usize = 16 << 20;

/// A document of nine MiB and a little.
fn large(id: i32, letter: &str) -> Document {
    doc! { "_id": id, "text": letter.repeat(9 << 20) }
}

/// Archived events that no server can send in one reply.
fn oversized(daemon: &Daemon) -> Vec<RawDocumentBuf> {
    let (archive, identity) = (daemon.archive(), daemon.identity());
    let runs = archive.oplog_runs(identity);
    assert_eq!(runs.len(), 1, "a break was recorded\n{}", daemon.log());
    let events = archive.oplog(identity, runs[0]).into_iter();
    events
        .filter(|event| event.len() > REPLY_BYTES_MAX)
        .map(|event| RawDocumentBuf::from_bytes(event).expect("BSON"))
        .collect()
}

#[test]
fn an_event_that_is_too_large_for_a_reply_is_archived_whole_and_restored() {
    let site = Site::new("mfragments");
    let source = Mongo::of(Release::V6_0_27, &site, "source");
    let kept = doc! { "create": "orders", "changeStreamPreAndPostImages": { "enabled": true } };
    source.run("shop", kept);
    let orders = source.collection("shop.orders");
    source
        .block_on(async { orders.insert_many([large(1, "a"), large(2, "b")]).await })
        .expect("insert");
    let mut daemon = Daemon::follow_events(&source, "pitrd");
    daemon.tool().backup(&[]);
    let change = |id: i32, letter: &str| {
        let set = doc! { "$set": { "text": letter.repeat(9 << 20) } };
        source.block_on(async {
            orders.insert_one(doc! { "_id": 10 * id }).await?;
            orders.update_one(doc! { "_id": id }, set).await?;
            orders.replace_one(doc! { "_id": id }, large(id, "r")).await
        })
    };
    change(1, "c").expect("write");
    daemon.wait_covered(&source);
    assert_eq!(daemon.stop(), 0);
    // The next life of the daemon begins behind such an event, and with one.
    change(2, "d").expect("write");
    daemon.start();
    daemon.wait_covered(&source);
    source
        .block_on(async { orders.delete_one(doc! { "_id": 2 }).await })
        .expect("delete");
    let held = assert_restored(&site, &source, &daemon);
    assert_eq!(held.collections["shop.orders"].documents.len(), 3);
    let without = "without documents as they were before";
    assert!(!daemon.log().contains(without), "{}", daemon.log());
    let events = oversized(&daemon);
    assert_eq!(events.len(), 4, "two updates and two replacements");
    for event in events {
        let names: Vec<_> = event
            .iter()
            .map(|element| element.expect("an element").0.as_str())
            .collect();
        assert!(names.contains(&"fullDocumentBeforeChange"), "{names:?}");
        assert!(!names.contains(&"splitEvent"), "{names:?}");
    }
}

#[test]
fn the_oplog_of_a_later_release_is_restored_from() {
    let site = Site::new("mlate");
    let source = Mongo::of(Release::V6_0_27, &site, "source");
    workload::before(&source);
    let daemon = Daemon::follow(&source, "pitrd");
    daemon.wait_covered(&source);
    let writers = workload::Writers::start(&source);
    std::thread::scope(|scope| {
        let ddl = scope.spawn(|| workload::meanwhile(&source));
        daemon.tool().backup(&[]);
        ddl.join().expect("DDL during the copy");
    });
    workload::after(&source);
    assert!(writers.stop() > 100);
    assert_restored(&site, &source, &daemon);
}

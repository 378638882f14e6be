use bson::{Bson, Document as Plain, doc};

use super::*;
use crate::event::tests::event;
use crate::fold::catalogue::Catalogue;

/// What the oplog would have said, as text: kind, namespace, UUID's first byte, object, object2.
fn operations(keep: Keep, events: &[bson::RawDocumentBuf]) -> Result<Vec<String>, FoldError> {
    let mut replayed = Events::new(keep);
    let mut all = Vec::new();
    for event in events {
        replayed.push(event.as_bytes(), &mut |entry| {
            let plain = |document: Document<'_>| Plain::from_reader(document.bytes()).unwrap();
            let uuid = entry.uuid.map(|uuid| uuid.bytes()[0]);
            let object2 = entry.object2.map(plain);
            let (op, ns, object) = (entry.op, entry.namespace, plain(entry.object));
            all.push(format!("{op} {ns} {uuid:?} {object} {object2:?}"));
            Ok(())
        })?;
    }
    Ok(all)
}

fn one(kind: &str, more: Plain) -> Result<Vec<String>, FoldError> {
    operations(Keep::All, &[event(5, 1, kind, more)])
}

#[test]
fn changes_of_documents_are_what_the_oplog_says() {
    let key = doc! { "_id": 1 };
    let update = doc! { "documentKey": key.clone(), "rawUpdateDescription": { "$v": 2, "diff": { "u": { "a": 1 } } } };
    assert_eq!(
        one("update", update).unwrap(),
        [
            r#"u shop.orders Some(7) { "$v": 2, "diff": { "u": { "a": 1 } } } Some(Document({"_id": Int32(1)}))"#
        ]
    );
    let replace = doc! { "documentKey": key.clone(), "fullDocument": { "_id": 1.0, "b": 1 } };
    assert_eq!(
        one("replace", replace.clone()).unwrap(),
        [r#"u shop.orders Some(7) { "_id": 1, "b": 1 } Some(Document({"_id": Int32(1)}))"#]
    );
    assert_eq!(
        one("insert", replace).unwrap(),
        [r#"i shop.orders Some(7) { "_id": 1, "b": 1 } None"#]
    );
    assert_eq!(
        one("delete", doc! { "documentKey": key }).unwrap(),
        [r#"d shop.orders Some(7) { "_id": 1 } None"#]
    );
}

#[test]
fn an_update_without_what_the_oplog_says_is_refused_and_never_guessed() {
    let plain =
        doc! { "documentKey": { "_id": 1 }, "updateDescription": { "updatedFields": { "a": 1 } } };
    let error = one("update", plain).unwrap_err();
    assert!(matches!(error, FoldError::Malformed { .. }), "{error}");
}

#[test]
fn changes_of_the_catalogue_are_the_commands_that_made_them() {
    let description = |description: Plain| doc! { "operationDescription": description };
    assert_eq!(
        one("create", description(doc! { "capped": true })).unwrap(),
        [r#"c shop.$cmd Some(7) { "create": "orders", "capped": true } None"#]
    );
    let mut rename = description(doc! { "to": {}, "dropTarget": Bson::Null });
    rename.insert("to", doc! { "db": "store", "coll": "old" });
    assert_eq!(
        one("rename", rename).unwrap(),
        [
            r#"c shop.$cmd Some(7) { "renameCollection": "shop.orders", "to": "store.old", "dropTarget": null } None"#
        ]
    );
    let indexes = doc! { "indexes": [{ "name": "a" }, { "name": "b" }] };
    assert_eq!(
        one("createIndexes", description(indexes.clone())).unwrap(),
        [
            r#"c shop.$cmd Some(7) { "commitIndexBuild": "orders", "indexes": [{ "name": "a" }, { "name": "b" }] } None"#
        ]
    );
    assert_eq!(
        one("dropIndexes", description(indexes)).unwrap(),
        [
            r#"c shop.$cmd Some(7) { "dropIndexes": "orders", "index": "a" } None"#,
            r#"c shop.$cmd Some(7) { "dropIndexes": "orders", "index": "b" } None"#,
        ]
    );
    assert_eq!(
        one("modify", description(doc! { "cappedSize": 1 })).unwrap(),
        [r#"c shop.$cmd Some(7) { "collMod": "orders", "cappedSize": 1 } None"#]
    );
    assert_eq!(
        one("drop", doc! {}).unwrap(),
        [r#"c shop.$cmd Some(7) { "drop": "orders" } None"#]
    );
}

fn view(increment: u32, kind: &str, on: &str) -> bson::RawDocumentBuf {
    let more = doc! {
        "collectionUUID": Bson::Undefined, "operationDescription": { "viewOn": on, "pipeline": [] },
    };
    event(5, increment, kind, more)
}

#[test]
fn views_are_rows_that_end_with_their_database() {
    let gone = event(
        5,
        4,
        "dropDatabase",
        doc! { "collectionUUID": Bson::Undefined, "ns": { "db": "shop" } },
    );
    let events = [
        view(1, "create", "a"),
        view(2, "modify", "b"),
        view(3, "drop", ""),
        gone.clone(),
        view(5, "create", "c"),
    ];
    let found = operations(Keep::All, &events).unwrap();
    let views = |since: u32| {
        let since = if since > 0 {
            ClusterTime::new(5, since)
        } else {
            ClusterTime::default()
        };
        format!("Some({})", views_of("shop", since).bytes()[0])
    };
    let (before, after) = (views(0), views(4));
    let row = |on: &str| format!(r#"{{ "_id": "shop.orders", "viewOn": "{on}", "pipeline": [] }}"#);
    assert_eq!(
        found[..2],
        [
            format!(r#"c shop.$cmd {before} {{ "create": "system.views" }} None"#),
            format!("i shop.system.views {before} {} None", row("a")),
        ]
    );
    assert!(found[2].starts_with(&format!("u shop.system.views {before} {}", row("b"))));
    assert!(found[3].starts_with(&format!(
        r#"d shop.system.views {before} {{ "_id": "shop.orders" }}"#
    )));
    assert!(found[4].starts_with(&format!(
        r#"c shop.$cmd {before} {{ "drop": "system.views" }}"#
    )));
    assert_eq!(
        found[7],
        format!("i shop.system.views {after} {} None", row("c"))
    );
    // The catalogue ends with one collection of views, the later one.
    let (mut catalogue, mut replayed) = (Catalogue::default(), Events::new(Keep::Commands));
    for event in &events {
        replayed
            .push(event.as_bytes(), &mut |entry| catalogue.apply(entry))
            .unwrap();
    }
    let collections = catalogue.finish().unwrap();
    assert_eq!(
        collections.keys().collect::<Vec<_>>(),
        [&views_of("shop", ClusterTime::new(5, 4))]
    );
}

#[test]
fn what_is_not_known_is_named_and_what_changes_nothing_is_passed_over() {
    let error = one("reshardCollection", doc! {}).unwrap_err();
    assert!(error.to_string().contains("reshardCollection"), "{error}");
    for kind in ["invalidate", "endOfTransaction", "startIndexBuild"] {
        assert!(one(kind, doc! {}).unwrap().is_empty());
    }
}

#[test]
fn events_of_one_time_follow_each_other_and_none_comes_from_before() {
    let delete = |increment| event(5, increment, "delete", doc! { "documentKey": { "_id": 1 } });
    assert_eq!(
        operations(Keep::All, &[delete(1), delete(1), delete(2)])
            .unwrap()
            .len(),
        3
    );
    assert!(operations(Keep::All, &[delete(2), delete(1)]).is_err());
    assert!(operations(Keep::Commands, &[delete(1)]).unwrap().is_empty());
}

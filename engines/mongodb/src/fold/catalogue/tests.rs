use bson::{DateTime, Document as Plain, Timestamp, doc};

use super::*;
use crate::fold::{Keep, Unwrapper};

fn uuid(number: u8) -> Uuid {
    Uuid::from_bytes([number; 16])
}

/// Commands of databases on collections, in this order.
fn folded_onto(
    base: Vec<Collection>,
    log: &[(&str, u8, Plain)],
) -> Result<BTreeMap<Uuid, Collection>, FoldError> {
    let mut catalogue = Catalogue::new(base);
    let mut unwrapper = Unwrapper::new(Keep::Commands, std::env::temp_dir());
    for ((db, number, o), increment) in log.iter().zip(1..) {
        let mut entry = doc! {
            "op": "c", "ns": format!("{db}.$cmd"), "o": o.clone(), "ts": Timestamp { time: 100, increment },
            "wall": DateTime::from_millis(0),
        };
        if *number > 0 {
            entry.insert("ui", uuid(*number));
        }
        unwrapper.push(&entry.to_vec().unwrap(), &mut |entry| {
            catalogue.apply(entry)
        })?;
    }
    catalogue.finish()
}

fn folded(log: &[(&str, u8, Plain)]) -> Result<BTreeMap<Uuid, Collection>, FoldError> {
    folded_onto(Vec::new(), log)
}

fn names(collections: &BTreeMap<Uuid, Collection>) -> Vec<(u8, String)> {
    let name = |(uuid, collection): (&Uuid, &Collection)| (uuid.bytes()[0], collection.namespace());
    collections.iter().map(name).collect()
}

fn plain(bytes: &[u8]) -> Plain {
    Plain::from_reader(bytes).unwrap()
}

fn create(name: &str) -> Plain {
    doc! { "create": name, "idIndex": { "v": 2, "key": { "_id": 1 }, "name": "_id_" } }
}

#[test]
fn names_follow_the_uuid_across_databases_and_drops() {
    let log = [
        ("a", 1, create("x")),
        ("a", 2, create("y")),
        (
            "a",
            2,
            doc! { "renameCollection": "a.y", "to": "a.x", "stayTemp": false, "dropTarget": uuid(1) },
        ),
        (
            "b",
            3,
            doc! { "create": "tmp1.renameCollection", "temp": true },
        ),
        (
            "b",
            3,
            doc! { "renameCollection": "b.tmp1.renameCollection", "to": "b.x.z", "stayTemp": false },
        ),
        ("a", 2, doc! { "drop": "x" }),
        ("a", 4, create("x")),
        ("c", 5, create("x")),
        ("c", 5, doc! { "drop": "x" }),
        ("c", 0, doc! { "dropDatabase": 1 }),
    ];
    let collections = folded(&log).unwrap();
    assert_eq!(
        names(&collections),
        [(3, "b.x.z".into()), (4, "a.x".into())]
    );
    assert_eq!(plain(&collections[&uuid(3)].options), doc! {});
    assert_eq!(collections[&uuid(4)].indexes.len(), 1);
}

#[test]
fn a_copy_that_saw_the_end_already_leads_to_the_same_end() {
    let log = [
        ("a", 1, create("x")),
        (
            "a",
            1,
            doc! { "createIndexes": "x", "v": 2, "key": { "q": 1 }, "name": "q_1" },
        ),
        ("a", 1, doc! { "dropIndexes": "x", "index": "q_1" }),
        (
            "a",
            1,
            doc! { "createIndexes": "x", "v": 2, "key": { "q": -1 }, "name": "q_1" },
        ),
        (
            "a",
            1,
            doc! { "renameCollection": "a.x", "to": "a.y", "dropTarget": false },
        ),
        ("a", 1, doc! { "collMod": "y", "validationLevel": "off" }),
        ("a", 2, doc! { "collMod": "z", "validationLevel": "off" }),
        ("a", 2, doc! { "drop": "z" }),
        ("a", 0, doc! { "dropDatabase": 1 }),
        ("a", 3, create("new")),
    ];
    let end = folded(&log).unwrap();
    let base = end.values().cloned().collect();
    let again = folded_onto(base, &log).unwrap();
    assert_eq!(end, again);
    assert_eq!(names(&end), [(1, "a.y".into()), (3, "a.new".into())]);
    let indexes = &end[&uuid(1)].indexes;
    assert_eq!(
        plain(&indexes[1]),
        doc! { "v": 2, "key": { "q": -1 }, "name": "q_1" }
    );
}

#[test]
fn indexes_come_change_and_go_by_name() {
    let built = doc! { "v": 2, "key": { "t": 1 }, "name": "t_1", "expireAfterSeconds": 5 };
    let mut log = vec![
        ("a", 1, create("x")),
        (
            "a",
            1,
            doc! { "startIndexBuild": "x", "indexBuildUUID": uuid(9), "indexes": [built.clone()] },
        ),
        (
            "a",
            1,
            doc! { "commitIndexBuild": "x", "indexBuildUUID": uuid(9), "indexes": [built] },
        ),
        (
            "a",
            1,
            doc! { "startIndexBuild": "x", "indexBuildUUID": uuid(8), "indexes": [{ "name": "never" }] },
        ),
        (
            "a",
            1,
            doc! { "abortIndexBuild": "x", "indexBuildUUID": uuid(8), "indexes": [{ "name": "never" }] },
        ),
        (
            "a",
            1,
            doc! { "collMod": "x", "index": { "name": "t_1", "expireAfterSeconds": 9_i64, "hidden": true } },
        ),
        (
            "a",
            1,
            doc! { "collMod": "x", "index": { "name": "gone", "hidden": true } },
        ),
        (
            "a",
            1,
            doc! { "createIndexes": "x", "v": 2, "key": { "u": 1 }, "name": "u_1" },
        ),
        (
            "a",
            1,
            doc! { "collMod": "x", "index": { "keyPattern": { "u": 1 }, "prepareUnique": true } },
        ),
        (
            "a",
            1,
            doc! { "collMod": "x", "index": { "name": "u_1", "unique": true } },
        ),
    ];
    let indexes = |log: &[(&str, u8, Plain)]| -> Vec<Plain> {
        let collection = folded(log).unwrap().remove(&uuid(1)).unwrap();
        collection
            .indexes
            .iter()
            .map(|index| plain(index))
            .collect()
    };
    let found = indexes(&log);
    let changed = doc! { "v": 2, "key": { "t": 1 }, "name": "t_1", "expireAfterSeconds": 9_i64, "hidden": true };
    let unique = doc! { "v": 2, "key": { "u": 1 }, "name": "u_1", "unique": true };
    assert_eq!(found[1..], [changed, unique]);
    log.push((
        "a",
        1,
        doc! { "collMod": "x", "index": { "name": "t_1", "hidden": false } },
    ));
    assert_eq!(indexes(&log)[1].get("hidden"), None);
    log.push(("a", 1, doc! { "dropIndexes": "x", "index": "*" }));
    assert_eq!(indexes(&log).len(), 1);
}

#[test]
fn options_are_those_that_the_source_shows_afterwards() {
    let options = |changes: &[Plain]| {
        let start = doc! {
            "create": "x", "capped": true, "size": 1024, "max": 5, "expireAfterSeconds": 60_i64,
            "timeseries": { "timeField": "t", "granularity": "minutes", "bucketMaxSpanSeconds": 86_400 },
        };
        let mut log = vec![("a", 1, start)];
        for change in changes {
            let mut command = doc! { "collMod": "x" };
            command.extend(change.clone());
            log.push(("a", 1, command));
        }
        plain(&folded(&log).unwrap()[&uuid(1)].options)
    };
    let validated = options(&[doc! { "validator": { "a": 1 }, "validationLevel": "moderate" }]);
    assert_eq!(validated.get_str("validationLevel").unwrap(), "moderate");
    assert_eq!(validated.get_str("validationAction").unwrap(), "error");
    let emptied = options(&[doc! { "validator": { "a": 1 } }, doc! { "validator": {} }]);
    assert!(!emptied.contains_key("validator") && emptied.contains_key("validationLevel"));
    let capped = options(&[doc! { "cappedSize": 2049_i64, "cappedMax": 0 }]);
    assert_eq!(
        (capped.get_i64("size").unwrap(), capped.get("max")),
        (2304, None)
    );
    assert_eq!(
        options(&[doc! { "expireAfterSeconds": "off" }]).get("expireAfterSeconds"),
        None
    );
    let images =
        |enabled: bool| options(&[doc! { "changeStreamPreAndPostImages": { "enabled": enabled } }]);
    assert!(images(true).contains_key("changeStreamPreAndPostImages"));
    assert!(!images(false).contains_key("changeStreamPreAndPostImages"));
    let series = options(&[doc! { "timeseries": { "granularity": "hours" } }]);
    let expected =
        doc! { "timeField": "t", "granularity": "hours", "bucketMaxSpanSeconds": 2_592_000 };
    assert_eq!(series.get_document("timeseries").unwrap(), &expected);
}

#[test]
fn what_is_not_known_is_named() {
    let says = |log: &[(&str, u8, Plain)], word: &str| {
        let error = folded(log).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    };
    says(
        &[("a", 1, doc! { "truncateRange": "a.x" })],
        "truncateRange",
    );
    says(
        &[
            ("a", 1, create("x")),
            ("a", 1, doc! { "collMod": "x", "newOption": 1 }),
        ],
        "newOption",
    );
    says(
        &[(
            "a",
            1,
            doc! { "collMod": "x", "index": { "name": "i", "newOption": 1 } },
        )],
        "newOption",
    );
    says(
        &[("a", 1, doc! { "dropIndexes": "x", "index": "i" })],
        "neither the base copy nor the log",
    );
    says(
        &[("a", 1, create("x")), ("a", 2, create("x"))],
        "two collections called a.x",
    );
    assert!(
        folded(&[
            ("config", 1, doc! { "truncateRange": 1 }),
            ("local", 1, create("x"))
        ])
        .unwrap()
        .is_empty()
    );
}

#[test]
fn a_change_of_the_compatibility_version_ends_the_fold() {
    let mut unwrapper = Unwrapper::new(Keep::Commands, std::env::temp_dir());
    let mut catalogue = Catalogue::default();
    let mut apply = |increment: u32, id: &str| {
        let entry = doc! {
            "op": "u", "ns": "admin.system.version", "ui": uuid(1), "o": { "$v": 2, "diff": { "u": { "version": "7.0" } } },
            "o2": { "_id": id }, "ts": Timestamp { time: 100, increment }, "wall": DateTime::from_millis(0),
        };
        unwrapper.push(&entry.to_vec().unwrap(), &mut |entry| {
            catalogue.apply(entry)
        })
    };
    apply(1, "authSchema").unwrap();
    assert!(matches!(
        apply(2, "featureCompatibilityVersion"),
        Err(FoldError::Compatibility { .. })
    ));
}

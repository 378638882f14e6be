use std::collections::BTreeMap;
use std::sync::Mutex;

use bson::{DateTime, Document as Plain, Timestamp, doc};
use proptest::prelude::*;

use super::*;
use crate::fold::{Keep, Unwrapper};

/// Keeps what it is given.
#[derive(Default)]
struct Kept(Mutex<BTreeMap<u32, Vec<Plain>>>);

impl Sink for Kept {
    fn documents(&self, collection: u32, batch: Batch) -> Result<(), FoldError> {
        let (mut rest, mut count) = (batch.bytes.as_slice(), 0);
        let mut kept = self.0.lock().unwrap();
        while !rest.is_empty() {
            let (document, after) = Document::split(rest).unwrap();
            let plain = Plain::from_reader(document.bytes()).unwrap();
            kept.entry(collection).or_default().push(plain);
            (rest, count) = (after, count + 1);
        }
        assert_eq!(count, batch.documents);
        Ok(())
    }
}

fn uuid(number: u8) -> Uuid {
    Uuid::from_bytes([number; 16])
}

fn wanted(number: u8) -> Wanted {
    Wanted {
        uuid: uuid(number),
        namespace: format!("a.c{number}"),
        ordered: None,
        id: None,
        filter: None,
    }
}

fn limits(memory_bytes: usize, threads: usize) -> Limits {
    Limits {
        memory_bytes,
        threads,
        scratch: std::env::temp_dir(),
    }
}

/// One step of a history: a collection, an id, and what happens.
#[derive(Clone, Debug)]
enum Step {
    Base(u8, i32),
    Insert(u8, i32),
    Set(u8, i32, i32),
    Replace(u8, i32),
    Delete(u8, i32),
}

fn entry(increment: u32, collection: u8, op: &str, o: Plain, o2: Option<Plain>) -> Vec<u8> {
    let mut entry = doc! {
        "op": op, "ns": format!("a.c{collection}"), "ui": uuid(collection), "o": o,
        "ts": Timestamp { time: 100, increment }, "wall": DateTime::from_millis(0),
    };
    if let Some(o2) = o2 {
        entry.insert("o2", o2);
    }
    entry.to_vec().unwrap()
}

fn fold(
    wanted: Vec<Wanted>,
    steps: &[Step],
    limits: Limits,
) -> (BTreeMap<u32, Vec<Plain>>, Folded) {
    let mut documents = Documents::new(wanted, BTreeSet::new(), 0, limits).unwrap();
    let mut unwrapper = Unwrapper::new(Keep::All, std::env::temp_dir());
    for (step, increment) in steps.iter().zip(1..) {
        let number = i64::from(increment);
        let bytes = match step {
            Step::Base(collection, id) => {
                let row = doc! { "_id": id, "n": 0_i64, "pad": "x".repeat(40) };
                documents
                    .base(uuid(*collection), &row.to_vec().unwrap())
                    .unwrap();
                continue;
            }
            Step::Insert(collection, id) => entry(
                increment,
                *collection,
                "i",
                doc! { "_id": id, "n": number },
                None,
            ),
            Step::Set(collection, id, value) => {
                let diff = doc! { "$v": 2, "diff": { "u": { "n": value } } };
                entry(increment, *collection, "u", diff, Some(doc! { "_id": id }))
            }
            Step::Replace(collection, id) => {
                let id = f64::from(*id);
                let new = doc! { "_id": id, "r": number };
                entry(increment, *collection, "u", new, Some(doc! { "_id": id }))
            }
            Step::Delete(collection, id) => {
                entry(increment, *collection, "d", doc! { "_id": id }, None)
            }
        };
        unwrapper
            .push(&bytes, &mut |entry| documents.apply(entry))
            .unwrap();
    }
    let kept = Kept::default();
    let folded = documents.finish(&kept).unwrap();
    (kept.0.into_inner().unwrap(), folded)
}

/// The same by a map.
fn model(steps: &[Step]) -> BTreeMap<(u8, i32), Plain> {
    let mut model = BTreeMap::new();
    for (step, number) in steps.iter().zip(1_i64..) {
        match step {
            Step::Base(collection, id) => {
                model.insert(
                    (*collection, *id),
                    doc! { "_id": id, "n": 0_i64, "pad": "x".repeat(40) },
                );
            }
            Step::Insert(collection, id) => {
                model.insert((*collection, *id), doc! { "_id": id, "n": number });
            }
            Step::Set(collection, id, value) => {
                if let Some(document) = model.get_mut(&(*collection, *id)) {
                    document.insert("n", value);
                }
            }
            Step::Replace(collection, id) => {
                model.insert(
                    (*collection, *id),
                    doc! { "_id": f64::from(*id), "r": number },
                );
            }
            Step::Delete(collection, id) => {
                model.remove(&(*collection, *id));
            }
        }
    }
    model
}

fn step() -> impl Strategy<Value = Step> {
    (0..5, 1..3_u8, 0..60_i32, any::<i32>()).prop_map(|(verb, collection, id, value)| match verb {
        0 => Step::Base(collection, id),
        1 => Step::Insert(collection, id),
        2 => Step::Set(collection, id, value),
        3 => Step::Replace(collection, id),
        _ => Step::Delete(collection, id),
    })
}

fn number(id: &bson::Bson) -> i32 {
    id.as_i32().unwrap_or_else(|| id.as_f64().unwrap() as i32)
}

proptest! {
    #[test]
    fn a_fold_is_what_a_map_makes_of_the_same_history(
        steps in prop::collection::vec(step(), 0..400),
        memory_bytes in prop_oneof![Just(2_000_usize), Just(1 << 26)],
        threads in 1..4_usize,
    ) {
        let (kept, folded) = fold(vec![wanted(1), wanted(2)], &steps, limits(memory_bytes, threads));
        let mut found = BTreeMap::new();
        for (collection, documents) in kept {
            for document in documents {
                let key = (collection as u8 + 1, number(document.get("_id").unwrap()));
                prop_assert!(found.insert(key, document).is_none(), "twice");
            }
        }
        let expected = model(&steps);
        for (index, content) in folded.contents.iter().enumerate() {
            let mut sum = Content::default();
            expected.iter().filter(|(key, _)| usize::from(key.0) == index + 1).for_each(|(_, document)| {
                sum.add(&document.to_vec().unwrap());
            });
            prop_assert_eq!(*content, sum);
        }
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn partitions_larger_than_memory_are_dealt_out_again() {
    let steps: Vec<_> = (0..40_000)
        .map(|id| Step::Base(1, id))
        .chain((0..40_000).map(|id| Step::Set(1, id, 7)))
        .collect();
    let (kept, folded) = fold(vec![wanted(1)], &steps, limits(256 * 1024, 2));
    assert_eq!(kept[&0].len(), 40_000);
    assert!(
        kept[&0]
            .iter()
            .all(|document| document.get_i32("n").unwrap() == 7)
    );
    // Everything is written when it is dealt out, and most of it once more.
    let record = 40_000 * (2 * 41 + 80 + 19);
    assert!(folded.spilled_bytes > record, "{}", folded.spilled_bytes);
}

#[test]
fn a_capped_collection_keeps_the_order_of_the_log_and_only_what_fits() {
    let capped = |documents| Wanted {
        ordered: Some(Cap {
            bytes: 1 << 20,
            documents,
        }),
        ..wanted(1)
    };
    // The base copy saw 50 to 99 already; the log begins before them.
    let seen = (50..100).map(|id| Step::Base(1, id));
    let steps: Vec<_> = seen.chain((0..120).map(|id| Step::Insert(1, id))).collect();
    for memory_bytes in [2_000, 1 << 26] {
        for documents in [10, 1000] {
            let (kept, folded) = fold(vec![capped(documents)], &steps, limits(memory_bytes, 2));
            let ids: Vec<i32> = kept[&0]
                .iter()
                .map(|document| document.get_i32("_id").unwrap())
                .collect();
            let first = 120 - i32::try_from(documents.min(120)).unwrap();
            assert_eq!(ids, (first..120).collect::<Vec<_>>());
            assert_eq!(folded.contents[0].documents, ids.len() as u64);
        }
    }
}

#[test]
fn only_the_documents_asked_for_are_handed_on() {
    let steps: Vec<_> = (0..100)
        .map(|id| Step::Base(1, id))
        .chain([Step::Set(1, 7, 5), Step::Set(1, 8, 5)])
        .collect();
    let one = Wanted {
        id: Some(doc! { "_id": 7.0 }.to_vec().unwrap()),
        ..wanted(1)
    };
    let (kept, folded) = fold(vec![one], &steps, limits(1 << 26, 1));
    assert_eq!(kept[&0].len(), 1);
    assert_eq!(
        (kept[&0][0].get_i32("_id").unwrap(), folded.operations),
        (7, 2)
    );
    let filtered = Wanted {
        filter: Some(Box::new(|document| {
            document.get("n").unwrap().and_then(Value::integer) == Some(5)
        })),
        ..wanted(1)
    };
    let (kept, folded) = fold(vec![filtered], &steps, limits(1 << 26, 1));
    assert_eq!((kept[&0].len(), folded.contents[0].documents), (2, 2));
}

#[test]
fn a_collection_that_nobody_described_is_refused_and_a_dropped_one_passed_over() {
    let bytes = entry(1, 9, "i", doc! { "_id": 1 }, None);
    let apply = |others: BTreeSet<Uuid>| {
        let mut documents = Documents::new(vec![wanted(1)], others, 0, limits(1 << 20, 1)).unwrap();
        let mut unwrapper = Unwrapper::new(Keep::All, std::env::temp_dir());
        unwrapper.push(&bytes, &mut |entry| documents.apply(entry))
    };
    assert!(
        matches!(apply(BTreeSet::new()), Err(FoldError::Collection { namespace, .. }) if namespace == "a.c9")
    );
    assert!(apply(BTreeSet::from([uuid(9)])).is_ok());
}

#[test]
fn a_failing_sink_ends_the_fold() {
    struct Full;
    impl Sink for Full {
        fn documents(&self, _: u32, _: Batch) -> Result<(), FoldError> {
            Err(FoldError::Sink("full".into()))
        }
    }
    let mut documents =
        Documents::new(vec![wanted(1)], BTreeSet::new(), 0, limits(1 << 20, 2)).unwrap();
    documents
        .base(uuid(1), &doc! { "_id": 1 }.to_vec().unwrap())
        .unwrap();
    assert_eq!(documents.finish(&Full).unwrap_err().to_string(), "full");
}

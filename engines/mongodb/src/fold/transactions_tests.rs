use bson::{Bson, DateTime, Document as Plain, Timestamp, Uuid, doc};

use super::*;

fn optime(increment: u32) -> Bson {
    let ts = Timestamp {
        time: u32::from(increment > 0) * 100,
        increment,
    };
    doc! { "ts": ts, "t": 1_i64 }.into()
}

fn entry(increment: u32, op: &str, o: Plain, more: Plain) -> Vec<u8> {
    let mut entry = doc! {
        "op": op, "ns": "a.b", "ui": Uuid::from_bytes([7; 16]), "o": o, "ts": Timestamp { time: 100, increment },
        "t": 1_i64, "v": 2_i64, "wall": DateTime::from_millis(5),
    };
    entry.extend(more);
    entry.to_vec().unwrap()
}

fn insert(id: i32) -> Plain {
    doc! { "op": "i", "ns": "a.b", "ui": Uuid::from_bytes([7; 16]), "o": { "_id": id } }
}

fn operations(ids: &[i32]) -> Vec<Plain> {
    ids.iter().map(|id| insert(*id)).collect()
}

/// An entry of the transaction `number` of one session; `previous` is the increment of the one before it.
fn part(increment: u32, number: i64, previous: u32, o: Plain) -> Vec<u8> {
    let more = doc! { "lsid": { "id": 1 }, "txnNumber": number, "prevOpTime": optime(previous) };
    entry(increment, "c", o, more)
}

/// The ids inserted, each with the increment at which it took effect.
fn effects_of(unwrapper: &mut Unwrapper, log: &[Vec<u8>]) -> Result<Vec<(i64, u32)>, FoldError> {
    let mut effects = Vec::new();
    for bytes in log {
        unwrapper.push(bytes, &mut |entry| {
            let id = entry.object.get("_id").unwrap().and_then(|id| id.integer());
            effects.push((id.unwrap_or(-1), entry.at.increment()));
            Ok(())
        })?;
    }
    Ok(effects)
}

fn effects(log: &[Vec<u8>]) -> Result<Vec<(i64, u32)>, FoldError> {
    effects_of(&mut Unwrapper::new(Keep::All, std::env::temp_dir()), log)
}

#[test]
fn a_batch_takes_effect_where_it_stands() {
    let log = [
        entry(1, "i", doc! { "_id": 1 }, doc! {}),
        entry(2, "c", doc! { "applyOps": operations(&[2, 3]) }, doc! {}),
        entry(3, "n", doc! { "msg": "" }, doc! {}),
        entry(
            4,
            "c",
            doc! { "applyOps": [{ "op": "c", "ns": "a.$cmd", "o": { "applyOps": operations(&[4]) } }] },
            doc! {},
        ),
    ];
    assert_eq!(effects(&log).unwrap(), [(1, 1), (2, 2), (3, 2), (4, 4)]);
}

#[test]
fn a_retryable_batch_is_no_transaction() {
    let more =
        doc! { "lsid": { "id": 1 }, "txnNumber": 4_i64, "multiOpType": 1, "prevOpTime": optime(7) };
    let log = [entry(
        9,
        "c",
        doc! { "applyOps": operations(&[1, 2]) },
        more,
    )];
    assert_eq!(effects(&log).unwrap(), [(1, 9), (2, 9)]);
}

#[test]
fn a_transaction_of_several_entries_takes_effect_at_its_last() {
    let log = [
        part(
            1,
            1,
            0,
            doc! { "applyOps": operations(&[1]), "partialTxn": true },
        ),
        entry(2, "i", doc! { "_id": 9 }, doc! {}),
        part(
            3,
            1,
            1,
            doc! { "applyOps": operations(&[2]), "partialTxn": true },
        ),
        part(
            4,
            1,
            3,
            doc! { "applyOps": operations(&[3]), "count": 3_i64 },
        ),
    ];
    assert_eq!(effects(&log).unwrap(), [(9, 2), (1, 4), (2, 4), (3, 4)]);
    assert_eq!(effects(&log[..3]).unwrap(), [(9, 2)]);
}

#[test]
fn a_prepared_transaction_takes_effect_at_its_commit_and_never_after_its_abort() {
    let prepared = [
        part(
            1,
            1,
            0,
            doc! { "applyOps": operations(&[1]), "partialTxn": true },
        ),
        part(
            2,
            1,
            1,
            doc! { "applyOps": operations(&[2]), "prepare": true },
        ),
        entry(3, "i", doc! { "_id": 9 }, doc! {}),
    ];
    let with = |end: Plain| [prepared.to_vec(), vec![part(4, 1, 2, end)]].concat();
    let commit =
        doc! { "commitTransaction": 1, "commitTimestamp": Timestamp { time: 100, increment: 3 } };
    assert_eq!(effects(&with(commit)).unwrap(), [(9, 3), (1, 4), (2, 4)]);
    assert_eq!(
        effects(&with(doc! { "abortTransaction": 1 })).unwrap(),
        [(9, 3)]
    );
    assert_eq!(effects(&prepared).unwrap(), [(9, 3)]);
}

#[test]
fn a_transaction_whose_beginning_is_missing_is_an_error() {
    let last = part(
        4,
        1,
        3,
        doc! { "applyOps": operations(&[3]), "count": 3_i64 },
    );
    let commit = part(4, 1, 3, doc! { "commitTransaction": 1 });
    let first = part(
        1,
        1,
        0,
        doc! { "applyOps": operations(&[1]), "partialTxn": true },
    );
    for log in [
        vec![last.clone()],
        vec![commit.clone()],
        vec![first.clone(), last],
        vec![first, commit],
    ] {
        let error = effects(&log).unwrap_err();
        assert!(
            matches!(error, FoldError::Transaction { at } if at.increment() == 4),
            "{error}"
        );
    }
}

#[test]
fn what_lies_in_scratch_files_takes_effect_in_the_same_order() {
    let mut log = Vec::new();
    for number in 0..40_u32 {
        let (session, turn) = (i64::from(number % 4), number / 4);
        let previous = if turn == 0 { 0 } else { number - 3 };
        let ids: Vec<i32> = (0..20).map(|id| (number * 100 + id) as i32).collect();
        let mut o = doc! { "applyOps": operations(&ids) };
        if turn < 9 {
            o.insert("partialTxn", true);
        }
        log.push(part(number + 1, session + 1, previous, o));
    }
    let scratch = tempfile::tempdir().unwrap();
    let mut small = Unwrapper::new(Keep::All, scratch.path().to_owned()).holding(3000);
    let spilled = effects_of(&mut small, &log).unwrap();
    assert_eq!(spilled, effects(&log).unwrap());
    assert_eq!(spilled.len(), 800);
    assert_eq!(small.held_bytes, 0);
}

#[test]
fn the_catalogue_holds_only_commands() {
    let create =
        doc! { "op": "c", "ns": "a.$cmd", "ui": Uuid::from_bytes([8; 16]), "o": { "create": "c" } };
    let log = [
        part(
            1,
            1,
            0,
            doc! { "applyOps": [insert(1), create], "partialTxn": true },
        ),
        part(
            2,
            1,
            1,
            doc! { "applyOps": operations(&[2]), "count": 3_i64 },
        ),
        entry(3, "i", doc! { "_id": 9 }, doc! {}),
    ];
    let mut unwrapper = Unwrapper::new(Keep::Commands, std::env::temp_dir());
    assert_eq!(effects_of(&mut unwrapper, &log).unwrap(), [(-1, 2)]);
}

#[test]
fn an_unknown_kind_of_operation_is_named() {
    let error = effects(&[entry(1, "xi", doc! { "_id": 1 }, doc! {})]).unwrap_err();
    assert!(error.to_string().contains("\"xi\""), "{error}");
    let error = effects(&[
        entry(2, "n", doc! {}, doc! {}),
        entry(2, "n", doc! {}, doc! {}),
    ])
    .unwrap_err();
    assert!(matches!(error, FoldError::Malformed { .. }));
}

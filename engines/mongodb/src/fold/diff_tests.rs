use bson::{Bson, Document as Plain, doc};
use proptest::prelude::*;

use super::*;

fn bytes(document: &Plain) -> Vec<u8> {
    document.to_vec().unwrap()
}

fn applied(before: &Plain, diff: &Plain) -> Result<Plain, DiffError> {
    let (before, diff) = (bytes(before), bytes(diff));
    let after = apply(Document::new(&before)?, Document::new(&diff)?)?;
    Ok(Plain::from_reader(after.as_slice()).unwrap())
}

#[track_caller]
fn check(before: &Plain, diff: &Plain, after: &Plain) {
    let found = applied(before, diff).unwrap();
    assert_eq!(bytes(&found), bytes(after), "{found} is not {after}");
}

#[test]
fn updated_fields_stay_where_they_are_and_inserted_ones_come_last() {
    let before = doc! { "_id": 1, "a": 1, "b": 2, "c": 3 };
    check(
        &before,
        &doc! { "d": { "b": false }, "u": { "a": "x" }, "i": { "e": 1, "d": 2 } },
        &doc! { "_id": 1, "a": "x", "c": 3, "e": 1, "d": 2 },
    );
    // On a document that has the field already, as in a replay, it moves to where the source has it.
    check(
        &before,
        &doc! { "i": { "a": 9 } },
        &doc! { "_id": 1, "b": 2, "c": 3, "a": 9 },
    );
    check(
        &before,
        &doc! { "u": { "z": 9 } },
        &doc! { "_id": 1, "a": 1, "b": 2, "c": 3, "z": 9 },
    );
}

#[test]
fn nested_documents_and_arrays_change_inside() {
    let before = doc! { "a": [1, 2, 3, { "x": 1 }], "n": { "m": { "k": 1 } } };
    let diff = doc! {
        "sa": { "a": true, "s3": { "u": { "x": 9 } } },
        "sn": { "sm": { "u": { "k": 2 }, "i": { "j": 1 } } },
    };
    check(
        &before,
        &diff,
        &doc! { "a": [1, 2, 3, { "x": 9 }], "n": { "m": { "k": 2, "j": 1 } } },
    );
    check(
        &before,
        &doc! { "sa": { "a": true, "l": 2 } },
        &doc! { "a": [1, 2], "n": { "m": { "k": 1 } } },
    );
    check(
        &before,
        &doc! { "sa": { "a": true, "l": 1, "u0": "first" } },
        &doc! { "a": ["first"], "n": { "m": { "k": 1 } } },
    );
}

#[test]
fn an_array_that_is_too_short_is_filled_with_null() {
    check(
        &doc! { "a": [1] },
        &doc! { "sa": { "a": true, "u4": 5 } },
        &doc! { "a": [1, null, null, null, 5] },
    );
    check(
        &doc! { "a": [] },
        &doc! { "sa": { "a": true, "l": 2 } },
        &doc! { "a": [null, null] },
    );
    check(
        &doc! { "a": [1] },
        &doc! { "sa": { "a": true, "s1": { "u": { "x": 1 } } } },
        &doc! { "a": [1, null] },
    );
}

#[test]
fn a_value_of_another_type_becomes_null_and_a_missing_one_stays_missing() {
    let diff = doc! { "sa": { "u": { "x": 1 } } };
    check(
        &doc! { "a": [1], "b": 1 },
        &diff,
        &doc! { "a": null, "b": 1 },
    );
    check(&doc! { "a": 7 }, &diff, &doc! { "a": null });
    check(&doc! { "b": 7 }, &diff, &doc! { "b": 7 });
    let diff = doc! { "sa": { "a": true, "u0": 1 } };
    check(&doc! { "a": { "0": 2 } }, &diff, &doc! { "a": null });
    check(
        &doc! { "l": [1, 2] },
        &doc! { "sl": { "a": true, "s1": { "u": { "x": 1 } } } },
        &doc! { "l": [1, null] },
    );
}

#[test]
fn fields_called_like_sections_are_no_sections() {
    check(
        &doc! { "s": { "u": 1 }, "u": { "s": 2 }, "": 3 },
        &doc! { "u": { "": 4 }, "ss": { "u": { "u": 9 } }, "su": { "d": { "s": false } } },
        &doc! { "s": { "u": 9 }, "u": {}, "": 4 },
    );
}

#[test]
fn what_is_not_understood_is_refused_and_never_skipped() {
    let refused = |diff: &Plain| applied(&doc! { "a": [1], "b": { "c": 1 } }, diff).unwrap_err();
    for (diff, error) in [
        (doc! { "b": { "b": { "o": 0 } } }, DiffError::Unknown),
        (doc! { "x": {} }, DiffError::Unknown),
        (doc! { "": {} }, DiffError::Unknown),
        (doc! { "u": 1 }, DiffError::Malformed),
        (doc! { "sb": 1 }, DiffError::Malformed),
        (doc! { "sb": { "x": {} } }, DiffError::Unknown),
        (doc! { "sa": { "a": true, "x": 1 } }, DiffError::Unknown),
        (doc! { "sa": { "a": true, "l": -1 } }, DiffError::Malformed),
        (doc! { "sa": { "a": true, "u-1": 1 } }, DiffError::Malformed),
        (
            doc! { "sa": { "a": true, "u3": 1, "u3": 2, "u2": 1 } },
            DiffError::Malformed,
        ),
        (
            doc! { "sa": { "a": true, "u4000000000": 1 } },
            DiffError::Malformed,
        ),
    ] {
        assert_eq!(refused(&diff), error, "{diff}");
    }
}

#[test]
fn the_form_of_an_update_is_told_as_the_server_tells_it() {
    let form = |o: &Plain| {
        let bytes = bytes(o);
        Update::new(Document::new(&bytes).unwrap()).map(|update| matches!(update, Update::Diff(_)))
    };
    assert_eq!(
        form(&doc! { "$v": 2, "diff": { "u": { "a": 1 } } }),
        Ok(true)
    );
    assert_eq!(form(&doc! { "_id": 1, "$v": 2, "diff": {} }), Ok(false));
    assert_eq!(form(&doc! { "$v": 2, "_id": 1 }), Ok(false));
    assert_eq!(form(&doc! { "a": 1 }), Ok(false));
    assert_eq!(
        form(&doc! { "$v": 1, "$set": { "a": 1 } }),
        Err(DiffError::Old)
    );
    assert_eq!(form(&doc! { "$set": { "a": 1 } }), Err(DiffError::Old));
    assert_eq!(form(&doc! { "$v": 3, "diff": {} }), Err(DiffError::Unknown));
    assert_eq!(
        form(&doc! { "$v": 2, "diff": [] }),
        Err(DiffError::Malformed)
    );
    assert_eq!(form(&doc! { "$v": 2 }), Err(DiffError::Malformed));
}

/// One random change; what it does depends on the state that it meets.
#[derive(Clone, Debug)]
struct Change {
    path: Vec<u8>,
    deed: u8,
    value: Bson,
}

fn value() -> impl Strategy<Value = Bson> {
    let leaf = prop_oneof![
        Just(Bson::Null),
        any::<i32>().prop_map(Bson::Int32),
        "[ab]{0,3}".prop_map(Bson::String),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Bson::Array),
            prop::collection::vec(("[abcs]", inner), 0..4)
                .prop_map(|fields| Bson::Document(fields.into_iter().collect())),
        ]
    })
}

fn change() -> impl Strategy<Value = Change> {
    let path = prop::collection::vec(any::<u8>(), 0..4);
    (path, any::<u8>(), value()).prop_map(|(path, deed, value)| Change { path, deed, value })
}

/// Changes `document` as a server would, and logs it as one.
fn change_document(document: &mut Plain, change: &Change, depth: usize, keep: &[&str]) -> Plain {
    let names: Vec<String> = document
        .keys()
        .filter(|name| !keep.contains(&name.as_str()))
        .cloned()
        .collect();
    let picked = change.path.get(depth).filter(|_| !names.is_empty());
    let picked = picked.map(|pick| names[usize::from(*pick) % names.len()].clone());
    if let Some(name) = &picked {
        let nested = match document.get_mut(name).unwrap() {
            Bson::Document(inner) => Some(change_document(inner, change, depth + 1, &[])),
            Bson::Array(inner) => change_array(inner, change, depth + 1),
            _ => None,
        };
        if let Some(nested) = nested {
            return doc! { format!("s{name}"): nested };
        }
    }
    let new = ["a", "b", "c", "s", "u", "l"][usize::from(change.deed / 4) % 6].to_owned();
    match (change.deed % 4, picked) {
        (0, Some(name)) => {
            document.remove(&name);
            doc! { "d": { name: false } }
        }
        (1, Some(name)) => {
            document.insert(&name, change.value.clone());
            doc! { "u": { name: change.value.clone() } }
        }
        _ if document.contains_key(&new) => {
            document.insert(&new, change.value.clone());
            doc! { "u": { new: change.value.clone() } }
        }
        _ => {
            document.insert(&new, change.value.clone());
            doc! { "i": { new: change.value.clone() } }
        }
    }
}

fn change_array(array: &mut Vec<Bson>, change: &Change, depth: usize) -> Option<Plain> {
    let pick = usize::from(*change.path.get(depth)?);
    let mut diff = doc! { "a": true };
    match change.deed % 3 {
        0 => {
            array.truncate(pick % (array.len() + 1));
            diff.insert("l", i32::try_from(array.len()).unwrap());
        }
        1 => {
            let index = pick % 6;
            array.resize(array.len().max(index + 1), Bson::Null);
            array[index] = change.value.clone();
            diff.insert(format!("u{index}"), change.value.clone());
        }
        _ => {
            let index = pick.checked_rem(array.len())?;
            let nested = match &mut array[index] {
                Bson::Document(inner) => change_document(inner, change, depth + 1, &[]),
                Bson::Array(inner) => change_array(inner, change, depth + 1)?,
                _ => return None,
            };
            diff.insert(format!("s{index}"), nested);
        }
    }
    Some(diff)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_whole_log_leads_from_any_later_state_to_the_same_last_one(
        start in value(),
        changes in prop::collection::vec(change(), 1..24),
    ) {
        let mut state = doc! { "_id": 1, "a": start };
        let (mut states, mut log) = (vec![bytes(&state)], Vec::new());
        for change in &changes {
            log.push(bytes(&change_document(&mut state, change, 0, &["_id"])));
            states.push(bytes(&state));
        }
        for (number, seen) in states.iter().enumerate() {
            let mut document = seen.clone();
            for (at, diff) in log.iter().enumerate() {
                let (before, diff) = (Document::new(&document).unwrap(), Document::new(diff).unwrap());
                document = apply(before, diff).unwrap();
                if number == 0 {
                    prop_assert_eq!(&document, &states[at + 1]);
                }
            }
            let show = |bytes: &[u8]| Plain::from_reader(bytes).unwrap().to_string();
            prop_assert_eq!(show(&document), show(&states[log.len()]), "from state {}", number);
            prop_assert_eq!(&document, &states[log.len()]);
        }
    }
}

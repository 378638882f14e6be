//! `collMod`: what changes of a collection's options, or of one of its indexes, as the catalogue shows it afterwards.

use super::options::{edit, get, remove, set};
use super::{Collection, index_name};
use crate::fold::entry::Entry;
use crate::fold::error::FoldError;
use crate::fold::raw::{Document, Element, Value, kind};

/// Capped sizes are multiples of this.
const CAPPED_BYTES: i64 = 256;

/// A `collMod` entry, checked: every field is known.
#[derive(Debug)]
pub(super) struct Change<'a> {
    fields: Vec<Element<'a>>,
}

impl<'a> Change<'a> {
    pub(super) fn read(entry: &Entry<'a>) -> Result<Self, FoldError> {
        let fields = entry
            .object
            .elements()
            .skip(1)
            .collect::<Result<Vec<_>, _>>();
        let fields = fields.map_err(FoldError::malformed(entry.at, "it is not BSON"))?;
        for field in &fields {
            let name = String::from_utf8_lossy(field.name);
            let unknown = |what| FoldError::Unknown { at: entry.at, what };
            match name.as_ref() {
                "index" => {
                    let fields = field
                        .value
                        .document()
                        .ok_or_else(|| unknown("collMod of an index".into()))?;
                    for field in fields.elements() {
                        let field =
                            field.map_err(FoldError::malformed(entry.at, "it is not BSON"))?;
                        let name = String::from_utf8_lossy(field.name);
                        if !KNOWN_OF_INDEX.contains(&name.as_ref()) {
                            return Err(unknown(format!("collMod of an index with {name:?}")));
                        }
                    }
                }
                name if KNOWN.contains(&name) => {}
                name => return Err(unknown(format!("collMod with {name:?}"))),
            }
        }
        Ok(Self { fields })
    }

    pub(super) fn apply(&self, collection: &mut Collection) {
        for field in &self.fields {
            match field.name {
                b"index" => {
                    if let Some(change) = field.value.document() {
                        change_index(collection, change);
                    }
                }
                name => change_option(
                    &mut collection.options,
                    &String::from_utf8_lossy(name),
                    field.value,
                ),
            }
        }
    }
}

const KNOWN: [&str; 11] = [
    "validator",
    "validationLevel",
    "validationAction",
    "changeStreamPreAndPostImages",
    "recordPreImages",
    "expireAfterSeconds",
    "timeseries",
    "cappedSize",
    "cappedMax",
    "viewOn",
    "pipeline",
];

const KNOWN_OF_INDEX: [&str; 6] = [
    "name",
    "keyPattern",
    "expireAfterSeconds",
    "hidden",
    "unique",
    "prepareUnique",
];

fn change_option(options: &mut Vec<u8>, name: &str, value: Value<'_>) {
    match name {
        "validator" => {
            let empty = value
                .document()
                .is_none_or(|validator| validator.elements().next().is_none());
            if empty {
                remove(options, name);
            } else {
                set(options, name, value);
            }
            default(options, "validationLevel", "strict");
            default(options, "validationAction", "error");
        }
        "changeStreamPreAndPostImages" => {
            let enabled = value
                .document()
                .and_then(|images| images.get("enabled").ok().flatten());
            set_if(options, name, value, enabled.is_some_and(Value::is_true));
        }
        "recordPreImages" => set_if(options, name, value, value.is_true()),
        "expireAfterSeconds" => set_if(options, name, value, value.kind != kind::STRING),
        "cappedSize" => {
            let bytes = value.integer().unwrap_or(0).max(1);
            let rounded = bytes.saturating_add(CAPPED_BYTES - 1) / CAPPED_BYTES * CAPPED_BYTES;
            set_number(options, "size", rounded);
        }
        "cappedMax" => match value.integer() {
            Some(documents @ 1..) => set_number(options, "max", documents),
            _ => remove(options, "max"),
        },
        "timeseries" => change_timeseries(options, value),
        // A view's definition stands in system.views.
        "viewOn" | "pipeline" => {}
        _ => set(options, name, value),
    }
}

fn set_if(options: &mut Vec<u8>, name: &str, value: Value<'_>, keep: bool) {
    if keep {
        set(options, name, value);
    } else {
        remove(options, name);
    }
}

fn set_number(options: &mut Vec<u8>, name: &str, number: i64) {
    let bytes = number.to_le_bytes();
    let value = Value {
        kind: kind::INT64,
        bytes: &bytes,
    };
    set(options, name, value);
}

fn default(options: &mut Vec<u8>, name: &str, text: &str) {
    if get(options, name).is_none() {
        edit(options, name, |out| {
            out.text(name, text);
        });
    }
}

/// The granularity decides how long a bucket may last.
fn change_timeseries(options: &mut Vec<u8>, change: Value<'_>) {
    let Some(before) = get(options, "timeseries").and_then(Value::document) else {
        return;
    };
    let mut after = before.bytes().to_vec();
    let fields = change.document().into_iter().flat_map(Document::elements);
    for field in fields.flatten() {
        set(
            &mut after,
            &String::from_utf8_lossy(field.name),
            field.value,
        );
        let span = match field.value.text() {
            Some("seconds") => 3600,
            Some("minutes") => 86_400,
            Some("hours") => 2_592_000,
            _ => continue,
        };
        edit(&mut after, "bucketMaxSpanSeconds", |out| {
            out.int32("bucketMaxSpanSeconds", span);
        });
    }
    let after = Value {
        kind: kind::DOCUMENT,
        bytes: &after,
    };
    set(options, "timeseries", after);
}

fn change_index(collection: &mut Collection, change: Document<'_>) {
    let field = |name| change.get(name).ok().flatten();
    let (name, key) = (field("name"), field("keyPattern"));
    let index = collection
        .indexes
        .iter_mut()
        .find(|index| match (name, key) {
            (Some(name), _) => index_name(index) == Some(name.bytes),
            (None, Some(key)) => get(index, "key").is_some_and(|found| found.bytes == key.bytes),
            (None, None) => false,
        });
    // An index that the base copy did not find was dropped later.
    let Some(index) = index else { return };
    if let Some(seconds) = field("expireAfterSeconds") {
        set(index, "expireAfterSeconds", seconds);
    }
    if let Some(hidden) = field("hidden") {
        set_if(index, "hidden", hidden, hidden.is_true());
    }
    if let Some(prepare) = field("prepareUnique") {
        set_if(index, "prepareUnique", prepare, prepare.is_true());
    }
    if let Some(unique) = field("unique") {
        set_if(index, "unique", unique, unique.is_true());
        remove(index, "prepareUnique");
    }
}

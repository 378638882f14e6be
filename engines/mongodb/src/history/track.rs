//! Follows one `_id` through the collections that ever had a name.

use std::collections::BTreeMap;

use bson::Uuid;

use super::{Change, Version};
use crate::ClusterTime;
use crate::fold::diff::{self, Update};
use crate::fold::key::{Key, key};
use crate::fold::raw::{Document, Value, kind};
use crate::fold::{Entry, FoldError};

/// Database and collection.
type Named = (String, String);

/// One collection and the document in it.
#[derive(Debug, Default)]
struct Place {
    name: Option<Named>,
    document: Option<Vec<u8>>,
    /// The base copy's row, and nothing since that says all of it.
    from_copy: bool,
}

/// The state while the log goes by.
#[derive(Debug)]
pub(super) struct Tracker {
    named: Named,
    key: Key,
    whole_from: ClusterTime,
    places: BTreeMap<Uuid, Place>,
    pub(super) versions: Vec<Version>,
}

/// The name that a collection has after `entry`; `None` if it does not get one.
pub(super) fn new_name(entry: &Entry<'_>) -> Result<Option<Named>, FoldError> {
    if entry.op != "c" {
        return Ok(None);
    }
    let (command, value) = entry.command()?;
    Ok(match command {
        "create" => value
            .text()
            .map(|name| (entry.database().to_owned(), name.to_owned())),
        "renameCollection" => {
            let to = entry.field("to")?.and_then(Value::text);
            to.and_then(|to| to.split_once('.'))
                .map(|(db, name)| (db.to_owned(), name.to_owned()))
        }
        _ => None,
    })
}

impl Tracker {
    pub(super) fn new(named: Named, key: Key, whole_from: ClusterTime) -> Self {
        Self {
            named,
            key,
            whole_from,
            places: BTreeMap::new(),
            versions: Vec::new(),
        }
    }

    /// What the base copy found.
    pub(super) fn copied(&mut self, uuid: Uuid, name: Named, document: Option<Vec<u8>>) {
        if name == self.named && document.is_some() {
            self.versions.push(Version {
                at: self.whole_from,
                wall_ms: None,
                change: Change::Copied,
                diff: None,
                document: document.clone(),
                provisional: true,
            });
        }
        let place = Place {
            name: Some(name),
            from_copy: document.is_some(),
            document,
        };
        self.places.insert(uuid, place);
    }

    /// Whether `entry`, of another collection, drops one that is followed.
    pub(super) fn drops(&self, entry: &Entry<'_>) -> Result<bool, FoldError> {
        Ok(dropped(entry)?.is_some_and(|uuid| self.places.contains_key(&uuid)))
    }

    /// Takes an operation.
    pub(super) fn apply(&mut self, entry: &Entry<'_>) -> Result<(), FoldError> {
        if entry.op == "c" {
            return self.command(entry);
        }
        let identified = if entry.op == "u" {
            entry.object2
        } else {
            Some(entry.object)
        };
        let id = identified.and_then(|object| object.get("_id").ok().flatten());
        if id.is_none_or(|id| key(0, id) != self.key) {
            return Ok(());
        }
        let Some(uuid) = entry.uuid else {
            return Ok(());
        };
        let place = self.places.entry(uuid).or_default();
        let failed = |error| FoldError::Update {
            at: entry.at,
            namespace: entry.namespace.to_owned(),
            error,
        };
        let mut changes = None;
        let change = match entry.op {
            "i" => Change::Inserted,
            "d" => Change::Deleted,
            _ => match Update::new(entry.object).map_err(failed)? {
                Update::Replacement(_) => Change::Replaced,
                Update::Diff(diff) => {
                    changes = Some(diff);
                    Change::Updated
                }
            },
        };
        place.document = match (changes, change) {
            (_, Change::Deleted) => None,
            (None, _) => Some(entry.object.bytes().to_vec()),
            (Some(diff), _) => {
                let before = place.document.take();
                let applied = before.map(|before| diff::apply(Document::new(&before)?, diff));
                applied.transpose().map_err(failed)?
            }
        };
        place.from_copy &= changes.is_some();
        if place.name.as_ref() == Some(&self.named) {
            let version = Version {
                at: entry.at,
                wall_ms: Some(entry.wall_ms),
                change,
                diff: changes.map(|diff| diff.bytes().to_vec()),
                document: place.document.clone(),
                provisional: place.from_copy && entry.at < self.whole_from,
            };
            self.versions.push(version);
        }
        Ok(())
    }

    fn command(&mut self, entry: &Entry<'_>) -> Result<(), FoldError> {
        if let Some(uuid) = dropped(entry)? {
            self.name(uuid, None, entry);
        }
        if let (Some(name), Some(uuid)) = (new_name(entry)?, entry.uuid) {
            self.name(uuid, Some(name), entry);
        }
        Ok(())
    }

    /// A collection gets a name, or loses the one it had.
    fn name(&mut self, uuid: Uuid, name: Option<Named>, entry: &Entry<'_>) {
        let place = self.places.entry(uuid).or_default();
        let had = place.name.as_ref() == Some(&self.named);
        let has = name.as_ref() == Some(&self.named);
        place.name = name;
        if had == has || place.document.is_none() {
            return;
        }
        self.versions.push(Version {
            at: entry.at,
            wall_ms: Some(entry.wall_ms),
            change: if has {
                Change::CollectionRenamed
            } else {
                Change::CollectionGone
            },
            diff: None,
            document: place.document.clone().filter(|_| has),
            provisional: place.from_copy && entry.at < self.whole_from,
        });
    }
}

/// The collection that `entry` drops, by itself or by renaming another one over it.
fn dropped(entry: &Entry<'_>) -> Result<Option<Uuid>, FoldError> {
    if entry.op != "c" {
        return Ok(None);
    }
    Ok(match entry.command()?.0 {
        "drop" => entry.uuid,
        "renameCollection" => {
            let target = entry
                .field("dropTarget")?
                .filter(|target| target.kind == kind::BINARY);
            target.and_then(Value::uuid).map(Uuid::from_bytes)
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use bson::{Bson, DateTime, Document as Plain, Timestamp, doc};

    use super::*;
    use crate::fold::{Keep, Unwrapper};

    fn uuid(number: u8) -> Uuid {
        Uuid::from_bytes([number; 16])
    }

    fn id_key() -> Key {
        let id = doc! { "_id": 1 }.to_vec().unwrap();
        key(0, Document::new(&id).unwrap().get("_id").unwrap().unwrap())
    }

    /// Follows `a.x` with the `_id` 1; the copy is whole at the increment `whole`.
    fn follow(
        copied: Option<Plain>,
        whole: u32,
        log: &[(u8, &str, Plain, Option<Plain>)],
    ) -> Vec<Version> {
        let named = ("a".to_owned(), "x".to_owned());
        let mut tracker = Tracker::new(named.clone(), id_key(), ClusterTime::new(100, whole));
        let row = copied.map(|row| row.to_vec().unwrap());
        tracker.copied(uuid(1), named, row);
        let mut unwrapper = Unwrapper::new(Keep::All, std::env::temp_dir());
        for ((number, op, o, o2), increment) in log.iter().zip(1..) {
            let mut entry = doc! {
                "op": op, "ns": "a.$cmd", "ui": uuid(*number), "o": o.clone(), "ts": Timestamp { time: 100, increment },
                "wall": DateTime::from_millis(7),
            };
            if let Some(o2) = o2 {
                entry.insert("o2", o2.clone());
            }
            unwrapper
                .push(&entry.to_vec().unwrap(), &mut |entry| tracker.apply(entry))
                .unwrap();
        }
        tracker.versions
    }

    fn shown(versions: &[Version]) -> Vec<(u32, Change, Option<Plain>, bool)> {
        let plain = |version: &Version| {
            version
                .document
                .as_deref()
                .map(|bytes| Plain::from_reader(bytes).unwrap())
        };
        let show = |version: &Version| {
            (
                version.at.increment(),
                version.change,
                plain(version),
                version.provisional,
            )
        };
        versions.iter().map(show).collect()
    }

    fn set(value: i32) -> (Plain, Option<Plain>) {
        let diff: Bson = doc! { "u": { "v": value } }.into();
        (doc! { "$v": 2, "diff": diff }, Some(doc! { "_id": 1.0 }))
    }

    #[test]
    fn every_change_of_the_document_and_of_its_collection_is_a_version() {
        let (update, of) = set(5);
        let log = [
            (1, "i", doc! { "_id": 2 }, None),
            (1, "i", doc! { "_id": 1, "v": 1 }, None),
            (1, "u", update, of),
            (
                1,
                "c",
                doc! { "renameCollection": "a.x", "to": "a.y" },
                None,
            ),
            (
                1,
                "u",
                doc! { "_id": 1, "away": true },
                Some(doc! { "_id": 1 }),
            ),
            (
                1,
                "c",
                doc! { "renameCollection": "a.y", "to": "a.x" },
                None,
            ),
            (1, "d", doc! { "_id": 1 }, None),
            (2, "c", doc! { "create": "x" }, None),
        ];
        let versions = follow(None, 0, &log);
        assert_eq!(
            shown(&versions),
            [
                (2, Change::Inserted, Some(doc! { "_id": 1, "v": 1 }), false),
                (3, Change::Updated, Some(doc! { "_id": 1, "v": 5 }), false),
                (4, Change::CollectionGone, None, false),
                (
                    6,
                    Change::CollectionRenamed,
                    Some(doc! { "_id": 1, "away": true }),
                    false
                ),
                (7, Change::Deleted, None, false),
            ]
        );
        assert_eq!(
            versions[1].diff,
            Some(doc! { "u": { "v": 5 } }.to_vec().unwrap())
        );
    }

    #[test]
    fn what_stands_on_an_unfinished_copy_is_provisional_until_something_says_all_of_it() {
        let step = |value| {
            let (update, of) = set(value);
            (1, "u", update, of)
        };
        let row = Some(doc! { "_id": 1, "v": 9, "late": true });
        let provisional = |log: &[_]| -> Vec<bool> {
            follow(row.clone(), 4, log)
                .iter()
                .map(|version| version.provisional)
                .collect()
        };
        assert_eq!(
            provisional(&[step(1), step(2), step(3), step(4), step(5)]),
            [true, true, true, true, false, false]
        );
        let replaced = (1, "u", doc! { "_id": 1, "v": 0 }, Some(doc! { "_id": 1 }));
        assert_eq!(
            provisional(&[step(1), replaced, step(3)]),
            [true, true, false, false]
        );
    }
}

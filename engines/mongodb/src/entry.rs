//! One oplog entry, as raw BSON: what capture, summaries and plans need of it, and not more. Entries pass through undecoded.

use std::borrow::Cow;

use bson::Uuid;
use bson::raw::{RawBsonRef, RawDocument};
use bson::spec::BinarySubtype;

use crate::ClusterTime;

/// The smallest BSON document: its length and the final zero.
const DOCUMENT_BYTES_MIN: usize = 5;

/// What an entry does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Op {
    /// `i`
    Insert,
    /// `u`
    Update,
    /// `d`
    Delete,
    /// `c`: commands, DDL and transactions.
    Command,
    /// `n`
    Noop,
    /// Another letter or word; later servers have `cd`, `ci`, `cu`, `km` and more.
    Other,
}

impl Op {
    /// From the field `op`.
    #[must_use]
    pub fn parse(op: &str) -> Self {
        match op {
            "i" => Self::Insert,
            "u" => Self::Update,
            "d" => Self::Delete,
            "c" => Self::Command,
            "n" => Self::Noop,
            _ => Self::Other,
        }
    }
}

/// The fields of an entry that everybody looks at; of an event what corresponds to them.
#[derive(Clone, Debug)]
pub struct Head<'a> {
    /// `ts`
    pub ts: ClusterTime,
    /// `t`, the election term; -1 where there is none.
    pub term: i64,
    /// `wall`, µs since the Unix epoch.
    pub wall: i64,
    /// `op`
    pub op: Op,
    /// `ns`
    pub ns: Cow<'a, str>,
    /// `ui`, the collection.
    pub uuid: Option<Uuid>,
    /// `o`
    pub object: Option<&'a RawDocument>,
    /// Of an event the command that made it, and what it was about.
    pub(crate) event: Option<(&'a str, Cow<'a, str>)>,
}

/// Bytes that are not an entry of an oplog.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EntryError {
    /// The bytes are not whole BSON documents.
    #[error("the bytes at offset {0} are not a BSON document")]
    Document(usize),
    /// A document without what every entry has.
    #[error("an entry of the log has no valid field {0:?}")]
    Field(&'static str),
}

impl<'a> Head<'a> {
    /// Reads the head of an entry.
    pub fn read(entry: &'a RawDocument) -> Result<Self, EntryError> {
        let (mut ts, mut op) = (None, None);
        let mut head = Self {
            ts: ClusterTime::default(),
            term: -1,
            wall: 0,
            op: Op::Other,
            ns: Cow::Borrowed(""),
            uuid: None,
            object: None,
            event: None,
        };
        let mut wall = None;
        for element in entry.iter_elements() {
            let element = element.map_err(|_| EntryError::Document(0))?;
            let name = element.key().as_str();
            if !matches!(name, "ts" | "t" | "wall" | "op" | "ns" | "ui" | "o") {
                continue;
            }
            let value = element.value().map_err(|_| EntryError::Document(0))?;
            match (name, value) {
                ("ts", RawBsonRef::Timestamp(time)) => ts = Some(time.into()),
                ("t", RawBsonRef::Int64(term)) => head.term = term,
                ("t", RawBsonRef::Int32(term)) => head.term = term.into(),
                ("wall", RawBsonRef::DateTime(time)) => {
                    wall = Some(time.timestamp_millis().saturating_mul(1000));
                }
                ("op", RawBsonRef::String(word)) => op = Some(Op::parse(word)),
                ("ns", RawBsonRef::String(ns)) => head.ns = Cow::Borrowed(ns),
                ("ui", RawBsonRef::Binary(binary)) if binary.subtype == BinarySubtype::Uuid => {
                    head.uuid = binary.bytes.try_into().ok().map(Uuid::from_bytes);
                }
                ("o", RawBsonRef::Document(object)) => head.object = Some(object),
                _ => {}
            }
        }
        head.ts = ts.ok_or(EntryError::Field("ts"))?;
        head.op = op.ok_or(EntryError::Field("op"))?;
        head.wall = wall.ok_or(EntryError::Field("wall"))?;
        Ok(head)
    }

    /// The name of a command: the first field of its `o`. `None` for what is no command.
    #[must_use]
    pub fn command(&self) -> Option<&'a str> {
        if self.op != Op::Command {
            return None;
        }
        if let Some((command, _)) = &self.event {
            return Some(command);
        }
        let first = self.object?.iter_elements().next()?.ok()?;
        Some(first.key().as_str())
    }

    /// What a command is about: the value of its first field, where that is a string.
    #[must_use]
    pub fn subject(&self) -> Option<Cow<'a, str>> {
        if let Some((_, subject)) = &self.event {
            return Some(subject.clone());
        }
        let subject = self.object?.get_str(self.command()?).ok()?;
        Some(Cow::Borrowed(subject))
    }
}

/// The documents that lie end to end in `bytes`.
pub fn split_documents(bytes: &[u8]) -> impl Iterator<Item = Result<&RawDocument, EntryError>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
        let offset = at;
        let document = document_bytes(rest).and_then(|length| {
            at += length;
            RawDocument::from_bytes(&rest[..length]).ok()
        });
        if document.is_none() {
            at = bytes.len();
        }
        Some(document.ok_or(EntryError::Document(offset)))
    })
}

/// The length of the document at the start of `bytes`, if all of it is there.
fn document_bytes(bytes: &[u8]) -> Option<usize> {
    let length = i32::from_le_bytes(*bytes.first_chunk()?);
    let length = usize::try_from(length).ok()?;
    (length >= DOCUMENT_BYTES_MIN && length <= bytes.len()).then_some(length)
}

#[cfg(test)]
pub(crate) mod tests {
    use bson::{DateTime, RawDocumentBuf, Timestamp, doc};

    use super::*;

    pub(crate) fn entry(
        seconds: u32,
        increment: u32,
        op: &str,
        ns: &str,
        object: bson::Document,
    ) -> RawDocumentBuf {
        let entry = doc! {
            "op": op, "ns": ns, "o": object, "ts": Timestamp { time: seconds, increment },
            "t": 3_i64, "v": 2_i64, "wall": DateTime::from_millis(i64::from(seconds) * 1000 + 5),
        };
        RawDocumentBuf::try_from(&entry).unwrap()
    }

    #[test]
    fn the_head_of_an_entry_is_read_wherever_its_fields_stand() {
        let uuid = Uuid::from_bytes([7; 16]);
        let entry = doc! {
            "lsid": { "ts": "not this one" }, "ui": uuid, "op": "u", "ns": "a.b", "t": 9_i64,
            "o": { "$v": 2, "diff": { "ts": 1 } }, "wall": DateTime::from_millis(1), "ts": Timestamp { time: 2, increment: 3 },
        };
        let entry = RawDocumentBuf::try_from(&entry).unwrap();
        let head = Head::read(&entry).unwrap();
        assert_eq!(
            (head.ts, head.term, head.wall),
            (ClusterTime::new(2, 3), 9, 1000)
        );
        assert_eq!(
            (head.op, head.ns.as_ref(), head.uuid),
            (Op::Update, "a.b", Some(uuid))
        );
        assert_eq!(head.command(), None);
    }

    #[test]
    fn a_command_is_named_by_the_first_field_of_its_object() {
        let entry = entry(
            1,
            1,
            "c",
            "a.$cmd",
            doc! { "renameCollection": "a.b", "to": "a.c" },
        );
        assert_eq!(
            Head::read(&entry).unwrap().command(),
            Some("renameCollection")
        );
    }

    #[test]
    fn an_entry_without_its_time_is_an_error() {
        for field in ["ts", "op", "wall"] {
            let mut document = bson::Document::try_from(entry(1, 1, "n", "", doc! {})).unwrap();
            document.remove(field);
            let entry = RawDocumentBuf::try_from(&document).unwrap();
            assert_eq!(Head::read(&entry).unwrap_err(), EntryError::Field(field));
        }
    }

    #[test]
    fn documents_that_lie_end_to_end_come_apart_as_they_were() {
        let entries =
            [1, 2, 3].map(|increment| entry(1, increment, "i", "a.b", doc! { "_id": increment }));
        let bytes: Vec<u8> = entries
            .iter()
            .flat_map(|entry| entry.as_bytes().to_vec())
            .collect();
        let apart: Result<Vec<_>, _> = split_documents(&bytes).collect();
        let apart = apart.unwrap();
        assert!(
            apart
                .iter()
                .zip(&entries)
                .all(|(apart, entry)| *apart == &**entry)
        );
        assert_eq!(apart.len(), 3);
    }

    #[test]
    fn bytes_that_are_no_document_end_the_iteration_with_an_error() {
        let whole = entry(1, 1, "n", "", doc! {});
        for cut in 1..whole.as_bytes().len() {
            let bytes = [whole.as_bytes(), &whole.as_bytes()[..cut]].concat();
            let apart: Vec<_> = split_documents(&bytes).collect();
            assert_eq!(apart.len(), 2, "{cut}");
            assert_eq!(
                apart[1].clone().unwrap_err(),
                EntryError::Document(whole.as_bytes().len())
            );
        }
        for wrong in [[4, 0, 0, 0, 0], [0xFF; 5]] {
            assert!(split_documents(&wrong).next().unwrap().is_err());
        }
    }
}

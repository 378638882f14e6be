//! One oplog entry, as raw BSON: what capture, summaries and plans need of it, and not more. Entries pass through undecoded.

use std::borrow::Cow;

use bson::Uuid;
use bson::raw::{RawArray, RawDocument};

use crate::ClusterTime;
use crate::fold::raw::{Document, Element, Value, kind};

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
        for element in document(entry.as_bytes())?.elements() {
            let Element { name, value, .. } = element.map_err(|_| EntryError::Document(0))?;
            match name {
                b"ts" => ts = value.timestamp().map(ClusterTime).or(ts),
                b"t" => head.term = term(value).unwrap_or(head.term),
                b"wall" => {
                    let found = value.date().map(|millis| millis.saturating_mul(1000));
                    wall = found.or(wall);
                }
                b"op" if value.kind == kind::STRING => op = Some(Op::parse(text(value)?)),
                b"ns" if value.kind == kind::STRING => head.ns = Cow::Borrowed(text(value)?),
                b"ui" => head.uuid = value.uuid().map(Uuid::from_bytes).or(head.uuid),
                b"o" if value.kind == kind::DOCUMENT => {
                    let object = RawDocument::from_bytes(value.bytes);
                    head.object = Some(object.map_err(|_| EntryError::Document(0))?);
                }
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

fn document(bytes: &[u8]) -> Result<Document<'_>, EntryError> {
    Document::new(bytes).map_err(|_| EntryError::Document(0))
}

fn term(value: Value<'_>) -> Option<i64> {
    matches!(value.kind, kind::INT32 | kind::INT64)
        .then(|| value.integer())
        .flatten()
}

fn text(value: Value<'_>) -> Result<&str, EntryError> {
    value.text().ok_or(EntryError::Document(0))
}

/// The documents that an array holds, in order.
///
/// # Errors
/// The array is not one; an item is an error where something else than a document stands in it.
pub(crate) fn documents_of(
    array: &RawArray,
) -> Result<impl Iterator<Item = Result<&RawDocument, EntryError>>, EntryError> {
    let elements = document(array.as_bytes())?.elements();
    Ok(elements.map(|element| {
        let value = element.map_err(|_| EntryError::Document(0))?.value;
        let is_document = value.kind == kind::DOCUMENT;
        let document = is_document.then(|| RawDocument::from_bytes(value.bytes).ok());
        document.flatten().ok_or(EntryError::Document(0))
    }))
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
    fn the_documents_of_an_array_come_apart_and_nothing_else_does() {
        let array = |items: &[bson::Bson]| {
            let document = RawDocumentBuf::try_from(&doc! { "a": items.to_vec() }).unwrap();
            let array = document.get_array("a").unwrap();
            let apart = documents_of(array).unwrap();
            apart
                .map(|item| item.map(|item| item.get_i32("n").unwrap()))
                .collect::<Result<Vec<_>, _>>()
        };
        let documents = [1, 2, 3].map(|n| doc! { "n": n }.into());
        assert_eq!(array(&documents), Ok(vec![1, 2, 3]));
        assert_eq!(array(&[]), Ok(Vec::new()));
        for other in [bson::Bson::Int32(2), bson::Bson::Array(Vec::new())] {
            let mixed = [doc! { "n": 1 }.into(), other];
            assert_eq!(array(&mixed), Err(EntryError::Document(0)));
        }
    }

    #[test]
    fn fields_of_another_type_are_not_read_and_text_that_is_none_is_an_error() {
        let fields = doc! {
            "op": "u", "ns": "a.b", "ts": Timestamp { time: 2, increment: 3 }, "wall": DateTime::from_millis(1),
            "t": 1.0, "ui": "text", "o": ["an array"],
        };
        let entry = RawDocumentBuf::try_from(&fields).unwrap();
        let head = Head::read(&entry).unwrap();
        assert_eq!((head.term, head.uuid), (-1, None));
        assert!(head.object.is_none());
        let mut bytes = entry.into_bytes();
        let at = bytes.windows(3).position(|name| name == b"a.b").unwrap();
        bytes[at] = 0xff;
        let entry = RawDocumentBuf::from_bytes(bytes).unwrap();
        assert_eq!(Head::read(&entry).unwrap_err(), EntryError::Document(0));
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

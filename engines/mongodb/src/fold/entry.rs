//! One oplog entry, or one operation inside of a transaction's, taken apart without being decoded.

use bson::Uuid;

use super::error::FoldError;
use super::raw::{Document, Value};
use crate::ClusterTime;

/// Which transaction an entry belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Session<'a> {
    /// `lsid`, whole.
    pub id: &'a [u8],
    /// `txnNumber`
    pub transaction: i64,
}

/// The fields of an entry that a fold looks at. Of those inside a transaction the time is their commit's.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// `ts`
    pub at: ClusterTime,
    /// `wall`, ms since the Unix epoch.
    pub wall_ms: i64,
    /// `op`
    pub op: &'a str,
    /// `ns`
    pub namespace: &'a str,
    /// `ui`
    pub uuid: Option<Uuid>,
    /// `o`
    pub object: Document<'a>,
    /// `o2`
    pub object2: Option<Document<'a>>,
    /// `lsid` and `txnNumber`, where both are there.
    pub session: Option<Session<'a>>,
    /// `prevOpTime.ts`; zero at the beginning of a transaction.
    pub previous: Option<ClusterTime>,
    /// `multiOpType`: 1 for the batch of a retryable write, which is no transaction.
    pub multi: i64,
}

impl<'a> Entry<'a> {
    /// Reads an entry of the log.
    pub fn read(bytes: &'a [u8], last: ClusterTime) -> Result<Self, FoldError> {
        let malformed = |what| FoldError::Malformed { at: last, what };
        let document =
            Document::new(bytes).map_err(FoldError::malformed(last, "it is not BSON"))?;
        let (mut at, mut wall_ms) = (None, 0);
        let entry = fields(document, last, |name, value| {
            match name {
                b"ts" => at = value.timestamp().map(ClusterTime),
                b"wall" => wall_ms = value.date().unwrap_or(0),
                _ => {}
            };
        })?;
        let at = at.ok_or(malformed("an entry without a time follows it"))?;
        Ok(Self {
            at,
            wall_ms,
            ..entry
        })
    }

    /// Reads an operation inside of `self`.
    pub fn inner(&self, document: Document<'a>) -> Result<Self, FoldError> {
        inner(document, self.at, self.wall_ms)
    }

    /// The first field of `o`, which names a command, and its value.
    pub fn command(&self) -> Result<(&'a str, Value<'a>), FoldError> {
        let malformed = |what| FoldError::Malformed { at: self.at, what };
        let first = self.object.elements().next();
        let first = first.ok_or(malformed("a command without a name"))?;
        let first = first.map_err(FoldError::malformed(self.at, "it is not BSON"))?;
        let name = std::str::from_utf8(first.name)
            .map_err(|_| malformed("a command whose name is not text"))?;
        Ok((name, first.value))
    }

    /// A field of `o`.
    pub fn field(&self, name: &str) -> Result<Option<Value<'a>>, FoldError> {
        self.object
            .get(name)
            .map_err(FoldError::malformed(self.at, "it is not BSON"))
    }

    /// The database of its namespace.
    #[must_use]
    pub fn database(&self) -> &'a str {
        self.namespace.split('.').next().unwrap_or_default()
    }

    /// Whether it belongs to what every member or deployment has for itself.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        matches!(self.database(), "local" | "config")
    }
}

/// Reads an operation of a transaction that takes effect at `at`.
pub(super) fn inner(
    document: Document<'_>,
    at: ClusterTime,
    wall_ms: i64,
) -> Result<Entry<'_>, FoldError> {
    let entry = fields(document, at, |_, _| {})?;
    Ok(Entry {
        at,
        wall_ms,
        ..entry
    })
}

fn fields<'a>(
    document: Document<'a>,
    at: ClusterTime,
    mut other: impl FnMut(&'a [u8], Value<'a>),
) -> Result<Entry<'a>, FoldError> {
    let malformed = |what| FoldError::Malformed { at, what };
    let (mut op, mut object, mut session, mut transaction) = (None, None, None, None);
    let (mut namespace, mut uuid, mut object2, mut previous, mut multi) = ("", None, None, None, 0);
    for element in document.elements() {
        let element = element.map_err(FoldError::malformed(at, "it is not BSON"))?;
        let value = element.value;
        match element.name {
            b"op" => op = value.text(),
            b"ns" => {
                namespace = value
                    .text()
                    .ok_or(malformed("a namespace that is not text"))?
            }
            b"ui" => uuid = value.uuid().map(Uuid::from_bytes),
            b"o" => object = value.document(),
            b"o2" => object2 = value.document(),
            b"lsid" => session = value.document(),
            b"txnNumber" => transaction = value.integer(),
            b"multiOpType" => multi = value.integer().unwrap_or(0),
            b"prevOpTime" => {
                let time = value.document().map(|optime| optime.get("ts")).transpose();
                let time = time.map_err(FoldError::malformed(at, "it is not BSON"))?;
                previous = time.flatten().and_then(Value::timestamp).map(ClusterTime);
            }
            name => other(name, value),
        }
    }
    Ok(Entry {
        at,
        wall_ms: 0,
        op: op.ok_or(malformed("an operation without a kind"))?,
        namespace,
        uuid,
        object: object.ok_or(malformed("an operation without an object"))?,
        object2,
        session: session.zip(transaction).map(|(id, transaction)| Session {
            id: id.bytes(),
            transaction,
        }),
        previous,
        multi,
    })
}

//! One event of a change stream, as raw BSON: what capture, summaries and plans need of it, and not more. Events pass through
//! undecoded; among them stand waypoints, which the daemon writes while nothing happens.

use std::borrow::Cow;

use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf};
use bson::spec::BinarySubtype;
use bson::{Timestamp, Uuid, rawdoc};

use crate::ClusterTime;
use crate::entry::{EntryError, Head, Op};

/// The kind of a waypoint, which no server calls an event.
pub(crate) const WAYPOINT: &str = "pitrd:waypoint";
/// A resume token begins with the type byte of a timestamp in MongoDB's sortable encoding, then its 8 bytes; all in hexadecimal.
const TOKEN_TIME: &str = "82";
const TOKEN_TIME_DIGITS: usize = 16;

/// The document of a waypoint: everything before `ts` was read, and `token` is where a stream resumes behind it.
pub(crate) fn waypoint(token: &RawDocument, ts: ClusterTime) -> RawDocumentBuf {
    rawdoc! { "_id": token.to_owned(), "operationType": WAYPOINT, "clusterTime": Timestamp::from(ts) }
}

/// The cluster time that a resume token begins with. `None` for one of another form: then nothing is concluded from it.
pub(crate) fn token_time(token: &RawDocument) -> Option<ClusterTime> {
    let digits = token
        .get_str("_data")
        .ok()?
        .strip_prefix(TOKEN_TIME)?
        .get(..TOKEN_TIME_DIGITS)?;
    let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let time = is_hex.then(|| u64::from_str_radix(digits, 16).ok());
    time.flatten().map(ClusterTime)
}

/// The name of the command that makes such an event; `None` for what changes no catalogue.
fn command(kind: &str) -> Option<&str> {
    Some(match kind {
        "create" | "drop" | "dropDatabase" | "createIndexes" | "dropIndexes" => kind,
        "shardCollection" | "reshardCollection" | "refineCollectionShardKey" => kind,
        "rename" => "renameCollection",
        "modify" => "collMod",
        _ => return None,
    })
}

impl<'a> Head<'a> {
    /// Reads the head of an event; `None` of a waypoint. Its namespace and its command are called what the oplog calls them.
    pub fn read_event(event: &'a RawDocument) -> Result<Option<Self>, EntryError> {
        let (mut ts, mut kind, mut wall, mut uuid) = (None, None, None, None);
        let (mut ns, mut to) = (None, None);
        for element in event.iter_elements() {
            let element = element.map_err(|_| EntryError::Document(0))?;
            let name = element.key().as_str();
            if matches!(name, "fullDocument" | "fullDocumentBeforeChange" | "_id") {
                continue;
            }
            let value = element.value().map_err(|_| EntryError::Document(0))?;
            match (name, value) {
                ("clusterTime", RawBsonRef::Timestamp(time)) => ts = Some(time.into()),
                ("operationType", RawBsonRef::String(word)) => kind = Some(word),
                ("wallTime", RawBsonRef::DateTime(time)) => {
                    wall = Some(time.timestamp_millis().saturating_mul(1000));
                }
                ("collectionUUID", RawBsonRef::Binary(binary))
                    if binary.subtype == BinarySubtype::Uuid =>
                {
                    uuid = binary.bytes.try_into().ok().map(Uuid::from_bytes);
                }
                ("ns", RawBsonRef::Document(namespace)) => ns = Some(namespace),
                ("to", RawBsonRef::Document(namespace)) => to = Some(namespace),
                _ => {}
            }
        }
        let ts = ts.ok_or(EntryError::Field("clusterTime"))?;
        let kind = kind.ok_or(EntryError::Field("operationType"))?;
        if kind == WAYPOINT {
            return Ok(None);
        }
        let command = command(kind);
        let (db, collection) = ns.map_or(("", ""), namespace);
        Ok(Some(Self {
            ts,
            term: -1,
            wall: wall.ok_or(EntryError::Field("wallTime"))?,
            op: op(kind, command),
            ns: Cow::Owned(match (command, collection) {
                (Some(_), _) => format!("{db}.$cmd"),
                (None, "") => db.to_owned(),
                (None, collection) => format!("{db}.{collection}"),
            }),
            uuid,
            object: None,
            event: command.map(|command| (command, subject(collection, db, to))),
        }))
    }
}

fn op(kind: &str, command: Option<&str>) -> Op {
    match kind {
        "insert" => Op::Insert,
        "update" | "replace" => Op::Update,
        "delete" => Op::Delete,
        _ if command.is_some() => Op::Command,
        kind if is_without_effect(kind) => Op::Noop,
        _ => Op::Other,
    }
}

/// Kinds of events that change nothing by themselves.
pub(crate) fn is_without_effect(kind: &str) -> bool {
    matches!(
        kind,
        WAYPOINT | "invalidate" | "endOfTransaction" | "startIndexBuild" | "abortIndexBuild"
    )
}

fn namespace(ns: &RawDocument) -> (&str, &str) {
    let text = |name| ns.get_str(name).unwrap_or_default();
    (text("db"), text("coll"))
}

/// What a command is about, as the oplog's command has it in its first field.
fn subject<'a>(collection: &'a str, db: &str, to: Option<&RawDocument>) -> Cow<'a, str> {
    if to.is_some() {
        return Cow::Owned(format!("{db}.{collection}"));
    }
    Cow::Borrowed(collection)
}

#[cfg(test)]
pub(crate) mod tests {
    use bson::{Bson, DateTime, Document, doc};

    use super::*;

    /// An event of `shop.orders`, whose collection's UUID is all sevens, with `more` of it.
    pub(crate) fn event(
        seconds: u32,
        increment: u32,
        kind: &str,
        more: Document,
    ) -> RawDocumentBuf {
        let token = format!("82{seconds:08X}{increment:08X}2B04");
        let mut event = doc! {
            "_id": { "_data": token }, "operationType": kind, "clusterTime": Timestamp { time: seconds, increment },
            "wallTime": DateTime::from_millis(i64::from(seconds) * 1000), "collectionUUID": Uuid::from_bytes([7; 16]),
            "ns": { "db": "shop", "coll": "orders" },
        };
        for (name, value) in more {
            match value {
                Bson::Undefined => drop(event.remove(&name)),
                value => drop(event.insert(name, value)),
            }
        }
        RawDocumentBuf::try_from(&event).unwrap()
    }

    #[test]
    fn the_head_of_an_event_is_called_what_the_oplog_calls_it() {
        let head = |kind, more| {
            let event = event(5, 2, kind, more);
            let head = Head::read_event(&event).unwrap().unwrap();
            let command = head.command().map(str::to_owned);
            let subject = head.subject().map(Cow::into_owned);
            (head.op, head.ns.clone().into_owned(), command, subject)
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            head("replace", doc! { "fullDocument": { "clusterTime": 1 } }),
            (Op::Update, "shop.orders".into(), None, None)
        );
        assert_eq!(
            head("rename", doc! { "to": { "db": "shop", "coll": "old" } }),
            (
                Op::Command,
                "shop.$cmd".into(),
                text("renameCollection"),
                text("shop.orders")
            )
        );
        assert_eq!(
            head("drop", doc! {}),
            (
                Op::Command,
                "shop.$cmd".into(),
                text("drop"),
                text("orders")
            )
        );
        assert_eq!(head("invalidate", doc! {}).0, Op::Noop);
        assert_eq!(head("aNewKind", doc! {}).0, Op::Other);
    }

    #[test]
    fn a_waypoint_is_no_event_and_an_event_without_its_times_is_an_error() {
        let token = rawdoc! { "_data": "820000000500000002" };
        assert_eq!(token_time(&token), Some(ClusterTime::new(5, 2)));
        let waypoint = waypoint(&token, ClusterTime::new(5, 1));
        assert!(Head::read_event(&waypoint).unwrap().is_none());
        for field in ["clusterTime", "operationType", "wallTime"] {
            let event = event(1, 1, "insert", doc! { field: Bson::Undefined });
            assert_eq!(
                Head::read_event(&event).unwrap_err(),
                EntryError::Field(field)
            );
        }
    }

    #[test]
    fn nothing_is_concluded_from_a_token_of_another_form() {
        for odd in [
            "",
            "82",
            "8200000005",
            "830000000500000002",
            "82+000000500000002",
            "82é00000000000000",
        ] {
            assert_eq!(token_time(&rawdoc! { "_data": odd }), None, "{odd}");
        }
        assert_eq!(token_time(&rawdoc! { "_data": 1 }), None);
    }
}

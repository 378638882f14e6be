//! Which deployment an archive belongs to: what `archive.json` says about its source, and the check of every session.

use std::collections::BTreeMap;

use bson::{Document, Timestamp, doc};
use mongodb::options::ReadConcern;
use mongodb::{Client, Database};
use pitr_archive::Archive;

use crate::{ClusterTime, EngineError, FCV_ID};

/// The engine's name in `archive.json`.
pub const ENGINE: &str = "mongodb";
const SET_NAME: &str = "replica_set";
const SET_ID: &str = "replica_set_id";
/// How replica sets of this release's reach call their first supported version.
const MAJORS: std::ops::RangeInclusive<u32> = 5..=8;

/// A snapshot is waited for so long: of what is durable the server has one at once, or none.
const SNAPSHOT_MS: i64 = 1_000;

/// The replica set that an archive belongs to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// Made when the set was initiated; empty where the account may not ask for it.
    pub id: String,
}

/// The server or the archive is not the right one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The archive holds another database's log.
    #[error("the archive is one of {found}, not of MongoDB")]
    Engine {
        /// Its engine.
        found: String,
    },
    /// What the archive says of its source cannot be read.
    #[error("archive.json: its source has no valid {0}")]
    Unreadable(&'static str),
    /// Another replica set.
    #[error(
        "the server belongs to another replica set: it is {server}, the archive belongs to {archive}; \
         every deployment needs an archive of its own"
    )]
    OtherSet {
        /// The server's.
        server: String,
        /// The archive's.
        archive: String,
    },
    /// The archive holds the source's other log.
    #[error(
        "the archive holds the log that capture = {archived:?} reads, and {wanted:?} was asked for: an archive has one of them"
    )]
    OtherLog {
        /// What is there.
        archived: &'static str,
        /// What was asked for.
        wanted: &'static str,
    },
    /// A server without an oplog.
    #[error("the server is a {0}; there is an oplog in replica sets only")]
    NoReplicaSet(&'static str),
    /// A member of a set that is not there yet.
    #[error(
        "the server was started as a member of a replica set, and the set is not initiated or has no such member"
    )]
    NotInitiated,
    /// Not a release that we know.
    #[error("the server is MongoDB {0}; this release reads 5.0 to 8.x")]
    Version(String),
}

/// A member of the set, as it describes itself.
#[derive(Clone, Debug)]
pub struct Server {
    /// The set that it belongs to.
    pub source: Source,
    /// Its version, as in `6.0.5`.
    pub version: String,
    /// Feature compatibility version; empty where the account may not ask for it.
    pub fcv: String,
    /// What a majority of the set has.
    pub majority: Majority,
}

/// How far a majority of the set is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Majority {
    /// The last entry that a majority has.
    pub ts: ClusterTime,
    /// Its wall time, µs since the Unix epoch.
    pub wall: i64,
    /// The member's clock when it said so.
    pub clock: i64,
    /// The member is the primary and has written nothing behind `ts`.
    pub is_all: bool,
}

impl Source {
    /// Reads it from the archive.
    pub fn of(archive: &Archive) -> Result<Self, SourceError> {
        if archive.engine() != ENGINE {
            return Err(SourceError::Engine {
                found: archive.engine().into(),
            });
        }
        let property = |name| {
            archive
                .source()
                .get(name)
                .cloned()
                .ok_or(SourceError::Unreadable(name))
        };
        Ok(Self {
            name: property(SET_NAME)?,
            id: property(SET_ID)?,
        })
    }

    /// As it is put into the archive.
    #[must_use]
    pub fn properties(&self) -> BTreeMap<String, String> {
        [(SET_NAME, &self.name), (SET_ID, &self.id)]
            .into_iter()
            .map(|(name, value)| (name.into(), value.clone()))
            .collect()
    }

    /// Refuses another set. An id that nobody could read proves nothing.
    pub fn check(&self, server: &Self) -> Result<(), SourceError> {
        let known = !self.id.is_empty() && !server.id.is_empty();
        if self.name == server.name && (!known || self.id == server.id) {
            return Ok(());
        }
        Err(SourceError::OtherSet {
            server: server.to_string(),
            archive: self.to_string(),
        })
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.id.as_str() {
            "" => write!(f, "{}", self.name),
            id => write!(f, "{} ({id})", self.name),
        }
    }
}

impl Server {
    /// Asks whoever the client's read preference selects.
    ///
    /// # Errors
    /// [`SourceError`] for what has no oplog, or is of a release that we do not know.
    pub async fn ask(client: &Client) -> Result<Self, EngineError> {
        let admin = client.database("admin");
        let hello = admin.run_command(doc! { "hello": 1 }).await?;
        let name = match hello.get_str("setName") {
            Ok(name) => name.to_owned(),
            Err(_) if hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid") => {
                return Err(SourceError::NoReplicaSet("mongos").into());
            }
            Err(_) if hello.get_bool("isreplicaset").unwrap_or(false) => {
                return Err(SourceError::NotInitiated.into());
            }
            Err(_) => return Err(SourceError::NoReplicaSet("standalone server").into()),
        };
        let build = admin.run_command(doc! { "buildInfo": 1 }).await?;
        let version = build
            .get_str("version")
            .map_err(|_| EngineError::Answer("version"))?
            .to_owned();
        let major = version
            .split('.')
            .next()
            .and_then(|major| major.parse().ok());
        if !major.is_some_and(|major| MAJORS.contains(&major)) {
            return Err(SourceError::Version(version).into());
        }
        let source = Source {
            name,
            id: set_id(client).await?.unwrap_or_default(),
        };
        let fcv = feature_compatibility(client).await?.unwrap_or_default();
        let majority = Majority::read(&hello).ok_or(EngineError::Answer("majority time"))?;
        Ok(Self {
            source,
            version,
            fcv,
            majority,
        })
    }
}

impl Server {
    /// Its version, as numbers; what is not one is zero.
    pub(crate) fn version_numbers(&self) -> (u32, u32, u32) {
        let mut numbers = self
            .version
            .split(['.', '-'])
            .map(|number| number.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        (next(), next(), next())
    }
}

impl Majority {
    /// Asks.
    pub async fn ask(admin: &Database) -> Result<Self, EngineError> {
        let hello = admin.run_command(doc! { "hello": 1 }).await?;
        Self::read(&hello).ok_or(EngineError::Answer("majority time"))
    }

    fn read(hello: &Document) -> Option<Self> {
        let last = hello.get_document("lastWrite").ok()?;
        let time = |name| {
            last.get_document(name)
                .ok()?
                .get_timestamp("ts")
                .ok()
                .map(ClusterTime::from)
        };
        let micros = |date: &bson::DateTime| date.timestamp_millis().saturating_mul(1000);
        let ts = time("majorityOpTime")?;
        let is_primary = hello.get_bool("isWritablePrimary").unwrap_or(false);
        Some(Self {
            ts,
            wall: last.get_datetime("majorityWriteDate").ok().map(micros)?,
            clock: hello.get_datetime("localTime").ok().map(micros)?,
            is_all: is_primary && time("opTime") == Some(ts),
        })
    }
}

/// `None`: the account may not ask.
async fn set_id(client: &Client) -> Result<Option<String>, EngineError> {
    let id = |config: &Document| {
        let settings = config.get_document("settings").ok()?;
        settings
            .get_object_id("replicaSetId")
            .ok()
            .map(|id| id.to_hex())
    };
    let answer = client
        .database("admin")
        .run_command(doc! { "replSetGetConfig": 1 })
        .await;
    match allowed(answer)? {
        Some(answer) => Ok(answer.get_document("config").ok().and_then(id)),
        None => {
            let stored = client
                .database("local")
                .collection::<Document>("system.replset");
            let found = stored.find_one(doc! {}).await;
            Ok(allowed(found)?.flatten().as_ref().and_then(id))
        }
    }
}

/// `None`: the account may not ask.
pub(crate) async fn feature_compatibility(client: &Client) -> Result<Option<String>, EngineError> {
    let versions = client
        .database("admin")
        .collection::<Document>("system.version");
    let found = versions
        .find_one(doc! { "_id": FCV_ID })
        .read_concern(ReadConcern::majority())
        .await;
    if let Some(Some(found)) = allowed(found)? {
        return Ok(found.get_str("version").ok().map(Into::into));
    }
    let command = doc! { "getParameter": 1, FCV_ID: 1 };
    let answer = allowed(client.database("admin").run_command(command).await)?;
    let version = answer
        .as_ref()
        .and_then(|answer| answer.get_document(FCV_ID).ok()?.get_str("version").ok());
    Ok(version.map(Into::into))
}

/// The feature compatibility version as it was at `at`. `None` if the server no longer knows: unless told otherwise it keeps snapshots of
/// the last five minutes.
pub(crate) async fn feature_compatibility_at(client: &Client, at: ClusterTime) -> Option<String> {
    let command = doc! {
        "find": "system.version", "filter": { "_id": FCV_ID }, "limit": 1, "singleBatch": true, "maxTimeMS": SNAPSHOT_MS,
        "readConcern": { "level": "snapshot", "atClusterTime": Timestamp::from(at) },
    };
    let answer = client.database("admin").run_command(command).await.ok()?;
    let cursor = answer.get_document("cursor").ok()?;
    let found = cursor.get_array("firstBatch").ok()?.first()?;
    let version = found.as_document()?.get_str("version").ok()?;
    Some(version.into())
}

/// What the account may not do is `None`, every other failure stays one.
fn allowed<T>(answer: mongodb::error::Result<T>) -> Result<Option<T>, EngineError> {
    match answer.map_err(EngineError::from) {
        Ok(answer) => Ok(Some(answer)),
        Err(EngineError::Refused {
            what: "a command", ..
        }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str, id: &str) -> Source {
        Source {
            name: name.into(),
            id: id.into(),
        }
    }

    #[test]
    fn another_set_is_refused_by_name_and_by_id() {
        let ours = source("rs0", "0a");
        assert_eq!(ours.check(&source("rs0", "0a")), Ok(()));
        assert_eq!(
            ours.check(&source("rs0", "")),
            Ok(()),
            "an account that may not ask"
        );
        for other in [source("rs1", "0a"), source("rs0", "0b"), source("rs1", "")] {
            assert!(
                matches!(ours.check(&other), Err(SourceError::OtherSet { .. })),
                "{other}"
            );
        }
    }

    #[test]
    fn only_a_primary_without_later_writes_says_that_it_was_all() {
        let hello = |primary: bool, last: u32| {
            let time = |increment| doc! { "ts": Timestamp { time: 9, increment }, "t": 1_i64 };
            let date = bson::DateTime::from_millis(7);
            doc! {
                "isWritablePrimary": primary, "localTime": bson::DateTime::from_millis(8),
                "lastWrite": { "opTime": time(last), "majorityOpTime": time(1), "majorityWriteDate": date },
            }
        };
        let all = |primary, last| Majority::read(&hello(primary, last)).unwrap();
        assert_eq!(
            (all(true, 1).ts, all(true, 1).wall, all(true, 1).clock),
            (ClusterTime::new(9, 1), 7000, 8000)
        );
        assert!(all(true, 1).is_all);
        assert!(!all(true, 2).is_all && !all(false, 1).is_all);
        assert_eq!(Majority::read(&doc! {}), None);
    }
}

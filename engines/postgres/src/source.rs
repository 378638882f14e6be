//! Which cluster an archive belongs to: what `archive.json` says about its source, and the check of every connection.

use std::collections::BTreeMap;

use pitr_archive::Archive;

use crate::replication::{ReplicationClient, ReplicationError, SystemIdentity};

/// The engine's name in `archive.json`.
pub const ENGINE: &str = "postgres";
const SYSTEM_ID: &str = "system_identifier";
const SEGMENT_BYTES: &str = "wal_segment_bytes";

/// The cluster that an archive belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Source {
    /// Made by initdb, shared by primary and standbys.
    pub system_id: u64,
    /// Bytes of a WAL segment.
    pub wal_segment_bytes: u64,
}

/// The server or the archive is not the right one.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The archive holds another database's log.
    #[error("the archive is one of {found}, not of PostgreSQL")]
    Engine {
        /// Its engine.
        found: String,
    },
    /// What the archive says of its source cannot be read.
    #[error("archive.json: its source has no valid {0}")]
    Unreadable(&'static str),
    /// Another cluster.
    #[error(
        "the server is another cluster: its system identifier is {server}, the archive belongs to {archive}; \
         every cluster needs an archive of its own"
    )]
    OtherCluster {
        /// The server's.
        server: u64,
        /// The archive's.
        archive: u64,
    },
}

impl Source {
    /// Reads it from the archive.
    pub fn of(archive: &Archive) -> Result<Self, SourceError> {
        if archive.engine() != ENGINE {
            return Err(SourceError::Engine {
                found: archive.engine().into(),
            });
        }
        let number = |name| {
            let value = archive
                .source()
                .get(name)
                .and_then(|value| value.parse::<u64>().ok());
            value.ok_or(SourceError::Unreadable(name))
        };
        let source = Self {
            system_id: number(SYSTEM_ID)?,
            wal_segment_bytes: number(SEGMENT_BYTES)?,
        };
        let valid = source.wal_segment_bytes.is_power_of_two()
            && (1 << 20..=1 << 30).contains(&source.wal_segment_bytes);
        if valid {
            Ok(source)
        } else {
            Err(SourceError::Unreadable(SEGMENT_BYTES))
        }
    }

    /// Asks a server.
    pub async fn ask(client: &mut ReplicationClient) -> Result<Self, ReplicationError> {
        let identity = client.identify_system().await?;
        let text = client.show("wal_segment_size").await?;
        let unreadable = || ReplicationError::Protocol(format!("wal_segment_size is {text:?}"));
        let (number, unit) = text.split_at(
            text.find(|c: char| !c.is_ascii_digit())
                .unwrap_or(text.len()),
        );
        let factor: u64 = match unit {
            "B" | "" => 1,
            "kB" => 1 << 10,
            "MB" => 1 << 20,
            "GB" => 1 << 30,
            _ => return Err(unreadable()),
        };
        let number: u64 = number.parse().map_err(|_| unreadable())?;
        let wal_segment_bytes = number
            .checked_mul(factor)
            .filter(|bytes| bytes.is_power_of_two());
        Ok(Self {
            system_id: identity.system_id,
            wal_segment_bytes: wal_segment_bytes.ok_or_else(unreadable)?,
        })
    }

    /// As it is put into the archive.
    #[must_use]
    pub fn properties(&self) -> BTreeMap<String, String> {
        let pairs = [
            (SYSTEM_ID, self.system_id),
            (SEGMENT_BYTES, self.wal_segment_bytes),
        ];
        pairs
            .into_iter()
            .map(|(name, value)| (name.into(), value.to_string()))
            .collect()
    }

    /// Refuses another cluster.
    pub fn check(&self, identity: &SystemIdentity) -> Result<(), SourceError> {
        if identity.system_id == self.system_id {
            return Ok(());
        }
        Err(SourceError::OtherCluster {
            server: identity.system_id,
            archive: self.system_id,
        })
    }
}

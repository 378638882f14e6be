//! What keeps a base backup from being taken, sorted by what the caller does next.

use std::path::PathBuf;

use pitr_archive::ArchiveError;

use super::check::CheckError;
use super::manifest::ManifestError;
use crate::connect::ConnectError;
use crate::replication::ReplicationError;
use crate::source::SourceError;
use crate::tar::TarError;

/// After any of these there is no backup: what was put has no manifest, and no restore will use it.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// No connection.
    #[error("connect to the server: {0}")]
    Connect(#[from] ConnectError),
    /// The connection broke, or the server refused.
    #[error(transparent)]
    Replication(#[from] ReplicationError),
    /// The server or the archive is not the right one.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The archive does not take it, or cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A release of PostgreSQL that is not supported.
    #[error("the server is PostgreSQL {0}; base backups are taken of 15 to 18")]
    Version(u32),
    /// A standby, and nobody allowed that.
    #[error("the server is a standby; set allow_standby = true in [source.postgres] to back it up")]
    Standby,
    /// An incremental backup was asked for and cannot be had.
    #[error("no incremental backup can be taken: {0}")]
    Incremental(String),
    /// What the server sent is not a tar archive.
    #[error("the server's stream: {archive}: {error}")]
    Tar {
        /// Which archive of the stream.
        archive: String,
        /// What is wrong with it.
        error: TarError,
    },
    /// A file in the data directory whose name our manifest cannot hold.
    #[error("the name {0:?} in the data directory is not UTF-8: rename or remove it")]
    Name(PathBuf),
    /// What the server sent is not a base backup.
    #[error("the server's stream: {0}")]
    Stream(String),
    /// What arrived is not what the server says it sent.
    #[error("what arrived is not what the server says it sent: {0}")]
    Check(#[from] CheckError),
    /// The manifest of an earlier backup cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The local copy of PostgreSQL's manifest cannot be written or read.
    #[error("{path}: {source}")]
    Cache {
        /// The file or directory.
        path: PathBuf,
        /// In the system's words.
        source: std::io::Error,
    },
}

impl BackupError {
    /// True when trying again changes nothing until somebody acts.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Connect(error) => error.is_permanent(),
            Self::Replication(error) => error.is_permanent(),
            Self::Archive(error) => error.is_permanent(),
            Self::Source(_)
            | Self::Version(_)
            | Self::Standby
            | Self::Incremental(_)
            | Self::Name(_)
            | Self::Manifest(_) => true,
            Self::Tar { .. } | Self::Stream(_) | Self::Check(_) | Self::Cache { .. } => false,
        }
    }
}

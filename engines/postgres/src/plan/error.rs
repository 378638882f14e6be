//! Why there is no plan, with the nearest moments that can be restored.

use std::fmt;

use pitr_archive::ArchiveError;

use crate::backup::ManifestError;
use crate::source::SourceError;
use crate::{Lsn, Target, TimelineId};

/// A moment of a cluster's history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    /// Where it is in the WAL.
    pub lsn: Lsn,
    /// The latest commit up to it, µs since the Unix epoch, where one is known.
    pub time: Option<i64>,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.time.map(jiff::Timestamp::from_microsecond) {
            Some(Ok(time)) => write!(f, "{time} (lsn:{})", self.lsn),
            _ => write!(f, "lsn:{}", self.lsn),
        }
    }
}

/// Why a target cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The archive failed, is damaged, or the key is wrong.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The archive is not one of PostgreSQL.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A manifest that cannot be used.
    #[error("base backup {id}: {source}")]
    Manifest {
        /// Which backup.
        id: String,
        /// Why.
        source: ManifestError,
    },
    /// A base backup without all of its parts.
    #[error("base backup {id} is damaged: {reason}")]
    Backup {
        /// Which backup.
        id: String,
        /// What is wrong.
        reason: String,
    },
    /// There is nothing on this timeline.
    #[error("the archive holds no WAL of timeline {0}")]
    NoTimeline(TimelineId),
    /// The way from an ancestor is not known.
    #[error(
        "the history file of timeline {0} is not in the archive, so the way to it is not known"
    )]
    NoHistory(TimelineId),
    /// The target lies where nothing can be restored to.
    #[error("{target} cannot be reached: {reason}")]
    Unreachable {
        /// What was asked for.
        target: Target,
        /// Why not.
        reason: String,
        /// The nearest moment before it.
        nearest_before: Option<Moment>,
        /// The nearest moment after it.
        nearest_after: Option<Moment>,
    },
    /// More than one record fits.
    #[error("{target} is ambiguous: it stands at {}; choose one of these", .at.iter().map(|lsn| format!("lsn:{lsn}")).collect::<Vec<_>>().join(", "))]
    Ambiguous {
        /// What was asked for.
        target: Target,
        /// The starts of the records that fit.
        at: Vec<Lsn>,
    },
}

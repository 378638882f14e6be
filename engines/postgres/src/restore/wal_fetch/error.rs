//! Why a WAL file cannot be told to be there or not. To PostgreSQL all of these are the same: it must stop, not promote.

use std::io;
use std::path::{Path, PathBuf};

use pitr_archive::ArchiveError;

use crate::source::SourceError;
use crate::{HistoryError, Lsn, ParseError, TimelineId};

/// Neither fetched nor provably absent.
#[derive(Debug, thiserror::Error)]
pub enum WalFetchError {
    /// The archive failed or is damaged.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The archive is not one of PostgreSQL.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Not the name of a WAL segment or a history file.
    #[error(transparent)]
    Name(#[from] ParseError),
    /// The archive holds a history file that cannot be read.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// WAL was lost before it was archived.
    #[error(
        "{name} lies in a gap of the archive: WAL of timeline {timeline} from {from} to {to} was never archived"
    )]
    Gap {
        /// The file.
        name: String,
        /// Its timeline.
        timeline: TimelineId,
        /// First byte that is lost.
        from: Lsn,
        /// Behind the last one.
        to: Lsn,
    },
    /// The archive does not go back so far.
    #[error("{name} is older than the archive, whose WAL of timeline {timeline} begins at {start}")]
    TooOld {
        /// The file.
        name: String,
        /// Its timeline.
        timeline: TimelineId,
        /// Where the stream begins.
        start: Lsn,
    },
    /// An archived segment does not continue the one before it.
    #[error("segment {seq} of timeline {timeline} holds {found:?}, {wanted:#x} was to come")]
    Discontinuous {
        /// The timeline.
        timeline: TimelineId,
        /// The segment's number.
        seq: u64,
        /// Its positions.
        found: std::ops::Range<u64>,
        /// The position that should have come.
        wanted: u64,
    },
    /// The file system failed.
    #[error("{doing} {path}: {source}")]
    File {
        /// What was being done, in the present tense.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
}

impl WalFetchError {
    pub(super) fn file<'a>(
        doing: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::File {
            doing,
            path: path.into(),
            source,
        }
    }
}

//! Why capture stops or pauses.

use pitr_archive::ArchiveError;

use super::local::LocalWalError;
use crate::connect::ConnectError;
use crate::history::HistoryError;
use crate::replication::ReplicationError;
use crate::source::SourceError;
use crate::{Lsn, TimelineId};

/// An end of capture.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The archive failed.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The server's files are not what they should be: its stream is read instead.
    #[error(transparent)]
    LocalWal(#[from] LocalWalError),
    /// No session with the server.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The session failed.
    #[error(transparent)]
    Replication(#[from] ReplicationError),
    /// The server is not the archive's source.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Not a release that we know.
    #[error("the server is PostgreSQL {0}; this release captures 15 to 18")]
    Version(u32),
    /// The server is a standby.
    #[error(
        "the server is a standby; set allow_standby = true to capture from it, or name the primary in the connection"
    )]
    Standby,
    /// The slot is missing and may not be created.
    #[error(
        "replication slot {slot:?} does not exist and create_slot is false: WAL after {durable} may be lost; \
         create it with SELECT pg_create_physical_replication_slot('{slot}', true)"
    )]
    SlotMissing {
        /// Its name.
        slot: String,
        /// The archive's end.
        durable: Lsn,
    },
    /// The archive has another timeline of this number.
    #[error(
        "timeline {timeline} of the server is not the timeline {timeline} of the archive: their histories differ; \
         two servers were promoted from the same ancestor, and each needs an archive of its own"
    )]
    OtherBranch {
        /// Which one.
        timeline: TimelineId,
    },
    /// A primary that was set back to an earlier state without a new timeline.
    #[error(
        "the server's WAL ends at {server}, the archive has it up to {archived} on the same timeline {timeline}: the server was set \
         back to an earlier state, and what it writes now is another history. Give it a timeline of its own (standby.signal, start, \
         promote), or archive it elsewhere; the archive as it is can be restored from"
    )]
    RolledBack {
        /// The timeline.
        timeline: TimelineId,
        /// The server's flushed end.
        server: Lsn,
        /// The archive's, or the spool's.
        archived: Lsn,
    },
    /// The server has another log before the archive's end: it was set back, and has written more since than it lost.
    #[error(
        "the server's WAL before {archived} on timeline {timeline} is not the one that the archive holds: the server was set back to an \
         earlier state and has written another history since, past the archive's end. Archive it elsewhere; the archive as it is can \
         be restored from"
    )]
    OtherLog {
        /// The timeline.
        timeline: TimelineId,
        /// The archive's end, or the spool's.
        archived: Lsn,
    },
    /// A standby that has not come as far as the archive.
    #[error(
        "the standby's WAL ends at {server}, the archive has it up to {archived}; waiting for it"
    )]
    Behind {
        /// The standby's flushed end.
        server: Lsn,
        /// The archive's, or the spool's.
        archived: Lsn,
    },
    /// The server lacks WAL that its slot should keep.
    #[error("the server does not have the WAL from its own slot on; trying again")]
    GapAgain,
    /// A history file that cannot be read.
    #[error(transparent)]
    History(#[from] HistoryError),
}

impl CaptureError {
    /// True if waiting cannot help. A server that let us in once is waited for whatever it says: passwords and certificates
    /// expire and are renewed.
    #[must_use]
    pub fn is_permanent(&self, streamed_once: bool) -> bool {
        match self {
            // The position is read back from the store, and the server sends the bytes again.
            Self::Archive(ArchiveError::Discontinuous { .. })
            | Self::GapAgain
            | Self::Behind { .. }
            | Self::LocalWal(_) => false,
            Self::Archive(error) => error.is_permanent(),
            Self::Source(_)
            | Self::OtherBranch { .. }
            | Self::RolledBack { .. }
            | Self::OtherLog { .. } => true,
            Self::Connect(error) => error.is_permanent() && !streamed_once,
            Self::Replication(error) => error.is_permanent() && !streamed_once,
            Self::Version(_) | Self::Standby | Self::SlotMissing { .. } | Self::History(_) => {
                !streamed_once
            }
        }
    }
}

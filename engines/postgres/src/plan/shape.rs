//! What a plan says.

use pitr_archive::catalogue::BackupId;

use crate::{Lsn, Target, TimelineId};

/// Where recovery stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopAt {
    /// As soon as the data is consistent.
    Consistency,
    /// At the record that starts at this LSN.
    Record {
        /// The record's start; what `recovery_target_lsn` is set to.
        lsn: Lsn,
        /// The record itself is replayed.
        inclusive: bool,
    },
}

/// A stretch of WAL on one timeline.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathStep {
    /// The timeline.
    pub timeline: TimelineId,
    /// From here.
    pub from: Lsn,
    /// Up to here, exclusive.
    pub to: Lsn,
    /// Segments of the archive that hold it.
    pub segments: u64,
    /// Their bytes in the store.
    pub bytes: u64,
}

/// A plan that is proved: everything it names is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// What was asked for.
    pub target: Target,
    /// Stop before it.
    pub before: bool,
    /// Where that is.
    pub stop: StopAt,
    /// Time of the last transaction that will be there, µs since the Unix epoch, where it is known.
    pub last_commit: Option<i64>,
    /// Time of the first transaction that is left out.
    pub first_left_out: Option<i64>,
    /// The timeline that recovery follows; `recovery_target_timeline`.
    pub timeline: TimelineId,
    /// The base backup, and those it is incremental to: the full one first.
    pub bases: Vec<BackupId>,
    /// Bytes of the base backups in the store.
    pub base_bytes: u64,
    /// Objects of the base backups.
    pub base_objects: u64,
    /// WAL from the base's start to the stop, in the order of replay.
    pub path: Vec<PathStep>,
    /// For [`Target::Latest`]: the number of a segment behind the stop that is missing although there are later ones. No head says
    /// that it was durable: it is a put under way, or one of a daemon that was killed, unless somebody deleted it since the last head.
    pub missing: Option<u64>,
}

impl Plan {
    /// Bytes of WAL in the store.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        self.path.iter().map(|step| step.bytes).sum()
    }

    /// Segments of the archive with that WAL.
    #[must_use]
    pub fn log_segments(&self) -> u64 {
        self.path.iter().map(|step| step.segments).sum()
    }
}

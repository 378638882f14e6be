//! What the WAL reader says about the bytes it has seen: the records a recovery can stop at, and damage.

use crate::{Lsn, TimelineId};

/// A file of a relation: tablespace, database and file number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RelationFile {
    /// OID of the tablespace.
    pub tablespace: u32,
    /// OID of the database, 0 for shared relations.
    pub database: u32,
    /// The relation's file number.
    pub relation: u32,
}

/// The end of a transaction, prepared ones included.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TransactionEnd {
    /// Where the record starts: what `recovery_target_lsn` is compared with.
    pub at: Lsn,
    /// Where the record ends and the next may start, as PostgreSQL reports ends.
    pub end: Lsn,
    /// The transaction; for `COMMIT PREPARED` and `ROLLBACK PREPARED` the prepared one.
    pub xid: u32,
    /// When it ended, by the server's clock: microseconds since the Unix epoch.
    pub time: i64,
    /// Relation files removed with it: `DROP` and `TRUNCATE` in a commit, undone creations in an abort.
    pub dropped: Vec<RelationFile>,
}

/// One thing worth knowing about the WAL that passes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WalEvent {
    /// A transaction committed.
    Commit(TransactionEnd),
    /// A transaction was rolled back.
    Abort(TransactionEnd),
    /// `pg_create_restore_point` was called.
    RestorePoint {
        /// Where the record starts.
        at: Lsn,
        /// Where it ends.
        end: Lsn,
        /// The name, at most 63 bytes on the server.
        name: String,
        /// Microseconds since the Unix epoch.
        time: i64,
    },
    /// A base backup of a primary ended.
    BackupEnd {
        /// Where the record starts.
        at: Lsn,
        /// Where it ends: the backup is consistent from there on.
        end: Lsn,
    },
    /// A checkpoint was completed.
    Checkpoint {
        /// Where the record starts.
        at: Lsn,
        /// Where it ends.
        end: Lsn,
        /// Where recovery from this checkpoint starts.
        redo: Lsn,
        /// The timeline it was made on.
        timeline: TimelineId,
        /// The next transaction to be started; the epoch stands in the upper half.
        next_xid: u64,
        /// Microseconds since the Unix epoch, in whole seconds.
        time: i64,
    },
    /// The server left recovery without a checkpoint: the first record of most new timelines.
    EndOfRecovery {
        /// Where the record starts.
        at: Lsn,
        /// Where it ends.
        end: Lsn,
        /// The timeline that starts.
        timeline: TimelineId,
        /// The timeline it came from.
        parent: TimelineId,
        /// Microseconds since the Unix epoch.
        time: i64,
    },
    /// Bytes up to `end` belong to a record whose start was not seen (it lies before the first byte, or in damage).
    Skipped {
        /// First byte not understood.
        at: Lsn,
        /// Where the first readable record may start.
        end: Lsn,
    },
    /// Nothing but zero bytes follows: the log was written up to here.
    End {
        /// Where the next record would have started.
        at: Lsn,
    },
    /// Bytes that PostgreSQL would refuse. Said once; reading goes on at the next page that shows where a record starts.
    Damage {
        /// The record, or else the page, that cannot be read: where a replay stops.
        at: Lsn,
        /// What is wrong with it.
        reason: DamageReason,
    },
}

/// Why bytes are not the WAL they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DamageReason {
    /// Not the magic number of 15, 16, 17 or 18, or not the one of the pages before.
    #[error("the page's magic number {0:#06X} is not the expected one")]
    PageMagic(u16),
    /// Flags unknown or not possible at this place.
    #[error("the page's flags {0:#06X} do not fit its place")]
    PageFlags(u16),
    /// The page belongs elsewhere.
    #[error("the page says it lies at {0}")]
    PageAddress(Lsn),
    /// The page is on a timeline it cannot be on.
    #[error("the page is on timeline {0}")]
    PageTimeline(TimelineId),
    /// The segment is another cluster's.
    #[error("the segment belongs to system identifier {0}")]
    SystemId(u64),
    /// The segment is of another size.
    #[error("the WAL segment size is {0} bytes")]
    SegmentSize(u32),
    /// A server built with another WAL page size.
    #[error("the WAL page size is {0} bytes, only 8192 is supported")]
    PageSize(u32),
    /// A page goes on with another record than the page before ended with.
    #[error("{expected} bytes of the record are missing, but the page continues one with {found}")]
    Continuation {
        /// Bytes left of the record in hand, 0 if there is none.
        expected: u32,
        /// Bytes the page announces, 0 if it announces a record's start.
        found: u32,
    },
    /// A length that no record has.
    #[error("the record's length is {0} bytes")]
    RecordLength(u32),
    /// A record of no known kind.
    #[error("the record is of unknown resource manager {0}")]
    ResourceManager(u8),
    /// The backward link does not lead to the record before.
    #[error("the record's predecessor should start at {expected}, not {found}")]
    PreviousRecord {
        /// Where the record before starts.
        expected: Lsn,
        /// Where the link leads.
        found: Lsn,
    },
    /// A page announces that the record before it was never completed, but no record confirms it.
    #[error("the record is cut off without having been abandoned")]
    CutOff,
    /// The CRC-32C does not fit.
    #[error("the record's checksum does not match")]
    Checksum,
    /// The checksum fits but the record is not laid out as it should be.
    #[error("the record's contents are malformed")]
    Contents,
    /// The log seemed to be over, then went on.
    #[error("zero bytes are followed by more data")]
    DataAfterEnd,
    /// Bytes were not handed in.
    #[error("bytes are missing up to {0}")]
    Gap(Lsn),
}

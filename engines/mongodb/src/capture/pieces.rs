//! Records on their way from the server's batches to the log writer: copied end to end, handed over in pieces.

use bytes::{Bytes, BytesMut};
use pitr_archive::writer::RecordEnd;

use super::Last;
use crate::{ClusterTime, EngineError};

/// A piece is handed over at this size; one record may be larger.
const PIECE_BYTES: usize = 256 << 10;
/// What a piece takes, its last record included if that is not a large one.
const ROOM_BYTES: usize = PIECE_BYTES + (64 << 10);

/// Records that follow each other, ready for the writer.
pub(super) struct Ready {
    pub(super) start: ClusterTime,
    pub(super) bytes: Bytes,
    pub(super) ends: Vec<RecordEnd>,
    /// The position behind the last one.
    pub(super) end: ClusterTime,
    /// Wall time of the last one of the source's, µs since the Unix epoch.
    pub(super) wall: Option<i64>,
    /// The last one of the source's, of all that was ever handed over.
    pub(super) last: Option<Last>,
}

/// Collects records.
pub(super) struct Pieces {
    /// Where the next record's positions begin.
    start: ClusterTime,
    /// Where what was collected ends.
    end: ClusterTime,
    bytes: BytesMut,
    ends: Vec<RecordEnd>,
    /// Of whole records.
    whole_bytes: usize,
    /// Of a record at most.
    record_bytes_max: usize,
    wall: Option<i64>,
    last: Option<Last>,
}

impl Pieces {
    /// Positions begin at `start`; the records follow `last`, none longer than `record_bytes_max`.
    pub(super) fn new(start: ClusterTime, last: Option<Last>, record_bytes_max: usize) -> Self {
        Self {
            start,
            end: start,
            bytes: BytesMut::new(),
            ends: Vec::new(),
            whole_bytes: 0,
            record_bytes_max,
            wall: None,
            last,
        }
    }

    /// Adds bytes to the record in the making.
    pub(super) fn add(&mut self, bytes: &[u8]) -> Result<(), EngineError> {
        if self.bytes.len() - self.whole_bytes + bytes.len() > self.record_bytes_max {
            return Err(EngineError::TooLarge(self.record_bytes_max));
        }
        if self.bytes.capacity() - self.bytes.len() < bytes.len() {
            // Room for a piece at once: growing step by step copies it twice.
            self.bytes.reserve(bytes.len().max(ROOM_BYTES));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Ends the record: it takes the positions up to and including `ts`. `source` says what it is if the source wrote it: its last
    /// entry and that one's wall time.
    pub(super) fn end(&mut self, ts: ClusterTime, source: Option<(Last, i64)>) {
        let bytes = u32::try_from(self.bytes.len() - self.whole_bytes);
        self.end = ts.next();
        self.ends.push(RecordEnd {
            position: self.end.0,
            bytes: bytes.expect("a record is not longer than its limit"),
        });
        self.whole_bytes = self.bytes.len();
        if let Some((last, wall)) = source {
            (self.last, self.wall) = (Some(last), Some(wall));
        }
    }

    /// There is enough to be handed over.
    pub(super) fn is_full(&self) -> bool {
        self.whole_bytes >= PIECE_BYTES
    }

    /// Whole records that were collected.
    pub(super) fn count(&self) -> usize {
        self.ends.len()
    }

    /// The whole records, if there are any.
    pub(super) fn flush(&mut self) -> Option<Ready> {
        if self.ends.is_empty() {
            return None;
        }
        let start = std::mem::replace(&mut self.start, self.end);
        let bytes = self.bytes.split_to(self.whole_bytes).freeze();
        if self.whole_bytes > 2 * PIECE_BYTES {
            // A large record's memory goes with it: what comes next does not share it.
            self.bytes = BytesMut::from(&self.bytes[..]);
        }
        self.whole_bytes = 0;
        Some(Ready {
            start,
            bytes,
            ends: std::mem::take(&mut self.ends),
            end: self.end,
            wall: self.wall,
            last: self.last,
        })
    }

    /// Where what was handed over ends.
    pub(super) fn position(&self) -> ClusterTime {
        self.start
    }

    /// Where what was collected ends.
    pub(super) fn collected(&self) -> ClusterTime {
        self.end
    }
}

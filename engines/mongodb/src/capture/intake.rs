//! From the server's batches to pieces for the log writer: entries are copied end to end, and their order is checked.

use bson::raw::RawDocument;
use bytes::{Bytes, BytesMut};
use pitr_archive::writer::RecordEnd;

use super::Last;
use crate::entry::{Head, Op};
use crate::{ClusterTime, EngineError};

/// A piece is handed over at this size; one entry may be larger.
const PIECE_BYTES: usize = 256 << 10;
/// While nothing else happens, the no-ops by which an idle primary moves its clock are kept back, so many at most: an idle source
/// costs an object every ten minutes instead of one every ten seconds.
const IDLE_NOOPS_MAX: usize = 60;

/// Entries that follow each other, ready for the writer.
pub(super) struct Ready {
    pub(super) start: ClusterTime,
    pub(super) bytes: Bytes,
    pub(super) ends: Vec<RecordEnd>,
    /// Wall time of the last one.
    pub(super) wall: i64,
    pub(super) last: Last,
}

/// Collects entries.
pub(super) struct Intake {
    /// Where the next entry's positions begin.
    start: ClusterTime,
    last: Last,
    wall: i64,
    bytes: BytesMut,
    ends: Vec<RecordEnd>,
    /// All that was collected are no-ops of an idle primary.
    idle: bool,
}

impl Intake {
    /// Positions begin at `start`; the entries follow `last`. The first ones do not wait, whatever they are.
    pub(super) fn new(start: ClusterTime, last: Last) -> Self {
        Self {
            start,
            last,
            wall: 0,
            bytes: BytesMut::new(),
            ends: Vec::new(),
            idle: false,
        }
    }

    /// The last entry that was taken.
    pub(super) fn last(&self) -> Last {
        self.last
    }

    /// Takes the next entry. True: there is a piece to hand over.
    pub(super) fn take(&mut self, entry: &RawDocument) -> Result<bool, EngineError> {
        let head = Head::read(entry).map_err(|error| EngineError::Jumped(error.to_string()))?;
        if head.ts <= self.last.ts {
            let reason = format!("{} follows {}", head.ts, self.last.ts);
            return Err(EngineError::Jumped(reason));
        }
        let bytes = entry.as_bytes();
        self.bytes.extend_from_slice(bytes);
        let length = u32::try_from(bytes.len()).expect("a document is shorter than 2 GiB");
        self.ends.push(RecordEnd {
            position: head.ts.next().0,
            bytes: length,
        });
        self.last = Last {
            ts: head.ts,
            term: head.term,
        };
        self.wall = head.wall;
        self.idle &= is_idle_noop(&head);
        Ok(self.bytes.len() >= PIECE_BYTES)
    }

    /// What was collected, unless it can wait.
    pub(super) fn flush(&mut self) -> Option<Ready> {
        let waits = self.idle && self.ends.len() < IDLE_NOOPS_MAX;
        if self.ends.is_empty() || waits {
            return None;
        }
        let start = std::mem::replace(&mut self.start, self.last.ts.next());
        self.idle = true;
        Some(Ready {
            start,
            bytes: self.bytes.split().freeze(),
            ends: std::mem::take(&mut self.ends),
            wall: self.wall,
            last: self.last,
        })
    }

    /// Nothing was collected but what an idle primary writes.
    pub(super) fn is_quiet(&self) -> bool {
        self.idle
    }

    /// Where what was handed over ends.
    pub(super) fn position(&self) -> ClusterTime {
        self.start
    }
}

fn is_idle_noop(head: &Head<'_>) -> bool {
    let message = head.object.and_then(|object| object.get_str("msg").ok());
    head.op == Op::Noop && message == Some("periodic noop")
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;
    use crate::entry::tests::entry;

    fn intake() -> Intake {
        Intake::new(
            ClusterTime::new(5, 0),
            Last {
                ts: ClusterTime::new(4, 9),
                term: 1,
            },
        )
    }

    #[test]
    fn entries_are_handed_over_as_they_came() {
        let mut intake = intake();
        let (first, second) = (
            entry(5, 1, "i", "a.b", doc! { "_id": 1 }),
            entry(5, 7, "d", "a.b", doc! { "_id": 1 }),
        );
        assert!(!intake.take(&first).unwrap() && !intake.take(&second).unwrap());
        let ready = intake.flush().unwrap();
        assert_eq!(ready.bytes, [first.as_bytes(), second.as_bytes()].concat());
        let ends: Vec<_> = ready.ends.iter().map(|end| end.position).collect();
        assert_eq!(ends, [ClusterTime::new(5, 2).0, ClusterTime::new(5, 8).0]);
        assert_eq!(
            (ready.start, intake.position()),
            (ClusterTime::new(5, 0), ClusterTime::new(5, 8))
        );
        assert_eq!(
            ready.last,
            Last {
                ts: ClusterTime::new(5, 7),
                term: 3
            }
        );
        assert!(intake.flush().is_none());
    }

    #[test]
    fn an_entry_that_does_not_come_after_the_one_before_it_is_refused() {
        let mut intake = intake();
        intake.take(&entry(5, 2, "n", "", doc! {})).unwrap();
        for (seconds, increment) in [(5, 2), (5, 1), (4, 9)] {
            let error = intake
                .take(&entry(seconds, increment, "n", "", doc! {}))
                .unwrap_err();
            assert!(matches!(error, EngineError::Jumped(_)), "{error}");
        }
    }

    #[test]
    fn no_ops_of_an_idle_primary_wait_and_none_is_left_out() {
        let mut intake = intake();
        intake
            .take(&entry(5, 1, "n", "", doc! { "msg": "periodic noop" }))
            .unwrap();
        assert_eq!(
            intake.flush().unwrap().ends.len(),
            1,
            "the first of a session"
        );
        let noop = |increment| entry(6, increment, "n", "", doc! { "msg": "periodic noop" });
        for increment in 1..=3 {
            intake.take(&noop(increment)).unwrap();
            assert!(intake.flush().is_none() && intake.is_quiet());
        }
        intake
            .take(&entry(6, 4, "i", "a.b", doc! { "_id": 1 }))
            .unwrap();
        assert!(!intake.is_quiet());
        assert_eq!(intake.flush().unwrap().ends.len(), 4);
        for increment in 10..10 + IDLE_NOOPS_MAX as u32 {
            assert!(intake.flush().is_none());
            intake.take(&noop(increment)).unwrap();
        }
        assert_eq!(intake.flush().unwrap().ends.len(), IDLE_NOOPS_MAX);
    }

    #[test]
    fn a_new_term_does_not_wait() {
        let mut intake = intake();
        intake
            .take(&entry(6, 1, "n", "", doc! { "msg": "new primary" }))
            .unwrap();
        assert!(intake.flush().is_some());
    }
}

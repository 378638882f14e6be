//! Entries of the oplog on their way to records: each is one, and their order is checked.

use bson::raw::RawDocument;

use super::Last;
use super::annotate::version_set_by;
use super::digests::Digests;
use super::pieces::{Pieces, Ready};
use crate::entry::{Head, Op};
use crate::summary::LogSummary;
use crate::{ClusterTime, EngineError};

/// While nothing else happens, the no-ops by which an idle primary moves its clock are kept back, so many at most: an idle source
/// costs an object every ten minutes instead of one every ten seconds.
const IDLE_NOOPS_MAX: usize = 60;

/// Larger than any entry that a server writes: 16 MiB and a little.
const ENTRY_BYTES_MAX: usize = 64 << 20;

/// Collects entries.
pub(super) struct Entries {
    pieces: Pieces,
    last: ClusterTime,
    /// All that was collected are no-ops of an idle primary.
    idle: bool,
    /// Of all that was collected; `None` if the annotator has to look at it, because it changes the compatibility version.
    noted: Option<LogSummary>,
    digests: Digests,
}

impl Entries {
    /// Positions begin at `start`; the entries follow `last`, at the latest just before `start`. The first ones do not wait, whatever
    /// they are. What they say of themselves goes into `digests`.
    pub(super) fn new(start: ClusterTime, last: Option<Last>, digests: Digests) -> Self {
        Self {
            pieces: Pieces::new(start, last, ENTRY_BYTES_MAX),
            last: last.map_or(start.previous(), |last| last.ts),
            idle: false,
            noted: Some(LogSummary::default()),
            digests,
        }
    }

    /// The time of the last entry that was taken.
    pub(super) fn received(&self) -> ClusterTime {
        self.last
    }

    /// Takes the next entry. True: there is a piece to hand over.
    pub(super) fn take(&mut self, entry: &RawDocument) -> Result<bool, EngineError> {
        let head = Head::read(entry).map_err(|error| EngineError::Jumped(error.to_string()))?;
        if head.ts <= self.last {
            let reason = format!("{} follows {}", head.ts, self.last);
            return Err(EngineError::Jumped(reason));
        }
        self.pieces.add(entry.as_bytes())?;
        let last = Last::of_entry(&head);
        self.pieces.end(head.ts, Some((last, head.wall)));
        self.last = head.ts;
        self.idle &= is_idle_noop(&head);
        if version_set_by(&head, entry).is_some() {
            self.noted = None;
        } else if let Some(noted) = &mut self.noted {
            noted.observe(&head);
        }
        Ok(self.pieces.is_full())
    }

    /// What was collected, unless it can wait.
    pub(super) fn flush(&mut self) -> Option<Ready> {
        if self.idle && self.pieces.count() < IDLE_NOOPS_MAX {
            return None;
        }
        let ready = self.pieces.flush()?;
        if let Some(noted) = self.noted.replace(LogSummary::default()) {
            self.digests.push(ready.start, ready.bytes.len(), noted);
        }
        self.idle = true;
        Some(ready)
    }

    /// Nothing was collected but what an idle primary writes.
    pub(super) fn is_quiet(&self) -> bool {
        self.idle
    }

    /// Where what was handed over ends.
    pub(super) fn position(&self) -> ClusterTime {
        self.pieces.position()
    }
}

fn is_idle_noop(head: &Head<'_>) -> bool {
    let message = || head.object.and_then(|object| object.get_str("msg").ok());
    head.op == Op::Noop && message() == Some("periodic noop")
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;
    use crate::entry::tests::entry;

    fn intake() -> Entries {
        let last = Last {
            ts: ClusterTime::new(4, 9),
            sign: 1,
        };
        Entries::new(ClusterTime::new(5, 0), Some(last), Digests::default())
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
            Some(Last {
                ts: ClusterTime::new(5, 7),
                sign: 3
            })
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
    fn a_piece_is_noted_as_it_is_read_unless_it_changes_the_version() {
        let mut intake = intake();
        let documents = [
            entry(5, 1, "i", "a.b", doc! { "_id": 1 }),
            entry(5, 2, "c", "a.$cmd", doc! { "drop": "b" }),
        ];
        let mut expected = LogSummary::default();
        for document in &documents {
            expected.observe(&Head::read(document).unwrap());
            intake.take(document).unwrap();
        }
        let ready = intake.flush().unwrap();
        let noted =
            |ready: &Ready, intake: &Entries| intake.digests.take(ready.start.0, ready.bytes.len());
        assert_eq!(noted(&ready, &intake), Some(expected));
        let version = doc! { "_id": crate::FCV_ID, "version": "7.0" };
        intake
            .take(&entry(5, 3, "i", crate::FCV_NAMESPACE, version))
            .unwrap();
        let ready = intake.flush().unwrap();
        assert_eq!(noted(&ready, &intake), None);
        intake
            .take(&entry(5, 4, "i", "a.b", doc! { "_id": 2 }))
            .unwrap();
        let ready = intake.flush().unwrap();
        assert!(noted(&ready, &intake).is_some_and(|noted| noted.entries == 1));
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

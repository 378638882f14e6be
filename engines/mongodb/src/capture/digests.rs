//! What was noted of a piece when the heads of its entries were read, on its way to the annotator: heads are read once. What a cut divides
//! is read again there.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use crate::ClusterTime;
use crate::summary::LogSummary;

struct Digest {
    start: u64,
    bytes: usize,
    summary: LogSummary,
}

/// Of the pieces that were handed over and have not been seen by the annotator, in order.
#[derive(Clone, Default)]
pub(super) struct Digests(Arc<Mutex<VecDeque<Digest>>>);

impl Digests {
    /// Notes of the next piece, before it is handed over.
    pub(super) fn push(&self, start: ClusterTime, bytes: usize, summary: LogSummary) {
        let digest = Digest {
            start: start.0,
            bytes,
            summary,
        };
        self.0.lock().expect("no holder panics").push_back(digest);
    }

    /// What was noted of these bytes, which begin at `start`; `None` if they are not a whole piece, or nothing was.
    pub(super) fn take(&self, start: u64, bytes: usize) -> Option<LogSummary> {
        let mut waiting = self.0.lock().expect("no holder panics");
        // Pieces come in order: what lies before has passed, in parts.
        while waiting
            .pop_front_if(|digest| digest.start < start)
            .is_some()
        {}
        let digest = waiting.pop_front_if(|digest| digest.start == start)?;
        (digest.bytes == bytes).then_some(digest.summary)
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;
    use crate::Head;
    use crate::entry::tests::entry;

    /// Tells one piece from another.
    fn noted(increment: u32) -> LogSummary {
        let entry = entry(5, increment, "i", "a.b", doc! { "_id": 1 });
        let mut summary = LogSummary::default();
        summary.observe(&Head::read(&entry).expect("an entry"));
        summary
    }

    #[test]
    fn only_a_whole_piece_is_known_by_what_was_noted_of_it() {
        let digests = Digests::default();
        for (start, bytes) in [(10, 100), (20, 50), (30, 70)] {
            digests.push(ClusterTime(start), bytes, noted(start as u32));
        }
        assert_eq!(digests.take(10, 100), Some(noted(10)));
        // A cut divides the second one.
        assert_eq!(digests.take(20, 30), None);
        assert_eq!(digests.take(25, 20), None);
        assert_eq!(digests.take(30, 70), Some(noted(30)));
        assert_eq!(digests.take(40, 70), None);
    }

    #[test]
    fn what_nothing_was_noted_of_leaves_what_follows_alone() {
        let digests = Digests::default();
        digests.push(ClusterTime(20), 50, noted(1));
        assert_eq!(digests.take(10, 50), None);
        assert_eq!(digests.take(20, 50), Some(noted(1)));
    }
}

//! Timeline history files: which timelines led to one, and where each branched off.

use crate::{Lsn, TimelineId};

/// An ancestor, and where the next timeline left it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ancestor {
    /// The ancestor.
    pub timeline: TimelineId,
    /// The first LSN that is no longer its.
    pub switch: Lsn,
}

/// The history of a timeline other than the first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimelineHistory {
    timeline: TimelineId,
    /// Oldest first; never empty.
    ancestors: Vec<Ancestor>,
}

/// A history file that PostgreSQL would refuse, too.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line} of the history file of timeline {timeline}: {reason}")]
pub struct HistoryError {
    /// Whose history it is.
    pub timeline: TimelineId,
    /// Counted from 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong.
    pub reason: &'static str,
}

impl TimelineHistory {
    /// Reads the raw bytes of `<timeline>.history`. Lines are `parent, switch LSN, reason` with white space between; comments
    /// (`#`) and empty lines are passed over (PostgreSQL's `readTimeLineHistory`).
    pub fn parse(timeline: TimelineId, bytes: &[u8]) -> Result<Self, HistoryError> {
        let mut ancestors: Vec<Ancestor> = Vec::new();
        for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
            let wrong = |reason| HistoryError {
                timeline,
                line: index + 1,
                reason,
            };
            let text = String::from_utf8_lossy(line);
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let mut words = text.split_ascii_whitespace();
            let parent = words
                .next()
                .and_then(|word| word.parse().ok())
                .filter(|&id: &u32| id > 0);
            let parent =
                TimelineId(parent.ok_or_else(|| wrong("it does not begin with a timeline"))?);
            let switch: Option<Lsn> = words.next().and_then(|word| word.parse().ok());
            let switch = switch.ok_or_else(|| wrong("its second word is not an LSN"))?;
            if ancestors
                .last()
                .is_some_and(|last| parent <= last.timeline || switch < last.switch)
            {
                return Err(wrong("timelines and LSNs do not ascend"));
            }
            if parent >= timeline {
                return Err(wrong("an ancestor is not older than the timeline"));
            }
            ancestors.push(Ancestor {
                timeline: parent,
                switch,
            });
        }
        if ancestors.is_empty() {
            return Err(HistoryError {
                timeline,
                line: 0,
                reason: "it names no ancestor",
            });
        }
        Ok(Self {
            timeline,
            ancestors,
        })
    }

    /// Whose history it is.
    #[must_use]
    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// The ancestors, oldest first.
    pub fn ancestors(&self) -> impl DoubleEndedIterator<Item = Ancestor> + '_ {
        self.ancestors.iter().copied()
    }

    /// The timeline it branched off from, and where.
    #[must_use]
    pub fn parent(&self) -> Ancestor {
        *self.ancestors.last().expect("a history names an ancestor")
    }

    /// The timeline whose WAL holds `at` on the way to this one: the oldest that had not been left there.
    #[must_use]
    pub fn timeline_at(&self, at: Lsn) -> TimelineId {
        self.ancestors
            .iter()
            .find(|entry| at < entry.switch)
            .map_or(self.timeline, |entry| entry.timeline)
    }

    /// Where the way to this timeline leaves `ancestor`.
    #[must_use]
    pub fn switch_from(&self, ancestor: TimelineId) -> Option<Lsn> {
        self.ancestors
            .iter()
            .find(|entry| entry.timeline == ancestor)
            .map(|entry| entry.switch)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_way_to_a_timeline_is_read_in_order() {
        let text = b"1\t0/3000060\tno recovery target specified\n\n# comment\n2\t0/5000028\tbefore 2026-11-21\n";
        let history = TimelineHistory::parse(TimelineId(3), text).unwrap();
        assert_eq!(
            history.parent(),
            Ancestor {
                timeline: TimelineId(2),
                switch: Lsn(0x500_0028)
            }
        );
        assert_eq!(history.switch_from(TimelineId(1)), Some(Lsn(0x300_0060)));
        assert_eq!(history.switch_from(TimelineId(3)), None);
    }

    #[test]
    fn a_history_that_runs_backwards_is_refused() {
        for wrong in [
            "2\t0/5\tx\n1\t0/6\tx\n",
            "1\t0/5\tx\n2\t0/4\tx\n",
            "3\t0/5\tx\n",
            "x\n",
            "1\n",
            "",
        ] {
            assert!(
                TimelineHistory::parse(TimelineId(3), wrong.as_bytes()).is_err(),
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn what_a_server_wrote_at_a_promotion_is_read() {
        let text = b"1\t0/3DE85790\tno recovery target specified\n";
        let history = TimelineHistory::parse(TimelineId(2), text).unwrap();
        assert_eq!(history.parent().switch, Lsn(0x3DE8_5790));
        assert_eq!(history.timeline_at(Lsn(0x3DE8_578F)), TimelineId(1));
        assert_eq!(history.timeline_at(Lsn(0x3DE8_5790)), TimelineId(2));
    }

    proptest! {
        #[test]
        fn every_place_on_the_way_has_one_owner(
            steps in proptest::collection::vec((1..5_u32, 1..1_u64 << 40, "[ -~é]{0,30}"), 1..20),
            at in 0..1_u64 << 45,
        ) {
            let (mut timeline, mut switch, mut text) = (0, 0, String::from("# comment\n"));
            let mut expected = None;
            for (next, bytes, reason) in &steps {
                timeline += next;
                switch += bytes;
                text += &format!("  {timeline}\t{}\t{reason}\r\n\n", Lsn(switch));
                if at < switch {
                    expected.get_or_insert(TimelineId(timeline));
                }
            }
            let last = TimelineId(timeline + 1);
            let history = TimelineHistory::parse(last, text.as_bytes()).unwrap();
            prop_assert_eq!(history.ancestors().count(), steps.len());
            prop_assert_eq!(history.timeline_at(Lsn(at)), expected.unwrap_or(last));
            let parent = Ancestor { timeline: TimelineId(timeline), switch: Lsn(switch) };
            prop_assert_eq!(history.parent(), parent);
            for ancestor in history.ancestors() {
                prop_assert_eq!(history.switch_from(ancestor.timeline), Some(ancestor.switch));
            }
        }

        #[test]
        fn any_bytes_are_a_history_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = TimelineHistory::parse(TimelineId(9), &bytes);
        }
    }
}

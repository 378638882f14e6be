//! The decision on which a recovery hangs: whether a WAL segment is in the archive, provably not there, or neither.

use std::ops::Range;

/// What is true of a WAL segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Decision {
    /// The archive has its bytes up to here, in this run; what follows was never written.
    Bytes { run: usize, upto: u64 },
    /// It provably does not exist: the only answer that may end a recovery.
    Absent,
    /// Some of it was lost before it was archived.
    Gap(Range<u64>),
    /// It is older than the timeline's stream, and no ancestor has it.
    TooOld { start: u64 },
}

/// Decides about the WAL segment at `wanted`. `runs` are the unbroken stretches of its timeline, ascending, up to the contiguous durable
/// end; `ancestor_has_it` tells that the segment lies before the timeline began and an ancestor's stream has it. A recovery that
/// stops before `until` may have the bytes before a gap: it will not ask what comes after them.
pub(super) fn decide(
    wanted: &Range<u64>,
    runs: &[Range<u64>],
    ancestor_has_it: bool,
    until: Option<u64>,
) -> Decision {
    let Some(first) = runs.first() else {
        return Decision::Absent;
    };
    if wanted.start < first.start {
        return if ancestor_has_it && wanted.end <= first.start {
            Decision::Absent
        } else {
            Decision::TooOld { start: first.start }
        };
    }
    let run = runs.partition_point(|run| run.start <= wanted.start) - 1;
    let end = runs[run].end;
    match runs.get(run + 1) {
        _ if wanted.end <= end => Decision::Bytes {
            run,
            upto: wanted.end,
        },
        Some(_) if wanted.start < end && until.is_some_and(|until| until < end) => {
            Decision::Bytes { run, upto: end }
        }
        // A run can begin again at the position where the one before it ended: nothing is missing, but it was not proved.
        Some(next) => Decision::Gap(end..next.start.max(end)),
        None if wanted.start < end => Decision::Bytes { run, upto: end },
        None => Decision::Absent,
    }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    #[test]
    fn past_the_durable_end_and_only_there_a_segment_is_absent() {
        let runs = from_ref(&(16..56));
        assert_eq!(
            decide(&(16..32), runs, false, None),
            Decision::Bytes { run: 0, upto: 32 }
        );
        assert_eq!(
            decide(&(48..64), runs, false, None),
            Decision::Bytes { run: 0, upto: 56 }
        );
        assert_eq!(decide(&(64..80), runs, false, None), Decision::Absent);
        assert_eq!(
            decide(&(32..48), from_ref(&(16..32)), false, None),
            Decision::Absent
        );
    }

    #[test]
    fn a_timeline_without_a_stream_has_no_segments() {
        assert_eq!(decide(&(0..16), &[], false, None), Decision::Absent);
    }

    #[test]
    fn before_the_beginning_only_an_ancestor_makes_it_absent() {
        let runs = from_ref(&(32..64));
        assert_eq!(decide(&(16..32), runs, true, None), Decision::Absent);
        assert_eq!(
            decide(&(16..32), runs, false, None),
            Decision::TooOld { start: 32 }
        );
        // The stream begins in the middle of it: nobody can say that it does not exist.
        assert_eq!(
            decide(&(16..32), from_ref(&(24..64)), true, None),
            Decision::TooOld { start: 24 }
        );
    }

    #[test]
    fn what_touches_a_gap_is_neither_there_nor_absent() {
        let runs = [0..40, 80..128];
        assert_eq!(
            decide(&(16..32), &runs, false, None),
            Decision::Bytes { run: 0, upto: 32 }
        );
        for inside in [32..48, 48..64, 64..80] {
            assert_eq!(
                decide(&inside, &runs, false, None),
                Decision::Gap(40..80),
                "{inside:?}"
            );
        }
        assert_eq!(
            decide(&(80..96), &runs, false, None),
            Decision::Bytes { run: 1, upto: 96 }
        );
        assert_eq!(decide(&(128..144), &runs, false, None), Decision::Absent);
    }

    #[test]
    fn a_recovery_that_stops_before_a_gap_gets_the_bytes_before_it() {
        let runs = [0..40, 80..128];
        let decide = |wanted: Range<u64>, until| decide(&wanted, &runs, false, Some(until));
        assert_eq!(decide(32..48, 35), Decision::Bytes { run: 0, upto: 40 });
        assert_eq!(
            decide(32..48, 40),
            Decision::Gap(40..80),
            "the target lies behind the bytes"
        );
        assert_eq!(
            decide(48..64, 35),
            Decision::Gap(40..80),
            "it asks for more than its target needs"
        );
    }
}

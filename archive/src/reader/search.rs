//! Searching a stream by its headers. A store that is far away answers many questions in the time of one, so each round asks for
//! several headers at once: what counts is rounds, then requests.

use std::ops::Range;

use futures_util::future::try_join_all;

use super::{LogReader, Run};
use crate::error::ArchiveError;
use crate::object::Header;

/// Headers that one round of a search asks for, evenly between what is known: few in a long stream, where there are many rounds, and
/// so many in a short one that it ends after the next round.
const FAN: u64 = 4;
const FAN_SHORT: u64 = 16;
const SHORT: u64 = FAN_SHORT * (FAN_SHORT + 1);

impl LogReader {
    /// The first number in `seqs` for which `past` holds, `seqs.end` if none; `past` must be monotone over it.
    pub async fn partition(
        &self,
        seqs: Range<u64>,
        past: impl Fn(&Header) -> bool,
    ) -> Result<u64, ArchiveError> {
        let (mut low, mut high) = (seqs.start, seqs.end);
        // What earlier searches have read narrows this one down without a request.
        for header in self.known_headers() {
            if !(low..high).contains(&header.seq) {
                continue;
            }
            if past(&header) {
                high = header.seq;
            } else {
                low = header.seq + 1;
            }
        }
        while low < high {
            let headers = evenly(low..high, fan(high - low))
                .into_iter()
                .map(|seq| self.header_of(seq));
            for header in try_join_all(headers).await? {
                if past(&header) {
                    high = high.min(header.seq);
                } else {
                    low = low.max(header.seq + 1);
                }
            }
        }
        Ok(low)
    }

    /// The segment of `run` that holds `position`; `None` if it lies outside.
    pub async fn seq_at(&self, run: &Run, position: u64) -> Result<Option<u64>, ArchiveError> {
        if !run.positions.contains(&position) {
            return Ok(None);
        }
        let (mut low, mut high) = (run.seqs.start, run.seqs.end);
        let (mut low_position, mut high_position) = (run.positions.start, run.positions.end);
        // What earlier searches have read narrows this one down without a request.
        for header in self.known_headers() {
            if !(low..high).contains(&header.seq) {
                continue;
            }
            if header.start > position {
                (high, high_position) = (header.seq, header.start);
            } else if header.end > position {
                return Ok(Some(header.seq));
            } else {
                (low, low_position) = (header.seq + 1, header.end);
            }
        }
        while high - low > 1 {
            let span = high - low;
            let share = u128::from(position - low_position) * u128::from(span)
                / u128::from(high_position - low_position);
            // Segments of a run are often alike, so a guess by proportion is near; what is evenly between is for when they are not.
            let guess = low + (share as u64).min(span - 1);
            let mut asked = evenly(low..high, fan(span));
            asked.extend(guess.saturating_sub(1).max(low)..(guess + 2).min(high));
            asked.sort_unstable();
            asked.dedup();
            let headers = asked.into_iter().map(|seq| self.header_of(seq));
            for header in try_join_all(headers).await? {
                if header.start > position {
                    if header.seq < high {
                        (high, high_position) = (header.seq, header.start);
                    }
                } else if header.end > position {
                    return Ok(Some(header.seq));
                } else if (low..high).contains(&header.seq) {
                    (low, low_position) = (header.seq + 1, header.end);
                }
            }
        }
        Ok(Some(low))
    }
}

/// How many headers to ask for among so many.
fn fan(span: u64) -> u64 {
    if span <= SHORT { FAN_SHORT } else { FAN }
}

/// What the first round of any search in a short stream asks for.
pub(super) fn evenly_if_short(seqs: Range<u64>) -> Vec<u64> {
    if seqs.end - seqs.start <= SHORT {
        evenly(seqs, FAN_SHORT)
    } else {
        Vec::new()
    }
}

/// Up to `places` numbers of `seqs`, evenly spread; all of them if there are no more.
pub(super) fn evenly(seqs: Range<u64>, places: u64) -> Vec<u64> {
    let span = seqs.end - seqs.start;
    if span <= places {
        return seqs.collect();
    }
    let part = |part: u64| {
        seqs.start + (u128::from(span) * u128::from(part) / u128::from(places + 1)) as u64
    };
    (1..=places).map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_spread_evenly_and_lies_inside() {
        assert_eq!(evenly(5..5, 4), [] as [u64; 0]);
        assert_eq!(evenly(5..8, 4), [5, 6, 7]);
        assert_eq!(evenly(0..5, 4), [1, 2, 3, 4]);
        assert_eq!(evenly(0..50, 4), [10, 20, 30, 40]);
        let wide = evenly(0..u64::MAX, 4);
        assert!(
            wide.is_sorted_by(|a, b| a < b) && wide.len() == 4,
            "{wide:?}"
        );
    }
}

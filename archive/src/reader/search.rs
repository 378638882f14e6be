//! Searching a stream by its headers. A store that is far away answers many questions in the time of one, so each round asks for
//! several headers at once: what counts is rounds, then requests.

use std::ops::Range;

use futures_util::future::try_join_all;

use super::{LogReader, Run};
use crate::error::ArchiveError;
use crate::object::Header;

/// Steps of one round of galloping: the last one leads 2^9 segments on, what a busy daemon writes in some minutes.
const STEPS: u32 = 10;
/// Headers that one round of a search asks for, evenly between what is known.
const FAN: u64 = 4;

impl LogReader {
    /// From a segment that exists, or from none, a last one: it exists and the next one does not.
    pub(super) async fn gallop(&self, known: Option<u64>) -> Result<Option<u64>, ArchiveError> {
        let mut low = match known {
            Some(seq) => seq,
            None if self.header(0).await?.is_some() => 0,
            None => return Ok(None),
        };
        let mut shift = 0;
        loop {
            let steps: Vec<u64> = (shift..shift + STEPS)
                .map(|step| low + (1 << step))
                .collect();
            let (last, missing) = self.last_present(low, &steps).await?;
            match missing {
                Some(high) => return self.between(last, high).await.map(Some),
                // The next strides begin where these ended.
                None => (low, shift) = (last, shift + STEPS),
            }
        }
    }

    /// `low` exists and `high` does not: a last one between them.
    async fn between(&self, mut low: u64, mut high: u64) -> Result<u64, ArchiveError> {
        while high - low > 1 {
            let (last, missing) = self.last_present(low, &evenly(low + 1..high)).await?;
            (low, high) = (last, missing.unwrap_or(high));
        }
        Ok(low)
    }

    /// Asks for `seqs`, which rise from above `low`, all at once: the one before the first that is missing, and that one.
    async fn last_present(
        &self,
        low: u64,
        seqs: &[u64],
    ) -> Result<(u64, Option<u64>), ArchiveError> {
        let headers = try_join_all(seqs.iter().map(|&seq| self.header(seq))).await?;
        let missing = headers.iter().position(Option::is_none);
        let present = &seqs[..missing.unwrap_or(seqs.len())];
        let last = present.last().copied().unwrap_or(low);
        Ok((last, missing.map(|at| seqs[at])))
    }

    /// The first number in `seqs` for which `past` holds, `seqs.end` if none; `past` must be monotone over it.
    pub async fn partition(
        &self,
        seqs: Range<u64>,
        past: impl Fn(&Header) -> bool,
    ) -> Result<u64, ArchiveError> {
        let (mut low, mut high) = (seqs.start, seqs.end);
        // What earlier searches have read narrows this one down without a request.
        for (&seq, preamble) in self.preambles.lock().expect("no holder panics").iter() {
            if !(low..high).contains(&seq) {
                continue;
            }
            if past(&preamble.header) {
                high = seq;
            } else {
                low = seq + 1;
            }
        }
        while low < high {
            let headers = evenly(low..high).into_iter().map(|seq| self.header_of(seq));
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
        while high - low > 1 {
            let span = high - low;
            let share = u128::from(position - low_position) * u128::from(span)
                / u128::from(high_position - low_position);
            // Segments of a run are often alike, so a guess by proportion is near; what is evenly between is for when they are not.
            let guess = low + (share as u64).min(span - 1);
            let mut asked = evenly(low..high);
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

/// Up to [`FAN`] numbers of `seqs`, evenly spread; all of them if there are no more.
fn evenly(seqs: Range<u64>) -> Vec<u64> {
    let span = seqs.end - seqs.start;
    if span <= FAN {
        return seqs.collect();
    }
    let part =
        |part: u64| seqs.start + (u128::from(span) * u128::from(part) / u128::from(FAN + 1)) as u64;
    (1..=FAN).map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_spread_evenly_and_lies_inside() {
        assert_eq!(evenly(5..5), [] as [u64; 0]);
        assert_eq!(evenly(5..8), [5, 6, 7]);
        assert_eq!(evenly(0..5), [1, 2, 3, 4]);
        assert_eq!(evenly(0..50), [10, 20, 30, 40]);
        let wide = evenly(0..u64::MAX);
        assert!(
            wide.is_sorted_by(|a, b| a < b) && wide.len() == 4,
            "{wide:?}"
        );
    }
}

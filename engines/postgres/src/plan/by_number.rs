//! Where a transaction's end is looked for first. Numbers are given out in order and most transactions are short, so those around it tell,
//! from a few summaries; what they tell decides only in which order segments are searched, and whether one find is enough.

use std::ops::Range;

use futures_util::future::try_join_all;
use pitr_archive::ArchiveError;
use pitr_archive::reader::LogReader;

use super::error::PlanError;
use super::resolve::Resolver;
use super::scan::stretch_seqs;
use crate::wal::WalSummary;

/// WAL between two samples. For every number given out at least four bytes are written: even if one of three samples tells nothing, no
/// number is used twice between those beside it.
const BETWEEN_SAMPLES_BYTES: u64 = 8 << 30;
/// Segments among which one is looked for in which a transaction ended.
const NEIGHBOURS: u64 = 16;
/// Segments on either side of the place where a transaction should have ended, which are searched first; and those before it that come
/// second: it may have ended before others with lower numbers.
const NEAR: u64 = 4;
const FAR: u64 = 64;
/// By so many numbers a transaction may end late. One that takes longer makes the search longer, and no other.
const LATE: u32 = 1 << 24;

/// Segments of one stretch, to be searched one after the other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Part {
    pub(super) stretch: usize,
    pub(super) seqs: Range<u64>,
}

/// What a summary tells of the numbers around a segment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    stretch: usize,
    seq: u64,
    xid: u32,
}

impl Resolver<'_> {
    /// All segments of the island, oldest first.
    pub(super) async fn in_order(&self) -> Result<Vec<Part>, PlanError> {
        let mut parts = Vec::new();
        for (stretch, found) in self.island.stretches.iter().enumerate() {
            let seqs = stretch_seqs(&self.line.shares[found.share], found).await?;
            parts.push(Part { stretch, seqs });
        }
        Ok(parts)
    }

    /// The same segments, those first in which `xid` should have ended. `None` if the number may have been used twice, or nothing tells.
    pub(super) async fn around(
        &self,
        xid: u32,
        parts: &[Part],
    ) -> Result<Option<Vec<Part>>, PlanError> {
        let Some(samples) = self.samples(parts).await? else {
            return Ok(None);
        };
        let Some(first) = samples.first().filter(|_| is_used_once(&samples)) else {
            return Ok(None);
        };
        let rank = |number: u32| forward(first.xid, number);
        let wanted = rank(xid);
        let before = samples.partition_point(|sample| rank(sample.xid) < wanted);
        let at = samples[before.saturating_sub(1)];
        let whole = &parts[at.stretch];
        let upto = samples
            .get(before)
            .filter(|next| next.stretch == at.stretch);
        let mut low = (at.seq, rank(at.xid));
        let mut high = upto.map_or((whole.seqs.end, u32::MAX), |next| {
            (next.seq, rank(next.xid))
        });
        while high.0 - low.0 > 1 {
            let seqs = between(low, high, wanted);
            let told = seqs.iter().map(|&seq| self.sample(at.stretch, seq..high.0));
            let told = try_join_all(told).await?;
            for (seq, found) in seqs.into_iter().zip(told) {
                match found.map(rank) {
                    Some(found) if found >= wanted => {
                        high = (seq, found);
                        break;
                    }
                    found => low = (seq, found.unwrap_or(low.1).max(low.1)),
                }
            }
        }
        let low = low.0;
        Ok(Some(from(low, at.stretch, parts)))
    }

    /// Numbers along the way. `None` if they are too few to tell whether one was used twice.
    async fn samples(&self, parts: &[Part]) -> Result<Option<Vec<Sample>>, PlanError> {
        let mut samples = Vec::new();
        for Part { stretch, seqs } in parts {
            let found = &self.island.stretches[*stretch];
            let last = seqs.end.saturating_sub(NEIGHBOURS).max(seqs.start);
            let mut asked = vec![seqs.start, last];
            let steps = (found.to.0 - found.from.0).div_ceil(BETWEEN_SAMPLES_BYTES);
            for step in 1..steps {
                let position = found.from.0 + step * BETWEEN_SAMPLES_BYTES;
                asked.extend(self.reader(*stretch).seq_at(&found.run, position).await?);
            }
            asked.sort_unstable();
            asked.dedup();
            let told = asked
                .iter()
                .map(|&seq| self.sample(*stretch, seq..seqs.end));
            let told = try_join_all(told).await?;
            if told.windows(2).any(|pair| pair == [None, None]) {
                return Ok(None);
            }
            let told = asked.into_iter().zip(told);
            samples.extend(told.filter_map(|(seq, xid)| {
                Some(Sample {
                    stretch: *stretch,
                    seq,
                    xid: xid?,
                })
            }));
        }
        Ok(Some(samples))
    }

    /// The highest number of a transaction that ended in the first one of `seqs` in which any did, if that is near.
    async fn sample(&self, stretch: usize, seqs: Range<u64>) -> Result<Option<u32>, ArchiveError> {
        let Range { start, end } = seqs;
        if let Some(xid) = self.highest(stretch, start).await? {
            return Ok(Some(xid));
        }
        let others = (start + 1..end.min(start + NEIGHBOURS)).map(|seq| self.highest(stretch, seq));
        Ok(try_join_all(others).await?.into_iter().flatten().next())
    }

    async fn highest(&self, stretch: usize, seq: u64) -> Result<Option<u32>, ArchiveError> {
        let summary = self.reader(stretch).summary(seq, self.scan.reading).await?;
        let summary = WalSummary::decode(&summary).ok();
        Ok(summary.and_then(|summary| summary.xids).map(|xids| xids.1))
    }

    fn reader(&self, stretch: usize) -> &LogReader {
        &self.line.shares[self.island.stretches[stretch].share].reader
    }
}

/// Segments to ask between two of which the numbers are known: around the place where `wanted` lies if they rise evenly, and halfway, for
/// when they do not.
fn between(low: (u64, u32), high: (u64, u32), wanted: u32) -> Vec<u64> {
    let span = high.0 - low.0;
    let numbers = u128::from(high.1.saturating_sub(low.1)).max(1);
    let part = u128::from(span) * u128::from(wanted.saturating_sub(low.1)) / numbers;
    let guess = low.0 + (part as u64).min(span);
    let mut seqs = vec![guess.saturating_sub(1), guess, guess + 1, low.0 + span / 2];
    seqs.retain(|seq| low.0 < *seq && *seq < high.0);
    seqs.sort_unstable();
    seqs.dedup();
    seqs
}

/// How many numbers after `from` a server gives out `to`; one from a little before counts as the same.
fn forward(from: u32, to: u32) -> u32 {
    let numbers = to.wrapping_sub(from);
    if numbers > u32::MAX - LATE {
        0
    } else {
        numbers
    }
}

/// Whether no number comes twice along the way.
fn is_used_once(samples: &[Sample]) -> bool {
    let steps = samples.windows(2);
    let numbers: u64 = steps
        .map(|pair| u64::from(forward(pair[0].xid, pair[1].xid)))
        .sum();
    numbers < u64::from(u32::MAX - 2 * LATE)
}

/// `parts`: what lies around segment `seq` of `stretch` first, then what comes behind, then what comes before.
fn from(seq: u64, stretch: usize, parts: &[Part]) -> Vec<Part> {
    let whole = &parts[stretch].seqs;
    let inside = |at: u64| at.clamp(whole.start, whole.end);
    let (far, near) = (seq.saturating_sub(FAR), seq.saturating_sub(NEAR));
    let cuts = [far, near, seq + NEAR].map(inside);
    let part = |seqs| Part { stretch, seqs };
    let mut order = vec![
        part(cuts[1]..cuts[2]),
        part(cuts[0]..cuts[1]),
        part(cuts[2]..whole.end),
    ];
    order.extend_from_slice(&parts[stretch + 1..]);
    order.push(part(whole.start..cuts[0]));
    order.extend(parts[..stretch].iter().rev().cloned());
    order.retain(|part| !part.seqs.is_empty());
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(xids: &[u32]) -> Vec<Sample> {
        let sample = |(seq, &xid)| Sample {
            stretch: 0,
            seq: seq as u64,
            xid,
        };
        xids.iter().enumerate().map(sample).collect()
    }

    #[test]
    fn numbers_are_used_once_until_all_were_given_out() {
        assert!(is_used_once(&samples(&[3, 1 << 30, 1 << 31, 3 << 30])));
        // Around the wraparound, and with a transaction that took its time.
        assert!(is_used_once(&samples(&[u32::MAX - 9, 7, 5, 100])));
        assert!(!is_used_once(&samples(&[
            3,
            1 << 31,
            u32::MAX - 5,
            1 << 30
        ])));
        assert!(!is_used_once(&samples(&[1 << 31, 0, 1 << 31])));
    }

    #[test]
    fn what_is_asked_lies_between_and_narrows_it_down() {
        assert_eq!(between((0, 0), (1000, 1000), 300), [299, 300, 301, 500]);
        assert_eq!(between((7, 5), (9, 5), 9), [8]);
        assert_eq!(between((7, 5), (100, u32::MAX), u32::MAX), [53, 99]);
        assert_eq!(between((7, 9), (20, 30), 0), [8, 13]);
    }

    #[test]
    fn every_segment_comes_once_and_the_likely_ones_first() {
        let part = |stretch, seqs| Part { stretch, seqs };
        let parts = [part(0, 0..50), part(1, 3..100), part(2, 7..9)];
        let wanted = [
            part(1, 76..84),
            part(1, 16..76),
            part(1, 84..100),
            part(2, 7..9),
            part(1, 3..16),
            part(0, 0..50),
        ];
        assert_eq!(from(80, 1, &parts), wanted);
        let wanted = [part(1, 3..9), part(1, 9..100)];
        assert_eq!(from(5, 1, &parts)[..2], wanted);
    }
}

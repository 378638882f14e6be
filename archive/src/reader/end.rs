//! The end of a stream, and its unbroken runs. A store that is far away answers many questions in the time of one, so each round asks
//! for all that may matter to the next one: near the head, where the end mostly is, one round finds it.

use std::collections::BTreeSet;

use futures_util::future::{join, join_all, try_join, try_join_all};

use super::listing::LISTED_AT_ONCE;
use super::search::{evenly, evenly_if_short};
use super::{End, Head, LogReader, Run};
use crate::error::ArchiveError;
use crate::object::Header;
use crate::writer::IN_FLIGHT_MAX;

/// Strides of one round of galloping: those of the first one lead 2^9 segments on, what a busy daemon writes in some minutes.
const STEPS: u32 = 10;
/// Strides of a later round: far from the head, rounds are rare.
const STEPS_LATER: u32 = 4;
/// A gap so wide is asked for whole, a wider one in so many places.
const GAP_WHOLE: u64 = 8;
const GAP_PLACES: u64 = 8;

/// The search for a last number: it is there, and the next [`IN_FLIGHT_MAX`] are not.
struct Search {
    /// A number that is there; the end is not before it.
    low: Option<u64>,
    /// Numbers that were asked for in this search and are not there.
    missing: BTreeSet<u64>,
    /// Binary logarithm of the next stride.
    shift: u32,
}

impl Search {
    /// From a number that is there, or from none.
    fn new(low: Option<u64>) -> Self {
        Self {
            low,
            missing: BTreeSet::new(),
            shift: 0,
        }
    }

    fn next(&self) -> u64 {
        self.low.map_or(0, |low| low + 1)
    }

    /// What to ask for next; nothing when the end is found.
    fn ask(&mut self) -> Vec<u64> {
        let next = self.next();
        let high = self.missing.range(next..).next().copied();
        let mut asked: Vec<u64> = match high {
            None => self.strides(next),
            // Whichever is the last one, this is all that can be in flight with it.
            Some(high) if high - next <= GAP_WHOLE => (next..high + IN_FLIGHT_MAX).collect(),
            Some(high) => evenly(next..high, GAP_PLACES),
        };
        asked.retain(|seq| !self.missing.contains(seq));
        asked
    }

    /// Ever longer strides. The first ones from a head, behind which little may have come, leave out nothing of what can be in flight.
    fn strides(&mut self, next: u64) -> Vec<u64> {
        let first = self.shift == 0;
        let steps = if first { STEPS } else { STEPS_LATER };
        let low = next.saturating_sub(1);
        let strides = (self.shift..self.shift + steps).map(|step| low + (1 << step));
        let mut asked: BTreeSet<u64> = strides.collect();
        asked.insert(next);
        if first && self.low.is_some() {
            asked.extend(next..next + IN_FLIGHT_MAX);
        }
        self.shift += steps;
        asked.into_iter().collect()
    }

    /// Takes what a round showed: numbers in order, and whether they are there.
    fn saw(&mut self, seen: &[(u64, bool)]) {
        let gone = seen.iter().filter(|(_, there)| !there);
        self.missing.extend(gone.map(|(seq, _)| seq));
        let there = seen.iter().filter(|(_, there)| *there).map(|(seq, _)| *seq);
        let next = self.next();
        let high = self.missing.range(next..).next().copied();
        let below = there
            .clone()
            .filter(|&seq| high.is_none_or(|high| seq < high));
        self.low = below.max().or(self.low);
        // Behind a hole that a crash may have left, the stream goes on.
        while self.missing.contains(&self.next()) {
            let behind = self.next()..self.next() + IN_FLIGHT_MAX;
            let Some(ahead) = there.clone().filter(|seq| behind.contains(seq)).max() else {
                break;
            };
            (self.low, self.shift) = (Some(ahead), 0);
        }
    }
}

impl LogReader {
    /// Finds the end: from the head ever further on, then between what is there and what is not; behind holes that a crash may
    /// have left as well.
    pub async fn end(&self) -> Result<End, ArchiveError> {
        let (head, head_fault) = self.head_or_fault().await?;
        let last = match &head {
            Some(head) => self.last_from(head.seq).await?,
            None => self.last_of(Search::new(None)).await?,
        };
        Ok(End {
            last,
            head,
            head_fault,
        })
    }

    /// The head, or why the one that is there cannot be used.
    async fn head_or_fault(&self) -> Result<(Option<Head>, Option<String>), ArchiveError> {
        match self.head().await {
            Ok(head) => Ok((head, None)),
            Err(ArchiveError::Unreadable { reason, .. }) => Ok((None, Some(reason))),
            Err(error) => Err(error),
        }
    }

    /// The last number, which should not be before `known`.
    async fn last_from(&self, known: u64) -> Result<Option<u64>, ArchiveError> {
        let mut search = Search::new(Some(known));
        let asked = search.ask();
        let (there, seen) = try_join(self.is_there(known), self.look(asked)).await?;
        if !there {
            return self.last_of(Search::new(None)).await;
        }
        search.saw(&seen);
        self.last_of(search).await
    }

    /// As [`Self::end`], by who may list: a listing says where to look, and what is there says where the end is. What a plan looks at
    /// next is asked for as well.
    pub async fn end_by_listing(&self) -> Result<End, ArchiveError> {
        let beginning = 0..LISTED_AT_ONCE;
        let (head, ()) = join(self.head_or_fault(), self.list_ahead(beginning)).await;
        let (head, head_fault) = head?;
        let known = head.as_ref().map(|head| head.seq);
        if let Some(seq) = known.filter(|seq| seq + 1 >= LISTED_AT_ONCE) {
            self.list_ahead(seq..seq + LISTED_AT_ONCE).await;
        }
        let shown = self.shown_last();
        let mut last = None;
        for hint in [shown.max(known), shown].into_iter().flatten() {
            last = self.last_near(hint).await?;
            if last.is_some() {
                break;
            }
        }
        if last.is_none() {
            last = self.last_of(Search::new(None)).await?;
        }
        Ok(End {
            last,
            head,
            head_fault,
        })
    }

    /// The last number, if `hint` is there.
    async fn last_near(&self, hint: u64) -> Result<Option<u64>, ArchiveError> {
        let mut asked: BTreeSet<u64> = evenly_if_short(0..hint).into_iter().collect();
        asked.extend(hint.saturating_sub(IN_FLIGHT_MAX)..=hint + IN_FLIGHT_MAX);
        let mut seen = self.look(asked.into_iter().collect()).await?;
        if !seen.contains(&(hint, true)) {
            return Ok(None);
        }
        seen.retain(|(seq, _)| *seq > hint);
        let mut search = Search::new(Some(hint));
        search.saw(&seen);
        self.last_of(search).await
    }

    async fn last_of(&self, mut search: Search) -> Result<Option<u64>, ArchiveError> {
        loop {
            let asked = search.ask();
            if asked.is_empty() {
                return Ok(search.low);
            }
            search.saw(&self.look(asked).await?);
        }
    }

    /// Asks for `seqs` all at once.
    async fn look(&self, seqs: Vec<u64>) -> Result<Vec<(u64, bool)>, ArchiveError> {
        let there = try_join_all(seqs.iter().map(|&seq| self.is_there(seq))).await?;
        Ok(seqs.into_iter().zip(there).collect())
    }

    /// A damaged segment is there, too: it is named where it is needed.
    async fn is_there(&self, seq: u64) -> Result<bool, ArchiveError> {
        match self.header(seq).await {
            Ok(header) => Ok(header.is_some()),
            Err(ArchiveError::Object(_)) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The runs of the stream, oldest first, each up to the first of the holes that a crash may have left at its end. At most
    /// [`IN_FLIGHT_MAX`] headers and one for each, besides finding the end, and all of them at once.
    pub async fn runs(&self, end: &End) -> Result<Vec<Run>, ArchiveError> {
        let mut runs = Vec::new();
        let mut last = end.last;
        while let Some(seq) = last {
            let from = seq.saturating_sub(IN_FLIGHT_MAX);
            let near = join_all((from..=seq).map(|seq| self.header(seq))).await;
            let Header {
                run_seq, run_start, ..
            } = self.header_of(seq).await?;
            let near = near.into_iter().skip(run_seq.saturating_sub(from) as usize);
            let last_of_run = match contiguous(near)? {
                // Those that can have been in flight together begin behind it.
                None if from > run_seq => Some(self.header_of(from - 1).await?),
                found => found,
            };
            if let Some(header) = last_of_run {
                runs.push(Run {
                    seqs: run_seq..header.seq + 1,
                    positions: run_start..header.end,
                    time_high: header.time_high,
                    damage: header.damage,
                });
            }
            last = run_seq.checked_sub(1);
        }
        runs.reverse();
        Ok(runs)
    }

    /// The last segment of the run from `run_seq` to `last` before the first hole near its end; `None` if there is none before it.
    pub(crate) async fn contiguous_last(
        &self,
        run_seq: u64,
        last: u64,
    ) -> Result<Option<Header>, ArchiveError> {
        let from = last.saturating_sub(IN_FLIGHT_MAX).max(run_seq);
        let near = join_all((from..=last).map(|seq| self.header(seq))).await;
        match contiguous(near.into_iter())? {
            None if from > run_seq => self.header_of(from - 1).await.map(Some),
            found => Ok(found),
        }
    }
}

/// The last header before the first hole; `None` if there is none before it.
fn contiguous(
    headers: impl Iterator<Item = Result<Option<Header>, ArchiveError>>,
) -> Result<Option<Header>, ArchiveError> {
    let mut last: Option<Header> = None;
    for header in headers {
        match (header?, &last) {
            (None, _) => break,
            // A put of a fenced writer that does not fit ends the run, too: nothing was built upon it.
            (Some(header), Some(before)) if before.end != header.start => break,
            (Some(header), _) => last = Some(header),
        }
    }
    Ok(last)
}

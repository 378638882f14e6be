//! The last of the log that was read, and what proves it: by this a daemon, which cannot open what it archived, knows at its next start
//! whether the server still has that log, or was set back and has written another one in its place.
//!
//! What counts are the last two pages that hold anything: behind a switch to the next WAL segment there is nothing but zeros, in every log.

use pitr_archive::object::{Proofs, Prover};

use crate::Lsn;
use crate::wal::PAGE_BYTES;

/// So many pages count.
const PAGES: usize = 2;

#[derive(Debug)]
struct Page {
    at: Lsn,
    /// Up to the end of what was read.
    bytes: Vec<u8>,
}

/// The last pages of a log, read from the beginning of one of them.
#[derive(Debug)]
pub(super) struct Tail {
    prover: Prover,
    segment_bytes: u64,
    start: Lsn,
    end: Lsn,
    /// Those that hold anything, oldest first.
    pages: Vec<Page>,
}

impl Tail {
    /// Of a log that is read from `start` on, where a page begins.
    pub(super) fn new(prover: Prover, segment_bytes: u64, start: Lsn) -> Self {
        Self {
            prover,
            segment_bytes,
            start,
            end: start,
            pages: Vec::with_capacity(PAGES + 1),
        }
    }

    /// Where it began to be read.
    pub(super) fn start(&self) -> Lsn {
        self.start
    }

    /// Where it ends.
    pub(super) fn end(&self) -> Lsn {
        self.end
    }

    /// True if it holds all that counts, whatever came before.
    pub(super) fn is_full(&self) -> bool {
        self.pages.len() == PAGES
    }

    /// These bytes follow.
    pub(super) fn observe(&mut self, bytes: &[u8]) {
        let mut rest = &bytes[self.passed_over(bytes)..];
        self.end = self.end.advance((bytes.len() - rest.len()) as u64);
        while !rest.is_empty() {
            let page = self.end.segment_start(PAGE_BYTES);
            let left = PAGE_BYTES - self.end.bytes_since(page);
            let (taken, behind) = rest.split_at(rest.len().min(left as usize));
            self.take(page, taken);
            self.end = self.end.advance(taken.len() as u64);
            rest = behind;
        }
    }

    /// Takes bytes of the page at `at`.
    fn take(&mut self, at: Lsn, bytes: &[u8]) {
        if let Some(page) = self.pages.last_mut().filter(|page| page.at == at) {
            page.bytes.extend_from_slice(bytes);
        } else if !is_padding(bytes) {
            let free = (self.pages.len() == PAGES).then(|| self.pages.remove(0).bytes);
            let mut page = free.unwrap_or_else(|| Vec::with_capacity(PAGE_BYTES as usize));
            page.clear();
            // What was passed over of it holds nothing.
            page.resize(self.end.bytes_since(at) as usize, 0);
            page.extend_from_slice(bytes);
            self.pages.push(Page { at, bytes: page });
        }
    }

    /// How much of `bytes` cannot count, because enough follows: most of what comes at once is not even looked at.
    fn passed_over(&self, bytes: &[u8]) -> usize {
        let first = (PAGE_BYTES - self.end.0 % PAGE_BYTES) as usize;
        let Some((_, pages)) = bytes.split_at_checked(first) else {
            return 0;
        };
        let mut full = pages.chunks(PAGE_BYTES as usize).enumerate().rev();
        let count = full
            .by_ref()
            .filter(|(_, page)| !is_padding(page))
            .nth(PAGES - 1);
        count.map_or(0, |(number, _)| first + number * PAGE_BYTES as usize)
    }

    /// What proves it. `last` is of all the pages that count. A server need not have more than the WAL segment that holds the last byte:
    /// `near` is of the pages in it, if some lie before.
    pub(super) fn proofs(&self) -> Proofs {
        let prove = |pages: &[Page]| {
            let pieces = pages.iter().map(|page| (page.at.0, &page.bytes[..]));
            self.prover.prove(self.end.0, pieces)
        };
        let segment = segment_before(self.end, self.segment_bytes);
        let before = self.pages.partition_point(|page| page.at < segment);
        let near = &self.pages[before..];
        let is_near = self.has_segment() && !near.is_empty() && near.len() < PAGES;
        Proofs {
            last: self.is_full().then(|| prove(&self.pages)),
            near: is_near.then(|| prove(near)),
        }
    }

    /// True if it was read from where the WAL segment of its last byte begins, or earlier.
    pub(super) fn has_segment(&self) -> bool {
        self.start <= segment_before(self.end, self.segment_bytes)
    }
}

/// Where the WAL segment begins that holds the byte before `end`.
pub(super) fn segment_before(end: Lsn, segment_bytes: u64) -> Lsn {
    Lsn(end.0.saturating_sub(1)).segment_start(segment_bytes)
}

fn is_padding(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use pitr_archive::keys::WriterKey;
    use pitr_archive::object::StreamName;
    use proptest::prelude::*;

    use super::*;

    const SEGMENT: u64 = 1 << 20;
    const PAGE: usize = PAGE_BYTES as usize;

    fn prover() -> Prover {
        Prover::new(&WriterKey::generate(), StreamName::new("00000001").unwrap())
    }

    fn tail(prover: &Prover, start: Lsn, bytes: &[u8]) -> Tail {
        let mut tail = Tail::new(prover.clone(), SEGMENT, start);
        tail.observe(bytes);
        tail
    }

    /// Pages as a server writes them: each begins with what is not zero, or holds nothing.
    fn log(pages: &[u8], last: usize) -> Vec<u8> {
        let mut log = pages.iter().flat_map(|&fill| vec![fill; PAGE]).collect();
        let cut = |log: &mut Vec<u8>| log.truncate((pages.len() - 1) * PAGE + last);
        cut(&mut log);
        log
    }

    #[test]
    fn another_byte_in_the_last_two_pages_is_seen_and_what_lies_before_does_not_count() {
        let (prover, log) = (prover(), log(&[1, 2, 3, 4], 100));
        let known = tail(&prover, Lsn(SEGMENT), &log).proofs();
        assert!(known.last.is_some() && known.near.is_none());
        for (at, seen) in [
            (0, false),
            (2 * PAGE - 1, false),
            (2 * PAGE, true),
            (log.len() - 1, true),
        ] {
            let mut other = log.clone();
            other[at] ^= 1;
            let found = tail(&prover, Lsn(SEGMENT), &other).proofs();
            assert_eq!(found != known, seen, "byte {at}");
        }
        let longer = [&log[..], &[0]].concat();
        assert_ne!(tail(&prover, Lsn(SEGMENT), &longer).proofs(), known);
        let elsewhere = tail(&prover, Lsn(2 * SEGMENT), &log).proofs();
        assert_ne!(elsewhere, known);
    }

    #[test]
    fn the_zeros_behind_a_switch_prove_nothing_and_are_passed_over() {
        let prover = prover();
        let pages = (SEGMENT / PAGE_BYTES) as usize;
        let switched = |mark: u8| {
            let mut fills = vec![0; pages];
            (fills[0], fills[1], fills[2]) = (7, 8, mark);
            log(&fills, PAGE)
        };
        let (ours, other) = (switched(1), switched(2));
        let known = tail(&prover, Lsn(SEGMENT), &ours).proofs();
        assert!(known.last.is_some());
        assert_ne!(tail(&prover, Lsn(SEGMENT), &other).proofs(), known);
        // A page behind the switch: alone in its WAL segment, and the same in both logs.
        let [ours, other] = [ours, other].map(|log| [log, vec![9; 60]].concat());
        let [known, found] = [&ours, &other].map(|log| tail(&prover, Lsn(SEGMENT), log).proofs());
        assert!(known.last != found.last && known.near == found.near && known.near.is_some());
        let near = tail(&prover, Lsn(2 * SEGMENT), &ours[SEGMENT as usize..]).proofs();
        assert_eq!((near.last, near.near), (None, known.near));
    }

    #[test]
    fn where_nothing_was_read_nothing_is_proved() {
        let empty = Tail::new(prover(), SEGMENT, Lsn(0));
        assert!(empty.proofs().is_none());
    }

    proptest! {
        #[test]
        fn the_proof_is_the_same_however_the_log_was_read(
            fills in proptest::collection::vec(0..4_u8, 1..20),
            last in 1..=PAGE,
            holes in proptest::collection::vec(0..20 * PAGE, 0..4),
            cuts in proptest::collection::vec(0..20 * PAGE, 0..12),
            from in 0..20_usize,
        ) {
            let (prover, start) = (prover(), Lsn(3 * SEGMENT - 5 * PAGE_BYTES));
            let mut log = log(&fills, last);
            // Also what no server writes: pages that begin with zeros.
            for hole in holes {
                let end = log.len().min(hole + PAGE / 2);
                log.get_mut(hole..end).unwrap_or_default().fill(0);
            }
            let known = tail(&prover, start, &log);
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(log.len())).collect();
            cuts.extend([0, log.len()]);
            cuts.sort_unstable();
            let mut pieces = Tail::new(prover.clone(), SEGMENT, start);
            cuts.windows(2).for_each(|cut| pieces.observe(&log[cut[0]..cut[1]]));
            prop_assert_eq!(pieces.proofs(), known.proofs());
            prop_assert_eq!(pieces.end(), known.end());
            // Read from later on it is the same, as soon as it has all that counts.
            let from = (from * PAGE).min((fills.len() - 1) * PAGE);
            let later = tail(&prover, start.advance(from as u64), &log[from..]);
            if later.is_full() {
                prop_assert_eq!(later.proofs(), known.proofs());
            }
        }
    }
}

//! Resolving: from a target to the one record at which recovery stops, on one island.

use std::ops::{ControlFlow, Range};

use futures_util::future::try_join_all;
use pitr_archive::ArchiveError;

use super::by_number::Part;
use super::error::PlanError;
use super::line::{Island, Line, Stretch};
use super::scan::{Scan, hole, stretch_seqs, transaction_end};
use crate::wal::{WalEvent, WalSummary};
use crate::{Lsn, Target};

/// Summaries that are read at once.
const PARALLEL: u64 = 32;

/// Segments of the first look where a transaction should have ended; each later look takes twice as many.
const FIRST_LOOK: u64 = 8;

/// How far behind an LSN the record that starts there, and the next end of a transaction, are looked for.
const LOOK_AHEAD_BYTES: u64 = 1 << 20;

/// A stop that was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stop {
    /// The record's start.
    pub(super) lsn: Lsn,
    pub(super) inclusive: bool,
    /// Everything before it is replayed for certain: a base has to be consistent by then.
    pub(super) replayed: Lsn,
    /// WAL is needed up to here.
    pub(super) wal_end: Lsn,
    /// Index of the share it lies on.
    pub(super) share: usize,
    pub(super) last_commit: Option<i64>,
    pub(super) first_left_out: Option<i64>,
}

/// What stands at a time.
pub(super) enum AtTime {
    /// The first end of a transaction past it.
    Stop(Stop),
    /// The oldest base is from later.
    BeforeBase,
    /// No transaction ended past it.
    Quiet,
}

/// Resolves targets on one island.
pub(super) struct Resolver<'a> {
    pub(super) line: &'a Line,
    pub(super) island: &'a Island,
    pub(super) scan: Scan<'a>,
}

impl Resolver<'_> {
    /// PostgreSQL's rule: before the first end of a transaction, in WAL order, whose time is past the target (or, with `before`,
    /// is the target's).
    pub(super) async fn time(&self, time: i64, before: bool) -> Result<AtTime, PlanError> {
        let past = |candidate: i64| {
            if before {
                candidate >= time
            } else {
                candidate > time
            }
        };
        if self.base_is_past(time, &past).await? {
            return Ok(AtTime::BeforeBase);
        }
        for stretch in &self.island.stretches {
            let share = &self.line.shares[stretch.share];
            let seqs = stretch_seqs(share, stretch).await?;
            let mut seq = share
                .reader
                .partition(seqs.clone(), |header| header.time_high.is_some_and(past))
                .await?;
            for unsure in self
                .unsure(stretch, seq.min(seqs.end - 1), seqs.start)
                .await?
            {
                if unsure < seq
                    && let Some(stop) = self.first_past(stretch, unsure, &past).await?
                {
                    return Ok(AtTime::Stop(stop));
                }
            }
            // The running maximum may stem from before the stretch; the segment's own maximum decides.
            while seq < seqs.end {
                let header = share.reader.header_of(seq).await?;
                if header.time_max.is_some_and(past)
                    && let Some(stop) = self.first_past(stretch, seq, &past).await?
                {
                    return Ok(AtTime::Stop(stop));
                }
                seq += 1;
            }
        }
        Ok(AtTime::Quiet)
    }

    /// The oldest base already holds what lies past the target: it began later, or its WAL says so. A clock that once ran ahead
    /// leaves times in the WAL that prove nothing about a base that was over before the target.
    async fn base_is_past(
        &self,
        time: i64,
        past: &(dyn Fn(i64) -> bool + Sync),
    ) -> Result<bool, PlanError> {
        let base = &self.island.bases[0].header;
        if base.time_min.is_some_and(|began| time < began) {
            return Ok(true);
        }
        if base.time_max.is_some_and(|ended| time >= ended) {
            return Ok(false);
        }
        let Some(first) = self.island.stretches.first() else {
            return Ok(false);
        };
        let share = &self.line.shares[first.share];
        let Some(seq) = share.reader.seq_at(&first.run, first.from.0).await? else {
            return Ok(false);
        };
        if seq > first.run.seqs.start
            && share
                .reader
                .header_of(seq - 1)
                .await?
                .time_high
                .is_some_and(past)
        {
            return Ok(true);
        }
        let start = Lsn(share.reader.header_of(seq).await?.start);
        let mut found = false;
        let mut sink = |event: &WalEvent| {
            found |=
                transaction_end(event).is_some_and(|end| end.at < first.from && past(end.time));
            ControlFlow::Continue(())
        };
        self.scan
            .wal(share, &first.run, start..first.from, &mut sink)
            .await?;
        Ok(found)
    }

    /// Segments from `first` to `last` whose times may lack their first record, oldest first.
    async fn unsure(
        &self,
        stretch: &Stretch,
        last: u64,
        first: u64,
    ) -> Result<Vec<u64>, ArchiveError> {
        let reader = &self.line.shares[stretch.share].reader;
        let (mut found, mut at) = (Vec::new(), last);
        while let Some(seq) = reader
            .header_of(at)
            .await?
            .unsure_seq
            .filter(|&seq| seq >= first)
        {
            found.push(seq);
            match seq.checked_sub(1).filter(|&before| before >= first) {
                Some(before) => at = before,
                None => break,
            }
        }
        found.reverse();
        Ok(found)
    }

    /// The first end of a transaction that ends in segment `seq` and is past the target.
    async fn first_past(
        &self,
        stretch: &Stretch,
        seq: u64,
        past: &(dyn Fn(i64) -> bool + Sync),
    ) -> Result<Option<Stop>, PlanError> {
        let share = &self.line.shares[stretch.share];
        let header = share.reader.header_of(seq).await?;
        let range = Lsn(header.start.max(stretch.from.0))..Lsn(header.end.min(stretch.to.0));
        let (mut last_commit, mut stop) = (None, None);
        let mut sink = |event: &WalEvent| {
            if let Some(end) =
                transaction_end(event).filter(|end| end.at >= stretch.from && end.at < stretch.to)
            {
                if past(end.time) {
                    stop = Some(Stop {
                        lsn: end.at,
                        inclusive: false,
                        replayed: end.at,
                        wal_end: end.end,
                        share: stretch.share,
                        last_commit,
                        first_left_out: Some(end.time),
                    });
                    return ControlFlow::Break(());
                }
                if matches!(event, WalEvent::Commit(_)) {
                    last_commit = Some(end.time);
                }
            }
            ControlFlow::Continue(())
        };
        self.scan.wal(share, &stretch.run, range, &mut sink).await?;
        Ok(stop)
    }

    /// The last record there is, itself replayed. `None`: not one record is whole.
    pub(super) async fn end(&self) -> Result<Option<Stop>, PlanError> {
        for stretch in self.island.stretches.iter().rev() {
            let share = &self.line.shares[stretch.share];
            let last = share.reader.seq_at(&stretch.run, stretch.to.0 - 1).await?;
            let mut next = Some(last.ok_or_else(|| hole(share, stretch, stretch.to))?);
            while let Some(seq) = next.filter(|&seq| seq >= stretch.run.seqs.start) {
                let header = share.reader.header_of(seq).await?;
                if header.end <= stretch.from.0 {
                    break;
                }
                let range =
                    Lsn(header.start.max(stretch.from.0))..Lsn(header.end.min(stretch.to.0));
                if let Some(stop) = self.last_record(stretch, range).await? {
                    return Ok(Some(stop));
                }
                next = seq.checked_sub(1);
            }
        }
        Ok(None)
    }

    /// The last whole record that ends in `range`.
    async fn last_record(
        &self,
        stretch: &Stretch,
        range: std::ops::Range<Lsn>,
    ) -> Result<Option<Stop>, PlanError> {
        let share = &self.line.shares[stretch.share];
        let mut last_commit = None;
        let mut sink = |event: &WalEvent| {
            if let WalEvent::Commit(end) = event
                && end.end <= range.end
            {
                last_commit = Some(end.time);
            }
            ControlFlow::Continue(())
        };
        let last = self
            .scan
            .wal(share, &stretch.run, range.clone(), &mut sink)
            .await?;
        Ok(last.map(|record| Stop {
            lsn: record.start,
            inclusive: true,
            replayed: record.end,
            wal_end: record.end,
            share: stretch.share,
            last_commit,
            first_left_out: None,
        }))
    }

    /// At an LSN, as PostgreSQL compares it: the first record that starts there or later. The very end of the WAL, which is what
    /// `pg_current_wal_lsn()` gives after the last commit, is the last record.
    pub(super) async fn lsn(&self, lsn: Lsn, before: bool) -> Result<Option<Stop>, PlanError> {
        let Some(stretch) = self
            .island
            .stretches
            .iter()
            .rev()
            .find(|stretch| stretch.from <= lsn && lsn <= stretch.to)
        else {
            return Ok(None);
        };
        let Some(end) = self.end().await? else {
            return Ok(None);
        };
        if lsn > end.lsn {
            return Ok((lsn <= end.wal_end).then_some(end));
        }
        let share = &self.line.shares[stretch.share];
        let (mut last_commit, mut first_left_out, mut wal_end) = (None, None, lsn);
        let mut sink = |event: &WalEvent| {
            if let Some(end) = transaction_end(event) {
                let replayed = if before { end.at < lsn } else { end.at <= lsn };
                if !replayed {
                    first_left_out = Some(end.time);
                    return ControlFlow::Break(());
                }
                wal_end = wal_end.max(end.end);
                if matches!(event, WalEvent::Commit(_)) {
                    last_commit = Some(end.time);
                }
            }
            ControlFlow::Continue(())
        };
        let around = lsn..lsn.advance(LOOK_AHEAD_BYTES).min(stretch.to);
        self.scan
            .wal(share, &stretch.run, around.clone(), &mut sink)
            .await?;
        // The record at the LSN has to be read whole.
        let wal_end = wal_end.max(around.end);
        Ok(Some(Stop {
            lsn,
            inclusive: !before,
            replayed: lsn,
            wal_end,
            share: stretch.share,
            last_commit,
            first_left_out,
        }))
    }

    /// The end of transaction `xid`, or the restore point `name`. More than one is ambiguous.
    pub(super) async fn search(
        &self,
        target: &Target,
        before: bool,
    ) -> Result<Option<Stop>, PlanError> {
        let parts = self.in_order().await?;
        if let Target::Xid(xid) = target
            && let Some(parts) = self.around(*xid, &parts).await?
        {
            return self.first(&parts, target, before).await;
        }
        let mut found: Vec<Stop> = Vec::new();
        for part in parts {
            found.extend(self.search_part(part, target, before).await?);
        }
        found.sort_by_key(|stop| stop.lsn);
        found.dedup_by_key(|stop| stop.lsn);
        match found[..] {
            [] => Ok(None),
            [stop] => Ok(Some(stop)),
            _ => Err(PlanError::Ambiguous {
                target: target.clone(),
                at: found.iter().map(|stop| stop.lsn).collect(),
            }),
        }
    }

    /// The first one that is found.
    async fn first(
        &self,
        parts: &[Part],
        target: &Target,
        before: bool,
    ) -> Result<Option<Stop>, PlanError> {
        for part in parts {
            let (mut at, mut count) = (part.seqs.start, FIRST_LOOK);
            while at < part.seqs.end {
                let seqs = at..part.seqs.end.min(at + count);
                (at, count) = (seqs.end, count * 2);
                let stretch = part.stretch;
                let found = self.search_part(Part { stretch, seqs }, target, before);
                if let Some(stop) = found.await?.first() {
                    return Ok(Some(*stop));
                }
            }
        }
        Ok(None)
    }

    /// All that are found.
    async fn search_part(
        &self,
        part: Part,
        target: &Target,
        before: bool,
    ) -> Result<Vec<Stop>, PlanError> {
        let stretch = &self.island.stretches[part.stretch];
        let share = &self.line.shares[stretch.share];
        let mut found = Vec::new();
        let Range {
            start: mut first,
            end,
        } = part.seqs;
        while first < end {
            let batch = first..(first + PARALLEL).min(end);
            first = batch.end;
            let summaries = batch
                .clone()
                .map(|seq| share.reader.summary(seq, self.scan.reading));
            for (seq, summary) in batch.zip(try_join_all(summaries).await?) {
                let unsure = share.reader.header_of(seq).await?.unsure_seq == Some(seq);
                if unsure || may_hold(target, &summary) {
                    found.extend(self.matches(stretch, seq, target, before).await?);
                }
            }
        }
        Ok(found)
    }

    async fn matches(
        &self,
        stretch: &Stretch,
        seq: u64,
        target: &Target,
        before: bool,
    ) -> Result<Vec<Stop>, PlanError> {
        let share = &self.line.shares[stretch.share];
        let header = share.reader.header_of(seq).await?;
        let range = Lsn(header.start.max(stretch.from.0))..Lsn(header.end.min(stretch.to.0));
        let (mut found, mut last_commit) = (Vec::new(), None);
        let mut sink = |event: &WalEvent| {
            let (at, end, time, fits) = match (event, target) {
                (WalEvent::Commit(done) | WalEvent::Abort(done), Target::Xid(xid)) => {
                    (done.at, done.end, done.time, done.xid == *xid)
                }
                (
                    WalEvent::RestorePoint {
                        at,
                        end,
                        name,
                        time,
                    },
                    Target::Name(wanted),
                ) => (*at, *end, *time, name == wanted),
                (WalEvent::Commit(done), _) => (done.at, done.end, done.time, false),
                _ => return ControlFlow::Continue(()),
            };
            if fits
                && at >= stretch.from
                && at < stretch.to
                && end <= Lsn(range.end.0.saturating_add(8))
            {
                let commit = matches!(event, WalEvent::Commit(_));
                found.push(Stop {
                    lsn: at,
                    inclusive: !before,
                    replayed: if before { at } else { end },
                    wal_end: end,
                    share: stretch.share,
                    last_commit: if commit && !before {
                        Some(time)
                    } else {
                        last_commit
                    },
                    first_left_out: (commit && before).then_some(time),
                });
            }
            if matches!(event, WalEvent::Commit(_)) {
                last_commit = Some(time);
            }
            ControlFlow::Continue(())
        };
        self.scan
            .wal(share, &stretch.run, range.clone(), &mut sink)
            .await?;
        Ok(found)
    }
}

/// What a summary says about whether its segment is worth opening; an unreadable one is.
fn may_hold(target: &Target, summary: &[u8]) -> bool {
    let Ok(summary) = WalSummary::decode(summary) else {
        return true;
    };
    match target {
        Target::Xid(xid) => summary.may_hold_xid(*xid),
        Target::Name(name) => summary.may_hold_name(name),
        _ => true,
    }
}

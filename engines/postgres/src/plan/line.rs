//! The way to a timeline: its ancestors' shares of the WAL, and how far it is unbroken.

use std::sync::Arc;

use pitr_archive::catalogue::{Backup, Catalogue, Stream};
use pitr_archive::object::{Header, Id, Kind};
use pitr_archive::reader::{LogReader, Run};
use pitr_archive::{Archive, layout};

use super::error::PlanError;
use crate::{Lsn, TimelineId};

/// One timeline on the way.
#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) timeline: TimelineId,
    pub(crate) reader: Arc<LogReader>,
    pub(crate) runs: Vec<Run>,
    /// Where the next timeline branches off; `None` for the last one.
    pub(crate) until: Option<Lsn>,
    /// What the source's clock showed when everything before it was durable.
    pub(crate) covered: Option<i64>,
    /// The last known head names a segment that is no longer there.
    pub(crate) tail_lost: bool,
    /// A number behind the last run that is missing although there are segments behind it, and no head says that it was durable.
    pub(crate) missing: Option<u64>,
}

/// Unbroken WAL on one timeline.
#[derive(Clone, Debug)]
pub(crate) struct Stretch {
    /// Index of the share.
    pub(crate) share: usize,
    pub(crate) run: Run,
    pub(crate) from: Lsn,
    pub(crate) to: Lsn,
}

/// Base backups from which the same WAL goes on unbroken to the same end.
#[derive(Clone, Debug)]
pub(crate) struct Island {
    /// Oldest first; never empty.
    pub(crate) bases: Vec<Backup>,
    /// From the oldest base on.
    pub(crate) stretches: Vec<Stretch>,
    /// Why it does not go on.
    pub(crate) ends: Ends,
}

/// Why WAL does not go on unbroken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ends {
    /// The archive ends there: nothing is known to follow.
    Open,
    /// Nobody knows what follows: a gap, a lost tail.
    Broken,
    /// A record that the source's own recovery would stop at.
    Damaged(Lsn),
}

impl Island {
    pub(crate) fn end(&self) -> Lsn {
        self.stretches.last().map_or(Lsn(0), |stretch| stretch.to)
    }

    /// It ends where the archive does.
    pub(crate) fn is_open(&self) -> bool {
        self.ends == Ends::Open
    }

    pub(crate) fn consistent_from(&self) -> Lsn {
        Lsn(self.bases[0].header.end)
    }
}

impl Share {
    /// The first record in `run`, from `from` on, that a replay cannot pass. A base that begins in the same segment behind such a
    /// record is taken for damaged, too: headers do not tell whether another one follows.
    async fn first_damage(&self, run: &Run, from: Lsn) -> Result<Option<Lsn>, PlanError> {
        if run.damage.is_none() {
            return Ok(None);
        }
        let Some(here) = self.reader.seq_at(run, from.0).await? else {
            return Ok(None);
        };
        let known = match here
            .checked_sub(1)
            .filter(|&before| before >= run.seqs.start)
        {
            Some(before) => self.reader.header_of(before).await?.damage,
            None => None,
        };
        if run.damage == known {
            return Ok(None);
        }
        let noted = |header: &Header| header.damage.is_some() && header.damage != known;
        let seq = self.reader.partition(here..run.seqs.end, noted).await?;
        let noted = self.reader.header_of(seq).await?.damage;
        Ok(noted.map(|at| Lsn(at).max(from)))
    }
}

/// All shares on the way to one timeline, oldest first.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) shares: Vec<Share>,
}

impl Line {
    /// The way to `timeline`, from headers alone.
    pub(crate) async fn to(
        archive: &Arc<Archive>,
        catalogue: &Catalogue,
        timeline: TimelineId,
    ) -> Result<Self, PlanError> {
        let mut shares = Vec::new();
        let (mut at, mut until) = (timeline, None);
        loop {
            let stream = catalogue.stream(&at.stream());
            if stream.is_none() && shares.is_empty() {
                return Err(PlanError::NoTimeline(at));
            }
            let head = stream.and_then(|stream| stream.end.head.as_ref());
            let runs = stream.map(|stream| stream.runs.clone()).unwrap_or_default();
            let last = runs.last().map(|run| run.positions.end);
            let tail_lost = head.is_some_and(|head| last.is_none_or(|last| last < head.end));
            let missing = stream.filter(|stream| !tail_lost && has_hole(stream));
            shares.push(Share {
                timeline: at,
                reader: stream.map_or_else(
                    || Arc::new(LogReader::new(Arc::clone(archive), at.stream_name())),
                    |stream| Arc::clone(&stream.reader),
                ),
                runs,
                until,
                covered: head.and_then(|head| head.covered).filter(|_| !tail_lost),
                tail_lost,
                missing: missing.map(contiguous),
            });
            if at == TimelineId(1) {
                break;
            }
            match history_header(archive, at).await? {
                Some(header) if header.run_seq < u64::from(at.0) && header.run_seq > 0 => {
                    at = TimelineId(header.run_seq as u32);
                    until = Some(Lsn(header.start));
                }
                _ => return Err(PlanError::NoHistory(at)),
            }
        }
        shares.reverse();
        Ok(Self { shares })
    }

    /// Unbroken WAL from `from` on `timeline` as far as it goes and can be replayed.
    async fn reach(
        &self,
        timeline: TimelineId,
        from: Lsn,
    ) -> Result<(Vec<Stretch>, Ends), PlanError> {
        let Some(first) = self
            .shares
            .iter()
            .position(|share| share.timeline == timeline)
        else {
            return Ok((Vec::new(), Ends::Broken));
        };
        let (mut stretches, mut at) = (Vec::new(), from);
        for (index, share) in self.shares.iter().enumerate().skip(first) {
            let holds = |run: &&Run| run.positions.start <= at.0 && at.0 <= run.positions.end;
            let Some(run) = share.runs.iter().rev().find(holds) else {
                return Ok((stretches, Ends::Broken));
            };
            let to = share
                .until
                .map_or(run.positions.end, |until| until.0.min(run.positions.end));
            let damage = share.first_damage(run, at).await?;
            let damage = damage.filter(|damage| damage.0 < to);
            let to = damage.map_or(to, |damage| damage.0);
            if to > at.0 {
                stretches.push(Stretch {
                    share: index,
                    run: run.clone(),
                    from: at,
                    to: Lsn(to),
                });
            }
            if let Some(damage) = damage {
                return Ok((stretches, Ends::Damaged(damage)));
            }
            match share.until {
                Some(until) if run.positions.end >= until.0 => at = until,
                Some(_) => return Ok((stretches, Ends::Broken)),
                None => {
                    let last = share.runs.last().is_some_and(|last| last == run);
                    let ends = if last && !share.tail_lost {
                        Ends::Open
                    } else {
                        Ends::Broken
                    };
                    return Ok((stretches, ends));
                }
            }
        }
        Ok((stretches, Ends::Broken))
    }

    /// Backups from which recovery can follow this line, grouped by how far it gets. Oldest first.
    pub(crate) async fn islands(&self, catalogue: &Catalogue) -> Result<Vec<Island>, PlanError> {
        let mut islands: Vec<Island> = Vec::new();
        for backup in &catalogue.backups {
            let Some(share) = self
                .shares
                .iter()
                .find(|share| share.timeline.stream() == backup.header.stream.as_str())
            else {
                continue;
            };
            if share.until.is_some_and(|until| backup.header.end > until.0) {
                continue;
            }
            let from = Lsn(backup.header.start);
            let (stretches, ends) = self.reach(share.timeline, from).await?;
            let end = stretches.last().map_or(Lsn(0), |stretch| stretch.to);
            if end.0 < backup.header.end {
                continue;
            }
            let same = |island: &Island| {
                let end =
                    |stretches: &[Stretch]| stretches.last().map(|last| (last.share, last.to));
                end(&island.stretches) == end(&stretches)
            };
            match islands.iter_mut().find(|island| same(island)) {
                Some(island) => island.bases.push(backup.clone()),
                None => islands.push(Island {
                    bases: vec![backup.clone()],
                    stretches,
                    ends,
                }),
            }
        }
        Ok(islands)
    }
}

/// Whether segments lie behind a missing one: puts in flight, of a daemon that runs or was killed, or a segment that was deleted.
pub(super) fn has_hole(stream: &Stream) -> bool {
    stream
        .end
        .last
        .is_some_and(|last| last >= contiguous(stream))
}

/// The number behind the last one that is there with all before it in its run.
pub(super) fn contiguous(stream: &Stream) -> u64 {
    stream.runs.last().map_or(0, |run| run.seqs.end)
}

/// The header of a timeline's history file: its parent, and where it branched off. `None` if the file is not there.
async fn history_header(
    archive: &Archive,
    timeline: TimelineId,
) -> Result<Option<Header>, PlanError> {
    let stream = timeline.stream_name();
    let key = layout::history(&stream);
    let expected = archive.expected(Kind::History, Some(&stream), Id::default(), 0);
    let preamble = archive.preamble(&key, &expected).await?;
    Ok(preamble.map(|(preamble, _)| preamble.header))
}

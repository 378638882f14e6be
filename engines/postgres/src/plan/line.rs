//! The way to a timeline: its ancestors' shares of the WAL, and how far it is unbroken.

use std::sync::Arc;

use pitr_archive::catalogue::{Backup, Catalogue, Stream};
use pitr_archive::object::{Header, Id, Kind, PREAMBLE_BYTES};
use pitr_archive::reader::{LogReader, Run};
use pitr_archive::store::{Piece, StoreError};
use pitr_archive::{Archive, ArchiveError, layout};

use super::error::PlanError;
use crate::{Lsn, TimelineId};

/// One timeline on the way.
#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) timeline: TimelineId,
    pub(crate) reader: LogReader,
    pub(crate) runs: Vec<Run>,
    /// Where the next timeline branches off; `None` for the last one.
    pub(crate) until: Option<Lsn>,
    /// What the source's clock showed when everything before it was durable.
    pub(crate) covered: Option<i64>,
    /// The last known head names a segment that is no longer there.
    pub(crate) tail_lost: bool,
    /// Behind the last run, and a missing number, there are segments.
    pub(crate) hole: bool,
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
    /// It ends where the archive does: nothing is known to follow.
    pub(crate) open: bool,
}

impl Island {
    pub(crate) fn end(&self) -> Lsn {
        self.stretches.last().map_or(Lsn(0), |stretch| stretch.to)
    }

    pub(crate) fn consistent_from(&self) -> Lsn {
        Lsn(self.bases[0].header.end)
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
            let hole = stream.is_some_and(has_hole);
            shares.push(Share {
                timeline: at,
                reader: LogReader::new(Arc::clone(archive), at.stream_name()),
                runs,
                until,
                covered: head.and_then(|head| head.covered).filter(|_| !tail_lost),
                tail_lost,
                hole,
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

    /// Unbroken WAL from `from` on `timeline` as far as it goes; the flag says whether it ends where the archive does.
    fn reach(&self, timeline: TimelineId, from: Lsn) -> (Vec<Stretch>, bool) {
        let Some(first) = self
            .shares
            .iter()
            .position(|share| share.timeline == timeline)
        else {
            return (Vec::new(), false);
        };
        let (mut stretches, mut at) = (Vec::new(), from);
        for (index, share) in self.shares.iter().enumerate().skip(first) {
            let holds = |run: &&Run| run.positions.start <= at.0 && at.0 <= run.positions.end;
            let Some(run) = share.runs.iter().rev().find(holds) else {
                return (stretches, false);
            };
            let to = share
                .until
                .map_or(run.positions.end, |until| until.0.min(run.positions.end));
            if to > at.0 {
                stretches.push(Stretch {
                    share: index,
                    run: run.clone(),
                    from: at,
                    to: Lsn(to),
                });
            }
            match share.until {
                Some(until) if run.positions.end >= until.0 => at = until,
                Some(_) => return (stretches, false),
                None => {
                    let last = share.runs.last().is_some_and(|last| last == run);
                    return (stretches, last && !share.tail_lost && !share.hole);
                }
            }
        }
        (stretches, false)
    }

    /// Backups from which recovery can follow this line, grouped by how far it gets. Oldest first.
    pub(crate) fn islands(&self, catalogue: &Catalogue) -> Vec<Island> {
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
            let (stretches, open) = self.reach(share.timeline, Lsn(backup.header.start));
            let end = stretches.last().map_or(Lsn(0), |stretch| stretch.to);
            if end.0 < backup.header.end {
                continue;
            }
            let same = |island: &Island| {
                let ends =
                    |stretches: &[Stretch]| stretches.last().map(|last| (last.share, last.to));
                ends(&island.stretches) == ends(&stretches)
            };
            match islands.iter_mut().find(|island| same(island)) {
                Some(island) => island.bases.push(backup.clone()),
                None => islands.push(Island {
                    bases: vec![backup.clone()],
                    stretches,
                    open,
                }),
            }
        }
        islands
    }
}

/// Whether segments lie behind a missing one: puts in flight, of a daemon that runs or was killed, or a segment that was deleted.
pub(super) fn has_hole(stream: &Stream) -> bool {
    let contiguous = stream.runs.last().map_or(0, |run| run.seqs.end);
    stream.end.last.is_some_and(|last| last >= contiguous)
}

/// The header of a timeline's history file: its parent, and where it branched off. `None` if the file is not there.
async fn history_header(
    archive: &Archive,
    timeline: TimelineId,
) -> Result<Option<Header>, PlanError> {
    let stream = timeline.stream_name();
    let key = layout::history(&stream);
    let fetched = match archive
        .store()
        .get(&key, Piece::Range(0..PREAMBLE_BYTES as u64))
        .await
    {
        Ok(fetched) => fetched,
        Err(StoreError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(ArchiveError::from(error).into()),
    };
    let expected = archive.expected(Kind::History, Some(&stream), Id::default(), 0);
    let preamble = expected
        .preamble(&key, &fetched.bytes, archive.writer())
        .map_err(ArchiveError::from)?;
    Ok(Some(preamble.header))
}

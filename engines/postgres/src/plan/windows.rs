//! What can be restored: windows, and the gaps between them. From headers alone, so without a key.

use std::sync::Arc;

use pitr_archive::Archive;
use pitr_archive::catalogue::{Backup, BackupId, Catalogue};

use super::error::{Moment, PlanError};
use super::line::{Ends, Island, Line};
use super::scan::stretch_seqs;
use crate::{Lsn, TimelineId};

/// A stretch in which every moment can be restored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Window {
    /// The timeline at its end.
    pub timeline: TimelineId,
    /// The first moment: the oldest base backup is consistent.
    pub from: Moment,
    /// The last moment.
    pub to: Moment,
    /// Up to when it is known that nothing else happened, µs since the Unix epoch by the source's clock.
    pub covered: Option<i64>,
    /// The oldest base backup in it.
    pub base: BackupId,
}

/// WAL that was never archived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gap {
    /// Its timeline.
    pub timeline: TimelineId,
    /// The first LSN that is missing.
    pub from: Lsn,
    /// The first LSN that is there again.
    pub to: Lsn,
}

/// A record that came damaged from the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Its timeline.
    pub timeline: TimelineId,
    /// Where it begins.
    pub at: Lsn,
    /// A base backup was taken after it, so what came later can be restored.
    pub is_passed: bool,
}

/// What can be restored, and what cannot.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Windows {
    /// Oldest first.
    pub windows: Vec<Window>,
    /// In the order of their timelines.
    pub gaps: Vec<Gap>,
    /// Timelines whose newest segments existed and are gone.
    pub lost_tails: Vec<TimelineId>,
    /// Where PostgreSQL's replay stops although the WAL goes on; the last of them in each unbroken run.
    pub damage: Vec<Damage>,
}

impl Windows {
    /// Reads them from the headers of `archive`.
    pub async fn read(archive: &Arc<Archive>, catalogue: &Catalogue) -> Result<Self, PlanError> {
        let mut found = Self::default();
        for stream in &catalogue.streams {
            let Ok(timeline) = TimelineId::from_stream(stream.name.as_str()) else {
                continue;
            };
            for pair in stream.runs.windows(2) {
                let (from, to) = (Lsn(pair[0].positions.end), Lsn(pair[1].positions.start));
                found.gaps.push(Gap { timeline, from, to });
            }
            for at in stream.runs.iter().filter_map(|run| run.damage) {
                let passed = |backup: &Backup| {
                    let same = backup.header.stream == stream.name && backup.header.start > at;
                    same || backup.header.stream > stream.name
                };
                found.damage.push(Damage {
                    timeline,
                    at: Lsn(at),
                    is_passed: catalogue.backups.iter().any(passed),
                });
            }
            let line = match Line::to(archive, catalogue, timeline).await {
                Ok(line) => line,
                // Said by verify; what other timelines hold can still be told.
                Err(PlanError::NoHistory(_)) => continue,
                Err(error) => return Err(error),
            };
            if line.shares.last().is_some_and(|share| share.tail_lost) {
                found.lost_tails.push(timeline);
            }
            for island in line.islands(catalogue).await? {
                found.add(&line, &island, timeline).await?;
            }
        }
        Ok(found)
    }

    /// Adds the window of an island, unless it ends on an ancestor, under which it is listed.
    async fn add(
        &mut self,
        line: &Line,
        island: &Island,
        timeline: TimelineId,
    ) -> Result<(), PlanError> {
        let last = island.stretches.last().expect("an island has WAL");
        let share = &line.shares[last.share];
        if share.timeline != timeline {
            return Ok(());
        }
        // In the segment that damage ends, later records may have later times.
        let seq = match island.ends {
            Ends::Damaged(_) => {
                let seqs = stretch_seqs(share, last).await?;
                seqs.end.saturating_sub(2).max(seqs.start)
            }
            _ => last.run.seqs.end - 1,
        };
        let header = share.reader.header_of(seq).await?;
        let covered = if island.is_open() {
            share.covered
        } else {
            None
        };
        self.windows.push(Window {
            timeline,
            from: consistent_moment(line, island).await?,
            to: Moment {
                lsn: last.to,
                time: header.time_high,
            },
            covered,
            base: island.bases[0].id,
        });
        Ok(())
    }
}

/// The first moment of an island.
pub(super) async fn consistent_moment(line: &Line, island: &Island) -> Result<Moment, PlanError> {
    let lsn = island.consistent_from();
    let stretch = island
        .stretches
        .iter()
        .find(|stretch| stretch.from < lsn && lsn <= stretch.to);
    let time = match stretch {
        Some(stretch) => {
            let reader = &line.shares[stretch.share].reader;
            match reader.seq_at(&stretch.run, lsn.0 - 1).await? {
                Some(seq) => reader.header_of(seq).await?.time_high,
                None => None,
            }
        }
        None => None,
    };
    Ok(Moment {
        lsn,
        time: time.or(island.bases[0].header.time_max),
    })
}

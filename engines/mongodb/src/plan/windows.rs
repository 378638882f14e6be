//! What can be restored at all: one window for each unbroken run of the log that has a base copy.

use pitr_archive::catalogue::{Backup, BackupId, Catalogue};
use pitr_archive::reader::{Head, Run};

use super::Moment;
use crate::{ClusterTime, LogKind};

/// A stretch in which every moment can be restored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Window {
    /// The first moment: T1 of the oldest base copy in it.
    pub from: Moment,
    /// The last moment.
    pub to: Moment,
    /// Up to when it is known that nothing else happened, µs since the Unix epoch by the source's clock.
    pub covered: Option<i64>,
    /// The oldest base copy in it.
    pub base: BackupId,
}

/// A stretch of the log that was never archived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gap {
    /// The first position that is missing.
    pub from: ClusterTime,
    /// The first one that is there again.
    pub to: ClusterTime,
}

/// What can be restored, and what cannot.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Windows {
    /// Which of the source's logs is archived.
    pub kind: LogKind,
    /// Oldest first.
    pub windows: Vec<Window>,
    /// Oldest first.
    pub gaps: Vec<Gap>,
    /// The newest segments existed and are gone.
    pub lost_tail: bool,
    /// The last archived moment.
    pub end: Option<Moment>,
    /// The latest time, µs since the Unix epoch by the source's clock, for which everything is known to be durable.
    pub durable_time: Option<i64>,
}

/// A run with the base copies that it continues, oldest first.
pub(super) struct Stretch {
    pub(super) run: Run,
    pub(super) bases: Vec<Backup>,
    /// What the head says, of the last run.
    pub(super) head: Option<Head>,
}

impl Stretch {
    /// The last moment of it.
    pub(super) fn end(&self) -> Moment {
        Moment {
            ts: ClusterTime(self.run.positions.end).previous(),
            time: self.run.time_high,
        }
    }

    pub(super) fn covered(&self) -> Option<i64> {
        self.head.as_ref().and_then(|head| head.covered)
    }
}

fn stream(catalogue: &Catalogue) -> Option<&pitr_archive::catalogue::Stream> {
    catalogue.stream(LogKind::archived(catalogue).stream().as_str())
}

/// T1 of a base copy.
pub(super) fn consistent(base: &Backup) -> Moment {
    Moment {
        ts: ClusterTime(base.header.end).previous(),
        time: base.header.time_max,
    }
}

/// The runs of the archived log, oldest first.
pub(super) fn stretches(catalogue: &Catalogue) -> Vec<Stretch> {
    let Some(stream) = stream(catalogue) else {
        return Vec::new();
    };
    let last = stream.runs.len().saturating_sub(1);
    let stretch = |(at, run): (usize, &Run)| {
        let inside = |base: &&Backup| {
            let header = &base.header;
            header.stream == stream.name
                && run.positions.start <= header.start
                && header.end <= run.positions.end
        };
        let bases = catalogue.backups.iter().filter(inside).cloned().collect();
        let head = stream.end.head.clone().filter(|_| at == last);
        Stretch {
            run: run.clone(),
            bases,
            head,
        }
    };
    stream.runs.iter().enumerate().map(stretch).collect()
}

impl Windows {
    /// From the headers of an archive.
    #[must_use]
    pub fn read(catalogue: &Catalogue) -> Self {
        let stretches = stretches(catalogue);
        let window = |stretch: &Stretch| {
            let oldest = stretch.bases.iter().min_by_key(|base| base.header.end)?;
            Some(Window {
                from: consistent(oldest),
                to: stretch.end(),
                covered: stretch.covered(),
                base: oldest.id,
            })
        };
        let gap = |pair: &[Stretch]| Gap {
            from: ClusterTime(pair[0].run.positions.end),
            to: ClusterTime(pair[1].run.positions.start),
        };
        let stream = stream(catalogue);
        let lost =
            |stream: &pitr_archive::catalogue::Stream| stream.end.check_tail(&stream.name).is_err();
        Self {
            kind: LogKind::archived(catalogue),
            windows: stretches.iter().filter_map(window).collect(),
            gaps: stretches.windows(2).map(gap).collect(),
            lost_tail: stream.is_some_and(lost),
            end: stretches.last().map(Stretch::end),
            durable_time: stretches
                .last()
                .and_then(|last| last.covered().max(last.run.time_high)),
        }
    }
}

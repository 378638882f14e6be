//! Planning: which base copy, which entries, where to stop, and the proof that all of it is there, before anything is fetched.

mod windows;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use pitr_archive::catalogue::{Backup, BackupId, Catalogue, listed_parts, present_parts};
use pitr_archive::reader::LogReader;
use pitr_archive::{ArchiveError, Reading};

use crate::base::{BaseError, BaseManifest, BaseReader};
use crate::entry::Head;
use crate::source::{Source, SourceError};
use crate::target::Target;
use crate::{ClusterTime, LogKind};

pub use windows::{Gap, Window, Windows};

use windows::{Stretch, consistent, stretches};

/// A moment of a replica set's history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    /// Its cluster time.
    pub ts: ClusterTime,
    /// The source's clock there, µs since the Unix epoch, where it is known.
    pub time: Option<i64>,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.time {
            Some(time) => write!(f, "{} (ts:{})", Target::Time(time), self.ts),
            None => write!(f, "ts:{}", self.ts),
        }
    }
}

/// An entry at a boundary.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntryName {
    /// Its cluster time.
    pub ts: ClusterTime,
    /// Its wall time, µs since the Unix epoch.
    pub wall: i64,
    /// The letter of its operation, and for a command its name.
    pub what: String,
    /// Its namespace.
    pub ns: String,
}

/// A plan that is proved: everything it names is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Which of the source's logs is replayed.
    pub kind: LogKind,
    /// What was asked for.
    pub target: Target,
    /// Stop before it.
    pub before: bool,
    /// The base copy.
    pub base: BackupId,
    /// Replay begins with the first entry behind it.
    pub t0: ClusterTime,
    /// The base copy is consistent from here on.
    pub t1: ClusterTime,
    /// Replay ends with the last entry up to here, inclusive.
    pub stop: ClusterTime,
    /// The last entry that will be there, where there is one behind T0.
    pub last_in: Option<EntryName>,
    /// The first entry that will not; `None` at the end of what is archived.
    pub first_left_out: Option<EntryName>,
    /// Bytes of documents in the base copy.
    pub base_contents_bytes: u64,
    /// Documents in it.
    pub base_documents: u64,
    /// Bytes of it in the store.
    pub base_bytes: u64,
    /// Segments of the log to fetch.
    pub log_segments: u64,
    /// Their bytes in the store.
    pub log_bytes: u64,
}

/// A target that has no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The archive failed.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Not an archive of MongoDB.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The target cannot be reached.
    #[error("{reason}")]
    Unreachable {
        /// One sentence.
        reason: String,
        /// The nearest moment before it that can be restored.
        nearest_before: Option<Moment>,
        /// The nearest moment after it.
        nearest_after: Option<Moment>,
    },
    /// The base copy cannot be read.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// A part of the base copy is gone.
    #[error("base copy {id}: {reason}")]
    Parts {
        /// Which one.
        id: BackupId,
        /// What is missing.
        reason: String,
    },
    /// A segment holds something else than entries.
    #[error("segment {seq} of the log: {reason}")]
    Segment {
        /// Its number.
        seq: u64,
        /// What is wrong.
        reason: String,
    },
}

/// Plans the way to `target`, or with `before` to the moment just before it.
pub async fn plan(reading: &Arc<Reading>, target: Target, before: bool) -> Result<Plan, PlanError> {
    let archive = reading.archive();
    Source::of(archive)?;
    let catalogue = Catalogue::read(archive).await?;
    let kind = LogKind::archived(&catalogue);
    let stream = catalogue.stream(kind.stream().as_str());
    let reader = stream.map_or_else(
        || Arc::new(LogReader::new(Arc::clone(archive), kind.stream())),
        |stream| Arc::clone(&stream.reader),
    );
    let planner = Planner {
        reading,
        reader,
        kind,
        stretches: stretches(&catalogue),
        target,
        before,
    };
    let (at, stop) = planner.stop().await?;
    planner.prove(at, stop).await
}

struct Planner<'a> {
    reading: &'a Arc<Reading>,
    reader: Arc<LogReader>,
    kind: LogKind,
    stretches: Vec<Stretch>,
    target: Target,
    before: bool,
}

impl Planner<'_> {
    /// The run that holds the target, and the last cluster time that belongs to the state.
    async fn stop(&self) -> Result<(usize, ClusterTime), PlanError> {
        let last = self.stretches.len().checked_sub(1);
        let Some(last) = last else {
            return Err(self.unreachable("nothing is archived yet", None));
        };
        match self.target {
            Target::Latest => Ok((last, self.stretches[last].end().ts)),
            Target::Immediate => {
                let newest = |(at, stretch): (usize, &Stretch)| {
                    Some((
                        at,
                        stretch
                            .bases
                            .iter()
                            .max_by_key(|base| base.header.end)?
                            .clone(),
                    ))
                };
                let newest = self.stretches.iter().enumerate().rev().find_map(newest);
                let (at, base) = newest.ok_or_else(|| {
                    self.unreachable("there is no base copy that the log continues", None)
                })?;
                Ok((at, consistent(&base).ts))
            }
            Target::Ts(ts) => {
                let stop = if self.before { ts.previous() } else { ts };
                let holds = |stretch: &Stretch| stretch.run.positions.contains(&stop.0);
                match self.stretches.iter().position(holds) {
                    Some(at) => Ok((at, stop)),
                    None => Err(self.outside(stop)),
                }
            }
            Target::Time(time) => self.stop_at_time(time).await,
        }
    }

    /// Stops before the first entry, in the order of the log, that is later than `time`.
    async fn stop_at_time(&self, time: i64) -> Result<(usize, ClusterTime), PlanError> {
        let before = self.before;
        let is_past = |wall: i64| if before { wall >= time } else { wall > time };
        for (at, stretch) in self.stretches.iter().enumerate() {
            if !stretch.run.time_high.is_some_and(is_past) {
                continue;
            }
            let seqs = stretch.run.seqs.clone();
            let seq = self
                .reader
                .partition(seqs, |header| header.time_high.is_some_and(is_past))
                .await?;
            let mut previous = ClusterTime(self.reader.header_of(seq).await?.start).previous();
            for entry in self.entries(seq).await? {
                if is_past(entry.wall) {
                    // What shares its cluster time belongs to it.
                    return Ok((at, previous.min(entry.ts.previous())));
                }
                previous = entry.ts;
            }
            let reason = "its header tells of a later entry than it holds".into();
            return Err(PlanError::Segment { seq, reason });
        }
        let last = self.stretches.len() - 1;
        let stretch = &self.stretches[last];
        // Nothing later was archived; whether nothing later happened only the source's clock tells.
        if stretch
            .covered()
            .max(stretch.run.time_high)
            .is_some_and(|known| known >= time)
        {
            return Ok((last, stretch.end().ts));
        }
        Err(self.unreachable(
            "the target lies behind the end of what is archived; latest is the end",
            Some(self.stretches[last].end().ts),
        ))
    }

    fn outside(&self, stop: ClusterTime) -> PlanError {
        let gap = self.stretches.windows(2).any(|pair| {
            pair[0].run.positions.end <= stop.0 && stop.0 < pair[1].run.positions.start
        });
        let past = self
            .stretches
            .last()
            .is_some_and(|last| stop.0 >= last.run.positions.end);
        let reason = match (gap, past) {
            (true, _) => "the target lies in a gap: these entries were never archived",
            (_, true) => "the target lies behind the end of what is archived; latest is the end",
            _ => "the target lies before the beginning of what is archived",
        };
        self.unreachable(reason, Some(stop))
    }

    /// With the nearest moments around `stop` that can be restored.
    fn unreachable(&self, reason: &str, stop: Option<ClusterTime>) -> PlanError {
        let windows: Vec<(Moment, Moment)> = self
            .stretches
            .iter()
            .filter_map(|stretch| {
                let oldest = stretch.bases.iter().min_by_key(|base| base.header.end)?;
                Some((consistent(oldest), stretch.end()))
            })
            .collect();
        let stop = stop.unwrap_or_default();
        let before = windows.iter().filter(|(from, _)| from.ts <= stop);
        PlanError::Unreachable {
            reason: reason.into(),
            nearest_before: before.map(|(_, to)| *to).next_back(),
            nearest_after: windows
                .iter()
                .map(|(from, _)| *from)
                .find(|from| from.ts > stop),
        }
    }

    async fn prove(&self, at: usize, stop: ClusterTime) -> Result<Plan, PlanError> {
        let stretch = &self.stretches[at];
        let fits = stretch
            .bases
            .iter()
            .filter(|base| consistent(base).ts <= stop);
        let Some(base) = fits.max_by_key(|base| base.header.end) else {
            let reason = if stretch.bases.is_empty() {
                "no base copy lies in the unbroken log that holds the target: a gap separates it from those before"
            } else {
                "the target lies before the first moment at which a base copy is consistent"
            };
            return Err(self.unreachable(reason, Some(stop)));
        };
        let reader = BaseReader::open(Arc::clone(self.reading), base.id).await?;
        let manifest = reader.manifest();
        let base_bytes = self.prove_parts(base, manifest).await?;
        let seqs = self.segments(stretch, manifest.t0, stop).await?;
        let listed = self.reader.prove_present(seqs.clone()).await?;
        let (last_in, first_left_out) = self.boundary(stretch, manifest.t0, stop).await?;
        Ok(Plan {
            kind: self.kind,
            target: self.target,
            before: self.before,
            base: base.id,
            t0: manifest.t0,
            t1: manifest.t1,
            stop,
            last_in,
            first_left_out,
            base_contents_bytes: manifest.contents_bytes,
            base_documents: manifest.documents(),
            base_bytes,
            log_segments: seqs.end - seqs.start,
            log_bytes: listed.iter().map(|object| object.object_bytes).sum(),
        })
    }

    /// The numbers that hold the entries behind `t0` up to `stop`.
    async fn segments(
        &self,
        stretch: &Stretch,
        t0: ClusterTime,
        stop: ClusterTime,
    ) -> Result<Range<u64>, PlanError> {
        if stop <= t0 {
            return Ok(0..0);
        }
        let first = self.reader.seq_at(&stretch.run, t0.next().0).await?;
        let last = self.reader.seq_at(&stretch.run, stop.0).await?;
        let (Some(first), Some(last)) = (first, last) else {
            return Err(self.unreachable(
                "the log does not reach from the base copy to the target",
                Some(stop),
            ));
        };
        Ok(first..last + 1)
    }

    /// Every part is there; their bytes.
    async fn prove_parts(&self, base: &Backup, manifest: &BaseManifest) -> Result<u64, PlanError> {
        let archive = self.reading.archive();
        let listed = listed_parts(archive, base.id).await?;
        let parts = present_parts(archive, base.id, manifest.parts, &listed).await?;
        let missing = parts.len() as u64;
        if missing < manifest.parts {
            let reason = format!("part {missing} of {} is missing", manifest.parts);
            return Err(PlanError::Parts {
                id: base.id,
                reason,
            });
        }
        Ok(parts.iter().map(|object| object.object_bytes).sum())
    }

    /// The last entry behind `t0` up to `stop`, and the first one after it.
    async fn boundary(
        &self,
        stretch: &Stretch,
        t0: ClusterTime,
        stop: ClusterTime,
    ) -> Result<(Option<EntryName>, Option<EntryName>), PlanError> {
        let (mut last_in, mut left_out) = (None, None);
        let Some(first) = self.reader.seq_at(&stretch.run, stop.0).await? else {
            return Ok((None, None));
        };
        for seq in first..stretch.run.seqs.end {
            for entry in self.entries(seq).await? {
                if entry.ts > stop {
                    left_out = Some(entry);
                    break;
                }
                last_in = Some(entry).filter(|entry| entry.ts > t0);
            }
            if left_out.is_some() {
                break;
            }
        }
        // A segment whose entries all come after the stop, or that holds none: the last one in lies in a segment before it.
        let mut seq = first;
        while last_in.is_none()
            && seq > stretch.run.seqs.start
            && self.reader.header_of(seq).await?.start > t0.0
        {
            seq -= 1;
            let entries = self.entries(seq).await?;
            last_in = entries
                .into_iter()
                .rfind(|entry| t0 < entry.ts && entry.ts <= stop);
        }
        Ok((last_in, left_out))
    }

    async fn entries(&self, seq: u64) -> Result<Vec<EntryName>, PlanError> {
        let opened = self.reader.segment(seq, self.reading).await?;
        let bytes = opened.plaintext().map_err(ArchiveError::from)?;
        let names = self
            .kind
            .entries(&bytes)
            .map(|entry| entry.map(|(head, _)| EntryName::of(&head)));
        names
            .collect::<Result<_, _>>()
            .map_err(|error| PlanError::Segment {
                seq,
                reason: error.to_string(),
            })
    }
}

impl EntryName {
    fn of(head: &Head<'_>) -> Self {
        let what = match (head.command(), head.op) {
            (Some(command), _) => command.to_owned(),
            (None, op) => format!("{op:?}").to_lowercase(),
        };
        Self {
            ts: head.ts,
            wall: head.wall,
            what,
            ns: head.ns.clone().into_owned(),
        }
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.what, self.ns)?;
        write!(
            f,
            " at {}",
            Moment {
                ts: self.ts,
                time: Some(self.wall)
            }
        )
    }
}

//! Planning: from a target to the one record where recovery stops, the base, and the proof that everything between is there.
//!
//! `line` knows which WAL leads to a timeline and how far it is unbroken, `resolve` finds the record, `scan` reads archived WAL
//! for it, `bases` proves the base, `windows` says what can be restored. Nothing is downloaded but headers, footers, and the WAL
//! around the target; and parts of the base that will probably be taken, if the caller wants them ahead.

mod bases;
mod by_number;
mod error;
mod line;
mod resolve;
mod scan;
mod shape;
mod windows;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{join, try_join};
use pitr_archive::catalogue::{Backup, Catalogue, Names};
use pitr_archive::object::object_bytes;
use pitr_archive::reader::is_short;
use pitr_archive::{Archive, ArchiveError, Reading};

pub use bases::read_manifest;
pub use error::{Moment, PlanError};
pub use shape::{PathStep, Plan, StopAt};
pub use windows::{Damage, Gap, Window, Windows};

use crate::source::Source;
use crate::{Lsn, Target, TimelineId};
use bases::{BaseAhead, prove_bases};
use line::{Ends, Island, Line};
use resolve::{AtTime, Resolver, Stop};
use scan::Scan;

/// Puts in flight are given so long to arrive.
const SETTLE_MAX: Duration = Duration::from_secs(3);
const SETTLE_STEP: Duration = Duration::from_millis(100);

/// Plans the way to `target`, on `timeline` or the newest one. What it returns is proved: the record exists, the base and every
/// segment between are present, the key opens them.
///
/// # Errors
/// [`PlanError::Unreachable`] with the nearest moments that can be restored; [`PlanError::Ambiguous`]; damage, a wrong key.
pub async fn plan(
    reading: &Reading,
    target: &Target,
    before: bool,
    timeline: Option<TimelineId>,
) -> Result<Plan, PlanError> {
    plan_ahead(reading, target, before, timeline, 0).await
}

/// As [`plan`]. So many parts of the base that will probably be taken are asked for meanwhile and held by `reading` until they are
/// read.
///
/// # Errors
/// As those of [`plan`].
pub async fn plan_ahead(
    reading: &Reading,
    target: &Target,
    before: bool,
    timeline: Option<TimelineId>,
    parts: usize,
) -> Result<Plan, PlanError> {
    let archive = reading.archive();
    let source = Source::of(archive)?;
    let names = Names::of(archive).await?;
    let guess = BaseAhead::read(reading, &names.backups, target, parts);
    let (catalogue, guess) = join(settled(archive, &names), guess).await;
    let catalogue = catalogue?;
    let timeline = match timeline {
        Some(timeline) => timeline,
        None => newest(&catalogue).ok_or(PlanError::NoTimeline(TimelineId(1)))?,
    };
    let line = Line::to(reading.archive(), &catalogue, timeline).await?;
    let planner = Planner {
        reading,
        source,
        line,
        islands: Vec::new(),
        target,
        before,
        guess,
    };
    let islands = planner.line.islands(&catalogue).await?;
    Planner { islands, ..planner }.plan(timeline).await
}

/// The catalogue. Where there are segments behind a hole, a daemon may have puts in flight: once those that were there at first are
/// reached, the hole was one, and what has been put behind the end since then is not looked at.
async fn settled(archive: &Arc<Archive>, names: &Names) -> Result<Catalogue, ArchiveError> {
    let until = Instant::now() + SETTLE_MAX;
    let mut catalogue = Catalogue::read_named(archive, names).await?;
    let holes = catalogue
        .streams
        .iter()
        .filter(|stream| line::has_hole(stream));
    let seen: Vec<_> = holes
        .map(|stream| (stream.name.clone(), stream.end.last))
        .collect();
    loop {
        let mut settled = true;
        for (name, last) in &seen {
            let stream = catalogue
                .streams
                .iter_mut()
                .find(|stream| stream.name == *name);
            let Some(stream) = stream else { continue };
            let reached = line::contiguous(stream).checked_sub(1);
            if reached >= *last {
                stream.end.last = reached;
            }
            settled &= reached >= *last;
        }
        if settled || Instant::now() >= until {
            return Ok(catalogue);
        }
        tokio::time::sleep(SETTLE_STEP).await;
        catalogue = Catalogue::read(archive).await?;
    }
}

/// The newest timeline that the archive has WAL of.
pub(crate) fn newest(catalogue: &Catalogue) -> Option<TimelineId> {
    let names = catalogue
        .streams
        .iter()
        .filter(|stream| !stream.runs.is_empty());
    names
        .filter_map(|stream| TimelineId::from_stream(stream.name.as_str()).ok())
        .max()
}

struct Planner<'a> {
    reading: &'a Reading,
    source: Source,
    line: Line,
    /// Oldest first.
    islands: Vec<Island>,
    target: &'a Target,
    before: bool,
    /// The base that will probably be taken.
    guess: Option<BaseAhead>,
}

impl Planner<'_> {
    async fn plan(&self, timeline: TimelineId) -> Result<Plan, PlanError> {
        let Some(newest) = self.islands.last() else {
            let reason = "the archive holds no base backup from which its WAL goes on; take one: pitr-tool backup";
            return Err(self.unreachable(reason.into(), None, None));
        };
        if *self.target == Target::Immediate {
            let base = newest.bases.last().expect("an island has a base");
            let moment = Moment {
                lsn: Lsn(base.header.end),
                time: None,
            };
            let stop = StopAt::Consistency;
            return self
                .prove(timeline, newest, base, stop, moment, (None, None))
                .await;
        }
        let mut after: Option<Moment> = None;
        for (index, island) in self.islands.iter().enumerate().rev() {
            let is_newest = index + 1 == self.islands.len();
            let (resolved, ()) =
                join(self.resolve(island, is_newest), self.ask_ahead(island)).await;
            match resolved? {
                Outcome::Stop(stop) => {
                    let base = island
                        .bases
                        .iter()
                        .rev()
                        .find(|base| base.header.end <= stop.replayed.0);
                    if let Some(base) = base {
                        let record = StopAt::Record {
                            lsn: stop.lsn,
                            inclusive: stop.inclusive,
                        };
                        let moment = Moment {
                            lsn: stop.wal_end,
                            time: None,
                        };
                        let times = (stop.last_commit, stop.first_left_out);
                        return self
                            .prove(timeline, island, base, record, moment, times)
                            .await;
                    }
                }
                Outcome::PastEnd(reason) => {
                    let before = self.end_of(island).await?;
                    return Err(self.unreachable(reason, before, after));
                }
                Outcome::NotHere => {}
            }
            after = Some(self.begin_of(island).await?);
        }
        let mut reason = match self.target {
            Target::Xid(_) | Target::Name(_) => {
                "nothing like it stands in the WAL behind a base backup".to_owned()
            }
            _ => {
                "it lies before the first moment at which a base backup is consistent, or in a gap"
                    .into()
            }
        };
        let damage = self
            .islands
            .iter()
            .rev()
            .find_map(|island| match island.ends {
                Ends::Damaged(at) => Some(at),
                _ => None,
            });
        if let Some(at) = damage {
            reason = format!("{reason}; {}", damaged(at));
        }
        Err(self.unreachable(reason, None, after))
    }

    fn resolver<'b>(&'b self, island: &'b Island) -> Resolver<'b> {
        Resolver {
            line: &self.line,
            island,
            scan: Scan {
                reading: self.reading,
                source: self.source,
            },
        }
    }

    async fn resolve(&self, island: &Island, newest: bool) -> Result<Outcome, PlanError> {
        let resolver = self.resolver(island);
        let found = match self.target {
            Target::Time(time) => match resolver.time(*time, self.before).await? {
                AtTime::Stop(stop) => Some(stop),
                AtTime::BeforeBase => None,
                AtTime::Quiet => return self.quiet(island, *time).await,
            },
            Target::Latest if newest && island.is_open() => resolver.end().await?,
            Target::Latest => return Ok(Outcome::PastEnd(self.why_it_ends(island))),
            Target::Lsn(lsn) => match resolver.lsn(*lsn, self.before).await? {
                None if *lsn > island.end() || (*lsn == island.end() && newest) => {
                    return Ok(Outcome::PastEnd(self.why_it_ends(island)));
                }
                found => found,
            },
            Target::Xid(_) | Target::Name(_) => resolver.search(self.target, self.before).await?,
            Target::Immediate => unreachable!("decided before islands are looked at"),
        };
        Ok(found.map_or(Outcome::NotHere, Outcome::Stop))
    }

    /// No transaction ended past the time: then the time is reached at the end of the WAL, if it is known that nothing else
    /// happened until then.
    async fn quiet(&self, island: &Island, time: i64) -> Result<Outcome, PlanError> {
        let Some(end) = self.resolver(island).end().await? else {
            return Ok(Outcome::NotHere);
        };
        let known = self.known_until(island, &end).await?;
        if island.is_open() && known.is_some_and(|known| time <= known) {
            return Ok(Outcome::Stop(end));
        }
        let reason = match known.map(jiff::Timestamp::from_microsecond) {
            Some(Ok(known)) if island.is_open() => {
                format!("the archive knows what happened only up to {known}")
            }
            _ if island.is_open() => {
                "the archive holds no transaction, so no time can be told".into()
            }
            _ => self.why_it_ends(island),
        };
        Ok(Outcome::PastEnd(reason))
    }

    /// Asks for what the proof of the WAL behind the newest base will need, where that is little. What fails here is asked again by
    /// the proof.
    async fn ask_ahead(&self, island: &Island) {
        let base = island.bases.last().expect("an island has a base");
        let on_base = |stretch: &&line::Stretch| {
            self.line.shares[stretch.share].timeline.stream() == base.header.stream.as_str()
        };
        let short = |stretch: &&line::Stretch| is_short(&stretch.run.seqs);
        let stretch = island.stretches.iter().find(on_base);
        if let Some(stretch) = stretch.filter(short) {
            let (reader, run) = (&self.line.shares[stretch.share].reader, &stretch.run);
            let listed = reader.list_ahead(run.seqs.clone());
            // Whether it is found does not matter: what was read on the way is remembered.
            let _ = join(listed, reader.seq_at(run, base.header.start)).await;
        }
    }

    fn why_it_ends(&self, island: &Island) -> String {
        let last = island
            .stretches
            .last()
            .map(|stretch| &self.line.shares[stretch.share]);
        let reason = if island.is_open() {
            "the archive's WAL ends before it"
        } else if let Ends::Damaged(at) = island.ends {
            return damaged(at);
        } else if last.is_some_and(|share| share.tail_lost) {
            "the archive's newest segments existed and are gone: the store was rolled back or they were deleted \
             (pitr-tool verify names them)"
        } else {
            "the WAL has a gap there, and no base backup after it reaches the target"
        };
        reason.into()
    }

    /// Up to which time it is known what happened: the last transaction, or the clock when everything was durable.
    async fn known_until(&self, island: &Island, end: &Stop) -> Result<Option<i64>, PlanError> {
        let share = &self.line.shares[end.share];
        let last = island.stretches.last().expect("an island has WAL");
        let header = share.reader.header_of(last.run.seqs.end - 1).await?;
        Ok(header.time_high.max(share.covered))
    }

    async fn end_of(&self, island: &Island) -> Result<Option<Moment>, PlanError> {
        let end = self.resolver(island).end().await?;
        Ok(end.map(|end| Moment {
            lsn: end.wal_end,
            time: end.last_commit,
        }))
    }

    async fn begin_of(&self, island: &Island) -> Result<Moment, PlanError> {
        windows::consistent_moment(&self.line, island).await
    }

    fn unreachable(
        &self,
        reason: String,
        nearest_before: Option<Moment>,
        nearest_after: Option<Moment>,
    ) -> PlanError {
        PlanError::Unreachable {
            target: self.target.clone(),
            reason,
            nearest_before,
            nearest_after,
        }
    }

    /// Proves that base and WAL up to `needed` are there.
    async fn prove(
        &self,
        timeline: TimelineId,
        island: &Island,
        base: &Backup,
        stop: StopAt,
        needed: Moment,
        (last_commit, first_left_out): (Option<i64>, Option<i64>),
    ) -> Result<Plan, PlanError> {
        let wal = self.prove_wal(island, base, needed.lsn);
        let ((bases, base_bytes, base_objects), path) =
            try_join(prove_bases(self.reading, base, self.guess.as_ref()), wal).await?;
        Ok(Plan {
            target: self.target.clone(),
            before: self.before,
            stop,
            last_commit,
            first_left_out,
            timeline,
            bases,
            base_bytes,
            base_objects,
            path,
            missing: match self.target {
                Target::Latest => self.line.shares.last().and_then(|share| share.missing),
                _ => None,
            },
        })
    }

    /// Proves that the WAL from `base` up to `needed` is there: the way that a replay takes.
    async fn prove_wal(
        &self,
        island: &Island,
        base: &Backup,
        needed: Lsn,
    ) -> Result<Vec<PathStep>, PlanError> {
        let mut path = Vec::new();
        for stretch in &island.stretches {
            let from = stretch
                .from
                .max(self.base_from(base, stretch.share, stretch.from));
            let to = stretch.to.min(needed.max(Lsn(base.header.end)));
            let share = &self.line.shares[stretch.share];
            if share.timeline.stream().as_str() < base.header.stream.as_str() || from >= to {
                continue;
            }
            let part = line::Stretch {
                from,
                to,
                ..stretch.clone()
            };
            let listed = share.reader.list_ahead(part.run.seqs.clone());
            let (seqs, ()) = join(scan::stretch_seqs(share, &part), listed).await;
            let listed = share.reader.prove_present(seqs?).await?;
            let bytes = listed.iter().map(|object| object.object_bytes).sum();
            path.push(PathStep {
                timeline: share.timeline,
                from,
                to,
                segments: listed.len() as u64,
                bytes,
            });
        }
        Ok(path)
    }

    /// On the base's own timeline WAL is needed from the WAL segment on in which it starts.
    fn base_from(&self, base: &Backup, share: usize, from: Lsn) -> Lsn {
        if self.line.shares[share].timeline.stream() == base.header.stream.as_str() {
            Lsn(base.header.start).max(from)
        } else {
            from
        }
    }
}

/// Why nothing behind `at` can be restored.
fn damaged(at: Lsn) -> String {
    format!(
        "the WAL record at lsn:{at} was damaged when the server sent it, and PostgreSQL's replay stops there; what came after it \
         can be restored only from a base backup taken after it (pitr-tool backup)"
    )
}

enum Outcome {
    Stop(Stop),
    /// It lies behind the end of this island, and of nothing older.
    PastEnd(String),
    /// It may lie on an older island.
    NotHere,
}

/// Bytes of a base backup in the store, as far as its manifest's header tells: the manifest itself.
#[must_use]
pub fn manifest_bytes(backup: &Backup) -> u64 {
    object_bytes(backup.header.payload_bytes)
}

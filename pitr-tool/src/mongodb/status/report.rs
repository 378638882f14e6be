//! What `status` says of an archive of MongoDB, as JSON and as text.

use std::fmt;
use std::time::Duration;

use pitr_mongodb::plan;
use pitrd::config::{show_bytes, show_duration};
use serde::Serialize;

use crate::output::{self, Table};
use crate::status::{PlaceReport, SourceReport, SpoolReport};

/// What `status` found. Its JSON is documented in docs/cli.md.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Which archive.
    pub archive: ArchiveName,
    /// Every stretch of history that can be restored, oldest first.
    pub windows: Vec<Window>,
    /// Stretches that no window covers because they were never archived.
    pub gaps: Vec<Gap>,
    /// True if the newest segments existed and are gone.
    pub lost_tail: bool,
    /// Base copies that are complete, oldest first.
    pub base_backups: Vec<BaseCopy>,
    /// Base copies that are not: under way, or interrupted. No restore uses them.
    pub incomplete_backups: Vec<String>,
    /// The last archived moment; `null` before the first.
    pub end: Option<Moment>,
    /// With copies, how far each place is; empty without.
    pub places: Vec<PlaceReport>,
    /// How far the archive is behind.
    pub lag: Lag,
    /// What the source can still hold of what is not archived; `None` when it was not asked or did not answer.
    pub source: Option<SourceReport>,
    /// What waits on this host for the store; `None` without a spool.
    pub spool: Option<SpoolReport>,
}

/// Names an archive and its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ArchiveName {
    /// Where it lies.
    pub url: String,
    /// Its id.
    pub id: String,
    /// The engine of its source.
    pub engine: String,
    /// The source's replica set, with its id.
    pub replica_set: String,
    /// How its log is read: `oplog` or `change-stream`.
    pub capture: &'static str,
    /// What happens on the source and does not stand in the log.
    pub cannot_see: Vec<&'static str>,
}

/// A moment of a replica set's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Moment {
    /// Its cluster time.
    pub ts: String,
    /// The source's clock there, RFC 3339.
    pub time: Option<String>,
}

/// A stretch in which every moment can be restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Window {
    /// The earliest moment.
    pub from: Moment,
    /// The latest moment.
    pub to: Moment,
    /// Up to when it is known that nothing else happened, by the source's clock.
    pub covered: Option<String>,
    /// The oldest base copy inside.
    pub base_backup: String,
}

/// A stretch that cannot be restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The first position that is missing.
    pub from_ts: String,
    /// The first one that is there again.
    pub to_ts: String,
}

/// One complete base copy. What only its sealed manifest tells is `null` without a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BaseCopy {
    /// Its id, the moment it began.
    pub id: String,
    /// Its label; empty without one.
    pub label: Option<String>,
    /// Replay begins with the first entry behind it.
    pub t0: String,
    /// It is consistent from here on.
    pub t1: String,
    /// When it was complete, RFC 3339.
    pub finished: Option<String>,
    /// Documents in it.
    pub documents: Option<u64>,
    /// Bytes of its documents.
    pub bytes: Option<u64>,
    /// Bytes it takes in the store.
    pub stored_bytes: u64,
}

/// How far the archive is behind its source.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Lag {
    /// Seconds of the oplog that a majority has and the archive has not; `null` when the source was not asked or did not answer.
    pub seconds: Option<f64>,
    /// Time since everything was known to be durable; `null` before that.
    pub since_durable: Option<f64>,
}

impl From<plan::Moment> for Moment {
    fn from(moment: plan::Moment) -> Self {
        Self {
            ts: moment.ts.to_string(),
            time: moment.time.map(output::time),
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.time {
            Some(time) => write!(f, "{time} (ts:{})", self.ts),
            None => write!(f, "ts:{}", self.ts),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ArchiveName {
            url,
            engine,
            replica_set,
            capture,
            cannot_see,
            ..
        } = &self.archive;
        writeln!(
            f,
            "archive  {url} ({engine}, replica set {replica_set}, {capture})"
        )?;
        for unseen in cannot_see {
            writeln!(f, "unseen   {unseen}")?;
        }
        match &self.end {
            None => writeln!(f, "end      nothing is archived yet")?,
            Some(end) => writeln!(f, "end      {end}")?,
        }
        writeln!(f, "lag      {}", self.lag)?;
        if let Some(source) = &self.source {
            writeln!(f, "source   {source}")?;
        }
        if let Some(spool) = &self.spool {
            writeln!(f, "spool    {spool}")?;
        }
        for place in &self.places {
            writeln!(f, "place    {place}")?;
        }
        if self.windows.is_empty() {
            writeln!(
                f,
                "\nNothing can be restored yet: take a base copy with pitr-tool backup."
            )?;
        } else {
            let mut table = Table::new(&["from", "to"]);
            for window in &self.windows {
                table.row([window.from.to_string(), window.to.to_string()]);
            }
            write!(f, "\nCan be restored:\n{table}")?;
        }
        for Gap { from_ts, to_ts } in &self.gaps {
            writeln!(f, "gap      ts:{from_ts} to ts:{to_ts} was never archived")?;
        }
        if self.lost_tail {
            writeln!(
                f,
                "DAMAGE   the newest segments existed and are gone (pitr-tool verify names them)"
            )?;
        }
        self.write_copies(f)
    }
}

impl Report {
    fn write_copies(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.base_backups.is_empty() {
            let mut table = Table::new(&[
                "id",
                "consistent at",
                "documents",
                "size",
                "stored",
                "label",
            ]);
            for copy in &self.base_backups {
                let unknown = || "(sealed)".to_owned();
                table.row([
                    copy.id.clone(),
                    format!("ts:{}", copy.t1),
                    copy.documents
                        .map_or_else(unknown, |documents| documents.to_string()),
                    copy.bytes.map_or_else(unknown, show_bytes),
                    show_bytes(copy.stored_bytes),
                    copy.label.clone().unwrap_or_else(unknown),
                ]);
            }
            write!(f, "\nBase copies:\n{table}")?;
        }
        for id in &self.incomplete_backups {
            writeln!(f, "  {id} is not complete: under way, or interrupted")?;
        }
        Ok(())
    }
}

impl fmt::Display for Lag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show =
            |seconds: f64| show_duration(Duration::try_from_secs_f64(seconds).unwrap_or_default());
        match (self.seconds, self.since_durable) {
            (None, None) => f.write_str("not known"),
            (Some(lag), None) => write!(f, "{} of the oplog", show(lag)),
            (None, Some(since)) => write!(f, "{} since everything was durable", show(since)),
            (Some(lag), Some(since)) => {
                write!(
                    f,
                    "{} of the oplog, {} since everything was durable",
                    show(lag),
                    show(since)
                )
            }
        }
    }
}

//! What `status` says, as JSON and as text.

use std::fmt;
use std::time::Duration;

use pitr_postgres::plan;
use pitrd::config::{show_bytes, show_duration};
use serde::Serialize;

use super::margin::{SourceReport, SpoolReport};
use super::places::PlaceReport;
use crate::output::{self, Table};

/// What `status` found. Its JSON is documented in docs/cli.md.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Which archive.
    pub archive: ArchiveName,
    /// Every stretch of history that can be restored, oldest first.
    pub windows: Vec<Window>,
    /// Stretches that no window covers because their bytes were never archived, or are missing.
    pub gaps: Vec<Gap>,
    /// Timelines whose newest segments existed and are gone.
    pub lost_tails: Vec<u32>,
    /// Records that came damaged from the server, where PostgreSQL's replay stops.
    pub damage: Vec<Damage>,
    /// Base backups that are complete, oldest first.
    pub base_backups: Vec<BaseBackup>,
    /// Base backups that are not: under way, or interrupted. No restore uses them.
    pub incomplete_backups: Vec<String>,
    /// The last byte that is durable; `None` before the first.
    pub end: Option<End>,
    /// How far the archive is behind.
    pub lag: Lag,
    /// What the source can still hold of what is not archived; `None` when it was not asked or did not answer.
    pub source: Option<SourceReport>,
    /// What waits on this host for the store; `None` without a spool.
    pub spool: Option<SpoolReport>,
    /// Where it lies, the archive first, if it has copies.
    pub places: Vec<PlaceReport>,
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
    /// The source's system identifier.
    pub system_identifier: String,
}

/// A moment of a cluster's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Moment {
    /// Its LSN.
    pub lsn: String,
    /// The source's clock there, RFC 3339; `null` where no commit tells it.
    pub time: Option<String>,
}

/// A stretch in which every moment can be restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Window {
    /// The timeline at its end.
    pub timeline: u32,
    /// The earliest moment.
    pub from: Moment,
    /// The latest moment.
    pub to: Moment,
    /// Up to when it is known that nothing else happened, by the source's clock.
    pub covered: Option<String>,
    /// The oldest base backup inside.
    pub base_backup: String,
}

/// A stretch that cannot be restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// Its timeline.
    pub timeline: u32,
    /// The first LSN that is missing.
    pub from_lsn: String,
    /// The first LSN that is there again.
    pub to_lsn: String,
}

/// A record where PostgreSQL's replay stops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// Its timeline.
    pub timeline: u32,
    /// Its LSN.
    pub lsn: String,
    /// Whether a base backup was taken after it.
    pub passed: bool,
}

/// One complete base backup. What only its sealed manifest tells is `null` without a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BaseBackup {
    /// Its id, the moment it began: `20261121T031500Z`.
    pub id: String,
    /// Its label; empty without one.
    pub label: Option<String>,
    /// Whether it builds on another.
    pub kind: Option<Kind>,
    /// The backup it builds on, for an incremental one.
    pub parent: Option<String>,
    /// The timeline it was taken on.
    pub timeline: u32,
    /// Where replay must begin.
    pub start_lsn: String,
    /// Where it is consistent.
    pub end_lsn: String,
    /// When it was complete, RFC 3339.
    pub finished: Option<String>,
    /// Bytes of the cluster's files in it.
    pub bytes: Option<u64>,
    /// Bytes it takes in the store.
    pub stored_bytes: u64,
}

/// Whether a base backup builds on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It stands alone.
    Full,
    /// It holds what changed since its parent.
    Incremental,
}

/// The durable end of the newest timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct End {
    /// The timeline.
    pub timeline: u32,
    /// Where and when.
    #[serde(flatten)]
    pub moment: Moment,
}

/// How far the archive is behind its source.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Lag {
    /// WAL the server has flushed and the archive has not; `null` when the server was not asked or did not answer.
    pub bytes: Option<u64>,
    /// Time since everything was durable, by the newest of what is archived and what the daemon said last, which it does
    /// every minute; `null` before that.
    pub seconds: Option<f64>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let archive = &self.archive;
        let (engine, system) = (&archive.engine, &archive.system_identifier);
        writeln!(f, "archive  {} ({engine}, system {system})", archive.url)?;
        match &self.end {
            None => writeln!(f, "end      nothing is archived yet")?,
            Some(end) => writeln!(f, "end      {} on timeline {}", end.moment, end.timeline)?,
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
        self.write_windows(f)?;
        for gap in &self.gaps {
            let Gap {
                timeline,
                from_lsn,
                to_lsn,
            } = gap;
            writeln!(
                f,
                "gap      timeline {timeline}: {from_lsn} to {to_lsn} was never archived or is missing"
            )?;
        }
        for timeline in &self.lost_tails {
            writeln!(
                f,
                "DAMAGE   timeline {timeline}: its newest segments existed and are gone (pitr-tool verify names them)"
            )?;
        }
        for Damage {
            timeline,
            lsn,
            passed,
        } in &self.damage
        {
            let (label, advice) = if *passed {
                (
                    "damage",
                    "a base backup taken after it restores what came later",
                )
            } else {
                ("DAMAGE", "take a base backup now: pitr-tool backup")
            };
            writeln!(
                f,
                "{label}   timeline {timeline}: the server sent a damaged record at {lsn}, where replay stops; {advice}"
            )?;
        }
        self.write_backups(f)
    }
}

impl Report {
    fn write_windows(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.windows.is_empty() {
            return writeln!(
                f,
                "\nNothing can be restored yet: take a base backup with pitr-tool backup."
            );
        }
        let mut table = Table::new(&["timeline", "from", "to"]);
        for window in &self.windows {
            table.row([
                window.timeline.to_string(),
                window.from.to_string(),
                window.to.to_string(),
            ]);
        }
        write!(f, "\nCan be restored:\n{table}")
    }

    fn write_backups(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.base_backups.is_empty() {
            let mut table = Table::new(&[
                "id",
                "kind",
                "timeline",
                "consistent at",
                "size",
                "stored",
                "label",
            ]);
            for backup in &self.base_backups {
                let unknown = || "(sealed)".to_owned();
                let kind = match (backup.kind, &backup.parent) {
                    (Some(Kind::Full), _) => "full".into(),
                    (Some(Kind::Incremental), Some(parent)) => format!("on {parent}"),
                    _ => unknown(),
                };
                table.row([
                    backup.id.clone(),
                    kind,
                    backup.timeline.to_string(),
                    backup.end_lsn.clone(),
                    backup.bytes.map_or_else(unknown, show_bytes),
                    show_bytes(backup.stored_bytes),
                    backup.label.clone().unwrap_or_else(unknown),
                ]);
            }
            write!(f, "\nBase backups:\n{table}")?;
        }
        for id in &self.incomplete_backups {
            writeln!(f, "  {id} is not complete: under way, or interrupted")?;
        }
        Ok(())
    }
}

impl From<plan::Moment> for Moment {
    fn from(moment: plan::Moment) -> Self {
        Self {
            lsn: moment.lsn.to_string(),
            time: moment.time.map(output::time),
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.time {
            Some(time) => write!(f, "{time} ({})", self.lsn),
            None => f.write_str(&self.lsn),
        }
    }
}

impl fmt::Display for Lag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self
            .seconds
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        match (self.bytes, seconds) {
            (None, None) => f.write_str("not known"),
            (Some(bytes), None) => f.write_str(&show_bytes(bytes)),
            (None, Some(time)) => write!(f, "{} since everything was durable", show_duration(time)),
            (Some(bytes), Some(time)) => {
                write!(
                    f,
                    "{}, {} since everything was durable",
                    show_bytes(bytes),
                    show_duration(time)
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> BaseBackup {
        BaseBackup {
            id: "20261120T120000Z".into(),
            label: None,
            kind: None,
            parent: None,
            timeline: 1,
            start_lsn: "0/2000028".into(),
            end_lsn: "0/2000120".into(),
            finished: None,
            bytes: None,
            stored_bytes: 1 << 20,
        }
    }

    fn report() -> Report {
        let moment = |lsn: &str| Moment {
            lsn: lsn.into(),
            time: Some("2026-11-20T12:03:04+00:00".into()),
        };
        Report {
            archive: ArchiveName {
                url: "file:///a".into(),
                id: "00".into(),
                engine: "postgres".into(),
                system_identifier: "75".into(),
            },
            windows: vec![Window {
                timeline: 1,
                from: moment("0/2000120"),
                to: moment("0/3000028"),
                covered: None,
                base_backup: "20261120T120000Z".into(),
            }],
            gaps: vec![],
            lost_tails: vec![],
            damage: vec![],
            base_backups: vec![sealed()],
            incomplete_backups: vec![],
            end: Some(End {
                timeline: 1,
                moment: moment("0/3000028"),
            }),
            places: vec![],
            source: None,
            spool: None,
            lag: Lag {
                bytes: Some(512),
                seconds: Some(0.25),
            },
        }
    }

    #[test]
    fn json_has_the_documented_fields() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["windows"][0]["to"]["lsn"], "0/3000028");
        assert_eq!(json["end"]["timeline"], 1);
        assert_eq!(json["end"]["time"], "2026-11-20T12:03:04+00:00");
        assert_eq!(json["lag"]["bytes"], 512);
        assert!(json["gaps"].as_array().unwrap().is_empty());
    }

    #[test]
    fn text_says_end_lag_and_windows() {
        let text = report().to_string();
        assert!(
            text.contains("end      2026-11-20T12:03:04+00:00 (0/3000028) on timeline 1"),
            "{text}"
        );
        assert!(
            text.contains("lag      512 B, 250ms since everything was durable"),
            "{text}"
        );
        let empty = Report {
            windows: vec![],
            ..report()
        }
        .to_string();
        assert!(empty.contains("Nothing can be restored yet"), "{empty}");
    }

    #[test]
    fn what_only_a_key_tells_is_said_to_be_sealed() {
        let text = report().to_string();
        assert!(
            text.contains(
                "20261120T120000Z  (sealed)  1         0/2000120      (sealed)  1.0 MiB  (sealed)"
            ),
            "{text}"
        );
        let opened = BaseBackup {
            label: Some("first".into()),
            kind: Some(Kind::Full),
            bytes: Some(5 << 20),
            ..sealed()
        };
        let json = serde_json::to_value(&opened).unwrap();
        assert_eq!(json["kind"], "full");
        let text = Report {
            base_backups: vec![opened],
            ..report()
        }
        .to_string();
        assert!(
            text.contains("full  1         0/2000120      5.0 MiB  1.0 MiB  first"),
            "{text}"
        );
    }
}

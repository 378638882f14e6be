//! `pitr-tool status` for archives of MongoDB.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use pitr_archive::catalogue::{Backup, Catalogue};
use pitr_archive::{Archive, Reading, layout};
use pitr_mongodb::base::BaseReader;
use pitr_mongodb::plan::{self, Windows};
use pitr_mongodb::{ClusterTime, Server, Source};
use pitrd::config::{Config, SourceConfig, show_bytes, show_duration};
use pitrd::exit::{Exit, chain, classify};
use pitrd::open;
use serde::Serialize;

use crate::output::{self, Table};

/// Behind every key of one level of the store.
const LAST_KEY: &str = "~";

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
    /// How far the archive is behind.
    pub lag: Lag,
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

/// Looks and prints.
pub async fn run(
    archive: Arc<Archive>,
    reading: Option<Reading>,
    config: Option<&Config>,
    json: bool,
) -> anyhow::Result<Exit> {
    let source = Source::of(&archive)?;
    let catalogue = Catalogue::read(&archive)
        .await
        .context("read the catalogue")?;
    let windows = Windows::read(&catalogue);
    let reading = reading.map(Arc::new);
    let mut base_backups = Vec::new();
    for backup in &catalogue.backups {
        base_backups.push(base_copy(&archive, reading.as_ref(), backup).await?);
    }
    let report = Report {
        archive: ArchiveName {
            url: archive.url().into(),
            id: archive.id().to_string(),
            engine: archive.engine().into(),
            replica_set: source.to_string(),
        },
        lag: lag(config, &source, &windows).await,
        windows: windows.windows.iter().map(window).collect(),
        gaps: windows.gaps.iter().map(gap).collect(),
        lost_tail: windows.lost_tail,
        base_backups,
        incomplete_backups: catalogue
            .incomplete
            .iter()
            .map(ToString::to_string)
            .collect(),
        end: windows.end.map(Moment::from),
    };
    output::show(&report, json)?;
    Ok(Exit::Done)
}

fn window(window: &plan::Window) -> Window {
    Window {
        from: window.from.into(),
        to: window.to.into(),
        covered: window.covered.map(output::time),
        base_backup: window.base.to_string(),
    }
}

fn gap(gap: &plan::Gap) -> Gap {
    Gap {
        from_ts: gap.from.to_string(),
        to_ts: gap.to.to_string(),
    }
}

async fn base_copy(
    archive: &Archive,
    reading: Option<&Arc<Reading>>,
    backup: &Backup,
) -> anyhow::Result<BaseCopy> {
    let prefix = format!("{}{}/", layout::BASE, backup.id);
    let end = format!("{prefix}{LAST_KEY}");
    let listed = archive
        .store()
        .list(&prefix, prefix.as_str()..end.as_str())
        .await;
    let listed = listed.context("list the parts of a base copy")?;
    let header = &backup.header;
    let mut found = BaseCopy {
        id: backup.id.to_string(),
        label: None,
        t0: ClusterTime(header.start).previous().to_string(),
        t1: ClusterTime(header.end).previous().to_string(),
        finished: header.time_max.map(output::time),
        documents: None,
        bytes: None,
        stored_bytes: listed.iter().map(|object| object.object_bytes).sum(),
    };
    let Some(reading) = reading else {
        return Ok(found);
    };
    match BaseReader::open(Arc::clone(reading), backup.id).await {
        Ok(base) => {
            let manifest = base.manifest();
            found.label = Some(manifest.label.clone());
            (found.documents, found.bytes) =
                (Some(manifest.documents()), Some(manifest.contents_bytes));
        }
        // One damaged manifest must not hide what else there is.
        Err(error) => {
            let error = anyhow::Error::from(error);
            if classify(&error).0 != Exit::Damage {
                return Err(error).context("read the manifest of a base copy");
            }
            output::note(&format!("base copy {}: {}", found.id, chain(&error)));
        }
    }
    Ok(found)
}

async fn lag(config: Option<&Config>, source: &Source, windows: &Windows) -> Lag {
    let since_durable = windows.durable_time.map(|durable| {
        let behind = output::now_unix_us().saturating_sub(durable).max(0);
        behind as f64 / 1e6
    });
    let (Some(config), Some(end)) = (config, windows.end) else {
        return Lag {
            seconds: None,
            since_durable,
        };
    };
    let seconds = match majority(config, source).await {
        Ok(majority) if majority.ts <= end.ts || since_durable.is_some_and(|since| since < 1.0) => {
            Some(0.0)
        }
        Ok(majority) => {
            let known = windows.durable_time.unwrap_or_default();
            Some((majority.wall - known).max(0) as f64 / 1e6)
        }
        Err(error) => {
            output::note(&format!(
                "the server was not asked how far it is: {}",
                chain(&error)
            ));
            None
        }
    };
    Lag {
        seconds,
        since_durable,
    }
}

async fn majority(config: &Config, source: &Source) -> anyhow::Result<pitr_mongodb::Majority> {
    let SourceConfig::Mongodb(configured) = &config.source else {
        anyhow::bail!("the configuration names another engine's source");
    };
    let client = open::mongodb(configured).await?.client()?;
    let server = Server::ask(&client).await;
    client.shutdown().immediate(true).await;
    let server = server?;
    source.check(&server.source)?;
    Ok(server.majority)
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
            ..
        } = &self.archive;
        writeln!(f, "archive  {url} ({engine}, replica set {replica_set})")?;
        match &self.end {
            None => writeln!(f, "end      nothing is archived yet")?,
            Some(end) => writeln!(f, "end      {end}")?,
        }
        writeln!(f, "lag      {}", self.lag)?;
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

//! `pitr-tool backup`: a base backup now, for example before a migration. It is whole when this command ends with 0;
//! interrupted, it leaves nothing that looks whole.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Context;
use pitr_archive::Reading;
use pitr_archive::writer::Writer;
use pitr_postgres::backup::{self, ManifestCache, Parent, Taken, WalCover};
use pitrd::config::{Config, SourceConfig, parse_rate, show_bytes, show_duration};
use pitrd::exit::Exit;
use pitrd::{open, schedule};
use serde::Serialize;

use crate::output;
use crate::place::Place;
use crate::progress::Progress;
use crate::status::{BaseBackup, Kind};

/// PostgreSQL's own limit on a backup's label, in bytes.
const LABEL_BYTES_MAX: usize = 1023;

/// Arguments of `backup`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pitr-tool --config /etc/pitrd/orders.toml backup --label before-migration
  pitr-tool --config /etc/pitrd/orders.toml backup --incremental --rate '50 MiB/s'

An incremental backup needs PostgreSQL's manifest of the backup before it. It lies sealed in the archive, where --identity or
--key-file reads it; a copy of the newest one that this host took lies beside the signing key.")]
pub struct Args {
    /// What the backup is for
    #[arg(long, value_name = "TEXT", default_value = "", value_parser = label)]
    pub label: String,
    /// Only what changed since the last base backup; PostgreSQL 17 or later with summarize_wal
    #[arg(long)]
    pub incremental: bool,
    /// Bytes a second at most, such as '50 MiB/s'; by default what [backup] of the configuration says
    #[arg(long, value_name = "BYTES/S", value_parser = rate)]
    pub rate: Option<u64>,
    /// Print JSON, as docs/cli.md documents it
    #[arg(long)]
    pub json: bool,
}

/// What `backup` made. Its JSON is documented in docs/cli.md.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The backup.
    #[serde(flatten)]
    pub backup: BaseBackup,
    /// How long it took.
    pub seconds: f64,
    /// True if the archive holds all of the WAL that it needs, so that it can be restored.
    pub restorable: bool,
}

/// Runs it.
pub async fn run(place: &Place, args: &Args) -> anyhow::Result<Exit> {
    let config = place.require_config()?;
    let source = match &config.source {
        SourceConfig::Postgres(source) => source,
        SourceConfig::Mongodb(source) => {
            return crate::mongodb::backup::run(&config, source, args).await;
        }
    };
    let writer = open::writer(&config).await?;
    let mut settings = schedule::take_settings(&config, source, &args.label)?;
    settings.rate_limit = args.rate.or(settings.rate_limit);
    if args.incremental {
        settings.incremental = Some(parent(&config, place, &writer).await?);
    }
    let began = Instant::now();
    let shown = Shown::new();
    let taken = backup::take(writer, settings, |progress| shown.show(progress)).await;
    shown.progress.finish();
    let taken = taken.context("take a base backup")?;
    let seconds = began.elapsed().as_secs_f64();
    let cache = ManifestCache::beside(&config.archive.signing_key_file);
    if let Err(error) = cache.keep(taken.id, &taken.postgres_manifest) {
        output::note(&format!(
            "warning: the backup is whole, but no incremental one can be built on it without --identity: {error}"
        ));
    }
    warn(&taken);
    output::show(&Report::of(&taken, seconds), args.json)?;
    Ok(Exit::Done)
}

/// What an incremental backup builds on: read from the archive by whoever can, otherwise the copy beside the signing key.
async fn parent(config: &Config, place: &Place, writer: &Writer) -> anyhow::Result<Parent> {
    let archive = writer.archive();
    let parent = match place.opener(Some(config))? {
        Some(opener) => Parent::newest(&Reading::new(archive.clone(), opener)).await,
        None => {
            let cache = ManifestCache::beside(&config.archive.signing_key_file);
            cache.newest(archive).await
        }
    };
    parent.context("find the backup to build on")
}

/// The server's running estimate, shown.
struct Shown {
    progress: Progress,
    last: Mutex<backup::Progress>,
}

impl Shown {
    fn new() -> Self {
        let last = backup::Progress {
            bytes: 0,
            total_bytes: None,
        };
        Self {
            progress: Progress::start("base backup", Some(0)),
            last: Mutex::new(last),
        }
    }

    fn show(&self, now: backup::Progress) {
        let Ok(mut last) = self.last.lock() else {
            return;
        };
        if let Some(total) = now
            .total_bytes
            .filter(|_| now.total_bytes != last.total_bytes)
        {
            self.progress.set_total(total);
        }
        self.progress.add(now.bytes - last.bytes);
        *last = now;
    }
}

/// Says why a whole backup cannot be restored yet.
fn warn(taken: &Taken) {
    let end = taken.manifest.end_lsn;
    match taken.wal {
        WalCover::Complete => {}
        WalCover::Behind { durable } => {
            let durable = durable.map_or("nothing yet".into(), |lsn| format!("WAL up to {lsn}"));
            output::note(&format!(
                "warning: not restorable until the daemon has archived up to {end}; the archive holds {durable}\n\
                 hint: start pitrd, or wait for it to catch up; pitr-tool status shows how far it is"
            ));
        }
        WalCover::StartsLate { from } => output::note(&format!(
            "warning: not restorable: the archive's WAL begins only at {from}, after the backup began\n\
             hint: take another one while pitrd is running"
        )),
    }
}

impl Report {
    fn of(taken: &Taken, seconds: f64) -> Self {
        let manifest = &taken.manifest;
        let kind = match manifest.parent {
            None => Kind::Full,
            Some(_) => Kind::Incremental,
        };
        Self {
            backup: BaseBackup {
                id: taken.id.to_string(),
                label: Some(manifest.label.clone()),
                kind: Some(kind),
                parent: manifest.parent.clone(),
                timeline: manifest.start_timeline.0,
                start_lsn: manifest.start_lsn.to_string(),
                end_lsn: manifest.end_lsn.to_string(),
                finished: Some(output::time(manifest.finished.as_microsecond())),
                bytes: Some(manifest.contents_bytes),
                stored_bytes: taken.stored_bytes,
            },
            seconds,
            restorable: taken.wal == WalCover::Complete,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let backup = &self.backup;
        let time = show_duration(Duration::try_from_secs_f64(self.seconds).unwrap_or_default());
        let (bytes, stored) = (
            show_bytes(backup.bytes.unwrap_or_default()),
            show_bytes(backup.stored_bytes),
        );
        writeln!(
            f,
            "base backup {} is complete: {bytes}, stored as {stored}, in {time}; WAL {} to {} on timeline {}",
            backup.id, backup.start_lsn, backup.end_lsn, backup.timeline
        )
    }
}

fn label(text: &str) -> Result<String, &'static str> {
    if text.len() > LABEL_BYTES_MAX || text.chars().any(char::is_control) {
        return Err("a label has at most 1023 bytes and no control characters");
    }
    Ok(text.to_owned())
}

fn rate(text: &str) -> Result<u64, &'static str> {
    parse_rate(text).ok_or("write bytes a second above zero, such as '50 MiB/s'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_that_postgresql_would_refuse_is_refused() {
        assert!(label("before migration").is_ok());
        assert!(label("two\nlines").is_err());
        assert!(label(&"x".repeat(1024)).is_err());
    }
}

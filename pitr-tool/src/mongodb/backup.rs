//! `pitr-tool backup` for a MongoDB source: a base copy over the wire.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Context;
use pitr_mongodb::base::{self, LogCover, Taken};
use pitrd::config::{Config, MongodbSource, show_bytes, show_duration};
use pitrd::exit::{Exit, Refusal};
use pitrd::{open, schedule};
use serde::Serialize;

use crate::backup::Args;
use crate::output;
use crate::progress::Progress;

/// What `backup` made. Its JSON is documented in docs/cli.md.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Its id, the moment it began.
    pub id: String,
    /// What it is for.
    pub label: String,
    /// Replay begins with the first entry behind it.
    pub t0: String,
    /// No moment before it can be restored from this copy.
    pub t1: String,
    /// Namespaces in it.
    pub collections: usize,
    /// Documents in it.
    pub documents: u64,
    /// Bytes of its documents.
    pub bytes: u64,
    /// Bytes it takes in the store.
    pub stored_bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// True if the archive holds all of the oplog that it needs, so that it can be restored.
    pub restorable: bool,
}

/// Runs it.
pub async fn run(config: &Config, source: &MongodbSource, args: &Args) -> anyhow::Result<Exit> {
    if args.incremental {
        let message =
            "there are no incremental base copies of MongoDB: the archived oplog is the increment";
        return Err(Refusal::new(Exit::Usage, message).into());
    }
    let writer = open::writer(config).await?;
    let mut settings = schedule::copy_settings(config, source, &args.label).await?;
    settings.rate_limit = args.rate.or(settings.rate_limit);
    let began = Instant::now();
    let progress = Progress::start("base copy", Some(0));
    let last = Mutex::new(base::Progress::default());
    let show = |now: base::Progress| {
        let Ok(mut last) = last.lock() else { return };
        if now.total_bytes != last.total_bytes {
            progress.set_total(now.total_bytes);
        }
        progress.add(now.bytes - last.bytes);
        *last = now;
    };
    let taken = base::take(writer, settings, show).await;
    progress.finish();
    let taken = taken.context("take a base copy")?;
    warn(&taken);
    output::show(
        &Report::of(&taken, began.elapsed().as_secs_f64()),
        args.json,
    )?;
    Ok(Exit::Done)
}

/// Says why a whole copy cannot be restored yet.
fn warn(taken: &Taken) {
    let end = taken.manifest.t1;
    match taken.log {
        LogCover::Complete => {}
        LogCover::Behind { durable } => {
            let durable = durable.map_or("nothing yet".into(), |ts| {
                format!("the oplog up to ts:{ts}")
            });
            output::note(&format!(
                "warning: not restorable until the daemon has archived up to ts:{end}; the archive holds {durable}\n\
                 hint: start pitrd, or wait for it to catch up; pitr-tool status shows how far it is"
            ));
        }
        LogCover::StartsLate { from } => output::note(&format!(
            "warning: not restorable: the archive's oplog begins only at ts:{from}, after the copy began\n\
             hint: take another one while pitrd is running"
        )),
    }
}

impl Report {
    fn of(taken: &Taken, seconds: f64) -> Self {
        let manifest = &taken.manifest;
        Self {
            id: taken.id.to_string(),
            label: manifest.label.clone(),
            t0: manifest.t0.to_string(),
            t1: manifest.t1.to_string(),
            collections: manifest.collections.len(),
            documents: manifest.documents(),
            bytes: manifest.contents_bytes,
            stored_bytes: taken.stored_bytes,
            seconds,
            restorable: taken.log == LogCover::Complete,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let took = Duration::try_from_secs_f64(self.seconds).unwrap_or_default();
        let (bytes, stored) = (show_bytes(self.bytes), show_bytes(self.stored_bytes));
        writeln!(
            f,
            "base copy {} is whole: {} documents in {} collections",
            self.id, self.documents, self.collections
        )?;
        writeln!(
            f,
            "  {bytes}, {stored} in the store, in {}",
            show_duration(took)
        )?;
        if self.restorable {
            writeln!(f, "  restorable from ts:{} on", self.t1)
        } else {
            writeln!(
                f,
                "  NOT RESTORABLE: the archive does not hold the log that it needs"
            )
        }
    }
}

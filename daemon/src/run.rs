//! The daemon's work: capture, and what runs beside it, watched by an [`Observer`] until it ends or is asked to stop.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use pitr_archive::writer::{LogSettings, Troubles, Writer};
use pitr_mongodb::capture as mongodb;
use pitr_postgres::capture as postgres;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::config::{Compression, Config, SourceConfig};
use crate::exit::{Exit, Refusal};
use crate::observer::{Beside, Observer};
use crate::schedule::{self, ScheduleStatus};
use crate::supervise::Supervision;
use crate::vital::Vital;
use crate::watching::Watching;
use crate::{margin, open, probe, spool};

/// The loop turns at least so often, for the watchdog.
const TURN_EVERY: Duration = Duration::from_secs(1);
/// After being asked to stop, what was received may take so long to become durable. What is not by then was not acknowledged
/// either, and the server sends it again.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// A capture under way: it ends when it is asked to stop, or with what waiting cannot mend.
type Capture = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// Archives until it is asked to stop.
pub async fn run(
    config: Config,
    accept_break: bool,
    supervision: Supervision,
) -> anyhow::Result<()> {
    let (writer, followers) = open::writer_and_copies(&config).await?;
    probe::require(&config.archive).await?;
    let _using = match &config.spool {
        Some(spool) => Some(spool::attach(spool, &writer).await?),
        None => None,
    };
    let troubles = writer.troubles().clone();
    let vital = Vital::new(config.segment.linger, segment_bytes_max(&config));
    let stop = supervision.stop();
    let (capture, watching) = start(&config, accept_break, Arc::clone(&writer), stop).await?;
    let mut beside = JoinSet::new();
    let copies = followers.into_iter();
    let copies: Vec<_> = copies.map(|copy| copy.start(&mut beside)).collect();
    let (said, margin) = watch::channel(None);
    beside.spawn(margin::watch(
        config.source.clone(),
        troubles.clone(),
        watching.clone(),
        said,
    ));
    let (schedule_status, schedule) = watch::channel(ScheduleStatus::default());
    if let Some(every) = config.backup.every {
        let (writer, watching) = (Arc::clone(&writer), watching.clone());
        let stop = supervision.stop();
        beside.spawn(schedule::run(
            config,
            every,
            writer,
            watching,
            schedule_status,
            stop,
        ));
    }
    let spool = writer.spool().cloned();
    let beside_it = Beside {
        schedule,
        copies,
        spool,
        margin,
    };
    let observer = Observer::new(watching.clone(), beside_it, vital);
    until_ended(capture, watching, observer, &troubles, &supervision).await
}

/// Watches a capture until it ends.
async fn until_ended(
    mut capture: Capture,
    mut changes: Watching,
    mut observer: Observer,
    troubles: &Troubles,
    supervision: &Supervision,
) -> anyhow::Result<()> {
    let mut turn = tokio::time::interval(TURN_EVERY);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stopping: Option<Instant> = None;
    loop {
        tokio::select! {
            ended = &mut capture => {
                observer.report();
                return ended;
            }
            true = changes.changed() => observer.heard(),
            _ = turn.tick() => {
                if observer.turn(troubles) {
                    supervision.heart.beat();
                }
                if *supervision.stop().borrow() {
                    let since = *stopping.get_or_insert_with(Instant::now);
                    anyhow::ensure!(since.elapsed() < DRAIN_MAX, not_drained(&observer));
                }
            }
        }
    }
}

/// The capture of the configuration's source.
async fn start(
    config: &Config,
    accept_break: bool,
    writer: Arc<Writer>,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<(Capture, Watching)> {
    match &config.source {
        SourceConfig::Postgres(source) => {
            let settings = postgres::CaptureSettings {
                connection: open::connection(source)?,
                slot: source.slot.clone(),
                create_slot: source.create_slot,
                allow_standby: source.allow_standby,
                wal_directory: source.wal_directory.clone(),
                accept_break,
                log: log_settings(config),
            };
            let (status, watch) = watch::channel(postgres::CaptureStatus::new());
            let capture = postgres::run(writer, settings, status, stop);
            let capture = async { capture.await.context("archive the WAL") };
            Ok((Box::pin(capture), Watching::Postgres(watch)))
        }
        SourceConfig::Mongodb(source) => {
            let settings = mongodb::CaptureSettings {
                connection: open::mongodb(source).await?,
                kind: source.capture.into(),
                transaction_bytes_max: usize::try_from(source.transaction_bytes_max)
                    .unwrap_or(usize::MAX),
                accept_break,
                log: log_settings(config),
            };
            let (status, watch) = watch::channel(mongodb::CaptureStatus::default());
            let capture = mongodb::run(writer, settings, status, stop);
            let capture = async { capture.await.context("archive the source's log") };
            Ok((Box::pin(capture), Watching::Mongodb(watch)))
        }
    }
}

fn not_drained(observer: &Observer) -> Refusal {
    let durable = observer.durable();
    let message = format!(
        "stopped although not all that was received is durable; the server keeps its log from {durable} on"
    );
    Refusal::new(Exit::Unavailable, message)
        .hint("nothing is lost: start pitrd again when the store answers")
}

/// How large a segment can be: a record of a change stream is never cut.
fn segment_bytes_max(config: &Config) -> u64 {
    let record = match &config.source {
        SourceConfig::Mongodb(source) => source.transaction_bytes_max,
        SourceConfig::Postgres(_) => 0,
    };
    config.segment.bytes_max.max(record)
}

/// How the log is cut, as the configuration says it.
#[must_use]
pub fn log_settings(config: &Config) -> LogSettings {
    let Compression::Zstd(compression_level) = config.segment.compression;
    LogSettings {
        segment_bytes_max: config.segment.bytes_max,
        linger: config.segment.linger,
        compression_level,
        puts_in_flight: config.segment.puts_in_flight.into(),
    }
}

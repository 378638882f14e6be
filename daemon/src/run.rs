//! The daemon's work: capture, watched. What the capture says of itself becomes log lines, systemd's status and the latency from
//! receiving to durable.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use pitr_archive::writer::{LogSettings, Spool, Troubles, Writer};
use pitr_mongodb::capture as mongodb;
use pitr_postgres::capture as postgres;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::{Compression, Config, SourceConfig};
use crate::copies::Following;
use crate::exit::{Exit, Refusal};
use crate::margin::{self, Margin};
use crate::probe;
use crate::schedule::{self, ScheduleStatus};
use crate::supervise::Supervision;
use crate::watching::{View, Watching};
use crate::{notify, open, spool};

/// The state is logged so often.
const REPORT_EVERY: Duration = Duration::from_secs(60);
/// The loop turns at least so often, for the watchdog.
const TURN_EVERY: Duration = Duration::from_secs(1);
/// After being asked to stop, what was received may take so long to become durable. What is not by then was not acknowledged
/// either, and the server sends it again.
const DRAIN_MAX: Duration = Duration::from_secs(60);
/// Latencies are sampled at most so densely.
const SAMPLE_EVERY: Duration = Duration::from_millis(5);

/// A capture under way: it ends when it is asked to stop, or with what waiting cannot mend.
type Capture = Pin<Box<dyn Future<Output = anyhow::Result<()>>>>;

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
    let stop = supervision.stop();
    let (mut capture, watching) = start(&config, accept_break, Arc::clone(&writer), stop).await?;
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
    let mut observer = Observer::new(watching.clone(), schedule, copies, spool, margin);
    let mut turn = tokio::time::interval(TURN_EVERY);
    let mut stopping: Option<Instant> = None;
    let mut changes = watching;
    loop {
        tokio::select! {
            ended = &mut capture => {
                observer.report(&troubles);
                return ended;
            }
            true = changes.changed() => observer.sample(),
            _ = turn.tick() => {
                supervision.heart.beat();
                observer.turn(&troubles);
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
    let durable = observer.watching.view().durable_text;
    let message = format!(
        "stopped although not all that was received is durable; the server keeps its log from {durable} on"
    );
    Refusal::new(Exit::Unavailable, message)
        .hint("nothing is lost: start pitrd again when the store answers")
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

/// Watches the capture's status.
struct Observer {
    watching: Watching,
    schedule: watch::Receiver<ScheduleStatus>,
    copies: Vec<Following>,
    spool: Option<Arc<Spool>>,
    margin: watch::Receiver<Option<Margin>>,
    was_streaming: bool,
    was_ready: bool,
    /// When which position was received, oldest first.
    received: VecDeque<(Instant, u64)>,
    /// From received to durable, in µs.
    latency: Histogram<u64>,
    reported: Instant,
    reported_durable: u64,
}

impl Observer {
    fn new(
        watching: Watching,
        schedule: watch::Receiver<ScheduleStatus>,
        copies: Vec<Following>,
        spool: Option<Arc<Spool>>,
        margin: watch::Receiver<Option<Margin>>,
    ) -> Self {
        Self {
            watching,
            schedule,
            copies,
            spool,
            margin,
            was_streaming: false,
            was_ready: false,
            received: VecDeque::new(),
            latency: Histogram::new(3).expect("three significant digits are supported"),
            reported: Instant::now(),
            reported_durable: 0,
        }
    }

    /// Notes when a position was received, and for those that became durable how long it took.
    fn sample(&mut self) {
        let now = Instant::now();
        let (received, durable) = self.watching.positions();
        let due = self
            .received
            .back()
            .is_none_or(|&(at, last)| received > last && now - at >= SAMPLE_EVERY);
        if due && received > durable {
            self.received.push_back((now, received));
        }
        while let Some((at, _)) = self.received.pop_front_if(|(_, end)| *end <= durable) {
            // An hour and more is all the same here.
            self.latency
                .saturating_record((now - at).as_micros() as u64);
        }
    }

    fn turn(&mut self, troubles: &Troubles) {
        let view = self.watching.view();
        if view.streaming != self.was_streaming {
            self.was_streaming = view.streaming;
            self.received.clear();
        }
        if view.streaming && !self.was_ready {
            self.was_ready = true;
            notify::ready();
        }
        notify::status(&self.line(&view, troubles));
        if self.reported.elapsed() >= REPORT_EVERY {
            self.report(troubles);
        }
    }

    /// One line about the last minute.
    fn report(&mut self, troubles: &Troubles) {
        let view = self.watching.view();
        let (p50_ms, p99_ms) = (
            self.latency.value_at_quantile(0.5) / 1000,
            self.latency.value_at_quantile(0.99) / 1000,
        );
        let archived = self.watching.archived(self.reported_durable, view.durable);
        if self.reported_durable != 0 {
            tracing::info!(
                durable = view.durable_text,
                archived,
                p50_ms,
                p99_ms,
                "{}",
                self.line(&view, troubles)
            );
        }
        self.latency.reset();
        (self.reported, self.reported_durable) = (Instant::now(), view.durable);
    }

    fn line(&self, view: &View, troubles: &Troubles) -> String {
        let mut line = view.line(troubles);
        if let Some(margin) = &*self.margin.borrow() {
            line.push_str(&format!("; {margin}"));
        }
        let spool = self
            .spool
            .as_ref()
            .and_then(|spool| spool::remark(spool.fill()));
        for remark in self
            .copies
            .iter()
            .filter_map(Following::remark)
            .chain(spool)
        {
            line.push_str("; ");
            line.push_str(&remark);
        }
        let schedule = self.schedule.borrow();
        match (&schedule.failed, schedule.running) {
            (_, true) => format!("{line}; taking a base backup"),
            (Some(reason), false) => format!("{line}; the last base backup FAILED: {reason}"),
            (None, false) => line,
        }
    }
}

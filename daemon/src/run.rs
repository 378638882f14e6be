//! The daemon's work: capture, watched. What the capture says of itself becomes log lines, systemd's status and the latency from
//! receiving to durable.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use pitr_archive::writer::{LogSettings, Troubles};
use pitr_postgres::Lsn;
use pitr_postgres::capture::{self, CaptureSettings, CaptureStatus};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::{Compression, Config, show_bytes};
use crate::copies::Following;
use crate::exit::{Exit, Refusal};
use crate::probe;
use crate::schedule::{self, ScheduleStatus};
use crate::supervise::Supervision;
use crate::{notify, open};

/// The state is logged so often.
const REPORT_EVERY: Duration = Duration::from_secs(60);
/// The loop turns at least so often, for the watchdog.
const TURN_EVERY: Duration = Duration::from_secs(1);
/// After being asked to stop, what was received may take so long to become durable. What is not by then was not acknowledged
/// either, and the server sends it again.
const DRAIN_MAX: Duration = Duration::from_secs(60);
/// Latencies are sampled at most so densely.
const SAMPLE_EVERY: Duration = Duration::from_millis(5);

/// Archives until it is asked to stop.
pub async fn run(
    config: Config,
    accept_break: bool,
    supervision: Supervision,
) -> anyhow::Result<()> {
    let (writer, followers) = open::writer_and_copies(&config).await?;
    probe::require(writer.archive()).await?;
    let settings = capture_settings(&config, accept_break)?;
    let (status, watch) = watch::channel(CaptureStatus::new());
    let troubles = writer.troubles().clone();
    let mut beside = JoinSet::new();
    let copies = followers.into_iter();
    let copies: Vec<_> = copies.map(|copy| copy.start(&mut beside)).collect();
    let (schedule_status, schedule) = watch::channel(ScheduleStatus::default());
    if let Some(every) = config.backup.every {
        let (writer, capture) = (Arc::clone(&writer), watch.clone());
        let stop = supervision.stop();
        beside.spawn(schedule::run(
            config,
            every,
            writer,
            capture,
            schedule_status,
            stop,
        ));
    }
    let capture = capture::run(writer, settings, status, supervision.stop());
    tokio::pin!(capture);
    let mut observer = Observer::new(watch.clone(), schedule, copies);
    let mut turn = tokio::time::interval(TURN_EVERY);
    let mut stopping: Option<Instant> = None;
    let mut changes = watch;
    loop {
        tokio::select! {
            ended = &mut capture => {
                observer.report(&troubles);
                return ended.context("archive the WAL");
            }
            Ok(()) = changes.changed() => observer.sample(),
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

fn not_drained(observer: &Observer) -> Refusal {
    let durable = observer.status.borrow().durable;
    let message = format!(
        "stopped although not all that was received is durable; the server keeps its WAL from {durable} on"
    );
    Refusal::new(Exit::Unavailable, message)
        .hint("nothing is lost: start pitrd again when the store answers")
}

fn capture_settings(config: &Config, accept_break: bool) -> anyhow::Result<CaptureSettings> {
    Ok(CaptureSettings {
        connection: open::connection(&config.source)?,
        slot: config.source.slot.clone(),
        create_slot: config.source.create_slot,
        allow_standby: config.source.allow_standby,
        wal_directory: config.source.wal_directory.clone(),
        accept_break,
        log: log_settings(config),
    })
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
    status: watch::Receiver<CaptureStatus>,
    schedule: watch::Receiver<ScheduleStatus>,
    copies: Vec<Following>,
    was_streaming: bool,
    was_ready: bool,
    /// When which position was received, oldest first.
    received: VecDeque<(Instant, Lsn)>,
    /// From received to durable, in µs.
    latency: Histogram<u64>,
    reported: Instant,
    reported_durable: Lsn,
}

impl Observer {
    fn new(
        status: watch::Receiver<CaptureStatus>,
        schedule: watch::Receiver<ScheduleStatus>,
        copies: Vec<Following>,
    ) -> Self {
        Self {
            status,
            schedule,
            copies,
            was_streaming: false,
            was_ready: false,
            received: VecDeque::new(),
            latency: Histogram::new(3).expect("three significant digits are supported"),
            reported: Instant::now(),
            reported_durable: Lsn(0),
        }
    }

    /// Notes when a position was received, and for those that became durable how long it took.
    fn sample(&mut self) {
        let now = Instant::now();
        let (received, durable) = {
            let status = self.status.borrow();
            (status.received, status.durable)
        };
        let due = self
            .received
            .back()
            .is_none_or(|&(at, lsn)| received > lsn && now - at >= SAMPLE_EVERY);
        if due && received > durable {
            self.received.push_back((now, received));
        }
        while let Some((at, _)) = self.received.pop_front_if(|(_, lsn)| *lsn <= durable) {
            // An hour and more is all the same here.
            self.latency
                .saturating_record((now - at).as_micros() as u64);
        }
    }

    fn turn(&mut self, troubles: &Troubles) {
        let status = self.status.borrow().clone();
        if status.streaming != self.was_streaming {
            self.was_streaming = status.streaming;
            self.received.clear();
        }
        if status.streaming && !self.was_ready {
            self.was_ready = true;
            notify::ready();
        }
        notify::status(&self.line(&status, troubles));
        if self.reported.elapsed() >= REPORT_EVERY {
            self.report(troubles);
        }
    }

    /// One line about the last minute.
    fn report(&mut self, troubles: &Troubles) {
        let status = self.status.borrow().clone();
        let (p50_ms, p99_ms) = (
            self.latency.value_at_quantile(0.5) / 1000,
            self.latency.value_at_quantile(0.99) / 1000,
        );
        let archived = show_bytes(status.durable.bytes_since(self.reported_durable));
        if self.reported_durable != Lsn(0) {
            tracing::info!(durable = %status.durable, archived, p50_ms, p99_ms, "{}", self.line(&status, troubles));
        }
        self.latency.reset();
        (self.reported, self.reported_durable) = (Instant::now(), status.durable);
    }

    fn line(&self, status: &CaptureStatus, troubles: &Troubles) -> String {
        let mut line = line(status, troubles);
        for remark in self.copies.iter().filter_map(Following::remark) {
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

/// The state in one line, worst first.
fn line(status: &CaptureStatus, troubles: &Troubles) -> String {
    let lag = show_bytes(status.lag_bytes());
    if let Some(trouble) = troubles.oldest() {
        let seconds = trouble.since.elapsed().as_secs();
        return format!(
            "the store has not taken an object for {seconds} s ({}); {lag} behind",
            trouble.reason
        );
    }
    if !status.streaming {
        return format!(
            "not connected to the server; archived up to {}",
            status.durable
        );
    }
    if status.gaps > 0 {
        return format!("streaming, {lag} behind; a GAP was recorded: take a new base backup");
    }
    format!("streaming, {lag} behind")
}

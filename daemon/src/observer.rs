//! Watches the capture. What it says of itself becomes log lines, systemd's status, the latency from receiving to durable, and the
//! watchdog's beat.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use pitr_archive::writer::{Spool, Troubles};
use tokio::sync::watch;

use crate::config::show_duration;
use crate::copies::Following;
use crate::margin::Margin;
use crate::outage::{News, Outage};
use crate::schedule::ScheduleStatus;
use crate::vital::Vital;
use crate::watching::{View, Watching};
use crate::{notify, spool};

/// The state is logged so often.
const REPORT_EVERY: Duration = Duration::from_secs(60);
/// Latencies are sampled at most so densely.
const SAMPLE_EVERY: Duration = Duration::from_millis(5);

/// What runs beside the capture and has a word in the state.
pub(crate) struct Beside {
    pub(crate) schedule: watch::Receiver<ScheduleStatus>,
    pub(crate) copies: Vec<Following>,
    pub(crate) spool: Option<Arc<Spool>>,
    pub(crate) margin: watch::Receiver<Option<Margin>>,
}

/// Watches the capture's status.
pub(crate) struct Observer {
    watching: Watching,
    beside: Beside,
    vital: Vital,
    outage: Outage,
    /// Nothing is archived: how the line begins.
    standstill: Option<String>,
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
    /// Of a capture with these vital signs.
    pub(crate) fn new(watching: Watching, beside: Beside, vital: Vital) -> Self {
        Self {
            watching,
            beside,
            vital,
            outage: Outage::new(Instant::now()),
            standstill: None,
            was_streaming: false,
            was_ready: false,
            received: VecDeque::new(),
            latency: Histogram::new(3).expect("three significant digits are supported"),
            reported: Instant::now(),
            reported_durable: 0,
        }
    }

    /// Up to where the log is durable, as the engine writes it.
    pub(crate) fn durable(&self) -> String {
        self.watching.view().durable_text
    }

    /// The capture said something: notes when a position was received, and for those that became durable how long it took.
    pub(crate) fn heard(&mut self) {
        self.vital.heard();
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

    /// One turn of the loop; false if the capture is stuck.
    pub(crate) fn turn(&mut self, troubles: &Troubles) -> bool {
        let (view, trouble) = (self.watching.view(), troubles.oldest());
        if view.streaming != self.was_streaming {
            self.was_streaming = view.streaming;
            self.received.clear();
        }
        if view.streaming && !self.was_ready {
            self.was_ready = true;
            notify::ready();
        }
        let state = self.outage.look(Instant::now(), &view, trouble.as_ref());
        self.standstill = state.line;
        let line = self.line(&view);
        match state.news {
            Some(News::Began) => tracing::error!(durable = view.durable_text, "{line}"),
            Some(News::Ended(after)) => {
                let after = show_duration(after);
                tracing::info!(
                    durable = view.durable_text,
                    "archiving again, after {after}"
                );
            }
            None => {}
        }
        notify::state(&line, state.errno);
        if self.reported.elapsed() >= REPORT_EVERY {
            self.report();
        }
        self.vital.turn(&view, trouble.is_some())
    }

    /// One line about the last minute.
    pub(crate) fn report(&mut self) {
        let view = self.watching.view();
        let (p50_ms, p99_ms) = (
            self.latency.value_at_quantile(0.5) / 1000,
            self.latency.value_at_quantile(0.99) / 1000,
        );
        let archived = self.watching.archived(self.reported_durable, view.durable);
        let line = self.line(&view);
        if self.standstill.is_some() {
            tracing::error!(durable = view.durable_text, "{line}");
        } else if self.reported_durable != 0 {
            tracing::info!(
                durable = view.durable_text,
                archived,
                p50_ms,
                p99_ms,
                "{line}"
            );
        }
        self.latency.reset();
        (self.reported, self.reported_durable) = (Instant::now(), view.durable);
    }

    /// The state in one line, worst first.
    fn line(&self, view: &View) -> String {
        let mut line = match &self.standstill {
            Some(standstill) => standstill.clone(),
            None => view.line(),
        };
        let Beside {
            schedule,
            copies,
            spool,
            margin,
        } = &self.beside;
        if let Some(margin) = &*margin.borrow() {
            line.push_str(&format!("; {margin}"));
        }
        let spool = spool.as_ref().and_then(|spool| spool::remark(spool.fill()));
        let copies = copies.iter().filter_map(Following::remark);
        for remark in copies.chain(spool) {
            line.push_str("; ");
            line.push_str(&remark);
        }
        let schedule = schedule.borrow();
        match (&schedule.failed, schedule.running) {
            (_, true) => format!("{line}; taking a base backup"),
            (Some(reason), false) => format!("{line}; the last base backup FAILED: {reason}"),
            (None, false) => line,
        }
    }
}

//! What a capture says of itself, whichever engine's it is: one view for the log, systemd and the schedule.

use pitr_mongodb::{ClusterTime, capture as mongodb};
use pitr_postgres::{Lsn, capture as postgres};
use tokio::sync::watch;

use crate::config::{show_bytes, show_duration};

/// The status of a capture that runs.
#[derive(Clone, Debug)]
pub enum Watching {
    /// Of a PostgreSQL server.
    Postgres(watch::Receiver<postgres::CaptureStatus>),
    /// Of a MongoDB replica set.
    Mongodb(watch::Receiver<mongodb::CaptureStatus>),
}

/// A moment of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The log is being received.
    pub streaming: bool,
    /// Why it is not, if a session was tried.
    pub problem: Option<String>,
    /// Position up to which it was received.
    pub received: u64,
    /// Position up to which it is durable.
    pub durable: u64,
    /// Something was handed to the writer that is not durable.
    pub pending: bool,
    /// The durable position as the engine writes it.
    pub durable_text: String,
    /// How much of the source's log the store does not have, for people.
    pub lag: String,
    /// Gaps that were recorded since the start.
    pub gaps: u64,
}

impl Watching {
    /// As it is now.
    #[must_use]
    pub fn view(&self) -> View {
        match self {
            Self::Postgres(status) => {
                let status = status.borrow();
                View {
                    streaming: status.streaming,
                    problem: status.problem.clone(),
                    received: status.received.0,
                    durable: status.durable.0,
                    pending: status.received > status.durable,
                    durable_text: status.durable.to_string(),
                    lag: show_bytes(status.lag_bytes()),
                    gaps: status.gaps,
                }
            }
            Self::Mongodb(status) => {
                let status = status.borrow();
                let lag = std::time::Duration::try_from_secs_f64(status.lag_seconds());
                View {
                    streaming: status.streaming,
                    problem: status.problem.clone(),
                    received: status.received.next().0,
                    durable: status.durable.0,
                    pending: status.pending,
                    durable_text: status.durable.to_string(),
                    lag: show_duration(lag.unwrap_or_default()),
                    gaps: status.gaps,
                }
            }
        }
    }

    /// Positions up to which the log was received, and up to which it is durable.
    #[must_use]
    pub fn positions(&self) -> (u64, u64) {
        match self {
            Self::Postgres(status) => {
                let status = status.borrow();
                (status.received.0, status.durable.0)
            }
            Self::Mongodb(status) => {
                let status = status.borrow();
                (status.received.next().0, status.durable.0)
            }
        }
    }

    /// Waits for the next change; false when the capture has ended.
    pub async fn changed(&mut self) -> bool {
        match self {
            Self::Postgres(status) => status.changed().await.is_ok(),
            Self::Mongodb(status) => status.changed().await.is_ok(),
        }
    }

    /// Waits until `done` holds; `None` when the capture has ended.
    pub async fn wait_for(&mut self, done: impl Fn(&View) -> bool) -> Option<View> {
        loop {
            let view = self.view();
            if done(&view) {
                return Some(view);
            }
            if !self.changed().await {
                return None;
            }
        }
    }

    /// What was archived between two positions, for people.
    #[must_use]
    pub fn archived(&self, from: u64, to: u64) -> String {
        match self {
            Self::Postgres(_) => show_bytes(Lsn(to).bytes_since(Lsn(from))),
            Self::Mongodb(_) => {
                let (from, to) = (ClusterTime(from), ClusterTime(to));
                let seconds = to.seconds().saturating_sub(from.seconds());
                format!(
                    "{} of the oplog",
                    show_duration(std::time::Duration::from_secs(seconds.into()))
                )
            }
        }
    }
}

impl View {
    /// How the log flows, in one line.
    #[must_use]
    pub fn line(&self) -> String {
        let lag = &self.lag;
        if self.gaps > 0 {
            return format!("streaming, {lag} behind; a GAP was recorded: take a new base backup");
        }
        format!("streaming, {lag} behind")
    }
}

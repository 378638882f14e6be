//! Capture: from the server's walsender into the archive's log writer, and the durable end back to the server.
//!
//! `run` reconnects for ever; `session` is one connection; `position` decides which timeline to read from where; `prove` makes sure that
//! the server still has the log that the archive ends with, by its `tail`;
//! `stream` moves bytes until the timeline ends, and takes what lies far behind from the server's files where it may (`local`);
//! `annotate` checks the WAL as it passes; `carry` goes on while the store is away and a spool takes its place.

mod annotate;
mod carry;
mod clock;
mod error;
mod local;
mod position;
mod prove;
mod slot;
mod stream;
mod tail;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pitr_archive::writer::{Compressor, LogSettings, Writer, audibly, stopped};
use tokio::sync::watch;

pub use error::CaptureError;

use carry::Written;
use stream::StreamEnd;

use crate::connect::ConnInfo;
use crate::replication::{Mode, ReplicationClient};
use crate::source::Source;
use crate::{Lsn, TimelineId};

const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(15);

/// What to capture, and how.
#[derive(Clone, Debug)]
pub struct CaptureSettings {
    /// How to connect.
    pub connection: ConnInfo,
    /// The physical slot that keeps WAL for us.
    pub slot: String,
    /// Create the slot where it is missing.
    pub create_slot: bool,
    /// A standby may be the source.
    pub allow_standby: bool,
    /// The server's own `pg_wal`, where this process may read it: catching up costs the server less.
    pub wal_directory: Option<PathBuf>,
    /// Go on although the store lost segments that it had: a break is recorded.
    pub accept_break: bool,
    /// How the log is cut.
    pub log: LogSettings,
}

/// Where the capture is; published as it changes, and at least every few seconds: a capture that falls silent for minutes is stuck.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureStatus {
    /// WAL is being received; false while there is no connection.
    pub streaming: bool,
    /// Why the last session ended, or none came to be; `None` once WAL is received again.
    pub problem: Option<String>,
    /// The timeline that is being read.
    pub timeline: Option<TimelineId>,
    /// Received from the server up to here.
    pub received: Lsn,
    /// Durable in the store up to here, which is what the server was told.
    pub durable: Lsn,
    /// The server's end of WAL when it last spoke.
    pub server_end: Lsn,
    /// The server's clock then, µs since the Unix epoch.
    pub clock: i64,
    /// Records that did not pass the check since the start.
    pub damaged: u64,
    /// Gaps that had to be recorded since the start: each demands a new base backup.
    pub gaps: u64,
}

impl CaptureStatus {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            streaming: false,
            problem: None,
            timeline: None,
            received: Lsn(0),
            durable: Lsn(0),
            server_end: Lsn(0),
            clock: 0,
            damaged: 0,
            gaps: 0,
        }
    }

    /// WAL came, up to `end`; or a word that brought none, with `end` zero.
    fn has_received(&mut self, end: Lsn) {
        (self.streaming, self.problem) = (true, None);
        self.received = end.max(self.received);
    }

    /// Bytes that the server has and the store does not.
    #[must_use]
    pub fn lag_bytes(&self) -> u64 {
        self.server_end.bytes_since(self.durable)
    }
}

impl Default for CaptureStatus {
    fn default() -> Self {
        Self::new()
    }
}

/// One capture.
pub(crate) struct Capture {
    writer: Arc<Writer>,
    settings: CaptureSettings,
    source: Source,
    compressor: Compressor,
    status: watch::Sender<CaptureStatus>,
    shutdown: watch::Receiver<bool>,
    /// The server of this session is a standby.
    is_standby: bool,
    /// Where the server of this session was when it began.
    server: Option<(TimelineId, Lsn)>,
    /// A log whose connection was lost while the spool takes what the store does not.
    carried: Option<Written>,
    /// Where a slot begins that was made anew while the store was away.
    slot_from: Lsn,
}

/// Captures until `shutdown` becomes true; then closes the open segment and waits until it is durable. Reconnects for as long as
/// it takes.
///
/// # Errors
/// What waiting cannot mend: another cluster, a fenced writer, a store that lost segments, settings that the server refuses at
/// the first connection.
pub async fn run(
    writer: Arc<Writer>,
    settings: CaptureSettings,
    status: watch::Sender<CaptureStatus>,
    shutdown: watch::Receiver<bool>,
) -> Result<(), CaptureError> {
    let source = Source::of(writer.archive())?;
    let mut capture = Capture {
        writer,
        settings,
        source,
        compressor: Compressor::new(),
        status,
        shutdown,
        is_standby: false,
        server: None,
        carried: None,
        slot_from: Lsn(0),
    };
    let mut backoff = BACKOFF_FIRST;
    let mut streamed_once = false;
    loop {
        if *capture.shutdown.borrow() {
            if let Some(written) = capture.carried.take() {
                capture.finish(written).await?;
            }
            return Ok(());
        }
        let error = match capture.session().await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let streamed = capture.status.borrow().streaming;
        capture.status.send_modify(|status| {
            (status.streaming, status.problem) = (false, Some(error.to_string()));
        });
        streamed_once |= streamed;
        if matches!(error, CaptureError::LocalWal(_)) {
            capture.settings.wal_directory = None;
        }
        if error.is_permanent(streamed_once) {
            return Err(error);
        }
        if streamed {
            backoff = BACKOFF_FIRST;
        }
        tracing::warn!(%error, retry_ms = backoff.as_millis() as u64, "capture was interrupted; connecting again");
        capture.pause(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

impl Capture {
    /// One connection, for as long as it lasts; ends well only when we are asked to stop and all is durable.
    async fn session(&mut self) -> Result<(), CaptureError> {
        let mut client = self.connect().await?;
        let identity = client.identify_system().await?;
        self.source.check(&identity)?;
        let major = client.server_major()?;
        if !(15..=18).contains(&major) {
            return Err(CaptureError::Version(major));
        }
        if client.in_recovery() && !self.settings.allow_standby {
            return Err(CaptureError::Standby);
        }
        self.is_standby = client.in_recovery();
        if self
            .server
            .is_some_and(|(timeline, _)| timeline != identity.timeline)
        {
            // Of a slot on the server before.
            self.slot_from = Lsn(0);
        }
        self.server = Some((identity.timeline, identity.flush_lsn));
        self.status
            .send_modify(|status| status.server_end = identity.flush_lsn);
        let mut gaps = 0;
        let mut ended = match self.carried.take() {
            Some(written) => self.carry_on(client, written, &identity).await?,
            None => {
                let (client, place) = self.place(client, &identity).await?;
                self.stream(client, place).await?
            }
        };
        loop {
            ended = match ended {
                StreamEnd::Shutdown => return Ok(()),
                StreamEnd::Switched { client: same, next } => {
                    let (client, place) = self.place_on(*same, next).await?;
                    self.stream(client, place).await?
                }
                StreamEnd::SlotLost(written) => self.carry_on_with_new_slot(*written).await?,
                StreamEnd::Gap if gaps > 0 => return Err(CaptureError::GapAgain),
                StreamEnd::Gap => {
                    gaps += 1;
                    let client = self.connect().await?;
                    let (client, place) = self.place_after_gap(client).await?;
                    self.stream(client, place).await?
                }
            };
        }
    }

    /// Waits with jitter, or until we are asked to stop.
    async fn pause(&mut self, longest: Duration) {
        let nanos = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.subsec_nanos());
        let wait = longest.mul_f64(0.5 + f64::from(nanos % 1000) / 2000.0);
        let asked = stopped(&mut self.shutdown);
        // Both ways of waking up lead to the same next step.
        let _ = audibly(&self.status, tokio::time::timeout(wait, asked)).await;
    }

    /// A connection; with `connect_timeout=0` it is waited for without an end.
    async fn connect(&self) -> Result<ReplicationClient, CaptureError> {
        let connecting = ReplicationClient::connect(&self.settings.connection, Mode::Physical);
        Ok(audibly(&self.status, connecting).await?)
    }

    /// Waits until all that was written is durable, however long the store is away.
    async fn finish(&self, written: Written) -> Result<Lsn, CaptureError> {
        audibly(&self.status, written.finish()).await
    }
}

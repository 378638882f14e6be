//! Capture: from the source's log into the archive's log writer.
//!
//! `run` reconnects for ever; `place` decides where to go on, and whether the source's log is still the one that was archived, which
//! `oplog` and `events` read, one batch `ahead`; `session` moves what they send through `intake` (`entries`, `groups`) to the writer;
//! `annotate` notes what passes; `majority` watches how far the set is.

mod ahead;
mod annotate;
mod digests;
mod entries;
mod events;
mod fragments;
mod groups;
mod intake;
mod majority;
mod oplog;
mod pieces;
mod place;
mod session;

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bson::raw::RawDocument;
use pitr_archive::writer::{Compressor, LogSettings, LogWriter, Writer, audibly, stopped};
use tokio::sync::watch;

pub(crate) use events::{Asking, ChangeStream};

use crate::connect::Connection;
use crate::entry::Head;
use crate::source::{Server, Source};
use crate::{ClusterTime, EngineError, LogKind};

const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(15);
/// Why the log cannot go on where the archive ends.
const UNSENDABLE: &str = "the server cannot send an event of it, which is too large";
const TOO_LARGE: &str = "a transaction's events are more than are taken";

/// What to capture, and how.
#[derive(Clone, Debug)]
pub struct CaptureSettings {
    /// How to connect.
    pub connection: Connection,
    /// Which of the source's logs is read.
    pub kind: LogKind,
    /// Events of one transaction that are held in memory at most; of more a break is recorded.
    pub transaction_bytes_max: usize,
    /// Go on although the store lost segments that it had: a break is recorded.
    pub accept_break: bool,
    /// How the log is cut.
    pub log: LogSettings,
}

/// Where the capture is; published as it changes, and at least every few seconds: a capture that falls silent for minutes is stuck.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CaptureStatus {
    /// Entries are being received; false while there is no connection.
    pub streaming: bool,
    /// Why the last session ended, or none came to be; `None` once entries are received again.
    pub problem: Option<String>,
    /// Received from the source up to here, inclusive.
    pub received: ClusterTime,
    /// Durable in the store up to here, exclusive.
    pub durable: ClusterTime,
    /// Wall time of the last durable entry, µs since the Unix epoch.
    pub durable_wall: i64,
    /// What a majority of the set has.
    pub majority: ClusterTime,
    /// Its wall time, µs since the Unix epoch.
    pub majority_wall: i64,
    /// Entries are received that are not durable yet.
    pub pending: bool,
    /// Breaks that had to be recorded since the start: each demands a new base copy.
    pub gaps: u64,
}

impl CaptureStatus {
    /// Seconds of the source's log that the store does not have yet.
    #[must_use]
    pub fn lag_seconds(&self) -> f64 {
        if !self.pending && self.received >= self.majority {
            return 0.0;
        }
        (self.majority_wall - self.durable_wall).max(0) as f64 / 1e6
    }
}

/// The feature compatibility version as it was last seen, shared with the annotator.
type Fcv = Arc<Mutex<String>>;

/// What was sent last to the writer, to be recognised by the next session of this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Last {
    ts: ClusterTime,
    /// What tells it from another one of that time: the election term of an entry, a digest of an event's resume token.
    sign: i64,
}

impl Last {
    fn of_entry(head: &Head<'_>) -> Self {
        Self {
            ts: head.ts,
            sign: head.term,
        }
    }

    fn of_event(event: &RawDocument, head: &Head<'_>) -> Self {
        let token = event
            .get_document("_id")
            .map_or(&[][..], RawDocument::as_bytes);
        let digest = blake3::hash(token);
        let first = digest.as_bytes().first_chunk();
        Self {
            ts: head.ts,
            sign: i64::from_le_bytes(*first.expect("a digest has 32 bytes")),
        }
    }
}

/// One capture.
struct Capture {
    writer: Arc<Writer>,
    settings: CaptureSettings,
    source: Source,
    compressor: Compressor,
    status: watch::Sender<CaptureStatus>,
    shutdown: watch::Receiver<bool>,
    last: Option<Last>,
    asking: Asking,
    /// Something behind the archive's end can neither be sent nor taken: why the log does not go on from there.
    impassable: Option<&'static str>,
}

/// Captures until `shutdown` becomes true; then closes the open segment and waits until it is durable. Reconnects for as long as
/// it takes.
///
/// # Errors
/// What waiting cannot mend: another replica set, a fenced writer, a store that lost segments, an archive of the source's other log,
/// an account that may not read the log at the first connection.
pub async fn run(
    writer: Arc<Writer>,
    settings: CaptureSettings,
    status: watch::Sender<CaptureStatus>,
    shutdown: watch::Receiver<bool>,
) -> Result<(), EngineError> {
    let source = Source::of(writer.archive()).map_err(EngineError::from)?;
    let mut capture = Capture {
        writer,
        settings,
        source,
        compressor: Compressor::new(),
        status,
        shutdown,
        last: None,
        asking: Asking::default(),
        impassable: None,
    };
    for unseen in capture.settings.kind.cannot_see() {
        tracing::warn!("a change stream does not see {unseen}");
    }
    let (mut backoff, mut streamed_once) = (BACKOFF_FIRST, false);
    loop {
        if *capture.shutdown.borrow() {
            return Ok(());
        }
        let Err(error) = capture.session().await else {
            return Ok(());
        };
        let streamed = capture.status.borrow().streaming;
        capture.status.send_modify(|status| {
            (status.streaming, status.problem) = (false, Some(error.to_string()));
        });
        streamed_once |= streamed;
        let asked = capture.asking;
        (capture.asking, capture.impassable) = less(asked, &error);
        if asked == Asking::PreImages && asked != capture.asking {
            tracing::warn!(
                "until its next start the daemon asks for events without documents as they were before"
            );
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

/// What to ask for after a session that ended with `error`, and why nothing that is asked for helps.
fn less(asking: Asking, error: &EngineError) -> (Asking, Option<&'static str>) {
    match (asking, error) {
        (Asking::PreImages, EngineError::Unsendable { .. } | EngineError::TooLarge(_)) => {
            (Asking::Plain, None)
        }
        (Asking::Plain, EngineError::Unsendable { .. }) => (Asking::Single, None),
        (Asking::Single, EngineError::Unsendable { .. }) => (Asking::Plain, Some(UNSENDABLE)),
        (_, EngineError::TooLarge(_)) => (Asking::Plain, Some(TOO_LARGE)),
        (Asking::Single, _) => (Asking::Plain, None),
        (asking, _) => (asking, None),
    }
}

impl Capture {
    /// One connection, for as long as it lasts; ends well only when we are asked to stop and all is durable.
    async fn session(&mut self) -> Result<(), EngineError> {
        let client = self.settings.connection.client()?;
        let server = self.until_stop(Server::ask(&client)).await?;
        let Some(server) = server else {
            return Ok(());
        };
        self.source.check(&server.source)?;
        let ended = match self.place(&client, &server).await? {
            Some(place) => self.tail(&client, &server, place).await,
            None => Ok(()),
        };
        client.shutdown().immediate(true).await;
        ended
    }

    /// `None` if we are asked to stop before `work`, at the source or the store, is done.
    async fn until_stop<T>(
        &self,
        work: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<Option<T>, EngineError> {
        let mut shutdown = self.shutdown.clone();
        tokio::select! {
            done = audibly(&self.status, work) => done.map(Some),
            () = stopped(&mut shutdown) => Ok(None),
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

    /// Waits until all that was written is durable, however long the store is away.
    async fn finish(&self, log: LogWriter) -> Result<(), EngineError> {
        audibly(&self.status, log.finish()).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unsendable() -> EngineError {
        EngineError::Unsendable {
            code: 10334,
            name: "BSONObjectTooLarge".into(),
        }
    }

    #[test]
    fn less_is_asked_for_step_by_step_before_an_event_is_given_up() {
        let mut asking = Asking::default();
        for (then, why) in [
            (Asking::Plain, None),
            (Asking::Single, None),
            (Asking::Plain, Some(UNSENDABLE)),
            // The next one is not asked for with what came before.
            (Asking::Single, None),
        ] {
            let next = less(asking, &unsendable());
            assert_eq!(next, (then, why));
            asking = next.0;
        }
        // A session that ended otherwise met none.
        let other = less(Asking::Single, &EngineError::HistoryLost);
        assert_eq!(other, (Asking::Plain, None));
        let other = less(Asking::PreImages, &EngineError::HistoryLost);
        assert_eq!(other, (Asking::PreImages, None));
    }

    #[test]
    fn a_transaction_that_is_too_large_is_tried_without_what_came_before() {
        let error = EngineError::TooLarge(9);
        assert_eq!(less(Asking::PreImages, &error), (Asking::Plain, None));
        assert_eq!(
            less(Asking::Plain, &error),
            (Asking::Plain, Some(TOO_LARGE))
        );
    }
}

//! One session on the source's log: what a majority has, in raw batches, into the log writer.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mongodb::Client;
use mongodb::raw_batch_cursor::RawBatch;
use pitr_archive::writer::{LogWriter, Progress, audibly, stopped};
use tokio::time::Instant;

use super::ahead::Ahead;
use super::annotate::Annotator;
use super::digests::Digests;
use super::entries::Entries;
use super::events::{self, ChangeStream};
use super::groups::{Groups, Notes};
use super::intake::Intake;
use super::majority::MajorityWatch;
use super::oplog::Oplog;
use super::pieces::Ready;
use super::place::Place;
use super::{Capture, Last};
use crate::entry::documents_of;
use crate::source::{Majority, Server, feature_compatibility_at};
use crate::{ClusterTime, EngineError, LogKind};

/// Entries in a batch. The server ends a batch at 16 MiB, whatever is asked for.
const BATCH_ENTRIES: u32 = 10_000;
/// Events take several times the bytes of entries.
const BATCH_EVENTS: u32 = 5_000;
/// The server answers after so long though nothing happened.
const AWAIT: Duration = Duration::from_secs(1);
/// The same of a change stream: only its next answer shows that the last events of a burst are all of their time.
const AWAIT_EVENTS: Duration = Duration::from_millis(200);
/// A commit's wall time is read before its entry is written.
const MARGIN_US: i64 = 1_000_000;

enum Step {
    Stop,
    WriterStopped,
}

/// A session's own state.
struct Session<'a> {
    capture: &'a Capture,
    log: &'a LogWriter,
    intake: Intake,
    /// Ends of what was handed over and is not durable, with wall times.
    pending: VecDeque<(u64, Option<i64>)>,
    /// The last entry that was handed over.
    handed: Option<Last>,
}

impl Capture {
    pub(super) async fn tail(
        &mut self,
        client: &Client,
        server: &Server,
        place: Place,
    ) -> Result<(), EngineError> {
        let Place { resume, from, last } = place;
        let kind = self.settings.kind;
        let follow = self.follow(client, server, from, last);
        let version = self.version_at(client, server, from);
        let both = async { tokio::try_join!(follow, version) };
        let Some((batches, (at_start, later))) = self.until_stop(both).await? else {
            return Ok(());
        };
        let digests = Digests::default();
        let intake = match kind {
            LogKind::Oplog => Intake::Oplog(Entries::new(from, last, digests.clone())),
            LogKind::Events => {
                let notes = if resume.durable() == Some(from.0) {
                    resume
                        .holes_end()
                        .map_or(Notes::Idle, |end| Notes::Past(ClusterTime(end)))
                } else {
                    Notes::Begin
                };
                let bytes_max = self.settings.transaction_bytes_max;
                Intake::Events(Groups::new(from, last, bytes_max, notes, Instant::now()))
            }
        };
        let fcv = Arc::new(Mutex::new(at_start));
        let log = LogWriter::start(
            Arc::clone(&self.writer),
            kind.stream(),
            resume,
            from.0,
            self.settings.log.clone(),
            self.compressor.clone(),
            Box::new(Annotator::new(kind, Arc::clone(&fcv), later, digests)),
        );
        let durable = log.progress().borrow().durable;
        let what = match kind {
            LogKind::Oplog => "following the oplog",
            LogKind::Events => "following the change stream",
        };
        tracing::info!(from = %from, set = %self.source, version = server.version, "{what}");
        self.status.send_modify(|status| {
            (status.received, status.durable) = (from.previous(), ClusterTime(durable));
            status.durable_wall = status
                .durable_wall
                .max(i64::from(from.seconds()) * 1_000_000);
            status.pending = false;
        });
        let asks = Some(fcv).filter(|_| kind == LogKind::Events);
        let majority = MajorityWatch::start(client.clone(), server.majority, asks);
        let mut session = Session {
            capture: self,
            log: &log,
            intake,
            pending: VecDeque::new(),
            handed: last,
        };
        // A stream begins behind the last event; the oplog with the last entry.
        let expected = last.filter(|_| kind == LogKind::Oplog);
        let outcome = session.pump(batches, majority, expected).await;
        let handed = session.handed;
        match outcome {
            Ok(Step::Stop) => self.finish(log).await,
            Ok(Step::WriterStopped) => match self.finish(log).await {
                Err(error) => Err(error),
                Ok(_) => unreachable!("a writer stops before its end only with an error"),
            },
            // What was received is not thrown away: it need not be sent again.
            Err(error) => {
                self.finish(log).await?;
                self.last = handed;
                Err(error)
            }
        }
    }

    /// The feature compatibility version where a session begins. Where the server no longer knows, it is what it is now from now on,
    /// unless entries up to then change it, which tell themselves; searching them for that would read the whole backlog twice.
    async fn version_at(
        &self,
        client: &Client,
        server: &Server,
        from: ClusterTime,
    ) -> Result<(String, Option<(ClusterTime, String)>), EngineError> {
        if self.settings.kind == LogKind::Events {
            return Ok((server.fcv.clone(), None));
        }
        if let Some(version) = feature_compatibility_at(client, from.previous()).await {
            return Ok((version, None));
        }
        let now = Majority::ask(&client.database("admin")).await?.ts;
        Ok((String::new(), Some((now, server.fcv.clone()))))
    }

    async fn follow(
        &self,
        client: &Client,
        server: &Server,
        from: ClusterTime,
        last: Option<Last>,
    ) -> Result<Ahead, EngineError> {
        let cursor = match self.settings.kind {
            LogKind::Oplog => {
                let from = last.map_or(from, |last| last.ts);
                Oplog::of(client).follow(from, BATCH_ENTRIES, AWAIT).await?
            }
            LogKind::Events => {
                let stream = ChangeStream::new(client, server, self.asking)?;
                stream.follow(from, BATCH_EVENTS, AWAIT_EVENTS).await?
            }
        };
        Ok(Ahead::of(cursor))
    }
}

impl Session<'_> {
    /// Until the cursor ends, the writer stops, or we are asked to stop. Reads only when the writer has room.
    async fn pump(
        &mut self,
        mut batches: Ahead,
        mut majority: MajorityWatch,
        mut expected: Option<Last>,
    ) -> Result<Step, EngineError> {
        let mut progress = self.log.progress();
        let capture = self.capture;
        let mut shutdown = capture.shutdown.clone();
        let failed: fn(mongodb::error::Error) -> EngineError = match capture.settings.kind {
            LogKind::Oplog => EngineError::from,
            LogKind::Events => events::failed,
        };
        loop {
            let batch = tokio::select! {
                biased;
                () = stopped(&mut shutdown) => return Ok(Step::Stop),
                changed = progress.changed() => {
                    if changed.is_err() {
                        return Ok(Step::WriterStopped);
                    }
                    self.is_durable(*progress.borrow_and_update());
                    continue;
                }
                reading = majority.changed() => {
                    self.reached(reading);
                    continue;
                }
                // A source that does not answer is away, and no reason to be ended.
                batch = audibly(&capture.status, batches.next()) => batch.map_err(failed)?,
            };
            let Some(batch) = batch else {
                return Err(EngineError::Jumped("the server ended the cursor".into()));
            };
            let stopped = tokio::select! {
                biased;
                () = stopped(&mut shutdown) => return Ok(Step::Stop),
                handed = audibly(&capture.status, self.take(&batch, &mut expected)) => !handed?,
            };
            if stopped {
                return Ok(Step::WriterStopped);
            }
        }
    }

    /// Takes the entries of a batch; the first of a session on the oplog is the last that was archived. False: the writer has stopped.
    async fn take(
        &mut self,
        batch: &RawBatch,
        expected: &mut Option<Last>,
    ) -> Result<bool, EngineError> {
        let mut is_empty = true;
        let whole = |_| EngineError::Answer("whole documents");
        for entry in documents_of(batch.doc_slices()?).map_err(whole)? {
            let entry = entry.map_err(whole)?;
            is_empty = false;
            if let Some(last) = expected.take() {
                let head = crate::Head::read(entry)
                    .map_err(|error| EngineError::Jumped(error.to_string()))?;
                let found = Last::of_entry(&head);
                if found != last {
                    let reason = format!(
                        "{} of term {} stands where {} of term {} stood",
                        found.ts, found.sign, last.ts, last.sign
                    );
                    return Err(EngineError::Jumped(reason));
                }
                continue;
            }
            let full = self.intake.take(entry)?;
            if full && !self.hand_over().await {
                return Ok(false);
            }
        }
        self.intake.batch_ended(batch.as_raw_document(), is_empty);
        if is_empty {
            let all_durable = self.pending.is_empty();
            self.intake.is_idle(Instant::now(), all_durable)?;
        }
        Ok(self.hand_over().await)
    }

    async fn hand_over(&mut self) -> bool {
        let received = self.intake.received();
        let ready = self.intake.flush();
        if let Some(ready) = ready {
            let Some(room) = self.log.room().await else {
                return false;
            };
            let Ready {
                start,
                bytes,
                ends,
                end,
                wall,
                last,
            } = ready;
            room.append_records(start.0, bytes, ends);
            self.pending.push_back((end.0, wall));
            self.handed = last;
        }
        let pending = !self.pending.is_empty();
        self.capture.status.send_modify(|status| {
            (status.streaming, status.problem) = (true, None);
            (status.received, status.pending) = (received, pending);
        });
        true
    }

    fn is_durable(&mut self, progress: Progress) {
        let mut wall = None;
        while let Some((_, at)) = self
            .pending
            .pop_front_if(|(end, _)| *end <= progress.durable)
        {
            wall = at.or(wall);
        }
        let pending = !self.pending.is_empty();
        self.capture.status.send_modify(|status| {
            (status.durable, status.pending) = (ClusterTime(progress.durable), pending);
            status.durable_wall = wall.unwrap_or(status.durable_wall);
        });
    }

    /// The set has come so far. If that is all it wrote, and we have it, its clock proves quiet time.
    fn reached(&mut self, majority: Majority) {
        self.capture.status.send_modify(|status| {
            status.majority = majority.ts.max(status.majority);
            status.majority_wall = majority.wall.max(status.majority_wall);
        });
        let all = majority.is_all && self.intake.received() >= majority.ts;
        if all
            && self.intake.is_quiet()
            && let Some(room) = self.log.room_now()
        {
            room.observe_clock(majority.clock - MARGIN_US, self.intake.position().0);
        }
    }
}

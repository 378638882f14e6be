//! Moving bytes: WAL into the log writer, the durable end back to the server, until the timeline ends.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pitr_archive::writer::{LogWriter, Pace, Progress, stopped};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::annotate::WalAnnotator;
use super::carry::Written;
use super::clock::QuietClock;
use super::local::LocalWal;
use super::position::Place;
use super::{Capture, CaptureError};
use crate::replication::{
    Mode, ReplicationClient, ReplicationError, Start, Status, WalMessage, WalStream,
};
use crate::{Lsn, TimelineId};

/// Status goes out at least so often, whatever the store does.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// So often, and for so long, a server asks in vain before it is taken to be shutting down.
const LET_GO_TIMES: u32 = 20;
const LET_GO_AFTER: Duration = Duration::from_secs(10);
/// How long a server may take to refuse a connection.
const REFUSAL_MAX: Duration = Duration::from_secs(5);

/// How reading a timeline ended.
pub(super) enum StreamEnd {
    /// We were asked to stop, and everything received is durable.
    Shutdown,
    /// The server went on to the next timeline.
    Switched {
        client: Box<ReplicationClient>,
        next: (TimelineId, Lsn),
    },
    /// The server no longer has the WAL that the archive needs next.
    Gap,
    /// The server gave up the slot while the store was away.
    SlotLost(Box<Written>),
}

enum Step {
    Stop,
    Ended,
    WriterStopped,
}

impl Capture {
    /// Streams one timeline from `place` on.
    pub(super) async fn stream(
        &mut self,
        client: ReplicationClient,
        place: Place,
    ) -> Result<StreamEnd, CaptureError> {
        let files = self.files(&place);
        let (timeline, tail) = (place.timeline, self.tail(&place.stream, place.from));
        let start = files.as_ref().map_or(place.from, LocalWal::end);
        match self.open(client, place, start).await? {
            ControlFlow::Continue((stream, log)) => {
                let written = Written::new(timeline, log, tail);
                self.follow(stream, files, written).await
            }
            ControlFlow::Break(end) => Ok(end),
        }
    }

    /// Writes what `stream` brings, and `files` before it, until it ends.
    pub(super) async fn follow(
        &mut self,
        mut stream: WalStream,
        mut files: Option<LocalWal>,
        mut written: Written,
    ) -> Result<StreamEnd, CaptureError> {
        let outcome = self.pump(&mut stream, &mut files, &mut written).await;
        match outcome {
            Ok(Step::Stop) => {
                let durable = self.finish(written).await?;
                self.tell(&mut stream, durable, false).await?;
                stream.finish().await?;
                Ok(StreamEnd::Shutdown)
            }
            Ok(Step::Ended) => {
                let durable = self.finish(written).await?;
                self.tell(&mut stream, durable, false).await?;
                let (client, next) = stream.finish().await?;
                let next = next.ok_or(ReplicationError::ShuttingDown)?;
                tracing::info!(timeline = %next.0, switch = %next.1, "the server switched to a new timeline");
                Ok(StreamEnd::Switched {
                    client: Box::new(client),
                    next,
                })
            }
            Ok(Step::WriterStopped) => match self.finish(written).await {
                Err(error) => Err(error),
                Ok(_) => unreachable!("a writer stops before its end only with an error"),
            },
            // The server says only after the stream has begun that it no longer has the WAL.
            Err(CaptureError::Replication(error)) if error.is_gap() => {
                tracing::error!(%error, "the server cannot continue where the archive ends");
                drop(stream);
                if self.is_spooling() && !written.is_cut_off() {
                    return Ok(StreamEnd::SlotLost(Box::new(written)));
                }
                self.finish(written).await?;
                Ok(StreamEnd::Gap)
            }
            // What was received is not thrown away: it need not be sent again. The server does not wait for it meanwhile.
            Err(error) => {
                drop(stream);
                if self.is_spooling() {
                    self.carried = Some(written);
                } else {
                    self.finish(written).await?;
                }
                Err(error)
            }
        }
    }

    /// The server's own files, if the way from `place` on is long and they may be read.
    fn files(&self, place: &Place) -> Option<LocalWal> {
        let (timeline, flushed) = self.server.filter(|_| !self.is_standby)?;
        let directory = self.settings.wal_directory.as_ref()?;
        // Of several servers it may be another one's, a standby's with zeros where its WAL has not come yet.
        if self.settings.connection.hosts.len() != 1 {
            return None;
        }
        let source = &self.source;
        let files = LocalWal::new(
            directory,
            timeline,
            source.system_id,
            source.wal_segment_bytes,
            (place.from, flushed),
            &self.compressor,
        );
        files.filter(|_| timeline == place.timeline)
    }

    /// Starts the writer at `place`, and the stream at `start`, which may lie ahead.
    async fn open(
        &self,
        client: ReplicationClient,
        place: Place,
        start: Lsn,
    ) -> Result<ControlFlow<StreamEnd, (WalStream, LogWriter)>, CaptureError> {
        let Place {
            timeline,
            stream: name,
            resume,
            from,
        } = place;
        let slot = self.settings.slot.clone();
        let started = client.start_physical(Some(&slot), start, timeline).await;
        let stream = match started {
            Ok(Start::Streaming(stream)) => stream,
            Ok(Start::TimelineEnded {
                client,
                next,
                switch,
            }) => {
                return Ok(ControlFlow::Break(StreamEnd::Switched {
                    client: Box::new(client),
                    next: (next, switch),
                }));
            }
            Err(error) if error.is_gap() => {
                tracing::error!(%timeline, %from, %error, "the server cannot continue where the archive ends");
                return Ok(ControlFlow::Break(StreamEnd::Gap));
            }
            Err(error) => return Err(error.into()),
        };
        let annotate = WalAnnotator::new(
            self.tail(&name, from),
            timeline,
            self.source.system_id,
            self.source.wal_segment_bytes,
            self.status.clone(),
        )
        .expect("the source's segment size was checked");
        let log = LogWriter::start(
            Arc::clone(&self.writer),
            name,
            resume,
            from.0,
            self.settings.log.clone(),
            self.compressor.clone(),
            Box::new(annotate),
        );
        let durable = Lsn(log.progress().borrow().durable);
        if start > from {
            tracing::info!(%timeline, %from, upto = %start, "catching up from the server's own WAL files");
        }
        tracing::info!(%timeline, from = %start, %durable, "streaming");
        self.status.send_modify(|status| {
            status.timeline = Some(timeline);
            (status.received, status.durable) = (durable, durable);
        });
        Ok(ControlFlow::Continue((stream, log)))
    }

    /// Until the timeline ends, the writer stops, or we are asked to stop. Reads only when the writer has room, and tells the
    /// server how far we are whether or not it has.
    async fn pump(
        &mut self,
        stream: &mut WalStream,
        files: &mut Option<LocalWal>,
        written: &mut Written,
    ) -> Result<Step, CaptureError> {
        let (log, tail) = (&written.log, &mut written.tail);
        let mut progress = log.progress();
        let mut timer = tokio::time::interval(STATUS_EVERY);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut quiet = QuietClock::new(self.is_standby);
        let mut shutdown = self.shutdown.clone();
        let mut asked = Asked::default();
        let mut read = Instant::now();
        let mut pace = Pace::new(self.settings.log.linger);
        loop {
            if log.room_now().is_none() {
                quiet.blocked();
            }
            let message = tokio::select! {
                biased;
                () = stopped(&mut shutdown) => return Ok(Step::Stop),
                changed = progress.changed() => {
                    if changed.is_err() {
                        return Ok(Step::WriterStopped);
                    }
                    self.acknowledge(stream, &mut progress, false).await?;
                    continue;
                }
                _ = timer.tick() => {
                    self.acknowledge(stream, &mut progress, true).await?;
                    let blocked = read.elapsed() > LET_GO_AFTER && log.room_now().is_none();
                    if blocked && self.server_shuts_down().await {
                        return Err(ReplicationError::ShuttingDown.into());
                    }
                    continue;
                }
                next = async { (log.room().await, next(stream, files, &mut pace).await) } => next,
            };
            let (Some(room), message) = message else {
                return Ok(Step::WriterStopped);
            };
            read = Instant::now();
            let message = match message? {
                Next::Said(message) => message,
                Next::Filed(start, data) => {
                    tail.observe(&data);
                    self.received(tail.end());
                    room.append(start.0, data);
                    continue;
                }
            };
            match message {
                WalMessage::Wal {
                    start,
                    server_end,
                    clock,
                    data,
                } => {
                    let end = start.advance(data.len() as u64);
                    pace.read(end >= server_end);
                    asked = Asked::default();
                    tail.observe(&data);
                    room.append(start.0, data);
                    self.heard(server_end, clock, end, stream.is_drained());
                    if let Some((clock, end)) = quiet.wal(end, server_end, clock)
                        && let Some(room) = log.room_now()
                    {
                        room.observe_clock(clock, end.0);
                    }
                }
                WalMessage::Keepalive {
                    server_end,
                    clock,
                    reply_requested,
                } => {
                    if let Some((clock, end)) = quiet.keepalive(server_end, clock) {
                        room.observe_clock(clock, end.0);
                    }
                    self.heard(server_end, clock, Lsn(0), true);
                    if reply_requested {
                        self.acknowledge(stream, &mut progress, false).await?;
                        let (received, durable) = {
                            let status = self.status.borrow();
                            (status.received, status.durable)
                        };
                        if durable < received && asked.again() {
                            return Err(ReplicationError::ShuttingDown.into());
                        }
                    }
                }
                WalMessage::Ended => return Ok(Step::Ended),
            }
        }
    }

    /// While there is no room nothing is read, so the stream cannot tell: a server that shuts down refuses connections.
    async fn server_shuts_down(&self) -> bool {
        let attempt = ReplicationClient::connect(&self.settings.connection, Mode::Physical);
        let refused = tokio::time::timeout(REFUSAL_MAX, attempt).await;
        matches!(refused, Ok(Err(error)) if error.is_not_now())
    }

    /// Of many messages that were read together only the last one is worth waking those who watch the status.
    fn heard(&self, server_end: Lsn, clock: i64, received: Lsn, is_last: bool) {
        self.status.send_if_modified(|status| {
            (status.server_end, status.clock) = (server_end.max(status.server_end), clock);
            status.has_received(received);
            is_last
        });
    }

    /// From the server's files, up to here.
    fn received(&self, end: Lsn) {
        self.status.send_modify(|status| status.has_received(end));
    }

    /// Tells the server the durable end, exactly.
    async fn acknowledge(
        &self,
        stream: &mut WalStream,
        progress: &mut watch::Receiver<Progress>,
        reply: bool,
    ) -> Result<(), CaptureError> {
        let durable = Lsn(progress.borrow_and_update().durable);
        self.tell(stream, durable, reply).await
    }

    /// Written, flushed and applied alike: whatever `synchronous_commit` waits for, COMMIT returns when the store holds it.
    async fn tell(
        &self,
        stream: &mut WalStream,
        durable: Lsn,
        reply: bool,
    ) -> Result<(), CaptureError> {
        // Nothing is better than a position before the slot's own.
        let told = if durable < self.slot_from {
            Lsn(0)
        } else {
            durable
        };
        stream
            .send_status(Status {
                written: told,
                flushed: told,
                applied: told,
                reply,
            })
            .await?;
        self.status.send_modify(|status| {
            assert!(
                durable >= status.durable || !status.streaming,
                "what was acknowledged is never taken back"
            );
            status.durable = durable;
        });
        Ok(())
    }
}

/// What comes next, and from where.
enum Next {
    Said(WalMessage),
    Filed(Lsn, Bytes),
}

/// From the files until they end, then from the stream, in gulps. Cancel safe.
async fn next(
    stream: &mut WalStream,
    files: &mut Option<LocalWal>,
    pace: &mut Pace,
) -> Result<Next, CaptureError> {
    if let Some(way) = files {
        if let Some((start, bytes)) = way.next().await? {
            return Ok(Next::Filed(start, bytes));
        }
        *files = None;
    }
    if stream.is_drained() && pace.rests() {
        stream.lay_aside();
        pace.rest().await;
    }
    Ok(Next::Said(stream.next().await?))
}

/// A server that shuts down asks for our position over and over, until it hears that all of its WAL is durable. While the store does
/// not answer it would wait for ever: then we let go, and come back when it runs again.
#[derive(Default)]
struct Asked {
    since: Option<Instant>,
    times: u32,
}

impl Asked {
    /// True if the server has been waiting for us too long. A server that runs asks once in a while.
    fn again(&mut self) -> bool {
        if self
            .since
            .is_none_or(|since| since.elapsed() > 3 * LET_GO_AFTER)
        {
            *self = Self {
                since: Some(Instant::now()),
                times: 0,
            };
        }
        self.times += 1;
        let waited = self
            .since
            .is_some_and(|since| since.elapsed() > LET_GO_AFTER);
        self.times > LET_GO_TIMES && waited
    }
}

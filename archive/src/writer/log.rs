//! The handle of a log writer: what an engine appends to, and what it may acknowledge.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::compressor::Compressor;
use super::piece::{Piece, RecordEnd};
use super::pump::Pump;
use super::resume::Resume;
use super::segmenter::{Command, Segmenter};
use super::{IN_FLIGHT_MAX, Writer};
use crate::error::ArchiveError;
use crate::object::{Proofs, StreamName};

/// Appended pieces that may wait for the segmenter. A piece is what a source sends at once (128 KiB), or a frame.
const QUEUE_PIECES: usize = 8;

/// How a log is cut.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// A segment closes at this many bytes.
    pub segment_bytes_max: u64,
    /// A segment closes so long after its first byte.
    pub linger: Duration,
    /// zstd's level.
    pub compression_level: i32,
    /// Segments that may be in flight, 1 to [`IN_FLIGHT_MAX`].
    pub puts_in_flight: u64,
}

/// What an engine notes about the bytes of one segment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Annotation {
    /// Earliest time of a record that ends in it, µs since the Unix epoch.
    pub time_min: Option<i64>,
    /// Latest time of a record that ends in it.
    pub time_max: Option<i64>,
    /// A record that ends in it could not be decoded, because its beginning was not seen.
    pub unsure: bool,
    /// The first position noted since the last cut that a replay cannot pass.
    pub damage: Option<u64>,
    /// By which the log is known again that ends at this cut.
    pub proofs: Proofs,
    /// What the engine will want to know before opening the segment; its own format.
    pub summary: Vec<u8>,
}

/// The engine's eye on the bytes as they pass. Called in order, for every byte, also for those that are already in the store.
pub trait Annotate: Send {
    /// These bytes follow, beginning at `start`; of a log of records, whole ones. True if somebody waits for what ends in them: the
    /// segment then closes without lingering.
    fn observe(&mut self, start: u64, bytes: &[u8]) -> bool;
    /// A segment ends here: what is to be noted about the bytes since the last cut.
    fn cut(&mut self) -> Annotation;
}

/// How far a log is. `durable ≤ sealed ≤` what was appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Everything before it is sealed.
    pub sealed: u64,
    /// Everything before it is durable, without a hole: what may be acknowledged.
    pub durable: u64,
    /// The source's clock up to which all it wrote is durable, µs since the Unix epoch.
    pub covered: Option<i64>,
}

/// A stream that is being written.
#[derive(Debug)]
pub struct LogWriter {
    commands: mpsc::Sender<Command>,
    progress: watch::Receiver<Progress>,
    segmenter: JoinHandle<Result<(), ArchiveError>>,
    pump: JoinHandle<Result<(), ArchiveError>>,
}

/// Room for one piece.
#[derive(Debug)]
pub struct Room<'a>(mpsc::Permit<'a, Command>);

impl Room<'_> {
    /// Appends `bytes`, which begin at position `start`; each is a position.
    pub fn append(self, start: u64, bytes: Bytes) {
        self.0.send(Command::Append(Piece::of_bytes(start, bytes)));
    }

    /// Appends whole records, which lie end to end in `bytes` and take the positions from `start` on. A segment ends behind a
    /// record, never inside one.
    ///
    /// # Panics
    /// If the records do not fill `bytes`, or their positions do not rise.
    pub fn append_records(self, start: u64, bytes: Bytes, ends: Vec<RecordEnd>) {
        self.0
            .send(Command::Append(Piece::of_records(start, bytes, ends)));
    }

    /// Tells that at the source's clock `clock` (µs since the Unix epoch) its log ended at `end`.
    pub fn observe_clock(self, clock: i64, end: u64) {
        self.0.send(Command::Clock { clock, end });
    }
}

impl LogWriter {
    /// Starts writing where `resume` found the stream. The first appended piece begins at `from`, which may lie before the
    /// durable end (the bytes up to it are observed and passed over) or behind it (a new run: the break is recorded).
    ///
    /// # Panics
    /// If the settings are outside their stated limits.
    #[must_use]
    pub fn start(
        writer: Arc<Writer>,
        stream: StreamName,
        resume: Resume,
        from: u64,
        settings: LogSettings,
        compressor: Compressor,
        annotate: Box<dyn Annotate>,
    ) -> Self {
        assert!(
            (1..=IN_FLIGHT_MAX).contains(&settings.puts_in_flight),
            "puts_in_flight is 1 to {IN_FLIGHT_MAX}"
        );
        let (commands, queue) = mpsc::channel(QUEUE_PIECES);
        let (closed, sealing) = mpsc::channel(1);
        let durable = resume
            .durable()
            .filter(|&durable| durable >= from)
            .unwrap_or(from);
        let (publish, progress) = watch::channel(Progress {
            sealed: durable,
            durable,
            covered: resume.covered,
        });
        let pump = Pump::new(
            writer,
            stream,
            &resume,
            from,
            settings.puts_in_flight,
            publish,
        );
        let segmenter = Segmenter::new(&resume, from, settings, compressor, annotate, closed);
        Self {
            commands,
            progress,
            segmenter: tokio::spawn(segmenter.run(queue)),
            pump: tokio::spawn(pump.run(sealing)),
        }
    }

    /// Waits until there is room for a piece. `None`: the writer has stopped, [`Self::finish`] says why. Cancel safe.
    pub async fn room(&self) -> Option<Room<'_>> {
        self.commands.reserve().await.ok().map(Room)
    }

    /// Room for a piece if there is some now.
    #[must_use]
    pub fn room_now(&self) -> Option<Room<'_>> {
        self.commands.try_reserve().ok().map(Room)
    }

    /// How far it is; changes are published as they happen.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Closes the open segment, waits until all is durable, renews the head. The durable end.
    ///
    /// # Errors
    /// What stopped the writer: fenced, a broken medium, bytes that do not continue the stream.
    pub async fn finish(self) -> Result<u64, ArchiveError> {
        drop(self.commands);
        let outcomes = [self.segmenter.await, self.pump.await];
        for outcome in outcomes {
            outcome.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        }
        Ok(self.progress.borrow().durable)
    }
}

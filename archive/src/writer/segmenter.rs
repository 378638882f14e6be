//! Cutting: appended bytes become frames, frames become segments, by size, by age, or where a hole ends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

use super::compressor::{Compressor, KIB, PendingFrame};
use super::log::{Annotate, Annotation, LogSettings};
use super::piece::Piece;
use super::resume::{Present, Resume, Slot};
use crate::error::ArchiveError;
use crate::object::{FRAME_BYTES_MAX, Frame};

/// Memory for frames, compressed or not, from the first byte until the put: with the sealing of one segment on top it keeps
/// the daemon under 96 MiB.
const MEMORY_KIB: usize = 28 * 1024;
/// What an open segment leaves for those before it.
const SPARE_KIB: usize = 4 * FRAME_BYTES_MAX / KIB;

/// A piece of this length is not copied to be gathered with others.
const PIECE_ALONE_BYTES: usize = FRAME_BYTES_MAX / 2;

#[derive(Debug)]
pub(super) enum Command {
    Append(Piece),
    Clock { clock: i64, end: u64 },
}

/// Waits for frames.
pub(super) async fn collect(frames: Vec<PendingFrame>) -> (Vec<Frame>, Vec<OwnedSemaphorePermit>) {
    let done = join_all(frames).await.into_iter();
    done.map(|frame| frame.expect("the compressor does not drop a job"))
        .unzip()
}

/// What the pump gets, in order of positions.
pub(super) enum Cut {
    /// A segment to seal and put.
    Segment {
        seq: u64,
        start: u64,
        end: u64,
        refill: bool,
        frames: Vec<PendingFrame>,
        annotation: Annotation,
    },
    /// A segment that is in the store already.
    Present(Present),
    /// The source's clock and the end of its log then.
    Clock { clock: i64, end: u64 },
}

struct Open {
    seq: u64,
    start: u64,
    /// The position at which it closes at the latest.
    limit: u64,
    /// The bytes that it takes at most, unless a single record is longer.
    room: u64,
    refill: bool,
    deadline: Instant,
    frames: Vec<PendingFrame>,
    buffer: Vec<u8>,
    permit: Option<OwnedSemaphorePermit>,
}

pub(super) struct Segmenter {
    settings: LogSettings,
    compressor: Compressor,
    annotate: Box<dyn Annotate>,
    out: mpsc::Sender<Cut>,
    memory: Arc<Semaphore>,
    /// What `memory` began with.
    memory_kib: usize,
    /// What it got beyond that, to be taken back.
    extra_kib: usize,
    /// Where the next byte belongs.
    position: u64,
    /// Bytes before it are in the store.
    durable: u64,
    slots: VecDeque<Slot>,
    next_seq: u64,
    open: Option<Open>,
    /// The source's last clock and the end of its log then, on their way to the pump.
    clock: Option<(i64, u64)>,
}

impl Segmenter {
    pub(super) fn new(
        resume: &Resume,
        from: u64,
        settings: LogSettings,
        compressor: Compressor,
        annotate: Box<dyn Annotate>,
        out: mpsc::Sender<Cut>,
    ) -> Self {
        let durable = resume.durable();
        // Behind the durable end a new run begins, and what is missing before it stays missing.
        let continues = durable.is_none_or(|durable| from <= durable);
        let slots: VecDeque<_> = if continues {
            resume.slots.clone().into()
        } else {
            VecDeque::new()
        };
        let durable = if continues {
            durable.unwrap_or(from)
        } else {
            from
        };
        let whole_segment_kib = settings.segment_bytes_max as usize / KIB;
        let memory_kib = MEMORY_KIB.max(whole_segment_kib + SPARE_KIB);
        Self {
            settings,
            compressor,
            annotate,
            out,
            memory: Arc::new(Semaphore::new(memory_kib)),
            memory_kib,
            extra_kib: 0,
            position: from,
            durable,
            slots,
            next_seq: resume.next_seq,
            open: None,
            clock: None,
        }
    }

    /// Runs until the commands end; then closes the open segment.
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
    ) -> Result<(), ArchiveError> {
        let out = self.out.clone();
        loop {
            let deadline = self.open.as_ref().map(|open| open.deadline);
            let is_old = deadline.is_some_and(|deadline| deadline <= Instant::now());
            // What is old and cannot go yet grows: what comes meanwhile is taken, up to the size that closes a segment.
            let command = tokio::select! {
                biased;
                room = out.reserve(), if is_old || self.clock.is_some() => {
                    // The pump has stopped and its error is the one that counts.
                    let Ok(room) = room else { return Ok(()) };
                    if let Some(cut) = self.take_clock().or_else(|| self.cut()) {
                        room.send(cut);
                    }
                    continue;
                }
                command = commands.recv() => command,
                () = sleep_until(deadline), if !is_old => continue,
            };
            match command {
                Some(Command::Append(piece)) => {
                    if !self.append(piece).await? {
                        return Ok(());
                    }
                }
                // A later one says more than the one that still waits.
                Some(Command::Clock { clock, end }) => self.clock = Some((clock, end)),
                None => {
                    self.end().await;
                    return Ok(());
                }
            }
        }
    }

    fn take_clock(&mut self) -> Option<Cut> {
        let (clock, end) = self.clock.take()?;
        Some(Cut::Clock { clock, end })
    }

    /// False: the pump has stopped.
    async fn append(&mut self, mut piece: Piece) -> Result<bool, ArchiveError> {
        if piece.start() != self.position {
            return Err(ArchiveError::Discontinuous {
                expected: self.position,
                received: piece.start(),
            });
        }
        while !piece.is_empty() {
            let goes_on = if self.position < self.durable {
                self.pass_over(&mut piece, self.durable);
                if self.position == self.durable {
                    self.annotate.cut();
                }
                true
            } else if let (None, Some(Slot::Pass(present))) = (&self.open, self.slots.front()) {
                let end = present.header.end;
                self.pass_over(&mut piece, end);
                self.position != end || self.passed().await
            } else {
                self.take(&mut piece).await
            };
            if !goes_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Observes what is in the store already, up to `end`.
    fn pass_over(&mut self, piece: &mut Piece, end: u64) {
        match piece.split_to(end, u64::MAX) {
            Some(taken) => {
                self.annotate.observe(taken.start, &taken.bytes);
                self.position = taken.end;
            }
            // No further record ends there.
            None => self.position = end,
        }
    }

    /// A segment that was there has been passed over.
    async fn passed(&mut self) -> bool {
        self.annotate.cut();
        match self.slots.pop_front() {
            Some(Slot::Pass(present)) => self.out.send(Cut::Present(*present)).await.is_ok(),
            _ => true,
        }
    }

    /// Takes of a piece what fits into the open segment. False: the pump has stopped.
    async fn take(&mut self, piece: &mut Piece) -> bool {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.begin(piece.is_records()),
        };
        let mut taken = piece.split_to(open.limit, open.room);
        if taken.is_none() && open.start == self.position {
            taken = piece.split_first(open.limit);
        }
        let full = match taken {
            Some(taken) => {
                if self.annotate.observe(taken.start, &taken.bytes) && !open.refill {
                    open.deadline = Instant::now();
                }
                open.room = open.room.saturating_sub(taken.bytes.len() as u64);
                self.fill(&mut open, taken.bytes).await;
                self.position = taken.end;
                self.position == open.limit || open.room == 0
            }
            None => {
                // The next record belongs to the next segment; a hole reaches as far as it did, with or without a record at its end.
                if piece.next_end() > Some(open.limit) {
                    self.position = open.limit;
                }
                true
            }
        };
        self.open = Some(open);
        !full || self.close().await
    }

    /// Puts bytes into the open segment's frames. A large piece is a frame of its own, as it is; small ones are gathered.
    async fn fill(&mut self, open: &mut Open, mut bytes: Bytes) {
        while !bytes.is_empty() {
            if bytes.len() >= PIECE_ALONE_BYTES && open.permit.is_some() {
                self.compress(open);
            }
            if open.permit.is_none() {
                open.permit = Some(self.memory_for_a_frame(open).await);
                if bytes.len() >= PIECE_ALONE_BYTES {
                    let alone = bytes.split_to(bytes.len().min(FRAME_BYTES_MAX));
                    self.compress_bytes(open, alone);
                    continue;
                }
                open.buffer = self.compressor.buffer();
            }
            let taken = bytes.split_to(bytes.len().min(FRAME_BYTES_MAX - open.buffer.len()));
            open.buffer.extend_from_slice(&taken);
            if open.buffer.len() == FRAME_BYTES_MAX {
                self.compress(open);
            }
        }
    }

    async fn memory_for_a_frame(&mut self, open: &Open) -> OwnedSemaphorePermit {
        // A hole may be larger than segments are now, and it is filled in one piece; so may be a single record.
        let held_kib = open.frames.len() * (FRAME_BYTES_MAX / KIB);
        if held_kib + SPARE_KIB > self.memory_kib {
            self.extra_kib += FRAME_BYTES_MAX / KIB;
            self.memory.add_permits(FRAME_BYTES_MAX / KIB);
        }
        let memory = Arc::clone(&self.memory)
            .acquire_many_owned((FRAME_BYTES_MAX / KIB) as u32)
            .await;
        memory.expect("the semaphore is never closed")
    }

    fn begin(&mut self, records: bool) -> Open {
        let start = self.position;
        self.extra_kib -= self.memory.forget_permits(self.extra_kib);
        let (seq, limit, room) = match self.slots.pop_front() {
            Some(Slot::Fill { seq, end, .. }) if records => {
                // Of several holes in a row nobody knows how their bytes lay between positions: each takes a segment's bytes, and
                // leaves a position for those behind it.
                let fills = |slot: &&Slot| matches!(slot, Slot::Fill { .. });
                let behind = self.slots.iter().take_while(fills);
                let (count, end) = behind.fold((0, end), |(count, _), slot| match slot {
                    Slot::Fill { end, .. } => (count + 1, *end),
                    Slot::Pass(present) => (count, present.header.start),
                });
                let room = if count == 0 {
                    u64::MAX
                } else {
                    self.settings.segment_bytes_max
                };
                (seq, end - count, room)
            }
            Some(Slot::Fill {
                seq,
                start: from,
                end,
            }) => {
                assert_eq!(
                    from, start,
                    "a hole begins where the segment before it ends"
                );
                (seq, end, u64::MAX)
            }
            Some(Slot::Pass(_)) => {
                unreachable!("present segments are passed over before a segment begins")
            }
            None => {
                let seq = self.next_seq;
                self.next_seq += 1;
                return self.opened(seq, u64::MAX, self.settings.segment_bytes_max, false);
            }
        };
        self.opened(seq, limit, room, true)
    }

    fn opened(&self, seq: u64, limit: u64, room: u64, refill: bool) -> Open {
        // A hole is filled exactly, however long its bytes take to arrive.
        let linger = if refill {
            Duration::from_secs(u64::from(u32::MAX))
        } else {
            self.settings.linger
        };
        let deadline = Instant::now() + linger;
        Open {
            seq,
            start: self.position,
            limit,
            room,
            refill,
            deadline,
            frames: Vec::new(),
            buffer: Vec::new(),
            permit: None,
        }
    }

    fn compress(&self, open: &mut Open) {
        let plaintext = std::mem::take(&mut open.buffer);
        self.compress_bytes(open, plaintext.into());
    }

    fn compress_bytes(&self, open: &mut Open, plaintext: Bytes) {
        let level = self.settings.compression_level;
        if let Some(permit) = open.permit.take() {
            let make = move |bytes: &[u8], behind| Frame::compress_log(bytes, level, behind);
            open.frames
                .push(self.compressor.compress(plaintext, make, permit));
        }
    }

    /// Closes the open segment for good. A hole is filled exactly or not at all: a part of it would never continue.
    async fn end(&mut self) {
        if self.open.as_ref().is_some_and(|open| open.refill) {
            self.open = None;
        }
        if let Some(clock) = self.take_clock()
            && self.out.send(clock).await.is_err()
        {
            return;
        }
        self.close().await;
    }

    /// Closes the open segment, if there is one. False: the pump has stopped.
    async fn close(&mut self) -> bool {
        match self.cut() {
            Some(cut) => self.out.send(cut).await.is_ok(),
            None => true,
        }
    }

    /// The open segment, closed.
    fn cut(&mut self) -> Option<Cut> {
        let mut open = self.open.take()?;
        self.compress(&mut open);
        let annotation = self.annotate.cut();
        let Open {
            seq,
            start,
            refill,
            frames,
            ..
        } = open;
        Some(Cut::Segment {
            seq,
            start,
            end: self.position,
            refill,
            frames,
            annotation,
        })
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

//! Cutting: appended bytes become frames, frames become segments, by size, by age, or where a hole ends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::compressor::Compressor;
use super::log::{Annotate, Annotation, LogSettings};
use super::resume::{Present, Resume, Slot};
use crate::error::ArchiveError;
use crate::object::{FRAME_BYTES_MAX, Frame};

/// What stands for memory in use is counted in KiB.
const KIB: usize = 1024;
/// Memory for frames, compressed or not, from the first byte until the put: with the sealing of one segment on top it keeps
/// the daemon under 96 MiB.
const MEMORY_KIB: usize = 28 * 1024;

#[derive(Debug)]
pub(super) enum Command {
    Append { start: u64, bytes: Bytes },
    Clock { clock: i64, end: u64 },
}

/// A frame in the making, and the memory it stands for.
pub(super) type PendingFrame = oneshot::Receiver<(Frame, OwnedSemaphorePermit)>;

/// Waits for frames; keeps of their memory what they take compressed.
pub(super) async fn collect(frames: Vec<PendingFrame>) -> (Vec<Frame>, Vec<OwnedSemaphorePermit>) {
    let (mut done, mut memory) = (
        Vec::with_capacity(frames.len()),
        Vec::with_capacity(frames.len()),
    );
    for frame in frames {
        let (frame, mut permit) = frame.await.expect("the compressor does not drop a job");
        let kept = frame
            .compressed_bytes()
            .div_ceil(KIB)
            .min(permit.num_permits());
        memory.push(permit.split(kept).expect("not more than it holds"));
        done.push(frame);
    }
    (done, memory)
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
    /// Where it closes at the latest.
    limit: u64,
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
    /// Where the next byte belongs.
    position: u64,
    /// Bytes before it are in the store.
    durable: u64,
    slots: VecDeque<Slot>,
    next_seq: u64,
    open: Option<Open>,
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
        // A hole may be larger than segments are now.
        let largest_hole = slots.iter().map(|slot| match slot {
            Slot::Fill { start, end, .. } => end - start,
            Slot::Pass(_) => 0,
        });
        let largest = settings
            .segment_bytes_max
            .max(largest_hole.max().unwrap_or(0));
        let whole_segment_kib = largest as usize / KIB;
        let memory = MEMORY_KIB.max(whole_segment_kib + 4 * FRAME_BYTES_MAX / KIB);
        Self {
            settings,
            compressor,
            annotate,
            out,
            memory: Arc::new(Semaphore::new(memory)),
            position: from,
            durable,
            slots,
            next_seq: resume.next_seq,
            open: None,
        }
    }

    /// Runs until the commands end; then closes the open segment.
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
    ) -> Result<(), ArchiveError> {
        loop {
            let deadline = self.open.as_ref().map(|open| open.deadline);
            let command = tokio::select! {
                command = commands.recv() => command,
                () = sleep_until(deadline) => {
                    if !self.close().await {
                        return Ok(());
                    }
                    continue;
                }
            };
            let goes_on = match command {
                Some(Command::Append { start, bytes }) => self.append(start, &bytes).await?,
                Some(Command::Clock { clock, end }) => {
                    self.out.send(Cut::Clock { clock, end }).await.is_ok()
                }
                None => {
                    self.end().await;
                    return Ok(());
                }
            };
            let expired = self
                .open
                .as_ref()
                .is_some_and(|open| open.deadline <= Instant::now());
            if !goes_on || (expired && !self.close().await) {
                // The pump has stopped and its error is the one that counts.
                return Ok(());
            }
        }
    }

    /// False: the pump has stopped.
    async fn append(&mut self, start: u64, mut bytes: &[u8]) -> Result<bool, ArchiveError> {
        if start != self.position {
            return Err(ArchiveError::Discontinuous {
                expected: self.position,
                received: start,
            });
        }
        while !bytes.is_empty() {
            let (taken, goes_on) = if self.position < self.durable {
                let taken = self.pass_over(bytes, self.durable);
                if self.position == self.durable {
                    self.annotate.cut();
                }
                (taken, true)
            } else if let (None, Some(Slot::Pass(present))) = (&self.open, self.slots.front()) {
                let end = present.header.end;
                let taken = self.pass_over(bytes, end);
                (
                    taken,
                    if self.position == end {
                        self.passed().await
                    } else {
                        true
                    },
                )
            } else {
                self.take(bytes).await
            };
            if !goes_on {
                return Ok(false);
            }
            bytes = &bytes[taken..];
        }
        Ok(true)
    }

    /// Observes what is in the store already, up to `end`.
    fn pass_over(&mut self, bytes: &[u8], end: u64) -> usize {
        let taken = bytes.len().min((end - self.position) as usize);
        self.annotate.observe(self.position, &bytes[..taken]);
        self.position += taken as u64;
        taken
    }

    /// A segment that was there has been passed over.
    async fn passed(&mut self) -> bool {
        self.annotate.cut();
        match self.slots.pop_front() {
            Some(Slot::Pass(present)) => self.out.send(Cut::Present(*present)).await.is_ok(),
            _ => true,
        }
    }

    /// Takes bytes into the open segment, at most to its limit or to the end of a frame.
    async fn take(&mut self, bytes: &[u8]) -> (usize, bool) {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.begin(),
        };
        if open.permit.is_none() {
            let memory = Arc::clone(&self.memory)
                .acquire_many_owned((FRAME_BYTES_MAX / KIB) as u32)
                .await;
            open.permit = Some(memory.expect("the semaphore is never closed"));
            open.buffer = self.compressor.buffer();
        }
        let room = (FRAME_BYTES_MAX - open.buffer.len()).min((open.limit - self.position) as usize);
        let taken = bytes.len().min(room);
        open.buffer.extend_from_slice(&bytes[..taken]);
        self.annotate.observe(self.position, &bytes[..taken]);
        self.position += taken as u64;
        if open.buffer.len() == FRAME_BYTES_MAX {
            self.compress(&mut open);
        }
        let full = self.position == open.limit;
        self.open = Some(open);
        (taken, !full || self.close().await)
    }

    fn begin(&mut self) -> Open {
        let start = self.position;
        let (seq, limit, refill) = match self.slots.pop_front() {
            Some(Slot::Fill {
                seq,
                start: from,
                end,
            }) => {
                assert_eq!(
                    from, start,
                    "a hole begins where the segment before it ends"
                );
                (seq, end, true)
            }
            Some(Slot::Pass(_)) => {
                unreachable!("present segments are passed over before a segment begins")
            }
            None => {
                let seq = self.next_seq;
                self.next_seq += 1;
                (seq, start + self.settings.segment_bytes_max, false)
            }
        };
        // A hole is filled exactly, however long its bytes take to arrive.
        let linger = if refill {
            Duration::from_secs(u64::from(u32::MAX))
        } else {
            self.settings.linger
        };
        let deadline = Instant::now() + linger;
        Open {
            seq,
            start,
            limit,
            refill,
            deadline,
            frames: Vec::new(),
            buffer: Vec::new(),
            permit: None,
        }
    }

    fn compress(&self, open: &mut Open) {
        let plaintext = std::mem::take(&mut open.buffer);
        if let Some(permit) = open.permit.take() {
            open.frames.push(self.compressor.compress(
                plaintext,
                self.settings.compression_level,
                permit,
            ));
        }
    }

    /// Closes the open segment for good. A hole is filled exactly or not at all: a part of it would never continue.
    async fn end(&mut self) {
        if self.open.as_ref().is_some_and(|open| open.refill) {
            self.open = None;
        }
        self.close().await;
    }

    /// Closes the open segment, if there is one. False: the pump has stopped.
    async fn close(&mut self) -> bool {
        let Some(mut open) = self.open.take() else {
            return true;
        };
        self.compress(&mut open);
        let annotation = self.annotate.cut();
        let Open {
            seq,
            start,
            refill,
            frames,
            ..
        } = open;
        let end = self.position;
        self.out
            .send(Cut::Segment {
                seq,
                start,
                end,
                refill,
                frames,
                annotation,
            })
            .await
            .is_ok()
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

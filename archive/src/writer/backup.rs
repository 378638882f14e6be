//! Writing a base backup: contents become parts as they arrive; the manifest comes last and makes the backup exist.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::Writer;
use super::compressor::{Compressor, KIB, PendingFrame};
use super::pump::Sealing;
use super::segmenter::collect;
use crate::catalogue::BackupId;
use crate::error::ArchiveError;
use crate::layout;
use crate::object::{FRAME_BYTES_MAX, Frame, Header, Kind, StreamName};

/// Contents of a part. Restore works on parts in parallel, and holds a few of them.
pub const PART_BYTES: u64 = 32 << 20;
/// Memory for frames from the first byte until the put.
const MEMORY_KIB: usize = 96 * 1024;

/// How a backup is written.
#[derive(Clone, Copy, Debug)]
pub struct BackupSettings {
    /// zstd's level.
    pub compression_level: i32,
    /// Parts that may be in flight.
    pub puts_in_flight: usize,
}

/// The parts of a base backup, all of them durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parts {
    /// How many there are.
    pub count: u64,
    /// Bytes of their objects.
    pub stored_bytes: u64,
}

/// A base backup under way. Dropped before [`Self::finish`], it leaves parts that no restore will use.
pub struct BackupWriter {
    writer: Arc<Writer>,
    id: BackupId,
    stream: StreamName,
    settings: BackupSettings,
    compressor: Compressor,
    memory: Arc<Semaphore>,
    /// Contents appended so far.
    position: u64,
    part_start: u64,
    next_part: u64,
    buffer: Vec<u8>,
    permit: Option<OwnedSemaphorePermit>,
    frames: Vec<PendingFrame>,
    sealing: Option<Sealing>,
    previous: [u8; 32],
    stored_bytes: u64,
    puts: JoinSet<Result<(), ArchiveError>>,
}

impl BackupWriter {
    /// Begins the backup `id`, whose restore needs the stream `stream`.
    #[must_use]
    pub fn start(
        writer: Arc<Writer>,
        id: BackupId,
        stream: StreamName,
        settings: BackupSettings,
        compressor: Compressor,
    ) -> Self {
        Self {
            writer,
            id,
            stream,
            settings,
            compressor,
            memory: Arc::new(Semaphore::new(MEMORY_KIB)),
            position: 0,
            part_start: 0,
            next_part: 0,
            buffer: Vec::new(),
            permit: None,
            frames: Vec::new(),
            sealing: None,
            previous: [0; 32],
            stored_bytes: 0,
            puts: JoinSet::new(),
        }
    }

    /// Bytes of contents appended so far: where the next byte will lie.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Appends contents. Waits while memory or the store are not ready for more.
    pub async fn append(&mut self, mut bytes: &[u8]) -> Result<(), ArchiveError> {
        while !bytes.is_empty() {
            if self.permit.is_none() {
                let memory = Arc::clone(&self.memory)
                    .acquire_many_owned((FRAME_BYTES_MAX / KIB) as u32)
                    .await;
                self.permit = Some(memory.expect("the semaphore is never closed"));
                self.buffer = self.compressor.buffer();
            }
            let (taken, rest) =
                bytes.split_at(bytes.len().min(FRAME_BYTES_MAX - self.buffer.len()));
            self.buffer.extend_from_slice(taken);
            self.position += taken.len() as u64;
            bytes = rest;
            if self.buffer.len() == FRAME_BYTES_MAX {
                self.compress();
                if self.position - self.part_start >= PART_BYTES {
                    self.close_part().await?;
                }
            }
        }
        Ok(())
    }

    /// Puts what is left and waits until all parts are durable. Nothing may be appended after it.
    pub async fn parts_durable(&mut self) -> Result<Parts, ArchiveError> {
        self.compress();
        if !self.frames.is_empty() {
            self.close_part().await?;
        }
        self.finish_sealing().await?;
        while let Some(put) = self.puts.join_next().await {
            put.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        }
        Ok(Parts {
            count: self.next_part,
            stored_bytes: self.stored_bytes,
        })
    }

    /// Waits until all parts are durable, then puts the manifest. `start` and `end` are the positions
    /// between which the backup was taken, `times` (µs since the Unix epoch) when it began and ended by the source's clock.
    pub async fn finish(
        mut self,
        start: u64,
        end: u64,
        times: (i64, i64),
        manifest: &[u8],
    ) -> Result<Header, ArchiveError> {
        self.parts_durable().await?;
        let mut header = self
            .writer
            .header(Kind::Manifest, &self.stream, self.id.set_id(), 0);
        (header.start, header.end) = (start, end);
        (header.time_min, header.time_max, header.time_high) =
            (Some(times.0), Some(times.1), Some(times.1));
        header.run_seq = self.next_part;
        header.previous = self.previous;
        let level = self.settings.compression_level;
        let frames = manifest
            .chunks(FRAME_BYTES_MAX)
            .map(|piece| Frame::compress(piece, level))
            .collect();
        let sealed = self.writer.seal(header, frames, Vec::new()).await?;
        self.writer
            .put(&layout::manifest(&self.id.to_string()), sealed.bytes)
            .await?;
        Ok(sealed.header)
    }

    fn compress(&mut self) {
        let plaintext = std::mem::take(&mut self.buffer).into();
        let level = self.settings.compression_level;
        if let Some(permit) = self.permit.take() {
            let make = move |plaintext: &[u8], _| Frame::compress(plaintext, level);
            self.frames
                .push(self.compressor.compress(plaintext, make, permit));
        }
    }

    /// Hands the frames of a part over to be sealed, after the part before it, whose hash it names.
    async fn close_part(&mut self) -> Result<(), ArchiveError> {
        self.finish_sealing().await?;
        let mut header =
            self.writer
                .header(Kind::Part, &self.stream, self.id.set_id(), self.next_part);
        (header.start, header.end) = (self.part_start, self.position);
        header.previous = self.previous;
        self.next_part += 1;
        self.part_start = self.position;
        let (writer, frames) = (Arc::clone(&self.writer), std::mem::take(&mut self.frames));
        self.sealing = Some(tokio::spawn(async move {
            let (frames, memory) = collect(frames).await;
            Ok((writer.seal(header, frames, Vec::new()).await?, memory))
        }));
        Ok(())
    }

    async fn finish_sealing(&mut self) -> Result<(), ArchiveError> {
        let Some(sealing) = self.sealing.take() else {
            return Ok(());
        };
        let (sealed, memory) = sealing
            .await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        self.previous = sealed.hash;
        self.stored_bytes += sealed.bytes.len() as u64;
        while self.puts.len() >= self.settings.puts_in_flight {
            let put = self
                .puts
                .join_next()
                .await
                .expect("there are puts in flight");
            put.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        }
        let (writer, key) = (
            Arc::clone(&self.writer),
            layout::part(&self.id.to_string(), sealed.header.seq),
        );
        self.puts.spawn(async move {
            let result = writer.put(&key, sealed.bytes).await;
            drop(memory);
            result
        });
        Ok(())
    }
}

//! The bytes of a base backup on their way from the store into files: parts are fetched in parallel, authenticated, unpacked
//! frame by frame, written where the tree says, and recorded in the mark once they are durable.
//!
//! Memory: up to `jobs` parts, sealed or, where they were asked for ahead, opened; for each core one opened part and one frame; a part is
//! at most 33 MiB of each.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{StreamExt, TryStreamExt, stream};
use pitr_archive::catalogue::BackupId;
use pitr_archive::object::{Kind, Opened};
use pitr_archive::{Reading, layout};
use rustix::fs::OFlags;
use tokio::sync::{Semaphore, mpsc};

use super::error::RestoreError;
use super::mark::{Mark, Part, Written};
use super::tree::Tree;
use super::{Event, Watch};

/// Written parts that may wait for the disk before no more are written.
const UNSYNCED_PARTS: usize = 64;

/// What is fetched, and where it goes.
pub(super) struct Parts {
    pub(super) reading: Arc<Reading>,
    pub(super) backup: BackupId,
    pub(super) tree: Arc<Tree>,
    pub(super) count: u64,
    pub(super) contents_bytes: u64,
    pub(super) jobs: NonZeroUsize,
    pub(super) watch: Watch,
}

/// What all parts together wrote.
pub(super) struct Outcome {
    pub(super) mark: Mark,
    pub(super) parts: Vec<Part>,
    /// Bytes of the objects that were fetched now.
    pub(super) fetched_bytes: u64,
}

impl Parts {
    /// Fetches and writes the parts that `done` does not have. When it returns all of them are durable and recorded.
    pub(super) async fn write(self, mark: Mark, done: Vec<Part>) -> Result<Outcome, RestoreError> {
        let have: BTreeSet<u64> = done.iter().map(|part| part.seq).collect();
        let missing = (0..self.count).filter(|seq| !have.contains(seq));
        let (finished, queue) = mpsc::channel(UNSYNCED_PARTS);
        let roots = self.roots()?;
        let recorder = tokio::task::spawn_blocking(move || record(mark, &roots, queue));
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let cores = Semaphore::new(cores);
        let failed = AtomicBool::new(false);
        // After a failure nothing new begins, and what is being written is waited for: no thread writes behind our back.
        let fetched = stream::iter(missing)
            .take_while(|_| std::future::ready(!failed.load(Ordering::Relaxed)))
            .map(|seq| self.part(seq, &cores, &finished))
            .buffer_unordered(self.jobs.get())
            .inspect_err(|_| failed.store(true, Ordering::Relaxed))
            .collect::<Vec<_>>()
            .await;
        drop(finished);
        let recorded = recorder.await;
        let (mark, mut parts) =
            recorded.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))?;
        let fetched_bytes = fetched.into_iter().sum::<Result<u64, _>>()?;
        parts.extend(done);
        parts.sort_by_key(|part| part.seq);
        self.check_complete(&parts)?;
        Ok(Outcome {
            mark,
            parts,
            fetched_bytes,
        })
    }

    /// A descriptor on every file system that is written to.
    fn roots(&self) -> Result<Vec<File>, RestoreError> {
        let outside = self.tree.outside.values();
        let all = std::iter::once(&self.tree.root).chain(outside);
        all.map(|path| File::open(path).map_err(RestoreError::file("open", path)))
            .collect()
    }

    async fn part(
        &self,
        seq: u64,
        cores: &Semaphore,
        finished: &mpsc::Sender<Part>,
    ) -> Result<u64, RestoreError> {
        let archive = self.reading.archive();
        let key = layout::part(&self.backup.to_string(), seq);
        let expected = archive.expected(Kind::Part, None, self.backup.set_id(), seq);
        let take_core = async || {
            cores
                .acquire()
                .await
                .expect("the semaphore is never closed")
        };
        let (opened, core) = match self.reading.opened_ahead(&key).await? {
            Some(opened) => (opened, take_core().await),
            None => {
                let object = self.reading.object(&key, &expected).await?;
                let core = take_core().await;
                (self.reading.open(object).await?, core)
            }
        };
        let object_bytes = pitr_archive::object::object_bytes(opened.header.payload_bytes);
        let tree = Arc::clone(&self.tree);
        let watch = Arc::clone(&self.watch);
        let work = move || write_part(&tree, &opened, &watch);
        let written = tokio::task::spawn_blocking(work).await;
        drop(core);
        let part = written.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
        // The recorder is gone only when it failed, which is told when it is joined.
        let _ = finished.send(part?).await;
        Ok(object_bytes)
    }

    /// The parts lie end to end and hold all contents.
    fn check_complete(&self, parts: &[Part]) -> Result<(), RestoreError> {
        let mut end = 0;
        for (seq, part) in parts.iter().enumerate() {
            if part.seq != seq as u64 || part.start != end {
                return Err(self.contradiction(format!(
                    "part {} does not begin where {seq} parts end",
                    part.seq
                )));
            }
            end = part.end;
        }
        if end != self.contents_bytes || parts.len() as u64 != self.count {
            let reason = format!(
                "its parts hold {end} bytes, its manifest says {}",
                self.contents_bytes
            );
            return Err(self.contradiction(reason));
        }
        Ok(())
    }

    fn contradiction(&self, reason: String) -> RestoreError {
        RestoreError::Contradiction {
            backup: self.backup.to_string(),
            reason,
        }
    }
}

/// Makes what was written durable, as often as the disk is done with the last round, and then records it.
fn record(
    mut mark: Mark,
    roots: &[File],
    mut queue: mpsc::Receiver<Part>,
) -> Result<(Mark, Vec<Part>), RestoreError> {
    let mut all = Vec::new();
    while let Some(first) = queue.blocking_recv() {
        let mut batch = vec![first];
        while let Ok(next) = queue.try_recv() {
            batch.push(next);
        }
        sync(roots)?;
        mark.parts(&batch)?;
        all.append(&mut batch);
    }
    Ok((mark, all))
}

/// Makes everything on the file systems of `roots` durable: one request, however many files there are. Since Linux 5.8 it
/// also reports what could not be written.
pub(super) fn sync(roots: &[File]) -> Result<(), RestoreError> {
    for root in roots {
        let synced = rustix::fs::syncfs(root).map_err(io::Error::from);
        synced.map_err(RestoreError::file("sync", "the file system".as_ref()))?;
    }
    Ok(())
}

/// Writes what an opened part holds.
fn write_part(tree: &Tree, opened: &Opened, watch: &Watch) -> Result<Part, RestoreError> {
    let header = &opened.header;
    let mut part = Part {
        seq: header.seq,
        start: header.start,
        end: header.start + header.plaintext_bytes,
        files: Vec::new(),
    };
    let mut open: Option<(usize, File)> = None;
    let mut bytes = Vec::new();
    for index in 0..opened.frames() {
        opened
            .frame_into(index, &mut bytes)
            .map_err(pitr_archive::ArchiveError::from)?;
        let offset = opened.frame_range(index).start;
        for slice in tree.slices(header.start + offset, bytes.len()) {
            let piece = &bytes[slice.bytes];
            let path = &tree.files[slice.file].path;
            let file = match &mut open {
                Some((number, file)) if *number == slice.file => file,
                _ => {
                    let file = create(path).map_err(RestoreError::file("create", path))?;
                    &mut open.insert((slice.file, file)).1
                }
            };
            file.write_all_at(piece, slice.offset)
                .map_err(RestoreError::file("write", path))?;
            note(&mut part.files, slice.file, slice.offset, piece);
        }
        watch(Event::Written(bytes.len() as u64));
    }
    Ok(part)
}

/// Opens a file for writing, never through a link, without shortening it: other parts may have written theirs.
pub(super) fn create(path: &std::path::Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
}

/// Adds `piece` to what was written; pieces of one file follow each other within a part.
fn note(files: &mut Vec<Written>, file: usize, offset: u64, piece: &[u8]) {
    match files.last_mut() {
        Some(last) if last.0 == file && last.1 + last.2 == offset => {
            last.2 += piece.len() as u64;
            last.3 = crc32c::crc32c_append(last.3, piece);
        }
        _ => files.push(Written(
            file,
            offset,
            piece.len() as u64,
            crc32c::crc32c(piece),
        )),
    }
}

//! Catching up from the server's own WAL files, where the daemon may read `pg_wal`: the walsender's copying is saved. Only bytes
//! behind the server's flushed position are read, in whole WAL segments that the slot keeps; the stream goes on where they end.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use pitr_archive::object::FRAME_BYTES_MAX;
use pitr_archive::writer::Compressor;
use rustix::buffer::spare_capacity;

use crate::lsn::WalFileName;
use crate::wal::{PAGE_BYTES, page_is_at};
use crate::{Lsn, TimelineId};

/// Read at once: a frame, which is compressed as it lies there.
const PIECE_BYTES: u64 = FRAME_BYTES_MAX as u64;
/// A shorter way is left to the stream.
const SEGMENTS_MIN: u64 = 4;

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("read WAL from {}: {reason}", path.display())]
pub struct LocalWalError {
    path: PathBuf,
    reason: io::Error,
}

/// WAL files of one timeline, read from one WAL segment's start to another's.
pub(super) struct LocalWal {
    directory: PathBuf,
    timeline: TimelineId,
    system_id: u64,
    segment_bytes: u64,
    position: Lsn,
    end: Lsn,
    open: Option<(Lsn, Arc<File>)>,
    /// Where its buffers come from, and go to again.
    compressor: Compressor,
}

impl LocalWal {
    /// The way from `from`, the start of a WAL segment, to the last one that the server had begun when it had flushed up to
    /// `flushed`. `None` if it is short.
    pub(super) fn new(
        directory: &Path,
        timeline: TimelineId,
        system_id: u64,
        segment_bytes: u64,
        (from, flushed): (Lsn, Lsn),
        compressor: &Compressor,
    ) -> Option<Self> {
        let end = flushed.segment_start(segment_bytes);
        let far = end.bytes_since(from) >= SEGMENTS_MIN * segment_bytes;
        far.then(|| Self {
            directory: directory.to_owned(),
            timeline,
            system_id,
            segment_bytes,
            position: from,
            end,
            open: None,
            compressor: compressor.clone(),
        })
    }

    /// Where the stream takes over.
    pub(super) fn end(&self) -> Lsn {
        self.end
    }

    /// The next bytes and where they begin; `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// A file is missing, short, or not this cluster's WAL at this place.
    pub(super) async fn next(&mut self) -> Result<Option<(Lsn, Bytes)>, LocalWalError> {
        let start = self.position;
        if start >= self.end {
            return Ok(None);
        }
        let segment = start.segment_start(self.segment_bytes);
        let name = WalFileName::segment(self.timeline, segment, self.segment_bytes);
        let path = self.directory.join(name);
        let failed = |reason| LocalWalError {
            path: path.clone(),
            reason,
        };
        let file = match &self.open {
            Some((at, file)) if *at == segment => Arc::clone(file),
            _ => Arc::new(File::open(&path).map_err(failed)?),
        };
        self.open = Some((segment, Arc::clone(&file)));
        let offset = start.bytes_since(segment);
        let wanted = PIECE_BYTES.min(self.segment_bytes - offset);
        let buffer = self.compressor.buffer();
        let piece = tokio::task::spawn_blocking(move || read(&file, offset, wanted, buffer));
        let piece = piece
            .await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
            .map_err(failed)?;
        self.check(start, &piece).map_err(failed)?;
        self.position = start.advance(wanted);
        Ok(Some((start, piece.into())))
    }

    /// Every page says where it belongs, and the first of a file which cluster it is of: a recycled file is no WAL yet.
    fn check(&self, start: Lsn, piece: &[u8]) -> io::Result<()> {
        let mut at = start;
        for page in piece.chunks(PAGE_BYTES as usize) {
            if !page_is_at(page, at, self.segment_bytes, self.system_id) {
                let message = format!("no page of this cluster's WAL at {at}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            at = at.advance(PAGE_BYTES);
        }
        Ok(())
    }
}

/// By offset: an abandoned read may still be under way on the same file.
fn read(file: &File, offset: u64, wanted: u64, mut buffer: Vec<u8>) -> io::Result<Vec<u8>> {
    while (buffer.len() as u64) < wanted {
        let at = offset + buffer.len() as u64;
        let more = || rustix::io::pread(file, spare_capacity(&mut buffer), at);
        if rustix::io::retry_on_intr(more)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    buffer.truncate(wanted as usize);
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 1 << 20;
    const SYSTEM: u64 = 7;

    fn write_segment(directory: &Path, segment: u64, system: u64) -> PathBuf {
        let start = Lsn(segment * SEGMENT);
        let mut bytes = vec![0; SEGMENT as usize];
        for (number, page) in bytes.chunks_mut(PAGE_BYTES as usize).enumerate() {
            page[100] = segment as u8;
            page[8..16].copy_from_slice(&(start.0 + number as u64 * PAGE_BYTES).to_le_bytes());
        }
        bytes[24..32].copy_from_slice(&system.to_le_bytes());
        let path = directory.join(WalFileName::segment(TimelineId(1), start, SEGMENT));
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn way(directory: &Path) -> LocalWal {
        let flushed = Lsn(6 * SEGMENT + 4321);
        LocalWal::new(
            directory,
            TimelineId(1),
            SYSTEM,
            SEGMENT,
            (Lsn(SEGMENT), flushed),
            &Compressor::new(),
        )
        .unwrap()
    }

    async fn read_all(mut way: LocalWal) -> Result<Vec<u8>, LocalWalError> {
        let mut all = Vec::new();
        while let Some((start, bytes)) = way.next().await? {
            assert_eq!(start, Lsn(SEGMENT + all.len() as u64));
            all.extend(bytes);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn whole_segments_are_read_up_to_the_one_the_server_writes() {
        let directory = tempfile::tempdir().unwrap();
        let paths: Vec<_> = (1..8)
            .map(|segment| write_segment(directory.path(), segment, SYSTEM))
            .collect();
        let expected: Vec<u8> = paths[..5]
            .iter()
            .flat_map(|p| std::fs::read(p).unwrap())
            .collect();
        assert_eq!(way(directory.path()).end(), Lsn(6 * SEGMENT));
        assert!(read_all(way(directory.path())).await.unwrap() == expected);
    }

    #[tokio::test]
    async fn a_file_that_is_missing_short_recycled_or_foreign_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let fresh =
            || (1..7).for_each(|segment| drop(write_segment(directory.path(), segment, SYSTEM)));
        fresh();
        assert!(read_all(way(directory.path())).await.is_ok());
        let path = write_segment(directory.path(), 3, SYSTEM + 1);
        let foreign = read_all(way(directory.path())).await.unwrap_err();
        assert!(
            foreign
                .to_string()
                .contains("no page of this cluster's WAL at 0/300000"),
            "{foreign}"
        );
        std::fs::copy(write_segment(directory.path(), 2, SYSTEM), &path).unwrap();
        assert!(read_all(way(directory.path())).await.is_err(), "recycled");
        fresh();
        std::fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(SEGMENT - 8192)
            .unwrap();
        assert!(read_all(way(directory.path())).await.is_err(), "short");
        std::fs::remove_file(&path).unwrap();
        assert!(read_all(way(directory.path())).await.is_err(), "missing");
    }

    #[test]
    fn a_short_way_is_left_to_the_stream() {
        let bounds = (Lsn(SEGMENT), Lsn(5 * SEGMENT - 1));
        let short = LocalWal::new(
            Path::new("/"),
            TimelineId(1),
            SYSTEM,
            SEGMENT,
            bounds,
            &Compressor::new(),
        );
        assert!(short.is_none());
    }
}

//! Writing: what cuts a log into segments, seals them, puts them, and tells what is durable.
//!
//! [`LogWriter`] is the whole way: `segmenter` cuts and hands frames to `compressor`, `pump` seals in order, keeps several
//! puts in flight and publishes the contiguous durable end. [`resume`] reads the position back from the store.

mod backup;
mod compressor;
mod log;
mod pace;
mod piece;
mod pump;
mod put;
mod resume;
mod segmenter;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

pub use backup::{BackupSettings, BackupWriter, PART_BYTES, Parts};
pub use compressor::Compressor;
pub use log::{Annotate, Annotation, LogSettings, LogWriter, Progress};
pub use pace::Pace;
pub use piece::RecordEnd;
pub use put::{Trouble, Troubles};
pub use resume::{Resume, resume};

use crate::archive::Archive;
use crate::error::ArchiveError;
use crate::keys::{DataKey, SignedDocument, Wrapper, WriterKey};
use crate::layout;
use crate::object::{Frame, Header, Id, Kind, Sealed, StreamName, seal};

/// Segments of one stream that may be in flight at once. A rule of the format: whoever looks for the end of a stream
/// relies on it.
pub const IN_FLIGHT_MAX: u64 = 16;
/// A data key is used for so long.
const DATA_KEY_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Who writes into an archive: holds the signing key, the recipients and the data key in use.
#[derive(Debug)]
pub struct Writer {
    archive: Arc<Archive>,
    id: Id,
    key: WriterKey,
    wrappers: Vec<Wrapper>,
    data_key: Mutex<Option<(DataKey, Instant)>>,
    troubles: Troubles,
}

impl Writer {
    /// A writer of `archive`; fails if the signing key is not the archive's.
    pub fn new(
        archive: Arc<Archive>,
        key: WriterKey,
        wrappers: Vec<Wrapper>,
    ) -> Result<Arc<Self>, ArchiveError> {
        archive.check_writer(&key)?;
        let troubles = Troubles::default();
        Ok(Arc::new(Self {
            archive,
            id: Id::random(),
            key,
            wrappers,
            data_key: Mutex::default(),
            troubles,
        }))
    }

    /// The archive it writes into.
    #[must_use]
    pub fn archive(&self) -> &Arc<Archive> {
        &self.archive
    }

    /// What keeps the store from taking our bytes right now.
    #[must_use]
    pub fn troubles(&self) -> &Troubles {
        &self.troubles
    }

    /// A header with everything that is not about the content filled in.
    #[must_use]
    pub fn header(&self, kind: Kind, stream: &StreamName, set_id: Id, seq: u64) -> Header {
        Header {
            kind,
            refill: false,
            archive_id: self.archive.id(),
            key_id: Id::default(),
            writer_id: self.id,
            stream: stream.clone(),
            set_id,
            seq,
            start: 0,
            end: 0,
            time_min: None,
            time_max: None,
            time_high: None,
            run_seq: 0,
            run_start: 0,
            unsure_seq: None,
            damage: None,
            plaintext_bytes: 0,
            payload_bytes: 0,
            previous: [0; 32],
        }
    }

    /// The data key in use; a new one is wrapped and put before anything is sealed with it.
    async fn data_key(&self) -> Result<DataKey, ArchiveError> {
        let mut slot = self.data_key.lock().await;
        if let Some((key, made)) = &*slot
            && made.elapsed() < DATA_KEY_AGE
        {
            return Ok(key.clone());
        }
        let key = DataKey::generate();
        let object = layout::data_key(key.id());
        let document = SignedDocument::sign(
            &object,
            &key.wrap(self.archive.id(), &self.wrappers),
            &self.key,
        );
        self.put(&object, document.into()).await?;
        *slot = Some((key.clone(), Instant::now()));
        Ok(key)
    }

    /// Seals on a blocking thread.
    pub async fn seal(
        &self,
        header: Header,
        frames: Vec<Frame>,
        summary: Vec<u8>,
    ) -> Result<Sealed, ArchiveError> {
        let data_key = self.data_key().await?;
        let writer = self.key.clone();
        let work = move || seal(header, &frames, &summary, &data_key, writer.signing());
        let sealed = tokio::task::spawn_blocking(work).await;
        Ok(sealed.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())))
    }

    fn sign(&self, object: &str, value: &impl serde::Serialize) -> Vec<u8> {
        SignedDocument::sign(object, value, &self.key)
    }
}

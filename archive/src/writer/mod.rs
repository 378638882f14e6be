//! Writing: what cuts a log into segments, seals them, puts them, and tells what is durable.
//!
//! [`LogWriter`] is the whole way: `segmenter` cuts and hands frames to `compressor`, `pump` seals in order, keeps several
//! puts in flight and publishes the contiguous durable end. [`resume`] reads the position back from the store; the [`Spool`] holds
//! on disk what the store does not take. Who waits for any of it without an end does so [`audibly`].

mod audible;
mod backup;
mod compressor;
mod log;
mod pace;
mod piece;
mod pump;
mod put;
mod queue;
mod resume;
mod segmenter;
mod spool;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

pub use audible::{audibly, stopped};
pub use backup::{BackupSettings, BackupWriter, PART_BYTES, Parts};
pub use compressor::Compressor;
pub use log::{Annotate, Annotation, LogSettings, LogWriter, Progress};
pub use pace::Pace;
pub use piece::RecordEnd;
pub use put::{Trouble, Troubles, call_deadline};
pub use resume::{Resume, resume};
pub use spool::{Spool, SpoolFill, SpoolMedium};

use crate::archive::Archive;
use crate::error::ArchiveError;
use crate::keys::{DataKey, SignedDocument, Wrapper, WriterKey};
use crate::layout;
use crate::object::{Frame, Header, Id, Kind, Proofs, Prover, Sealed, StreamName, seal};

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
    spool: OnceLock<Arc<Spool>>,
    keys_under_way: watch::Sender<KeysUnderWay>,
}

/// Data keys in use that the store does not have yet. What is sealed with them waits.
#[derive(Debug, Default)]
struct KeysUnderWay {
    count: usize,
    /// Why one of them will never be there.
    failed: Option<String>,
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
            spool: OnceLock::new(),
            keys_under_way: watch::Sender::default(),
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

    /// From now on what the store does not take is kept in `spool`, so that reading goes on. Before a stream is resumed.
    ///
    /// # Panics
    /// If there is one already.
    pub fn use_spool(&self, spool: Spool) {
        let first = self.spool.set(Arc::new(spool)).is_ok();
        assert!(first, "a writer has one spool");
    }

    /// Its spool.
    #[must_use]
    pub fn spool(&self) -> Option<&Arc<Spool>> {
        self.spool.get()
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
            proofs: Proofs::default(),
            plaintext_bytes: 0,
            payload_bytes: 0,
            previous: [0; 32],
        }
    }

    /// What proves of `stream` that a source still has it.
    #[must_use]
    pub fn prover(&self, stream: &StreamName) -> Prover {
        Prover::new(&self.key, stream.clone())
    }

    /// The data key in use. A new one is wrapped and put before anything that is sealed with it.
    async fn data_key(self: &Arc<Self>) -> Result<DataKey, ArchiveError> {
        let mut slot = self.data_key.lock().await;
        if let Some((key, made)) = &*slot
            && made.elapsed() < DATA_KEY_AGE
        {
            return Ok(key.clone());
        }
        let key = DataKey::generate();
        let object = layout::data_key(key.id());
        let wrapped = key.wrap(self.archive.id(), &self.wrappers);
        let document = Bytes::from(SignedDocument::sign(&object, &wrapped, &self.key));
        match self.spool() {
            // Sealing goes on while the store is away.
            Some(spool) if spool.keep(&object, &document).await => {
                self.put_key_later(Arc::clone(spool), object, document);
            }
            _ => self.put(&object, document).await?,
        }
        *slot = Some((key.clone(), Instant::now()));
        Ok(key)
    }

    /// Puts a data key that the spool keeps, for as long as it takes.
    fn put_key_later(self: &Arc<Self>, spool: Arc<Spool>, object: String, document: Bytes) {
        self.keys_under_way.send_modify(|keys| keys.count += 1);
        let writer = Arc::clone(self);
        tokio::spawn(async move {
            match writer.put(&object, document).await {
                Ok(()) => {
                    spool.remove(&object).await;
                    writer.keys_under_way.send_modify(|keys| keys.count -= 1);
                }
                // Nothing that is sealed with it may be put: whoever waits for it fails.
                Err(error) => {
                    let reason = format!("a data key cannot be put: {error}");
                    writer
                        .keys_under_way
                        .send_modify(|keys| keys.failed = Some(reason));
                }
            }
        });
    }

    /// Seals on a blocking thread.
    pub async fn seal(
        self: &Arc<Self>,
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

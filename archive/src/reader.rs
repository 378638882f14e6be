//! Reading a stream: its end (`end`), any position and any time (`search`), found by small ranged reads and without
//! listing; and the proof by listing that what a plan needs is there (`listing`).

mod end;
mod listing;
mod search;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::future::try_join;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use crate::archive::Archive;
use crate::error::ArchiveError;
use crate::keys::SignedDocument;
use crate::layout;
use crate::object::{Fault, Opened};
use crate::object::{Footer, Header, Id, Kind, ObjectError, Preamble, Ranged, StreamName};
use crate::reading::Reading;
use crate::store::{Fetched, Listed, Piece, found};

pub use listing::is_short;

/// The footer is read with this many bytes at first; a longer one costs a second read.
const FOOTER_GUESS_BYTES: u64 = 16 * 1024;

/// The document `log/<stream>/head`: a number that existed when it was written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The last number of the contiguous durable prefix.
    pub seq: u64,
    /// Its end.
    pub end: u64,
    /// The latest reading of the source's clock, in µs since the Unix epoch, for which all that the source had written before it
    /// is durable.
    pub covered: Option<i64>,
    /// When it was written, by the daemon's clock.
    pub written: jiff::Timestamp,
}

/// The end of a stream as the store shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct End {
    /// The highest number there is.
    pub last: Option<u64>,
    /// The last known head.
    pub head: Option<Head>,
    /// Why the head that is there cannot be used. A reader goes on without it, a writer does not.
    pub head_fault: Option<String>,
}

impl End {
    /// Refuses a head that cannot be read: it may be the only evidence of what the store has lost.
    pub fn check_head(&self, stream: &StreamName) -> Result<(), ArchiveError> {
        match &self.head_fault {
            Some(reason) => Err(ArchiveError::Unreadable {
                key: layout::head(stream),
                reason: reason.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Refuses a store that has lost what the head knows of.
    pub fn check_tail(&self, stream: &StreamName) -> Result<(), ArchiveError> {
        match (&self.head, self.last) {
            (Some(head), last) if last.is_none_or(|last| last < head.seq) => {
                let found = last.map_or("the stream is empty".into(), |last| {
                    format!("the last one is {last}")
                });
                Err(ArchiveError::TailMissing {
                    stream: stream.to_string(),
                    known: head.seq,
                    found,
                })
            }
            _ => Ok(()),
        }
    }
}

/// An unbroken run of segments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// Its numbers.
    pub seqs: Range<u64>,
    /// Its positions.
    pub positions: Range<u64>,
    /// The latest time of a record in it.
    pub time_high: Option<i64>,
    /// What its last header says of records that a replay cannot pass.
    pub damage: Option<u64>,
}

/// One stream of an archive.
#[derive(Debug)]
pub struct LogReader {
    archive: Arc<Archive>,
    stream: StreamName,
    preambles: Mutex<HashMap<u64, Arc<OnceCell<Preamble>>>>,
    shown: Mutex<BTreeMap<u64, Listed>>,
}

impl LogReader {
    /// The stream `stream` of `archive`, which may be empty.
    #[must_use]
    pub fn new(archive: Arc<Archive>, stream: StreamName) -> Self {
        Self {
            archive,
            stream,
            preambles: Mutex::default(),
            shown: Mutex::default(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn stream(&self) -> &StreamName {
        &self.stream
    }

    /// The header of segment `seq`, authentic; `None` if there is no such segment.
    pub async fn header(&self, seq: u64) -> Result<Option<Header>, ArchiveError> {
        Ok(self.preamble(seq).await?.map(|preamble| preamble.header))
    }

    /// The header of segment `seq`, if it was read before.
    #[must_use]
    pub fn known_header(&self, seq: u64) -> Option<Header> {
        let preambles = self.preambles();
        let preamble = preambles.get(&seq).and_then(|cell| cell.get());
        preamble.map(|preamble| preamble.header.clone())
    }

    /// All headers that were read before, in any order.
    fn known_headers(&self) -> Vec<Header> {
        let preambles = self.preambles();
        let read = preambles.values().filter_map(|cell| cell.get());
        read.map(|preamble| preamble.header.clone()).collect()
    }

    fn preambles(&self) -> MutexGuard<'_, HashMap<u64, Arc<OnceCell<Preamble>>>> {
        self.preambles.lock().expect("no holder panics")
    }

    /// One that is there is read once, whoever asks meanwhile.
    async fn preamble(&self, seq: u64) -> Result<Option<Preamble>, ArchiveError> {
        let cell = Arc::clone(self.preambles().entry(seq).or_default());
        let read = async || self.read_preamble(seq).await.map_err(Some)?.ok_or(None);
        match cell.get_or_try_init(read).await {
            Ok(preamble) => Ok(Some(preamble.clone())),
            Err(None) => Ok(None),
            Err(Some(error)) => Err(error),
        }
    }

    async fn read_preamble(&self, seq: u64) -> Result<Option<Preamble>, ArchiveError> {
        let key = layout::segment(&self.stream, seq);
        let expected = self
            .archive
            .expected(Kind::Segment, Some(&self.stream), Id::default(), seq);
        let Some((preamble, object_bytes)) = self.archive.preamble(&key, &expected).await? else {
            return Ok(None);
        };
        let length = crate::object::object_bytes(preamble.header.payload_bytes);
        if object_bytes != length {
            let fault = Fault::Length {
                actual: object_bytes,
                expected: length,
            };
            return Err(ObjectError { key, fault }.into());
        }
        Ok(Some(preamble))
    }

    /// The header of a segment that must exist.
    pub async fn header_of(&self, seq: u64) -> Result<Header, ArchiveError> {
        self.header(seq).await?.ok_or_else(|| self.hole(seq, 0))
    }

    fn hole(&self, seq: u64, start: u64) -> ArchiveError {
        ArchiveError::Hole {
            stream: self.stream.to_string(),
            seq,
            start,
        }
    }

    /// The last known head, if one was ever written.
    pub async fn head(&self) -> Result<Option<Head>, ArchiveError> {
        let key = layout::head(&self.stream);
        match found(self.archive.store().get(&key, Piece::Whole).await)? {
            Some(fetched) => {
                let head = SignedDocument::verify(&key, &fetched.bytes, self.archive.writer());
                head.map(Some).map_err(|error| ArchiveError::Unreadable {
                    key,
                    reason: format!(
                        "{error}. It is a hint, and evidence of how far the stream once went: if that is known \
                         otherwise, delete it and go on"
                    ),
                })
            }
            None => Ok(None),
        }
    }

    /// A hole, with the position at which it begins where the segment before it tells.
    async fn named_hole(&self, seq: u64) -> ArchiveError {
        let before = match seq.checked_sub(1) {
            Some(before) => self.header(before).await.ok().flatten(),
            None => None,
        };
        self.hole(seq, before.map_or(0, |header| header.end))
    }

    /// Reads and opens a segment.
    pub async fn segment(&self, seq: u64, reading: &Reading) -> Result<Opened, ArchiveError> {
        let expected = self
            .archive
            .expected(Kind::Segment, Some(&self.stream), Id::default(), seq);
        let key = layout::segment(&self.stream, seq);
        let known = self.known_header(seq).map(|header| header.key_id);
        // Where the header was read before, its data key is asked for together with the segment.
        let data_key = async {
            if let Some(key_id) = known {
                reading.data_key(key_id).await?;
            }
            Ok(())
        };
        match try_join(reading.object(&key, &expected), data_key).await {
            Err(ArchiveError::Store(crate::store::StoreError::NotFound { .. })) => {
                Err(self.named_hole(seq).await)
            }
            result => reading.open(result?.0).await,
        }
    }

    /// Reads and opens only the engine's summary of a segment.
    pub async fn summary(&self, seq: u64, reading: &Reading) -> Result<Vec<u8>, ArchiveError> {
        let preamble = self.preamble(seq).await?.ok_or_else(|| self.hole(seq, 0))?;
        let data_key = reading.data_key(preamble.header.key_id).await?;
        let key = layout::segment(&self.stream, seq);
        let ranged = Ranged::new(&key, &preamble, &data_key)?;
        let payload_bytes = preamble.header.payload_bytes;
        let mut guess = FOOTER_GUESS_BYTES;
        loop {
            let payload = payload_bytes.saturating_sub(guess)..payload_bytes;
            let sound = |fetched: &Fetched| ranged.open(&payload, fetched.bytes.clone()).is_ok();
            let piece = Piece::Range(ranged.span(&payload));
            let sealed = self.archive.store().get_sound(&key, piece, &sound).await?;
            let text = ranged.open(&payload, sealed.bytes)?;
            match Footer::decode(&text, payload_bytes, preamble.header.plaintext_bytes) {
                Ok(footer) => return Ok(footer.summary),
                Err(_) if payload.start > 0 => guess = payload_bytes.min(guess * 16),
                Err(reason) => {
                    return Err(ObjectError {
                        key,
                        fault: Fault::Footer(reason),
                    }
                    .into());
                }
            }
        }
    }
}

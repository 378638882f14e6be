//! Reading a stream: its end, any position and any time, found by small ranged reads and without listing (`search`).

mod search;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};

use crate::archive::{Archive, Reading};
use crate::error::ArchiveError;
use crate::keys::SignedDocument;
use crate::layout;
use crate::object::{Fault, Opened};
use crate::object::{Footer, Header, Id, Kind, ObjectError, Preamble, Ranged, StreamName};
use crate::store::{Fetched, Listed, Piece, found};
use crate::writer::IN_FLIGHT_MAX;

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

/// Hidden segments that are looked for one by one.
const HIDDEN_MAX: usize = 64;

/// One stream of an archive.
#[derive(Debug)]
pub struct LogReader {
    archive: Arc<Archive>,
    stream: StreamName,
    preambles: Mutex<HashMap<u64, Preamble>>,
}

impl LogReader {
    /// The stream `stream` of `archive`, which may be empty.
    #[must_use]
    pub fn new(archive: Arc<Archive>, stream: StreamName) -> Self {
        Self {
            archive,
            stream,
            preambles: Mutex::default(),
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

    async fn preamble(&self, seq: u64) -> Result<Option<Preamble>, ArchiveError> {
        if let Some(preamble) = self.preambles.lock().expect("no holder panics").get(&seq) {
            return Ok(Some(preamble.clone()));
        }
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
        self.preambles
            .lock()
            .expect("no holder panics")
            .insert(seq, preamble.clone());
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

    /// Finds the end: gallops from the head, bisects, then looks for segments behind holes that a crash may have left.
    pub async fn end(&self) -> Result<End, ArchiveError> {
        let (head, head_fault) = match self.head().await {
            Ok(head) => (head, None),
            Err(ArchiveError::Unreadable { reason, .. }) => (None, Some(reason)),
            Err(error) => return Err(error),
        };
        let mut known = None;
        if let Some(head) = &head
            && self.header(head.seq).await?.is_some()
        {
            known = Some(head.seq);
        }
        loop {
            let last = self.gallop(known).await?;
            let next = last.map_or(0, |last| last + 1);
            let ahead =
                try_join_all((next..next + IN_FLIGHT_MAX).map(|seq| self.header(seq))).await?;
            match ahead.iter().rposition(Option::is_some) {
                Some(offset) => known = Some(next + offset as u64),
                None => {
                    return Ok(End {
                        last,
                        head,
                        head_fault,
                    });
                }
            }
        }
    }

    /// The runs of the stream, oldest first, each up to the first of the holes that a crash may have left at its end. A
    /// listing and at most [`IN_FLIGHT_MAX`] headers for each, besides finding the end.
    pub async fn runs(&self, end: &End) -> Result<Vec<Run>, ArchiveError> {
        let mut runs = Vec::new();
        let mut last = end.last;
        while let Some(seq) = last {
            let Header {
                run_seq, run_start, ..
            } = self.header_of(seq).await?;
            if let Some(header) = self.contiguous_last(run_seq, seq).await? {
                runs.push(Run {
                    seqs: run_seq..header.seq + 1,
                    positions: run_start..header.end,
                    time_high: header.time_high,
                    damage: header.damage,
                });
            }
            last = run_seq.checked_sub(1);
        }
        runs.reverse();
        Ok(runs)
    }

    /// The last segment of the run from `run_seq` to `last` before the first hole near its end; `None` if there is none before it.
    pub(crate) async fn contiguous_last(
        &self,
        run_seq: u64,
        last: u64,
    ) -> Result<Option<Header>, ArchiveError> {
        // With the one before those that can have been in flight together.
        let from = last.saturating_sub(IN_FLIGHT_MAX).max(run_seq);
        let listed = self.list(from..last + 1).await?;
        let contiguous = (from..)
            .zip(&listed)
            .take_while(|(seq, object)| layout::segment_seq(&object.key) == Some(*seq));
        let count = contiguous.count() as u64;
        if count == 0 && from > run_seq {
            return self.header_of(from - 1).await.map(Some);
        }
        let headers = try_join_all((from..from + count).map(|seq| self.header_of(seq))).await?;
        // A put of a fenced writer that does not fit ends the run, too: nothing was built upon it.
        let fits = 1 + headers
            .windows(2)
            .take_while(|pair| pair[0].end == pair[1].start)
            .count();
        Ok(headers.into_iter().take(fits).next_back())
    }

    /// What a listing shows of `seqs`, and what it does not show and the store has all the same, hidden by a delete marker, up to
    /// the first number that is missing.
    async fn list(&self, seqs: Range<u64>) -> Result<Vec<Listed>, ArchiveError> {
        let mut listed = self.listed(seqs.clone()).await?;
        let (mut at, mut hidden) = (0, 0);
        while hidden < HIDDEN_MAX
            && let Some(seq) = seqs.clone().nth(at)
        {
            let shown = listed
                .get(at)
                .map(|object| layout::segment_seq(&object.key));
            if shown != Some(Some(seq)) {
                let Some(preamble) = self.preamble(seq).await? else {
                    break;
                };
                let object = Listed {
                    key: layout::segment(&self.stream, seq),
                    object_bytes: crate::object::object_bytes(preamble.header.payload_bytes),
                };
                listed.insert(at, object);
                hidden += 1;
            }
            at += 1;
        }
        Ok(listed)
    }

    async fn listed(&self, seqs: Range<u64>) -> Result<Vec<Listed>, ArchiveError> {
        let (first, end) = (
            layout::segment(&self.stream, seqs.start),
            layout::segment(&self.stream, seqs.end),
        );
        let prefix = layout::stream(&self.stream);
        Ok(self
            .archive
            .store()
            .list(&prefix, first.as_str()..end.as_str())
            .await?)
    }

    /// Proves by listing that every number of `seqs` is there, and returns them with their lengths.
    pub async fn prove_present(&self, seqs: Range<u64>) -> Result<Vec<Listed>, ArchiveError> {
        let listed = self.list(seqs.clone()).await?;
        let mut wanted = seqs.clone();
        for object in &listed {
            let seq = wanted.next();
            if layout::segment_seq(&object.key) != seq {
                return Err(self.named_hole(seq.unwrap_or(seqs.end)).await);
            }
        }
        match wanted.next() {
            Some(seq) => Err(self.named_hole(seq).await),
            None => Ok(listed),
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
        match reading
            .fetch(&layout::segment(&self.stream, seq), &expected)
            .await
        {
            Err(ArchiveError::Store(crate::store::StoreError::NotFound { .. })) => {
                Err(self.named_hole(seq).await)
            }
            result => result,
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

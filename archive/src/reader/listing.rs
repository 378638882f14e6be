//! What a listing shows of a stream: the proof that every number is there, and hints of where to look.

use std::ops::Range;

use super::LogReader;
use crate::error::ArchiveError;
use crate::layout;
use crate::store::Listed;

/// Numbers that one request lists, with the key behind them, which ends the listing.
pub(super) const LISTED_AT_ONCE: u64 = 999;
/// Hidden segments that are looked for one by one.
const HIDDEN_MAX: usize = 64;

/// Whether one request lists all of `seqs`.
#[must_use]
pub fn is_short(seqs: &Range<u64>) -> bool {
    seqs.end - seqs.start <= LISTED_AT_ONCE
}

impl LogReader {
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

    /// Lists `seqs` ahead of a proof, if that is one request; what fails here is asked again by the proof.
    pub async fn list_ahead(&self, seqs: Range<u64>) {
        if !is_short(&seqs) || self.shown(seqs.clone()).is_some() {
            return;
        }
        let Ok(listed) = self.listed(seqs).await else {
            return;
        };
        let numbered = |object: Listed| Some((layout::segment_seq(&object.key)?, object));
        let mut shown = self.shown.lock().expect("no holder panics");
        shown.extend(listed.into_iter().filter_map(numbered));
    }

    /// The highest number that was listed ahead.
    pub(super) fn shown_last(&self) -> Option<u64> {
        let shown = self.shown.lock().expect("no holder panics");
        shown.last_key_value().map(|(seq, _)| *seq)
    }

    /// What was listed ahead of `seqs`, if it is all there.
    fn shown(&self, seqs: Range<u64>) -> Option<Vec<Listed>> {
        let shown = self.shown.lock().expect("no holder panics");
        seqs.map(|seq| shown.get(&seq).cloned()).collect()
    }

    /// Proves by listing that every number of `seqs` is there, and returns them with their lengths.
    pub async fn prove_present(&self, seqs: Range<u64>) -> Result<Vec<Listed>, ArchiveError> {
        if let Some(shown) = self.shown(seqs.clone()) {
            return Ok(shown);
        }
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
}

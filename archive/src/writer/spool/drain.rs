//! What a spool holds at a start, brought into the store before its end is believed: data keys first, then the segments that go on
//! where the store ends. Anything else is torn, or a fork: it is set aside, and its positions come again from the source.
//!
//! The store may have numbers behind a hole that the spool fills: so the store is read back, and this is done again, until there is
//! nothing more to put. Only then is what is left set aside.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use futures_util::stream::{FuturesOrdered, StreamExt};

use super::Spool;
use crate::error::ArchiveError;
use crate::keys::{SignedDocument, WrappedDataKey};
use crate::layout;
use crate::object::{Header, Id, Kind, Object, StreamName};
use crate::store::{Piece, found};
use crate::writer::Writer;
use crate::writer::resume::Resume;

/// Puts under way at once; each holds a segment in memory.
const AT_ONCE: usize = 4;

/// What the next segment has to go on from.
#[derive(Clone, Copy, Debug)]
struct Link {
    seq: u64,
    position: u64,
    hash: [u8; 32],
    /// What comes next has to begin a run.
    new_run: bool,
}

impl Link {
    /// What the segment `first` has to go on from: the store's end before any hole, or, for a run that was begun behind a hole
    /// which stays, its highest number.
    fn to(first: Option<u64>, found: &Resume) -> Self {
        let behind = Self::behind(found);
        if found.slots.is_empty() || first != Some(found.next_seq) || first == Some(behind.seq) {
            return behind;
        }
        Self {
            seq: found.next_seq,
            position: found.holes_end().unwrap_or(behind.position),
            hash: found.tail,
            new_run: true,
        }
    }

    fn behind(found: &Resume) -> Self {
        match (&found.last_contiguous, found.run) {
            (Some(last), _) => Self {
                seq: last.header.seq + 1,
                position: last.header.end,
                hash: last.hash,
                new_run: false,
            },
            (None, Some(run)) => Self {
                seq: run.seq,
                position: run.position,
                hash: run.previous,
                new_run: false,
            },
            (None, None) => Self {
                seq: 0,
                position: 0,
                hash: [0; 32],
                new_run: false,
            },
        }
    }

    /// Whether a segment goes on from here: in the same run, or as the first one of a new run.
    fn leads_to(&self, header: &Header) -> bool {
        let begins_run = header.run_seq == header.seq && header.start >= self.position;
        header.seq == self.seq
            && header.previous == self.hash
            && (begins_run || (header.start == self.position && !self.new_run))
    }
}

impl Writer {
    /// Brings what the spool holds of `stream` into the store, whose end is `found`. True if the store's end has to be found again.
    pub(in crate::writer) async fn drain(
        &self,
        stream: &StreamName,
        found: &Resume,
    ) -> Result<bool, ArchiveError> {
        let Some(spool) = self.spool() else {
            return Ok(false);
        };
        self.drain_keys(spool).await?;
        let mut keys = VecDeque::from(spool.keys(&layout::stream(stream)));
        if keys.is_empty() {
            return Ok(false);
        }
        let stored = self.drain_stored(spool, &mut keys, Link::behind(found).seq);
        let put = match stored.await {
            Ok(()) => {
                let first = keys.front().and_then(|key| layout::segment_seq(key));
                let link = Link::to(first, found);
                self.drain_rest(spool, stream, keys, link).await
            }
            Err(error) => Err(error),
        };
        match put {
            Ok(0) => {}
            Ok(put) => {
                tracing::info!(%stream, segments = put, "the archive has what an earlier start left in the spool");
                return Ok(true);
            }
            // Nothing of ours lies behind it: whoever owns the number owns what follows.
            Err(ArchiveError::Fenced { key, writer }) => {
                tracing::error!(
                    key,
                    writer,
                    "another daemon has taken over since the spool was filled"
                );
                self.set_rest_aside(spool, stream).await?;
                return Ok(true);
            }
            Err(error) => return Err(error),
        }
        self.set_rest_aside(spool, stream).await?;
        Ok(false)
    }

    /// Data keys come before what is sealed with them.
    async fn drain_keys(&self, spool: &Spool) -> Result<(), ArchiveError> {
        for key in spool.keys(layout::KEYS) {
            let Some(fetched) = found(spool.medium.get(&key, Piece::Whole).await)? else {
                continue;
            };
            let writer = self.archive().writer();
            match SignedDocument::verify::<WrappedDataKey>(&key, &fetched.bytes, writer) {
                Ok(_) => {
                    self.put(&key, fetched.bytes).await?;
                    spool.remove(&key).await;
                }
                Err(error) => {
                    tracing::error!(%error, "a data key in the spool is damaged");
                    spool.set_aside(&key).await?;
                }
            }
        }
        Ok(())
    }

    /// Segments before `seq` are in the store; a spool that is this archive's holds the same bytes.
    async fn drain_stored(
        &self,
        spool: &Spool,
        keys: &mut VecDeque<String>,
        seq: u64,
    ) -> Result<(), ArchiveError> {
        while let Some(key) = keys.pop_front_if(|key| layout::segment_seq(key) < Some(seq)) {
            let fetched = spool.medium.get(&key, Piece::Whole).await?;
            self.put(&key, fetched.bytes).await?;
            spool.remove(&key).await;
        }
        Ok(())
    }

    /// Puts what goes on from `link`. The first one alone: only a number that is ours lets others follow.
    async fn drain_rest(
        &self,
        spool: &Spool,
        stream: &StreamName,
        mut keys: VecDeque<String>,
        mut link: Link,
    ) -> Result<usize, ArchiveError> {
        let mut puts = FuturesOrdered::new();
        let (mut put, mut opened_by) = (0, HashSet::new());
        loop {
            let at_once = if put == 0 { 1 } else { AT_ONCE };
            while puts.len() < at_once
                && let Some(key) = keys.pop_front()
            {
                match self
                    .linked(spool, stream, &key, link, &mut opened_by)
                    .await?
                {
                    Some((bytes, next)) => {
                        link = next;
                        puts.push_back(self.put_spooled(key, bytes));
                    }
                    None => keys.clear(),
                }
            }
            match puts.next().await {
                Some(key) => spool.remove(&key?).await,
                None => return Ok(put),
            }
            put += 1;
        }
    }

    async fn put_spooled(&self, key: String, bytes: Bytes) -> Result<String, ArchiveError> {
        self.put(&key, bytes).await?;
        Ok(key)
    }

    /// The bytes of a spooled segment, and what goes on from it; `None` if it is torn, does not go on from `link`, or nothing would
    /// open it. Data keys in `opened_by` are known to be stored.
    async fn linked(
        &self,
        spool: &Spool,
        stream: &StreamName,
        key: &str,
        link: Link,
        opened_by: &mut HashSet<Id>,
    ) -> Result<Option<(Bytes, Link)>, ArchiveError> {
        if layout::segment_seq(key) > Some(link.seq) {
            // The store may have what lies between.
            return Ok(None);
        }
        let archive = self.archive();
        let expected = archive.expected(Kind::Segment, Some(stream), Id::default(), link.seq);
        let bytes = spool.medium.get(key, Piece::Whole).await?.bytes;
        let object = Object::new(key, bytes.clone(), &expected, archive.writer());
        let verified = object.and_then(|object| {
            let hash = object.verify()?;
            Ok((object.header().clone(), hash))
        });
        let (header, hash) = match verified {
            Ok(verified) => verified,
            Err(error) => {
                tracing::error!(%error, "a segment in the spool is damaged, or not the next one");
                return Ok(None);
            }
        };
        if !link.leads_to(&header) {
            tracing::error!(
                key,
                "a segment in the spool does not go on where the archive ends"
            );
            return Ok(None);
        }
        if !opened_by.contains(&header.key_id) {
            let data_key = layout::data_key(header.key_id);
            if found(archive.store().get(&data_key, Piece::Whole).await)?.is_none() {
                tracing::error!(
                    key,
                    data_key,
                    "the data key of a segment in the spool is lost: nobody could open it"
                );
                return Ok(None);
            }
            opened_by.insert(header.key_id);
        }
        let link = Link {
            seq: header.seq + 1,
            position: header.end,
            hash,
            new_run: false,
        };
        Ok(Some((bytes, link)))
    }

    /// What is left of `stream` can never be put.
    async fn set_rest_aside(&self, spool: &Spool, stream: &StreamName) -> Result<(), ArchiveError> {
        let rest = spool.keys(&layout::stream(stream));
        if let Some(first) = rest.first() {
            tracing::error!(
                first,
                segments = rest.len(),
                "what is left in the spool is not the archive's and is set aside"
            );
        }
        for key in &rest {
            spool.set_aside(key).await?;
        }
        Ok(())
    }
}

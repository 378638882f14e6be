//! What a spool holds at a start, brought into the store before its end is believed: data keys first, then the segments that go on
//! where the store ends. Anything else is torn, or a fork: it is set aside, and its positions come again from the source.

use std::collections::VecDeque;

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
}

impl Link {
    /// The end of the store as it was found, before any hole.
    fn behind(found: &Resume) -> Self {
        match (&found.last_contiguous, found.run) {
            (Some(last), _) => Self {
                seq: last.header.seq + 1,
                position: last.header.end,
                hash: last.hash,
            },
            (None, Some(run)) => Self {
                seq: run.seq,
                position: run.position,
                hash: run.previous,
            },
            (None, None) => Self {
                seq: 0,
                position: 0,
                hash: [0; 32],
            },
        }
    }

    /// Whether a segment goes on from here: in the same run, or as the first one of a new run.
    fn leads_to(&self, header: &Header) -> bool {
        let begins_run = header.run_seq == header.seq && header.start >= self.position;
        header.seq == self.seq
            && header.previous == self.hash
            && (header.start == self.position || begins_run)
    }
}

impl Writer {
    /// Brings what the spool holds of `stream` into the store, whose end is `found`. Whether anything was put.
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
        let link = Link::behind(found);
        let put = match self.drain_stored(spool, &mut keys, link.seq).await {
            Ok(()) => self.drain_rest(spool, stream, keys, link).await,
            Err(error) => Err(error),
        };
        let put = match put {
            // Nothing of ours lies behind it: whoever owns the number owns what follows.
            Err(ArchiveError::Fenced { key, writer }) => {
                tracing::error!(
                    key,
                    writer,
                    "another daemon has taken over since the spool was filled"
                );
                0
            }
            put => put?,
        };
        if put > 0 {
            tracing::info!(%stream, segments = put, "the archive has what an earlier start left in the spool");
        }
        self.set_rest_aside(spool, stream).await?;
        Ok(put > 0)
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
        let mut put = 0;
        loop {
            let at_once = if put == 0 { 1 } else { AT_ONCE };
            while puts.len() < at_once
                && let Some(key) = keys.pop_front()
            {
                match self.linked(spool, stream, &key, link).await? {
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

    /// The bytes of a spooled segment, and what goes on from it; `None` if it is torn or does not go on from `link`.
    async fn linked(
        &self,
        spool: &Spool,
        stream: &StreamName,
        key: &str,
        link: Link,
    ) -> Result<Option<(Bytes, Link)>, ArchiveError> {
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
        let link = Link {
            seq: header.seq + 1,
            position: header.end,
            hash,
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

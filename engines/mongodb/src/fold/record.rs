//! What waits in a partition: the head of a record, in bytes that never leave this process, and its payload behind it.

use super::key::Key;
use super::raw::DOCUMENT_BYTES_MAX;
use crate::ClusterTime;

/// What a record does to its document.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Verb {
    /// A row of the base copy.
    Base = 0,
    Insert = 1,
    Replace = 2,
    Diff = 3,
    Delete = 4,
}

/// The head of a record; its payload follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Record {
    pub(super) key: Key,
    pub(super) collection: u32,
    pub(super) verb: Verb,
    /// Ordinal in the order of base rows and log.
    pub(super) order: u64,
    /// The entry; zero for base rows.
    pub(super) at: ClusterTime,
    /// Of the payload.
    pub(super) bytes: usize,
}

pub(super) const HEADER_BYTES: usize = 41;

impl Record {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..16].copy_from_slice(&self.key.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.collection.to_le_bytes());
        bytes[20] = self.verb as u8;
        bytes[21..29].copy_from_slice(&self.order.to_le_bytes());
        bytes[29..37].copy_from_slice(&self.at.0.to_le_bytes());
        let length = u32::try_from(self.bytes).unwrap_or(u32::MAX);
        bytes[37..].copy_from_slice(&length.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let eight = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let four = |at: usize| bytes[at..at + 4].try_into().map(u32::from_le_bytes).ok();
        let verbs = [
            Verb::Base,
            Verb::Insert,
            Verb::Replace,
            Verb::Diff,
            Verb::Delete,
        ];
        Some(Self {
            key: u128::from_le_bytes(*bytes.first_chunk()?),
            collection: four(16)?,
            verb: *verbs.get(usize::from(bytes[20]))?,
            order: eight(21)?,
            at: ClusterTime(eight(29)?),
            bytes: usize::try_from(four(37)?)
                .ok()
                .filter(|bytes| *bytes <= DOCUMENT_BYTES_MAX)?,
        })
    }

    /// Which of `count` lanes, a power of two, it belongs to when it is dealt out for the `depth`th time.
    pub(super) fn lane(&self, depth: u32, count: usize) -> usize {
        (self.key >> (16 * depth)) as usize & (count - 1)
    }
}

//! A source whose bytes are known, and an eye that notes what a test can recompute.
//!
//! The source forgets what it was told is durable, exactly as a replication slot does: whoever asks for it again has lost it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use pitr_archive::object::Proofs;
use pitr_archive::writer::{Annotate, Annotation};

/// A log in the source: known bytes from a first position on.
#[derive(Debug)]
pub struct KnownSource {
    start: u64,
    bytes: Bytes,
    acknowledged: AtomicU64,
    /// Bytes before it were removed, acknowledged or not: a slot was lost.
    lost_before: AtomicU64,
    /// Everything before it was read by somebody.
    read_up_to: AtomicU64,
}

impl KnownSource {
    /// A log of `length` bytes from position `start` on.
    #[must_use]
    pub fn new(start: u64, length: usize) -> Arc<Self> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new()
            .update(b"known source")
            .finalize_xof()
            .fill(&mut bytes);
        Arc::new(Self {
            start,
            bytes: bytes.into(),
            acknowledged: AtomicU64::new(start),
            lost_before: AtomicU64::new(start),
            read_up_to: AtomicU64::new(start),
        })
    }

    /// Behind the last position.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// First position.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// What it was told is durable.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// How far somebody has read.
    #[must_use]
    pub fn read_up_to(&self) -> u64 {
        self.read_up_to.load(Ordering::SeqCst)
    }

    /// Tells it that everything before `position` is durable: it forgets that.
    pub fn acknowledge(&self, position: u64) {
        self.acknowledged.fetch_max(position, Ordering::SeqCst);
    }

    /// Removes what lies before `position`, whoever still wants it.
    pub fn lose_before(&self, position: u64) {
        self.lost_before.fetch_max(position, Ordering::SeqCst);
    }

    /// The first position whose bytes it still has, as far as it has lost any.
    #[must_use]
    pub fn first_left(&self) -> u64 {
        self.lost_before.load(Ordering::SeqCst)
    }

    /// The bytes of `[start, end)`.
    #[must_use]
    pub fn known(&self, start: u64, end: u64) -> Bytes {
        self.bytes
            .slice((start - self.start) as usize..(end - self.start) as usize)
    }

    /// At most `length` bytes from `position` on, as the source serves them.
    ///
    /// # Panics
    /// If the source has forgotten them: something was acknowledged that the archive does not hold.
    #[must_use]
    pub fn read(&self, position: u64, length: usize) -> Bytes {
        let acknowledged = self.acknowledged();
        assert!(
            position >= acknowledged,
            "acknowledged up to {acknowledged:#x}, and {position:#x} is asked for again"
        );
        assert!(position >= self.first_left(), "{position:#x} was removed");
        let end = self.end().min(position + length as u64);
        self.read_up_to.fetch_max(end, Ordering::SeqCst);
        self.known(position, end)
    }
}

/// Notes as time of every byte its position: known, and monotone.
#[derive(Debug, Default)]
pub struct PositionsAsTimes(Option<(u64, u64)>);

impl Annotate for PositionsAsTimes {
    fn observe(&mut self, start: u64, bytes: &[u8]) -> bool {
        let first = self.0.map_or(start, |(first, _)| first);
        self.0 = Some((first, start + bytes.len() as u64));
        false
    }

    fn cut(&mut self) -> Annotation {
        let Some((first, end)) = self.0.take() else {
            return Annotation::default();
        };
        Annotation {
            time_min: Some(first as i64),
            time_max: Some(end as i64 - 1),
            unsure: false,
            damage: None,
            proofs: Proofs::default(),
            summary: first.to_be_bytes().to_vec(),
        }
    }
}

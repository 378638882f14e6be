//! A source whose bytes are known, and the lives of a daemon that archives it.
//!
//! The source forgets what it was told is durable, exactly as a replication slot does: whoever asks for it again has lost it.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use pitr_archive::keys::{Identity, Opener, Wrapper, WriterKey};
use pitr_archive::object::{Opened, StreamName};
use pitr_archive::reader::LogReader;
use pitr_archive::store::SharedStore;
use pitr_archive::verify::Verifier;
use pitr_archive::writer::{
    Annotate, Annotation, Compressor, LogSettings, LogWriter, Writer, resume,
};
use pitr_archive::{Archive, ArchiveError, Reading};

/// How the archive is named in messages.
const URL: &str = "memory:";

/// A log in the source: known bytes from a first position on.
#[derive(Debug)]
pub struct KnownSource {
    start: u64,
    bytes: Bytes,
    acknowledged: AtomicU64,
    /// Bytes before it were removed, acknowledged or not: a slot was lost.
    lost_before: AtomicU64,
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

    /// Tells it that everything before `position` is durable: it forgets that.
    pub fn acknowledge(&self, position: u64) {
        self.acknowledged.fetch_max(position, Ordering::SeqCst);
    }

    /// Removes what lies before `position`, whoever still wants it.
    pub fn lose_before(&self, position: u64) {
        self.lost_before.fetch_max(position, Ordering::SeqCst);
    }

    fn first_left(&self) -> u64 {
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
        self.known(position, self.end().min(position + length as u64))
    }
}

/// The keys of one archive, and who can read it.
#[derive(Clone, Debug)]
pub struct Keys {
    identity: Identity,
    writer: WriterKey,
}

impl Keys {
    /// Made once for all archives of a test process.
    #[must_use]
    pub fn shared() -> Self {
        static KEYS: OnceLock<Keys> = OnceLock::new();
        let make = || Self {
            identity: Identity::generate(),
            writer: WriterKey::generate(),
        };
        KEYS.get_or_init(make).clone()
    }

    fn wrappers(&self) -> Vec<Wrapper> {
        vec![Wrapper::Recipient(self.identity.recipient())]
    }

    /// What opens.
    #[must_use]
    pub fn opener(&self) -> Opener {
        Opener::Identity(self.identity.clone())
    }

    /// Creates the archive in `store`, or opens the one that is there.
    pub async fn archive(&self, store: SharedStore) -> Result<Arc<Archive>, ArchiveError> {
        let source = [("system".to_owned(), "7".to_owned())].into();
        Archive::create(store, URL, "known", source, &self.writer, &self.wrappers()).await
    }

    /// A new writer, as every start of the daemon makes one.
    pub async fn writer(&self, store: SharedStore) -> Result<Arc<Writer>, ArchiveError> {
        Writer::new(
            self.archive(store).await?,
            self.writer.clone(),
            self.wrappers(),
        )
    }
}

/// The stream that the source is written into.
///
/// # Panics
/// Never: the name is valid.
#[must_use]
pub fn stream() -> StreamName {
    StreamName::new("00000001").expect("a name")
}

/// Notes as time of every byte its position: known, and monotone.
#[derive(Debug, Default)]
pub struct PositionsAsTimes(Option<(u64, u64)>);

impl Annotate for PositionsAsTimes {
    fn observe(&mut self, start: u64, bytes: &[u8]) {
        let first = self.0.map_or(start, |(first, _)| first);
        self.0 = Some((first, start + bytes.len() as u64));
    }

    fn cut(&mut self) -> Annotation {
        let Some((first, end)) = self.0.take() else {
            return Annotation::default();
        };
        Annotation {
            time_min: Some(first as i64),
            time_max: Some(end as i64 - 1),
            unsure: false,
            summary: first.to_be_bytes().to_vec(),
        }
    }
}

/// How a daemon cuts and puts.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Bytes of a piece that the source sends.
    pub piece_bytes: usize,
    /// Puts in flight.
    pub in_flight: u64,
    /// Where it stops: the end of the source if `None`.
    pub until: Option<u64>,
}

impl Pace {
    /// Small segments, of which none ends where a piece does.
    pub const SMALL: Self = Self {
        segment_bytes: 1000,
        piece_bytes: 300,
        in_flight: 4,
        until: None,
    };

    fn settings(self) -> LogSettings {
        LogSettings {
            segment_bytes_max: self.segment_bytes,
            linger: Duration::from_secs(1),
            compression_level: 1,
            puts_in_flight: self.in_flight,
        }
    }
}

/// A daemon: resumes, streams, acknowledges, until everything is durable. What it returns is the durable end.
///
/// # Panics
/// If the archive holds less than was acknowledged.
pub async fn archive_all(
    store: SharedStore,
    source: &Arc<KnownSource>,
    pace: Pace,
) -> Result<u64, ArchiveError> {
    let writer = Keys::shared().writer(store).await?;
    let found = resume(&writer, &stream(), false).await?;
    let durable = found.durable().unwrap_or(source.start);
    assert!(
        durable >= source.acknowledged(),
        "acknowledged up to {:#x}, found durable up to {durable:#x}",
        source.acknowledged()
    );
    let from = durable.max(source.first_left());
    let log = LogWriter::start(
        writer,
        stream(),
        found,
        from,
        pace.settings(),
        Compressor::new(),
        Box::new(PositionsAsTimes::default()),
    );
    let acknowledging = tokio::spawn(acknowledge(log.progress(), Arc::clone(source)));
    let (mut position, until) = (from, pace.until.unwrap_or(source.end()));
    while position < until {
        let Some(room) = log.room().await else {
            break;
        };
        let bytes = source.read(position, pace.piece_bytes.min((until - position) as usize));
        let length = bytes.len() as u64;
        room.append(position, bytes);
        position += length;
    }
    let durable = log.finish().await?;
    // The writer is gone, so this ends; what it published last is acknowledged.
    acknowledging.await.expect("acknowledging does not panic");
    Ok(durable)
}

async fn acknowledge(
    mut progress: tokio::sync::watch::Receiver<pitr_archive::writer::Progress>,
    source: Arc<KnownSource>,
) {
    loop {
        let now = *progress.borrow_and_update();
        assert!(now.durable <= now.sealed, "{now:?}");
        source.acknowledge(now.durable);
        if progress.changed().await.is_err() {
            return;
        }
    }
}

/// Reads the archive back and holds it against the source: one unbroken run of every byte up to `end`.
///
/// # Panics
/// As [`check_runs`].
pub async fn check_whole(store: SharedStore, source: &KnownSource, end: u64) {
    check_runs(store, source, std::slice::from_ref(&(source.start..end))).await;
}

/// Reads the archive back and holds it against the source: these runs and no others, in them every number and every byte, the
/// chain and every chunk sound.
///
/// # Panics
/// If anything is missing, damaged or different.
pub async fn check_runs(store: SharedStore, source: &KnownSource, wanted: &[Range<u64>]) {
    let keys = Keys::shared();
    let archive = keys.archive(store).await.expect("the archive opens");
    let reading = Reading::new(Arc::clone(&archive), keys.opener());
    let log = LogReader::new(Arc::clone(&archive), stream());
    let tail = log.end().await.expect("the end is found");
    tail.check_tail(&stream()).expect("the tail is there");
    let runs = log.runs(&tail).await.expect("runs are found");
    let found: Vec<_> = runs.iter().map(|run| run.positions.clone()).collect();
    assert_eq!(found, wanted, "{runs:?}");
    for run in &runs {
        let listed = log.prove_present(run.seqs.clone()).await;
        listed.expect("every number is there");
        let mut position = run.positions.start;
        for seq in run.seqs.clone() {
            let segment = log.segment(seq, &reading).await.expect("a segment opens");
            assert_eq!(segment.header.start, position, "segment {seq}");
            check_segment(&segment, source);
            let summary = log.summary(seq, &reading).await.expect("ranged");
            assert_eq!(summary, segment.summary);
            position = segment.header.end;
        }
        assert_eq!(position, run.positions.end);
    }
    let verifier = Verifier::new(archive, Some(&reading), &|_| ());
    let verified = verifier.run().await.expect("the store answers");
    assert!(verified.faults.is_empty(), "{:?}", verified.faults);
}

fn check_segment(segment: &Opened, source: &KnownSource) {
    let header = &segment.header;
    let seq = header.seq;
    let bytes = segment.plaintext().expect("frames unpack");
    assert_eq!(
        bytes,
        source.known(header.start, header.end),
        "segment {seq}"
    );
    let (first, last) = (header.start as i64, header.end as i64 - 1);
    assert_eq!(header.time_min, Some(first), "segment {seq}");
    assert_eq!(header.time_max, Some(last), "segment {seq}");
    assert_eq!(header.time_high, Some(last), "segment {seq}");
    assert_eq!(segment.summary, header.start.to_be_bytes());
}

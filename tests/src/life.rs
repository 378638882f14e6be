//! The lives of a daemon that archives a known source: they begin by reading the position back, and end, or are ended.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pitr_archive::keys::{Identity, Opener, Wrapper, WriterKey};
use pitr_archive::object::StreamName;
use pitr_archive::store::SharedStore;
use pitr_archive::writer::{
    Compressor, LogSettings, LogWriter, Progress, Spool, SpoolMedium, Writer, resume,
};
use pitr_archive::{Archive, ArchiveError};

use crate::check::check_whole;
use crate::fault_store::{Call, Fault, FaultStore};
use crate::known_source::{KnownSource, PositionsAsTimes};
use crate::memory_store::MemoryStore;

/// Where the logs of known sources begin, if nothing speaks for another place.
pub const FIRST_POSITION: u64 = 0x300_0000;
/// How the archive is named in messages.
const URL: &str = "memory:";

/// The keys of one archive, and who can read it.
#[derive(Clone, Debug)]
pub struct Keys {
    identity: Identity,
    writer: WriterKey,
}

static KEYS: OnceLock<Keys> = OnceLock::new();

impl Keys {
    /// Made once for all archives of a test process.
    #[must_use]
    pub fn shared() -> Self {
        let make = || Self {
            identity: Identity::generate(),
            writer: WriterKey::generate(),
        };
        KEYS.get_or_init(make).clone()
    }

    /// Makes the keys in `directory`, which are made there if there are none, those of this process: for archives that
    /// several processes write.
    ///
    /// # Panics
    /// If the files cannot be made or read, or the process has other keys already.
    pub fn share(directory: &Path) {
        let (identity, writer) = (directory.join("identity"), directory.join("writer"));
        if std::fs::create_dir(directory).is_ok() {
            Identity::generate().save(&identity).expect("a new file");
            WriterKey::generate().save(&writer).expect("a new file");
        }
        let keys = Self {
            identity: Identity::load(&identity).expect("an identity"),
            writer: WriterKey::load(&writer).expect("a signing key"),
        };
        KEYS.set(keys).expect("the first keys of this process");
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

/// How a daemon cuts and puts.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Bytes of a piece that the source sends.
    pub piece_bytes: usize,
    /// Puts in flight.
    pub in_flight: u64,
    /// How old a segment gets.
    pub linger: Duration,
    /// Where it stops: the end of the source if `None`.
    pub until: Option<u64>,
    /// An operator has said that a lost tail is to be accepted.
    pub accept_break: bool,
}

impl Pace {
    /// Small segments, of which none ends where a piece does.
    pub const SMALL: Self = Self {
        segment_bytes: 1000,
        piece_bytes: 300,
        in_flight: 4,
        // The clock runs ahead while the compressor works: a segment that could grow old would end anywhere.
        linger: Duration::from_secs(1 << 30),
        until: None,
        accept_break: false,
    };

    fn settings(self) -> LogSettings {
        LogSettings {
            segment_bytes_max: self.segment_bytes,
            linger: self.linger,
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
    archive_through(writer, source, pace).await
}

/// The same through `spool`, which keeps what the store does not take.
pub async fn archive_spooling(
    store: SharedStore,
    spool: Arc<dyn SpoolMedium>,
    source: &Arc<KnownSource>,
    pace: Pace,
) -> Result<u64, ArchiveError> {
    let writer = Keys::shared().writer(store).await?;
    let id = writer.archive().id();
    writer.use_spool(Spool::open(spool, 1 << 30, id).await?);
    archive_through(writer, source, pace).await
}

async fn archive_through(
    writer: Arc<Writer>,
    source: &Arc<KnownSource>,
    pace: Pace,
) -> Result<u64, ArchiveError> {
    let found = resume(&writer, &stream(), pace.accept_break).await?;
    let durable = found.durable().unwrap_or(source.start());
    let from = durable.max(source.first_left());
    assert!(
        from >= source.acknowledged(),
        "acknowledged up to {:#x}, found durable up to {durable:#x}",
        source.acknowledged()
    );
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
        if let Some(room) = log.room_now() {
            // The source's clock shows the position it is at.
            room.observe_clock(position as i64, position);
        }
    }
    let durable = log.finish().await?;
    // The writer is gone, so this ends; what it published last is acknowledged.
    acknowledging.await.expect("acknowledging does not panic");
    Ok(durable)
}

async fn acknowledge(
    mut progress: tokio::sync::watch::Receiver<Progress>,
    source: Arc<KnownSource>,
) {
    loop {
        let now = *progress.borrow_and_update();
        assert!(now.durable <= now.sealed, "{now:?}");
        let covered = now.covered.unwrap_or_default() as u64;
        assert!(covered <= now.durable, "{now:?}");
        source.acknowledge(now.durable);
        if progress.changed().await.is_err() {
            return;
        }
    }
}

/// A runtime whose clock runs ahead when nobody works: waiting costs a test nothing.
///
/// # Panics
/// If the operating system gives none.
#[must_use]
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

/// One life of the daemon over `store`. `None`: it died where the script says, and nothing of it is left.
pub fn live(
    store: &FaultStore,
    source: &Arc<KnownSource>,
    pace: Pace,
) -> Option<Result<u64, ArchiveError>> {
    runtime().block_on(async {
        tokio::select! {
            ended = archive_all(Arc::new(store.clone()), source, pace) => Some(ended),
            () = store.crashed() => None,
        }
    })
}

/// A life without faults that has to reach the end, and what it leaves has to be whole.
pub fn live_to_the_end(medium: &MemoryStore, source: &Arc<KnownSource>, context: &str) {
    let ended = live(&FaultStore::new(medium.clone()), source, Pace::SMALL);
    match ended.expect("no crash is scripted") {
        Ok(end) => assert_eq!(end, source.end(), "{context}"),
        Err(error) => panic!("{context}: the restart needs a hand: {error}"),
    }
    assert_eq!(source.acknowledged(), source.end(), "{context}");
    runtime().block_on(check_whole(Arc::new(medium.clone()), source, source.end()));
}

/// Dies at call `number`. False: the life came to its end before it.
pub fn die_at(medium: &MemoryStore, source: &Arc<KnownSource>, number: u64, crash: &Fault) -> bool {
    let store = FaultStore::new(medium.clone());
    store.at(number, crash.clone());
    match live(&store, source, Pace::SMALL) {
        None => true,
        Some(Ok(_)) => false,
        Some(Err(error)) => panic!("{crash:?} at {number}: {error}"),
    }
}

/// Lets the puts of segments that `lands` refuses hang, and kills the process when so many puts were begun.
pub fn die_with_puts_under_way(
    medium: &MemoryStore,
    source: &Arc<KnownSource>,
    pace: Pace,
    begun: usize,
    lands: impl Fn(u64) -> bool + Send + 'static,
) {
    let store = FaultStore::new(medium.clone());
    let hangs = move |call: &Call| {
        call.puts_segment()
            && !lands(u64::from_str_radix(&call.key[call.key.len() - 16..], 16).unwrap())
    };
    store.inject(u64::MAX, Fault::HangBefore, hangs);
    let waiting = store.clone();
    runtime().block_on(async {
        let enough = async {
            // Yielding keeps the clock of the runtime from running ahead of the compressor's threads.
            while waiting.calls().iter().filter(|call| call.puts_segment()).count() < begun {
                tokio::task::yield_now().await;
            }
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            ended = archive_all(Arc::new(store.clone()), source, pace) => panic!("it ended: {ended:?}"),
            () = enough => {}
        }
    });
}

/// Numbers that are missing between others, as the next start finds them.
///
/// # Panics
/// If the position cannot be read back.
#[must_use]
pub fn holes(medium: &MemoryStore) -> usize {
    let medium = medium.clone();
    runtime().block_on(async {
        let writer = Keys::shared().writer(Arc::new(medium)).await.unwrap();
        resume(&writer, &stream(), false).await.unwrap().holes()
    })
}

/// The key of a segment.
#[must_use]
pub fn segment(seq: u64) -> String {
    pitr_archive::layout::segment(&stream(), seq)
}
/// A small generator whose every run can be repeated from its seed.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

//! An archive of a million segments, in a store that makes them as they are asked for and counts requests.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use crate::memory_store::MemoryStore;
use async_trait::async_trait;
use bytes::Bytes;
use pitr_archive::catalogue::BackupId;
use pitr_archive::keys::{Identity, Opener, SignedDocument, Wrapper, WriterKey};
use pitr_archive::layout;
use pitr_archive::object::{Frame, Id, Kind};
use pitr_archive::reader::Head;
use pitr_archive::store::{Fetched, Listed, Piece, Store, StoreError};
use pitr_archive::writer::{BackupSettings, BackupWriter, Compressor, Writer};
use pitr_archive::{Archive, Reading};
use pitr_postgres::backup::{BackupManifest, Contents};
use pitr_postgres::{ENGINE, Lsn, Source, TimelineId, WalSummary};

/// Segments of the stream.
pub const SEGMENTS: u64 = 1_000_000;
/// Bytes of a WAL page, and of the WAL in a segment.
const PAGE: u64 = 8192;
const WAL_SEGMENT: u64 = 16 << 20;
const SYSTEM_ID: u64 = 7;
/// Where the stream begins: one page of WAL, with one commit, is one segment of the archive.
const BEGIN: u64 = 16 << 20;
/// The commit in page `n` is `n` seconds after this.
const EPOCH_US: i64 = 1_780_000_000_000_000;
/// Segments between two base backups: a day at one a second.
pub const DAY: u64 = 86_400;
/// What S3 lists in one request.
const LISTED_MAX: u64 = 1000;
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// What is out of the ordinary.
#[derive(Clone, Copy, Default, Debug)]
pub struct Oddities {
    /// A daemon works on: while requests come, segments do, and there is always one behind a number that is still missing.
    pub is_busy: bool,
    /// The commit in this page came damaged, as the headers say.
    pub damaged_page: Option<u64>,
    /// How far away it is: the time that each request takes.
    pub delay: Duration,
}

/// Keys and backups lie in memory; segments are sealed when they are read.
#[derive(Debug)]
pub struct EndlessStore {
    memory: MemoryStore,
    writer: OnceLock<Arc<Writer>>,
    requests: AtomicU64,
    oddities: Oddities,
    /// What was asked for: it is the same when it is asked for again.
    sealed: Mutex<HashMap<u64, Bytes>>,
}

/// Where page `page` of the WAL begins.
#[must_use]
pub fn position(page: u64) -> u64 {
    BEGIN + page * PAGE
}

/// When the commit in `page` was, µs since the Unix epoch.
#[must_use]
pub fn commit_time(page: u64) -> i64 {
    EPOCH_US + page as i64 * 1_000_000
}

fn page_header_bytes(at: u64) -> usize {
    if at.is_multiple_of(WAL_SEGMENT) {
        40
    } else {
        24
    }
}

/// Where the commit in `page` starts.
#[must_use]
pub fn commit_at(page: u64) -> u64 {
    position(page) + page_header_bytes(position(page)) as u64
}

/// A record: header, then `data`; the checksum covers the data first, then the header without the checksum.
fn record(xid: u32, previous: u64, info: u8, manager: u8, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&(24 + data.len() as u32).to_le_bytes());
    out.extend_from_slice(&xid.to_le_bytes());
    out.extend_from_slice(&previous.to_le_bytes());
    out.extend_from_slice(&[info, manager, 0, 0]);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(data), &out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(data);
    out
}

/// A page of PostgreSQL 17: a commit, then a record without effect that fills it.
fn wal_page(page: u64) -> Vec<u8> {
    let at = position(page);
    let long = page_header_bytes(at) == 40;
    let mut out = Vec::new();
    out.extend_from_slice(&0xD116_u16.to_le_bytes());
    out.extend_from_slice(&(if long { 2_u16 } else { 0 }).to_le_bytes());
    out.extend_from_slice(&1_u32.to_le_bytes());
    out.extend_from_slice(&at.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    if long {
        out.extend_from_slice(&SYSTEM_ID.to_le_bytes());
        out.extend_from_slice(&(WAL_SEGMENT as u32).to_le_bytes());
        out.extend_from_slice(&(PAGE as u32).to_le_bytes());
    }
    let filler_before = if page == 0 {
        0
    } else {
        commit_at(page - 1) + 40
    };
    let time = (commit_time(page) - POSTGRES_EPOCH_US).to_le_bytes();
    let commit = record(
        xid(page),
        filler_before,
        0x00,
        1,
        &[[0xFF, 8].as_slice(), &time].concat(),
    );
    out.extend_from_slice(&commit);
    out.resize(out.len().next_multiple_of(8), 0);
    let bytes = PAGE as usize - out.len() - 24 - 5;
    let mut data = vec![0xFE];
    data.extend_from_slice(&(bytes as u32).to_le_bytes());
    data.resize(5 + bytes, 0);
    out.extend_from_slice(&record(0, commit_at(page), 0x20, 0, &data));
    assert_eq!(out.len(), PAGE as usize);
    out
}

/// The number of the transaction that commits in `page`.
#[must_use]
pub fn xid(page: u64) -> u32 {
    1000 + page as u32
}

/// Segments that are there from the beginning where a daemon is busy.
const BUSY_FROM: u64 = SEGMENTS / 2;
/// Requests in which it puts two segments.
const BUSY_REQUESTS: u64 = 200;

impl EndlessStore {
    /// Requests until now.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    fn is_there(&self, seq: u64) -> bool {
        let contiguous = if self.oddities.is_busy {
            BUSY_FROM + self.requests() / BUSY_REQUESTS * 2
        } else {
            SEGMENTS
        };
        seq < contiguous || (self.oddities.is_busy && seq == contiguous + 1)
    }

    async fn segment(&self, seq: u64) -> Bytes {
        let writer = self
            .writer
            .get()
            .expect("the writer is made before the first segment is read");
        let mut header = writer.header(
            Kind::Segment,
            &TimelineId(1).stream_name(),
            Id::default(),
            seq,
        );
        (header.start, header.end) = (position(seq), position(seq + 1));
        let time = Some(commit_time(seq));
        (header.time_min, header.time_max, header.time_high) = (time, time, time);
        header.run_start = BEGIN;
        let damaged = self.oddities.damaged_page.filter(|&page| page <= seq);
        header.damage = damaged.map(commit_at);
        let summary = WalSummary {
            commits: 1,
            xids: Some((xid(seq), xid(seq))),
            times: Some((commit_time(seq), commit_time(seq))),
            ..WalSummary::default()
        };
        let frames = vec![Frame::compress(&wal_page(seq), 1)];
        writer
            .seal(header, frames, summary.encode())
            .await
            .unwrap()
            .bytes
    }
}

#[async_trait]
impl Store for EndlessStore {
    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        self.memory.put_if_absent(key, body).await
    }

    async fn put_replacing(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        self.memory.put_replacing(key, body).await
    }

    async fn get(&self, key: &str, piece: Piece) -> Result<Fetched, StoreError> {
        tokio::time::sleep(self.oddities.delay).await;
        self.requests.fetch_add(1, Ordering::Relaxed);
        let seq = key
            .strip_prefix(layout::LOG)
            .and_then(|_| layout::segment_seq(key))
            .filter(|&seq| self.is_there(seq));
        let Some(seq) = seq else {
            return self.memory.get(key, piece).await;
        };
        let sealed = self
            .sealed
            .lock()
            .expect("no holder panics")
            .get(&seq)
            .cloned();
        let whole = match sealed {
            Some(whole) => whole,
            None => self.segment(seq).await,
        };
        let whole = {
            let mut sealed = self.sealed.lock().expect("no holder panics");
            sealed.entry(seq).or_insert(whole).clone()
        };
        let object_bytes = whole.len() as u64;
        let bytes = match piece {
            Piece::Whole => whole,
            Piece::Range(range) => whole.slice(
                range.start.min(object_bytes) as usize..range.end.min(object_bytes) as usize,
            ),
        };
        Ok(Fetched {
            bytes,
            object_bytes,
        })
    }

    async fn list(&self, prefix: &str, keys: Range<&str>) -> Result<Vec<Listed>, StoreError> {
        tokio::time::sleep(self.oddities.delay).await;
        if !prefix.starts_with(layout::LOG) {
            self.requests.fetch_add(1, Ordering::Relaxed);
            return self.memory.list(prefix, keys).await;
        }
        let first = layout::segment_seq(keys.start).expect("a listing begins at a segment");
        let end = layout::segment_seq(keys.end).map_or(SEGMENTS, |end| end.min(SEGMENTS));
        self.requests
            .fetch_add((end - first).div_ceil(LISTED_MAX), Ordering::Relaxed);
        let stream = TimelineId(1).stream_name();
        Ok((first..end)
            .filter(|&seq| self.is_there(seq))
            .map(|seq| Listed {
                key: layout::segment(&stream, seq),
                object_bytes: 700,
            })
            .collect())
    }

    async fn children(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        tokio::time::sleep(self.oddities.delay).await;
        self.requests.fetch_add(1, Ordering::Relaxed);
        if prefix == layout::LOG {
            Ok(vec![TimelineId(1).stream()])
        } else {
            self.memory.children(prefix).await
        }
    }

    async fn settle(&self, _prefix: &str) -> Result<(), StoreError> {
        Ok(())
    }
}

/// A base backup that begins behind the commit of `page` and is consistent `pages` later, or at once.
async fn back_up(writer: &Arc<Writer>, page: u64, pages: u64) {
    let moment = jiff::Timestamp::from_microsecond(commit_time(page)).unwrap();
    let id = BackupId::at(moment);
    let settings = BackupSettings {
        compression_level: 1,
        puts_in_flight: 2,
    };
    let stream = TimelineId(1).stream_name();
    let mut backup =
        BackupWriter::start(Arc::clone(writer), id, stream, settings, Compressor::new());
    backup.append(b"{}").await.unwrap();
    let start = commit_at(page) + 40;
    let end = if pages == 0 {
        start + 8
    } else {
        commit_at(page + pages)
    };
    let manifest = BackupManifest {
        version: BackupManifest::VERSION,
        label: String::new(),
        server_version: "17.10".into(),
        system_id: SYSTEM_ID,
        wal_segment_bytes: WAL_SEGMENT,
        start_lsn: Lsn(start),
        start_timeline: TimelineId(1),
        end_lsn: Lsn(end),
        end_timeline: TimelineId(1),
        started: moment,
        finished: moment,
        from_standby: false,
        parent: None,
        tablespaces: Vec::new(),
        entries: Vec::new(),
        postgres_manifest: Contents {
            offset: 0,
            bytes: 2,
        },
        contents_bytes: 2,
        parts: 1,
    };
    let times = (commit_time(page), commit_time(page + pages));
    backup
        .finish(start, end, times, &manifest.encode())
        .await
        .unwrap();
}

/// As the daemon renews it every minute: a little behind the end.
async fn put_head(store: &EndlessStore, key: &WriterKey) {
    let seq = if store.oddities.is_busy {
        BUSY_FROM - 40
    } else {
        SEGMENTS - 40
    };
    let head = Head {
        seq,
        end: position(seq + 1),
        covered: None,
        written: jiff::Timestamp::now(),
    };
    let object = layout::head(&TimelineId(1).stream_name());
    store
        .put_replacing(&object, SignedDocument::sign(&object, &head, key).into())
        .await
        .unwrap();
}

/// With a base backup a day.
pub async fn endless() -> (Arc<EndlessStore>, Reading) {
    let daily: Vec<_> = (0..SEGMENTS.div_ceil(DAY))
        .map(|day| (day * DAY + 100, 60))
        .collect();
    endless_with(&daily, Oddities::default()).await
}

/// With base backups that begin behind the commit of a page and are consistent so many pages later.
pub async fn endless_with(
    backups: &[(u64, u64)],
    oddities: Oddities,
) -> (Arc<EndlessStore>, Reading) {
    let store = Arc::new(EndlessStore {
        memory: MemoryStore::new(),
        writer: OnceLock::new(),
        requests: AtomicU64::new(0),
        oddities,
        sealed: Mutex::default(),
    });
    let (identity, key) = (Identity::generate(), WriterKey::generate());
    let wrappers = [Wrapper::Recipient(identity.recipient())];
    let source = Source {
        system_id: SYSTEM_ID,
        wal_segment_bytes: WAL_SEGMENT,
    }
    .properties();
    let archive = Archive::create(store.clone(), "test", ENGINE, source, &key, &wrappers)
        .await
        .unwrap();
    put_head(&store, &key).await;
    let writer = Writer::new(Arc::clone(&archive), key, wrappers.to_vec()).unwrap();
    store.writer.set(Arc::clone(&writer)).unwrap();
    for &(page, pages) in backups {
        back_up(&writer, page, pages).await;
    }
    (store, Reading::new(archive, Opener::Identity(identity)))
}

//! Whole requests against archives that are made here: the bytes stand for WAL, only their positions matter.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pitr_archive::keys::{Identity, Opener, Wrapper, WriterKey};
use pitr_archive::layout;
use pitr_archive::object::{Frame, Id, Kind};
use pitr_archive::store::DirectoryStore;
use pitr_archive::writer::{
    Annotate, Annotation, Compressor, LogSettings, LogWriter, Writer, resume,
};

use super::prefetch::AHEAD_BYTES;
use super::*;
use crate::Lsn;

const SEGMENT: u64 = 1 << 20;

struct Blind;

impl Annotate for Blind {
    fn observe(&mut self, _: u64, _: &[u8]) -> bool {
        false
    }

    fn cut(&mut self) -> Annotation {
        Annotation::default()
    }
}

struct Site {
    scratch: tempfile::TempDir,
    writer: Arc<Writer>,
    reading: Arc<Reading>,
}

/// The byte at a position, different from its neighbours.
fn byte(position: u64) -> u8 {
    (position.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

fn bytes(positions: std::ops::Range<u64>) -> Vec<u8> {
    positions.map(byte).collect()
}

fn name(timeline: u32, segment: u64) -> String {
    WalFileName::segment(TimelineId(timeline), Lsn(segment * SEGMENT), SEGMENT)
}

impl Site {
    async fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let store = Arc::new(DirectoryStore::new(scratch.path().join("archive")));
        let (key, identity) = (WriterKey::generate(), Identity::generate());
        let wrappers = vec![Wrapper::Recipient(identity.recipient())];
        let source = Source {
            system_id: 7,
            wal_segment_bytes: SEGMENT,
        }
        .properties();
        let source: BTreeMap<_, _> = source.into_iter().collect();
        let archive = Archive::create(
            store,
            "file:///test",
            crate::ENGINE,
            source,
            &key,
            &wrappers,
        );
        let archive = archive.await.unwrap();
        let writer = Writer::new(Arc::clone(&archive), key, wrappers).unwrap();
        let reading = Arc::new(Reading::new(archive, Opener::Identity(identity)));
        fs::create_dir(scratch.path().join("pg_wal")).unwrap();
        Self {
            scratch,
            writer,
            reading,
        }
    }

    /// Archives these positions of a timeline, in segments that do not fall together with WAL segments.
    async fn log(&self, timeline: u32, positions: std::ops::Range<u64>) {
        let stream = TimelineId(timeline).stream_name();
        let found = resume(&self.writer, &stream, false).await.unwrap();
        let settings = LogSettings {
            segment_bytes_max: 700_000,
            linger: Duration::from_secs(60),
            compression_level: 1,
            puts_in_flight: 4,
        };
        let writer = Arc::clone(&self.writer);
        let from = positions.start;
        let log = LogWriter::start(
            writer,
            stream,
            found,
            from,
            settings,
            Compressor::new(),
            Box::new(Blind),
        );
        let mut at = from;
        while at < positions.end {
            let end = (at + 100_000).min(positions.end);
            log.room()
                .await
                .unwrap()
                .append(at, Bytes::from(bytes(at..end)));
            at = end;
        }
        assert_eq!(log.finish().await.unwrap(), positions.end);
    }

    async fn history(&self, timeline: u32, text: &str) {
        let stream = TimelineId(timeline).stream_name();
        let mut header = self.writer.header(Kind::History, &stream, Id::default(), 0);
        header.end = text.len() as u64;
        let frames = vec![Frame::compress(text.as_bytes(), 1)];
        let sealed = self.writer.seal(header, frames, Vec::new()).await.unwrap();
        let key = layout::history(&stream);
        self.reading
            .archive()
            .store()
            .put_if_absent(&key, sealed.bytes)
            .await
            .unwrap();
    }

    fn object(&self, timeline: u32, seq: u64) -> PathBuf {
        let key = layout::segment(&TimelineId(timeline).stream_name(), seq);
        self.scratch.path().join("archive").join(key)
    }

    fn to(&self) -> PathBuf {
        self.scratch.path().join("pg_wal/RECOVERYXLOG")
    }

    async fn fetch(&self, name: &str) -> Result<Fetched, WalFetchError> {
        // As a process of its own, which remembers nothing.
        let _ = fs::remove_file(self.to());
        fetch(&self.reading, name, &self.to(), None).await
    }

    #[track_caller]
    fn assert_holds(&self, segment: u64, upto: u64) {
        let start = segment * SEGMENT;
        let mut expected = bytes(start..upto);
        expected.resize(SEGMENT as usize, 0);
        assert!(
            fs::read(self.to()).unwrap() == expected,
            "segment {segment}"
        );
    }
}

#[tokio::test]
async fn segments_come_whole_and_the_last_one_is_filled_up_with_zeros() {
    let site = Site::new().await;
    let end = 5 * SEGMENT + 12_345;
    site.log(1, 2 * SEGMENT..end).await;
    for segment in 2..6 {
        assert_eq!(
            site.fetch(&name(1, segment)).await.unwrap(),
            Fetched::InPlace
        );
        site.assert_holds(segment, end.min((segment + 1) * SEGMENT));
    }
    assert_eq!(site.fetch(&name(1, 6)).await.unwrap(), Fetched::Absent);
    assert!(!site.to().exists());
}

#[tokio::test]
async fn a_damaged_or_missing_segment_is_not_absent() {
    let site = Site::new().await;
    site.log(1, 0..4 * SEGMENT).await;
    let (path, whole) = (site.object(1, 2), fs::read(site.object(1, 2)).unwrap());
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    fs::write(&path, damaged).unwrap();
    assert!(site.fetch(&name(1, 1)).await.is_err());
    assert!(!site.to().exists(), "nothing unauthenticated is left");
    fs::remove_file(&path).unwrap();
    assert!(site.fetch(&name(1, 1)).await.is_err());
    fs::write(&path, whole).unwrap();
    assert_eq!(site.fetch(&name(1, 1)).await.unwrap(), Fetched::InPlace);
    // The tail that the head knows of.
    let last = (0..)
        .take_while(|&seq| site.object(1, seq).exists())
        .last()
        .unwrap();
    fs::remove_file(site.object(1, last)).unwrap();
    assert!(site.fetch(&name(1, 3)).await.is_err());
    assert!(
        site.fetch(&name(1, 4)).await.is_err(),
        "a store that lost its tail proves nothing"
    );
}

#[tokio::test]
async fn a_store_that_is_away_or_a_wrong_name_proves_nothing() {
    let site = Site::new().await;
    site.log(1, 0..SEGMENT).await;
    for wrong in [
        "x",
        "000000010000000000000001.partial",
        "../00000002.history",
        "",
    ] {
        assert!(site.fetch(wrong).await.is_err(), "{wrong:?}");
    }
    let root = site.scratch.path().join("archive");
    fs::rename(&root, site.scratch.path().join("away")).unwrap();
    for name in [name(1, 0), name(1, 9), "00000002.history".into()] {
        assert!(site.fetch(&name).await.is_err(), "{name}");
    }
}

#[tokio::test]
async fn a_gap_is_neither_there_nor_absent() {
    let site = Site::new().await;
    site.log(1, 0..3 * SEGMENT / 2).await;
    site.log(1, 4 * SEGMENT..5 * SEGMENT).await;
    assert_eq!(site.fetch(&name(1, 0)).await.unwrap(), Fetched::InPlace);
    for inside in 1..4 {
        let error = site.fetch(&name(1, inside)).await.unwrap_err();
        assert!(matches!(error, WalFetchError::Gap { .. }), "{error}");
    }
    assert_eq!(site.fetch(&name(1, 4)).await.unwrap(), Fetched::InPlace);
    site.assert_holds(4, 5 * SEGMENT);
}

#[tokio::test]
async fn a_timeline_has_no_segments_before_it_began() {
    let site = Site::new().await;
    site.log(1, SEGMENT..3 * SEGMENT + 500).await;
    site.log(2, 3 * SEGMENT..5 * SEGMENT).await;
    assert!(
        site.fetch(&name(2, 2)).await.is_err(),
        "nobody knows where timeline 2 came from"
    );
    let text = format!(
        "1\t{}\tno recovery target specified\n",
        Lsn(3 * SEGMENT + 400)
    );
    site.history(2, &text).await;
    assert_eq!(site.fetch(&name(2, 2)).await.unwrap(), Fetched::Absent);
    assert_eq!(site.fetch(&name(2, 3)).await.unwrap(), Fetched::InPlace);
    assert!(
        site.fetch(&name(2, 0)).await.is_err(),
        "no ancestor has it either"
    );
    assert_eq!(site.fetch(&name(3, 3)).await.unwrap(), Fetched::Absent);
    assert_eq!(
        site.fetch("00000002.history").await.unwrap(),
        Fetched::InPlace
    );
    assert_eq!(fs::read_to_string(site.to()).unwrap(), text);
    assert_eq!(
        site.fetch("00000003.history").await.unwrap(),
        Fetched::Absent
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_prefetcher_stays_ahead_by_whole_segments_and_leaves_the_cut_off_one() {
    let site = Site::new().await;
    site.log(1, 0..6 * SEGMENT + 999).await;
    let ready = Ready::beside(&site.to()).unwrap();
    ready.note(&name(1, 1), "here").unwrap();
    let running = ready.run().unwrap().unwrap();
    let (reading, its) = (Arc::clone(&site.reading), ready.clone());
    let prefetcher = tokio::spawn(async move { prefetch(&reading, &its, running).await });
    for segment in 2..6 {
        while !ready.take(&name(1, segment), &site.to(), "here") {
            assert!(ready.is_running(), "it stays until the last is taken");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        site.assert_holds(segment, (segment + 1) * SEGMENT);
        ready.note(&name(1, segment), "here").unwrap();
    }
    prefetcher.await.unwrap().unwrap();
    assert!(
        !ready.take(&name(1, 6), &site.to(), "here"),
        "it may have grown when it is asked for"
    );
    assert!(!ready.is_running());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_prefetcher_keeps_its_window_and_follows_the_server_elsewhere() {
    let site = Site::new().await;
    let window = AHEAD_BYTES / SEGMENT;
    let all = window + 6;
    site.log(1, 0..all * SEGMENT).await;
    let ready = Ready::beside(&site.to()).unwrap();
    ready.note(&name(1, 0), "here").unwrap();
    let running = ready.run().unwrap().unwrap();
    let (reading, its) = (Arc::clone(&site.reading), ready.clone());
    let prefetcher = tokio::spawn(async move { prefetch(&reading, &its, running).await });
    let appears = async |segment: u64| {
        let since = Instant::now();
        while !ready.path().join(name(1, segment)).exists() {
            assert!(
                since.elapsed() < Duration::from_secs(30),
                "{segment} does not come"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    appears(window).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(
        !ready.path().join(name(1, window + 1)).exists(),
        "not further than the window"
    );
    assert!(ready.is_coming(&name(1, window)) && !ready.is_coming(&name(1, window + 1)));
    ready.note(&name(1, 3), "here").unwrap();
    appears(window + 3).await;
    // Back to where it was: what lies ready from there on is kept.
    ready.note(&name(1, 1), "here").unwrap();
    appears(2).await;
    ready.note(&name(1, all - 1), "here").unwrap();
    prefetcher.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_prefetcher_ends_when_another_archive_s_files_are_wanted() {
    let site = Site::new().await;
    site.log(1, 0..6 * SEGMENT).await;
    let ready = Ready::beside(&site.to()).unwrap();
    ready.note(&name(1, 0), "here").unwrap();
    let running = ready.run().unwrap().unwrap();
    let (reading, its) = (Arc::clone(&site.reading), ready.clone());
    let prefetcher = tokio::spawn(async move { prefetch(&reading, &its, running).await });
    while !ready.path().join(name(1, 5)).exists() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    ready.note(&name(1, 0), "elsewhere").unwrap();
    // In the instant between the one note and the other it may also find none.
    let ended = tokio::time::timeout(Duration::from_secs(30), prefetcher).await;
    let _ = ended.expect("it does not wait to be asked").unwrap();
    assert!(!ready.is_running() && !ready.path().join(name(1, 1)).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_prefetcher_stops_at_damage_and_says_so() {
    let site = Site::new().await;
    site.log(1, 0..6 * SEGMENT).await;
    let mut damaged = fs::read(site.object(1, 5)).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(site.object(1, 5), damaged).unwrap();
    let ready = Ready::beside(&site.to()).unwrap();
    ready.note(&name(1, 0), "here").unwrap();
    let running = ready.run().unwrap().unwrap();
    assert!(prefetch(&site.reading, &ready, running).await.is_err());
    for segment in 3..6 {
        assert!(!ready.path().join(name(1, segment)).exists(), "{segment}");
    }
}

//! A log of records: positions that are no byte counts, and records that are never cut, through crashes and holes.

use std::sync::Arc;
use std::time::Duration;

use pitr_archive::reader::LogReader;
use pitr_archive::store::SharedStore;
use pitr_archive::writer::{Compressor, LogSettings, LogWriter, RecordEnd, resume};
use pitr_archive::{ArchiveError, Reading};
use pitr_tests::fault_store::{Call, Fault, FaultStore};
use pitr_tests::known_source::PositionsAsTimes;
use pitr_tests::life::{Keys, Random, holes, runtime, stream};
use pitr_tests::memory_store::MemoryStore;

const FIRST: u64 = 5 << 32;
const SEGMENT_BYTES: u64 = 1000;

/// Records as a source writes them: each ends at its position, far from the one before it or next to it.
fn source(seed: u64) -> Vec<(u64, Vec<u8>)> {
    let (mut random, mut position) = (Random(seed), FIRST);
    (0..200_u32)
        .map(|number| {
            position += match random.below(10) {
                0 => 1 << 32,
                1..4 => 1 + random.below(100),
                _ => 1,
            };
            // Some are longer than a segment.
            let length = if random.below(40) == 0 {
                1500
            } else {
                8 + random.below(120)
            };
            let mut bytes = number.to_be_bytes().to_vec();
            bytes.resize(length as usize, number as u8);
            (position, bytes)
        })
        .collect()
}

/// Resumes, appends what comes behind the durable end, finishes.
async fn archive_all(store: SharedStore, source: &[(u64, Vec<u8>)]) -> Result<u64, ArchiveError> {
    let writer = Keys::shared().writer(store).await?;
    let found = resume(&writer, &stream(), false).await?;
    let from = found.durable().unwrap_or(FIRST);
    let settings = LogSettings {
        segment_bytes_max: SEGMENT_BYTES,
        linger: Duration::from_secs(1 << 30),
        compression_level: 1,
        puts_in_flight: 8,
    };
    let annotate = Box::new(PositionsAsTimes::default());
    let log = LogWriter::start(
        writer,
        stream(),
        found,
        from,
        settings,
        Compressor::new(),
        annotate,
    );
    let left: Vec<_> = source
        .iter()
        .filter(|(position, _)| *position > from)
        .collect();
    let mut start = from;
    for piece in left.chunks(7) {
        let Some(room) = log.room().await else { break };
        let ends = piece.iter().map(|(position, bytes)| RecordEnd {
            position: *position,
            bytes: bytes.len() as u32,
        });
        let bytes: Vec<u8> = piece.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        room.append_records(start, bytes.into(), ends.collect());
        start = piece.last().map_or(start, |(position, _)| *position);
    }
    log.finish().await
}

/// Lets the puts of the numbers that `lands` refuses hang, and dies when `begun` were begun.
fn die(
    medium: &MemoryStore,
    source: &[(u64, Vec<u8>)],
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
            while waiting
                .calls()
                .iter()
                .filter(|call| call.puts_segment())
                .count()
                < begun
            {
                tokio::task::yield_now().await;
            }
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            ended = archive_all(Arc::new(store.clone()), source) => panic!("it ended: {ended:?}"),
            () = enough => {}
        }
    });
}

/// Every segment follows the one before it and holds whole records, within its positions, all of them together.
fn check_whole(medium: &MemoryStore, source: &[(u64, Vec<u8>)], context: &str) {
    runtime().block_on(async {
        let archive = Keys::shared()
            .archive(Arc::new(medium.clone()))
            .await
            .unwrap();
        let reader = LogReader::new(archive.clone(), stream());
        let reading = Reading::new(archive, Keys::shared().opener());
        let end = reader.end().await.unwrap();
        let runs = reader.runs(&end).await.unwrap();
        assert_eq!(runs.len(), 1, "{context}");
        let mut left = source;
        for seq in runs[0].seqs.clone() {
            let opened = reader.segment(seq, &reading).await.unwrap();
            let header = &opened.header;
            let count = left
                .iter()
                .take_while(|(position, _)| *position <= header.end)
                .count();
            let (here, behind) = left.split_at(count);
            let expected: Vec<u8> = here.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
            assert!(
                opened.plaintext().unwrap() == expected,
                "{context}: segment {seq}"
            );
            left = behind;
        }
        assert!(
            left.is_empty(),
            "{context}: {} records are missing",
            left.len()
        );
    });
}

#[test]
fn records_are_archived_whole_and_segments_end_between_them() {
    let (medium, source) = (MemoryStore::new(), source(1));
    let end = runtime()
        .block_on(archive_all(Arc::new(medium.clone()), &source))
        .unwrap();
    assert_eq!(end, source.last().unwrap().0);
    check_whole(&medium, &source, "without a fault");
}

#[test]
fn holes_among_records_are_filled_whichever_numbers_a_crash_left() {
    for seed in 0..60 {
        let (medium, source) = (MemoryStore::new(), source(seed));
        // Each bit lets one of the first eight numbers land, the seventh always.
        let landed = ((seed * 37) % 64) | 64;
        die(&medium, &source, 8, move |seq| {
            seq < 8 && landed >> seq & 1 == 1
        });
        let missing = (0..6).filter(|seq| landed >> seq & 1 == 0).count();
        assert_eq!(holes(&medium), missing, "seed {seed}");
        let end = runtime()
            .block_on(archive_all(Arc::new(medium.clone()), &source))
            .unwrap();
        assert_eq!(end, source.last().unwrap().0, "seed {seed}");
        check_whole(
            &medium,
            &source,
            &format!("seed {seed}, landed {landed:#b}"),
        );
    }
}

#[test]
fn a_hole_of_several_numbers_whose_records_all_lie_at_one_end_is_filled() {
    // All bytes come first, and nearly all positions belong to the last record.
    let mut source: Vec<(u64, Vec<u8>)> =
        (1..=30).map(|n| (FIRST + n, vec![n as u8; 300])).collect();
    source.extend((1..=20_u64).map(|n| (FIRST + (n << 40), vec![n as u8; 300])));
    let medium = MemoryStore::new();
    die(&medium, &source, 8, |seq| seq == 7);
    assert_eq!(holes(&medium), 7);
    runtime()
        .block_on(archive_all(Arc::new(medium.clone()), &source))
        .unwrap();
    check_whole(&medium, &source, "seven numbers in a row");
}

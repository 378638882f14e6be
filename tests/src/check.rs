//! What an archive holds, read back and held against the source.

use std::ops::Range;
use std::sync::Arc;

use pitr_archive::object::Opened;
use pitr_archive::reader::LogReader;
use pitr_archive::store::SharedStore;
use pitr_archive::verify::Verifier;
use pitr_archive::{ArchiveError, Reading};

use crate::known_source::KnownSource;
use crate::life::{Keys, stream};

/// Reads the archive back and holds it against the source: one unbroken run of every byte up to `end`.
///
/// # Panics
/// As [`check_runs`].
pub async fn check_whole(store: SharedStore, source: &KnownSource, end: u64) {
    check_runs(store, source, std::slice::from_ref(&(source.start()..end))).await;
}

/// Reads the archive back and holds it against the source: these runs and no others, in them every number and every byte, the
/// chain and every chunk sound.
///
/// # Panics
/// If anything is missing, damaged or different.
pub async fn check_runs(store: SharedStore, source: &KnownSource, wanted: &[Range<u64>]) {
    let reading = check_bytes(store, source, wanted).await;
    let verifier = Verifier::new(Arc::clone(reading.archive()), Some(&reading), &|_| ());
    let verified = verifier.run().await.expect("the store answers");
    assert!(verified.faults.is_empty(), "{:?}", verified.faults);
}

/// As [`check_runs`], without the verification of what lies outside the runs.
///
/// # Panics
/// If anything in the runs is missing, damaged or different.
pub async fn check_bytes(
    store: SharedStore,
    source: &KnownSource,
    wanted: &[Range<u64>],
) -> Reading {
    let keys = Keys::shared();
    let archive = keys.archive(store).await.expect("the archive opens");
    let reading = Reading::new(Arc::clone(&archive), keys.opener());
    let log = LogReader::new(Arc::clone(&archive), stream());
    let tail = log.end().await.expect("the end is found");
    tail.check_tail(&stream()).expect("the tail is there");
    let runs = log.runs(&tail).await.expect("runs are found");
    let ends = runs.last().map_or(0, |run| run.positions.end);
    let covered = tail.head.as_ref().and_then(|head| head.covered);
    assert!(covered.is_none_or(|clock| clock as u64 <= ends), "{tail:?}");
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
    reading
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

/// Proves by listing that every number of the stream is there.
///
/// # Errors
/// The first hole.
///
/// # Panics
/// If the archive cannot be opened.
pub async fn prove(store: SharedStore) -> Result<(), ArchiveError> {
    let archive = Keys::shared().archive(store).await.expect("it opens");
    let log = LogReader::new(archive, stream());
    let last = log.end().await?.last.expect("not empty");
    log.prove_present(0..last + 1).await.map(drop)
}

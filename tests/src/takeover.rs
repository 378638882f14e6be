//! What comes after two daemons on one archive: one start, that goes on where what was acknowledged ends.

use std::ops::Range;
use std::sync::Arc;

use pitr_archive::ArchiveError;
use pitr_archive::reader::LogReader;

use crate::check::{check_bytes, check_runs, check_whole};
use crate::fault_store::FaultStore;
use crate::known_source::KnownSource;
use crate::life::{Keys, Pace, live, runtime, segment, stream};
use crate::memory_store::MemoryStore;

/// Written by the source after the break was accepted.
const MORE: u64 = 1000;

/// The positions of the stream's runs for a reader; none if the first segment is missing.
///
/// # Panics
/// If the stream cannot be read.
pub async fn readable(medium: &MemoryStore) -> Vec<Range<u64>> {
    let archive = Keys::shared()
        .archive(Arc::new(medium.clone()))
        .await
        .unwrap();
    let log = LogReader::new(archive, stream());
    let runs = log.runs(&log.end().await.unwrap()).await.unwrap();
    runs.into_iter().map(|run| run.positions).collect()
}

/// The same where nothing may be deleted and the break is accepted: the log goes on behind what stands in the way, and no position is
/// missing.
fn goes_on_behind(medium: &MemoryStore, from: &KnownSource, context: &str) {
    let medium = MemoryStore::of(&medium.snapshot());
    // A source that ends where the log does would begin no run.
    let (start, end) = (from.start(), from.end() + MORE);
    let source = KnownSource::new(start, (end - start) as usize);
    source.acknowledge(from.acknowledged());
    let accepting = Pace {
        accept_break: true,
        ..Pace::SMALL
    };
    let ended = live(&FaultStore::new(medium.clone()), &source, accepting).unwrap();
    assert_eq!(ended.unwrap(), end, "{context}");
    let runs = runtime().block_on(readable(&medium));
    let touching = |pair: &[Range<u64>]| pair[0].end == pair[1].start;
    assert!(runs.windows(2).all(touching), "{context}: {runs:?}");
    let ends = runs.first().map(|run| run.start).zip(runs.last());
    let ends = ends.map(|(start, last)| start..last.end);
    assert_eq!(ends, Some(start..end), "{context}");
    let store = Arc::new(medium.clone());
    // A number that is missing among them stays missing, and a verification says so.
    if (0..segments(&medium)).all(|seq| medium.object(&segment(seq)).is_some()) {
        runtime().block_on(check_runs(store, &source, &runs));
    } else {
        runtime().block_on(check_bytes(store, &source, &runs));
    }
}

/// Numbers up to the last one that is there.
fn segments(medium: &MemoryStore) -> u64 {
    let is_there = |seq: &u64| medium.object(&segment(*seq)).is_some();
    (0..1000).rev().find(is_there).map_or(0, |last| last + 1)
}

/// The start after two daemons met, as the only one: from what `source` was acknowledged to its end. Where a put of a fenced daemon
/// landed behind one of the other's the start names the object, which is deleted here. How often that was.
///
/// # Panics
/// If anything acknowledged is lost, or the archive does not become whole.
pub fn take_over(medium: &MemoryStore, source: &Arc<KnownSource>, context: &str) -> usize {
    let (end, forks) = start_again(medium, source, context);
    assert_eq!(end, source.end(), "{context}");
    runtime().block_on(check_whole(Arc::new(medium.clone()), source, end));
    forks
}

fn start_again(medium: &MemoryStore, source: &Arc<KnownSource>, context: &str) -> (u64, usize) {
    for forks in 0..=16 {
        let store = FaultStore::new(medium.clone());
        match live(&store, source, Pace::SMALL).unwrap() {
            Ok(end) => return (end, forks),
            Err(ArchiveError::Stray { key, .. }) => {
                assert!(store.calls().iter().all(|call| !call.puts_segment()));
                // Until somebody does, a reader sees the stream end where what was acknowledged ends, or later.
                let runs = runtime().block_on(readable(medium));
                assert!(runs.len() <= 1, "{runs:?}");
                let end = runs.first().map_or(source.start(), |run| run.end);
                assert!(end >= source.acknowledged(), "{context}: {end:#x}");
                runtime().block_on(check_bytes(Arc::new(medium.clone()), source, &runs));
                goes_on_behind(medium, source, context);
                medium.delete(&key);
            }
            Err(error) => panic!("{context}: {error}"),
        }
    }
    panic!("{context}: more objects stand in the way than can be in flight");
}

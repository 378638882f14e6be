//! A store that fails, hangs, is slow or lies: nothing is acknowledged that is not durable, and it goes on when the store does.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pitr_archive::ArchiveError;
use pitr_archive::store::StoreError;
use pitr_tests::check::{check_whole, prove};
use pitr_tests::fault_store::{Call, Failure, Fault, FaultStore};
use pitr_tests::known_source::KnownSource;
use pitr_tests::life::{
    FIRST_POSITION, Pace, Random, archive_all, live, live_to_the_end, runtime, segment, stream,
};
use pitr_tests::memory_store::MemoryStore;

const START: u64 = FIRST_POSITION;
const PASSING: [Failure; 3] = [Failure::Unavailable, Failure::Full, Failure::Denied];

/// Lives until one ends without an error; the errors before must be ones that pass.
fn live_on(store: &FaultStore, source: &Arc<KnownSource>, context: &str) {
    for _ in 0..5 {
        match live(store, source, Pace::SMALL).expect("no crash is scripted") {
            Ok(end) => {
                assert_eq!(end, source.end(), "{context}");
                return;
            }
            Err(error) => assert!(!error.is_permanent(), "{context}: {error}"),
        }
    }
    panic!("{context}: it does not get past one failure");
}

#[test]
fn a_failure_that_passes_at_any_call_is_retried_and_the_archive_is_whole() {
    for failure in PASSING {
        for fault in [Fault::FailBefore(failure), Fault::FailAfter(failure)] {
            let mut failed = 0;
            for number in 0.. {
                let (medium, source) = (MemoryStore::new(), KnownSource::new(START, 3_500));
                let store = FaultStore::new(medium.clone());
                store.at(number, fault.clone());
                let context = format!("{fault:?} at call {number}");
                live_on(&store, &source, &context);
                runtime().block_on(check_whole(Arc::new(medium), &source, source.end()));
                if store.calls().len() as u64 <= number {
                    break;
                }
                failed += 1;
            }
            assert!(failed > 20, "only {failed} calls failed");
        }
    }
}

#[test]
fn a_broken_medium_stops_the_writer_and_nothing_more_is_acknowledged() {
    let mut stopped = 0;
    for number in 0.. {
        let (medium, source) = (MemoryStore::new(), KnownSource::new(START, 3_500));
        let store = FaultStore::new(medium.clone());
        store.at(number, Fault::FailBefore(Failure::Broken));
        let ended = live(&store, &source, Pace::SMALL).unwrap();
        let Some(call) = store.calls().get(number as usize).cloned() else {
            break;
        };
        match ended {
            Err(ArchiveError::Store(error @ StoreError::Broken { .. })) => {
                assert!(error.to_string().contains(&call.key), "{error}");
                stopped += 1;
            }
            // The head is a hint: what becomes of it stops nobody.
            Ok(_) => assert!(call.key.ends_with("/head") && call.is_put(), "{call:?}"),
            Err(error) => panic!("{call:?}: {error}"),
        }
        live_to_the_end(&medium, &source, &format!("after {call:?}"));
    }
    assert!(stopped > 20, "only {stopped} calls broke");
}

#[test]
fn a_segment_that_is_old_grows_while_the_store_is_busy_and_reading_goes_on() {
    let (medium, source) = (MemoryStore::new(), KnownSource::new(START, 60_000));
    let store = FaultStore::new(medium.clone());
    store.inject(u64::MAX, Fault::HangBefore, Call::puts_segment);
    let pace = Pace {
        segment_bytes: 1 << 20,
        piece_bytes: 100,
        in_flight: 1,
        // Whatever the clock says, a segment that holds something is old.
        linger: Duration::ZERO,
        ..Pace::SMALL
    };
    runtime().block_on(async {
        let (shared, same) = (Arc::new(store.clone()), Arc::clone(&source));
        let life = tokio::spawn(async move { archive_all(shared, &same, pace).await });
        // All of it is read, though nothing of it is taken.
        while source.read_up_to() < source.end() {
            tokio::task::yield_now().await;
        }
        assert_eq!(source.acknowledged(), START);
        store.heal();
        assert_eq!(life.await.unwrap().unwrap(), source.end());
    });
    runtime().block_on(check_whole(Arc::new(medium.clone()), &source, source.end()));
    // One under way, one behind it, the one that grew, and what was read and not yet cut when the store went on; of 600 pieces.
    let keys = medium.keys().into_iter();
    let segments = keys.filter(|key| key.starts_with("log/") && !key.ends_with("/head"));
    let count = segments.count();
    assert!((2..30).contains(&count), "{count} segments");
}

/// Lets every put of a segment suffer `fault` for ten minutes; then all is well again.
fn ten_minutes_of(fault: Fault) {
    let (medium, source) = (MemoryStore::new(), KnownSource::new(START, 9_500));
    let store = FaultStore::new(medium.clone());
    store.inject(u64::MAX, fault, Call::puts_segment);
    runtime().block_on(async {
        let (shared, same) = (Arc::new(store.clone()), Arc::clone(&source));
        let life = tokio::spawn(async move { archive_all(shared, &same, Pace::SMALL).await });
        // Yielding keeps the clock of the runtime from running ahead of the compressor's threads.
        let tries = || store.calls().iter().filter(|c| c.puts_segment()).count();
        while tries() < Pace::SMALL.in_flight as usize {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_secs(600)).await;
        let tried = tries();
        assert!(tried > 10, "only {tried} tries in ten minutes");
        assert!(tried < 2000, "{tried} tries in ten minutes are a storm");
        assert_eq!(source.acknowledged(), START);
        assert!(!life.is_finished());
        store.heal();
        assert_eq!(life.await.unwrap().unwrap(), source.end());
    });
    runtime().block_on(check_whole(Arc::new(medium), &source, source.end()));
}

#[test]
fn a_store_that_hangs_gets_no_acknowledgement_and_is_tried_again() {
    ten_minutes_of(Fault::HangBefore);
}

#[test]
fn a_full_store_gets_no_acknowledgement_and_is_tried_again() {
    ten_minutes_of(Fault::FailBefore(Failure::Full));
}

#[test]
fn a_store_that_refuses_gets_no_acknowledgement_and_is_tried_again() {
    ten_minutes_of(Fault::FailBefore(Failure::Denied));
}

#[test]
fn a_store_that_is_away_gets_no_acknowledgement_and_is_tried_again() {
    ten_minutes_of(Fault::FailBefore(Failure::Unavailable));
}

#[test]
fn puts_whose_answers_never_come_are_compared_and_counted() {
    let (medium, source) = (MemoryStore::new(), KnownSource::new(START, 9_500));
    let store = FaultStore::new(medium.clone());
    store.inject(8, Fault::HangAfter, Call::puts_segment);
    live_on(&store, &source, "answers hang");
    runtime().block_on(check_whole(Arc::new(medium), &source, source.end()));
}

#[test]
fn puts_that_overtake_each_other_are_counted_in_order() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let (medium, source) = (MemoryStore::new(), KnownSource::new(START, 30_500));
        let store = FaultStore::new(medium.clone());
        for number in 0..200 {
            let delay = Duration::from_millis(random.below(20_000));
            store.at(number, Fault::Delay(delay));
        }
        live_on(&store, &source, &format!("seed {seed}"));
        runtime().block_on(check_whole(Arc::new(medium), &source, source.end()));
    }
}

#[test]
fn a_store_that_only_says_it_has_kept_a_segment_is_found_out_and_the_segment_named() {
    for lost in 0..9 {
        let (medium, source) = (MemoryStore::new(), KnownSource::new(START, 9_500));
        let store = FaultStore::new(medium.clone());
        let key = segment(lost);
        store.inject(1, Fault::LieDone, move |call| {
            call.is_put() && call.key == key
        });
        assert_eq!(
            live(&store, &source, Pace::SMALL).unwrap().unwrap(),
            source.end()
        );
        let error = runtime().block_on(prove(Arc::new(medium))).unwrap_err();
        let ArchiveError::Hole {
            stream: name, seq, ..
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!((name, seq), (stream().to_string(), lost));
    }
}

#[test]
fn a_store_that_returns_other_bytes_is_never_written_to() {
    let (medium, source) = (MemoryStore::new(), KnownSource::new(START, 9_500));
    let until = Pace {
        until: Some(START + 5_000),
        ..Pace::SMALL
    };
    live(&FaultStore::new(medium.clone()), &source, until);
    let (first, last) = (segment(0), segment(4));
    let other = medium.object(&first).unwrap();
    let mut damaged = medium.object(&last).unwrap().to_vec();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    for lie in [
        Bytes::new(),
        Bytes::from_static(b"lies"),
        other,
        damaged.into(),
    ] {
        let store = FaultStore::new(medium.clone());
        let lied = last.clone();
        store.inject(u64::MAX, Fault::LieBytes(lie), move |call| call.key == lied);
        let error = live(&store, &source, Pace::SMALL).unwrap().unwrap_err();
        let ArchiveError::Object(error) = error else {
            panic!("{error}");
        };
        assert_eq!(error.key, last);
        assert!(store.calls().iter().all(|call| !call.puts_segment()));
    }
}

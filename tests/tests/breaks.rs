//! Holes, breaks and ends: what a start does with a stream that is not simply whole.

use std::sync::Arc;

use pitr_archive::ArchiveError;
use pitr_archive::catalogue::Catalogue;
use pitr_archive::reader::LogReader;
use pitr_archive::verify::Verifier;
use pitr_tests::check::{check_bytes, check_runs, check_whole, prove};
use pitr_tests::fault_store::FaultStore;
use pitr_tests::known_source::KnownSource;
use pitr_tests::life::{
    FIRST_POSITION, Keys, Pace, die_with_puts_under_way, holes, live, live_to_the_end, runtime,
    segment, stream,
};
use pitr_tests::memory_store::MemoryStore;

const START: u64 = FIRST_POSITION;

/// A life that stops in good order at `until`.
fn live_until(
    medium: &MemoryStore,
    source: &Arc<KnownSource>,
    until: u64,
) -> Result<u64, ArchiveError> {
    let pace = Pace {
        until: Some(until),
        ..Pace::SMALL
    };
    live(&FaultStore::new(medium.clone()), source, pace).unwrap()
}

#[test]
fn a_shutdown_in_the_middle_of_a_hole_leaves_a_hole_that_the_next_start_fills() {
    for until in [START, START + 1, START + 500, START + 999, START + 1500] {
        let (medium, source) = (MemoryStore::new(), KnownSource::new(START, 9_500));
        // Numbers 0 and 2 are missing, 1 and 3 are there.
        die_with_puts_under_way(&medium, &source, Pace::SMALL, 4, |seq| matches!(seq, 1 | 3));
        assert_eq!(holes(&medium), 2);
        let end = live_until(&medium, &source, until).unwrap();
        assert!(end <= until.max(START + 2000), "{until:#x}: {end:#x}");
        assert_eq!(source.acknowledged(), end);
        live_to_the_end(&medium, &source, &format!("stopped at {until:#x}"));
    }
}

#[test]
fn a_shutdown_closes_the_open_segment_and_the_next_start_goes_on() {
    for until in [1, 700, 1000, 1001, 2700] {
        let (medium, source) = (MemoryStore::new(), KnownSource::new(START, 5_500));
        let end = live_until(&medium, &source, START + until).unwrap();
        assert_eq!(end, START + until);
        runtime().block_on(check_whole(Arc::new(medium.clone()), &source, end));
        live_to_the_end(&medium, &source, &format!("stopped after {until}"));
    }
}

#[test]
fn a_start_without_news_keeps_what_the_head_said_about_the_source_s_clock() {
    let (medium, source) = (MemoryStore::new(), KnownSource::new(START, 5_500));
    let covered = || {
        let (keys, store) = (Keys::shared(), Arc::new(medium.clone()));
        let head = runtime().block_on(async {
            let log = LogReader::new(keys.archive(store).await.unwrap(), stream());
            log.head().await.unwrap().unwrap()
        });
        (head.seq, head.covered)
    };
    live_until(&medium, &source, START + 3_000).unwrap();
    assert_eq!(covered(), (2, Some(START as i64 + 3_000)));
    live_until(&medium, &source, START + 3_000).unwrap();
    assert_eq!(covered(), (2, Some(START as i64 + 3_000)));
}

#[test]
fn a_gap_in_the_source_begins_a_new_run_and_both_runs_are_whole() {
    let (medium, source) = (MemoryStore::new(), KnownSource::new(START, 9_500));
    let first = live_until(&medium, &source, START + 3_300).unwrap();
    source.lose_before(START + 4_000);
    let second = live_until(&medium, &source, START + 5_700).unwrap();
    source.lose_before(START + 6_000);
    let third = live_until(&medium, &source, source.end()).unwrap();
    let wanted = [START..first, START + 4_000..second, START + 6_000..third];
    runtime().block_on(check_runs(Arc::new(medium), &source, &wanted));
}

#[test]
fn holes_before_a_break_stay_and_do_not_stand_in_the_way() {
    for landed in 0..16_u64 {
        let (medium, source) = (MemoryStore::new(), KnownSource::new(START, 30_500));
        live_until(&medium, &source, START + 2_000).unwrap();
        die_with_puts_under_way(&medium, &source, Pace::SMALL, 4, move |seq| {
            landed >> (seq - 2) & 1 == 1
        });
        // The slot is gone: what the holes lack is nowhere any more.
        source.lose_before(START + 10_000);
        let whole = (landed.trailing_ones() as u64).min(4) * 1000;
        let old = START..START + 2_000 + whole;
        for until in [11_500, 12_700, 13_000, 30_500] {
            let end = live_until(&medium, &source, START + until)
                .unwrap_or_else(|error| panic!("landed {landed:04b}, until {until}: {error}"));
            assert_eq!(end, START + until, "landed {landed:04b}");
            let wanted = [old.clone(), START + 10_000..end];
            let archive = Arc::new(medium.clone());
            // The holes of the old run stay, so that a verification finds them.
            runtime().block_on(check_bytes(archive, &source, &wanted));
        }
    }
}

#[test]
fn a_crash_while_a_new_run_begins_does_not_begin_another_one() {
    for landed in 0..16_u64 {
        let (medium, source) = (MemoryStore::new(), KnownSource::new(START, 9_500));
        let first = live_until(&medium, &source, START + 2_300).unwrap();
        source.lose_before(START + 4_000);
        die_with_puts_under_way(&medium, &source, Pace::SMALL, 4, move |seq| {
            landed >> (seq - 3) & 1 == 1
        });
        let end = live_until(&medium, &source, source.end())
            .unwrap_or_else(|error| panic!("landed {landed:04b}: {error}"));
        assert_eq!(end, source.end(), "landed {landed:04b}");
        let wanted = [START..first, START + 4_000..end];
        runtime().block_on(check_runs(Arc::new(medium), &source, &wanted));
    }
}

#[test]
fn the_first_run_goes_on_where_it_began_though_its_first_number_never_landed() {
    // The source has more before the stream's first position than the stream should have.
    let (medium, source) = (MemoryStore::new(), KnownSource::new(START, 9_500));
    source.lose_before(START + 100);
    die_with_puts_under_way(&medium, &source, Pace::SMALL, 4, |seq| {
        (1..4).contains(&seq)
    });
    assert_eq!(holes(&medium), 1);
    let end = live_until(&medium, &source, source.end()).unwrap();
    let wanted = START + 100..end;
    runtime().block_on(check_runs(Arc::new(medium), &source, &[wanted]));
}

#[test]
fn a_segment_deleted_long_ago_is_named_when_its_neighbours_are_read() {
    for deleted in [0, 1, 7, 12] {
        let (medium, source) = (MemoryStore::new(), KnownSource::new(START, 40_500));
        live_until(&medium, &source, source.end()).unwrap();
        medium.delete(&segment(deleted));
        let found = runtime().block_on(prove(Arc::new(medium)));
        let Err(ArchiveError::Hole { seq, start, .. }) = found else {
            panic!("{deleted}: {found:?}");
        };
        assert_eq!(seq, deleted);
        let wanted = if deleted == 0 {
            0
        } else {
            START + 1000 * deleted
        };
        assert_eq!(start, wanted, "{deleted}");
    }
}

#[test]
fn a_segment_deleted_near_the_end_is_never_taken_for_the_end() {
    // The source has forgotten it: what the start finds missing cannot be filled, and must not be passed over in silence.
    for deleted in 0..40 {
        let (medium, source) = (MemoryStore::new(), KnownSource::new(START, 40_500));
        live_until(&medium, &source, START + 40_000).unwrap();
        medium.delete(&segment(deleted));
        let caught = std::panic::catch_unwind(|| live_until(&medium, &source, source.end()));
        match caught {
            // The hole is reported, or the source is asked for what it has forgotten.
            Ok(Err(_)) => assert!(deleted >= 23, "{deleted}"),
            Err(panic) => {
                let message = panic.downcast_ref::<String>().unwrap();
                assert!(message.contains("acknowledged up to"), "{message}");
                assert!(deleted >= 23, "{deleted}");
            }
            // Far from the end a start does not look: whoever reads does.
            Ok(Ok(_)) => assert!(deleted < 24, "{deleted} went unnoticed"),
        }
    }
}

#[test]
fn a_deleted_tail_and_a_store_rolled_back_are_found_against_the_head() {
    let (medium, source) = (MemoryStore::new(), KnownSource::new(START, 40_500));
    live_until(&medium, &source, START + 10_000).unwrap();
    let early = medium.snapshot();
    live_until(&medium, &source, START + 40_000).unwrap();
    let head = medium.object("log/00000001/head").unwrap();
    let late = medium.snapshot();

    let tail_missing = |medium: &MemoryStore| {
        let error = live_until(medium, &source, source.end()).unwrap_err();
        let ArchiveError::TailMissing { known, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(known, 39);
    };
    for kept in [0, 1, 20, 38] {
        let medium = MemoryStore::of(&late);
        (kept..40).for_each(|seq| medium.delete(&segment(seq)));
        tail_missing(&medium);
    }
    let medium = MemoryStore::of(&early);
    medium.damage("log/00000001/head", head);
    tail_missing(&medium);
}

#[test]
fn a_lost_tail_that_an_operator_accepts_is_a_gap_and_not_named_again() {
    let (medium, source) = (MemoryStore::new(), KnownSource::new(START, 40_500));
    live_until(&medium, &source, START + 30_000).unwrap();
    (20..30).for_each(|seq| medium.delete(&segment(seq)));
    source.lose_before(START + 30_000);
    let error = live_until(&medium, &source, source.end()).unwrap_err();
    assert!(matches!(error, ArchiveError::TailMissing { .. }), "{error}");
    let accepting = Pace {
        accept_break: true,
        until: Some(START + 33_000),
        ..Pace::SMALL
    };
    let ended = live(&FaultStore::new(medium.clone()), &source, accepting);
    assert_eq!(ended.unwrap().unwrap(), START + 33_000);
    let end = live_until(&medium, &source, source.end()).unwrap();
    let wanted = [START..START + 20_000, START + 30_000..end];
    runtime().block_on(check_runs(Arc::new(medium), &source, &wanted));
}

#[test]
fn a_store_rolled_back_with_its_head_is_found_against_the_source() {
    let (medium, source) = (MemoryStore::new(), KnownSource::new(START, 40_500));
    live_until(&medium, &source, START + 10_000).unwrap();
    let early = medium.snapshot();
    live_until(&medium, &source, START + 40_000).unwrap();
    medium.roll_back(&early);
    let store = FaultStore::new(medium);
    let caught = std::panic::catch_unwind(|| live(&store, &source, Pace::SMALL));
    let message = caught.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("acknowledged up to"), "{message}");
    assert!(store.calls().iter().all(|call| !call.puts_segment()));
}

#[test]
fn a_lost_or_forged_head_does_not_hide_the_end() {
    let (medium, source) = (MemoryStore::new(), KnownSource::new(START, 9_500));
    live_until(&medium, &source, START + 5_000).unwrap();
    let old = medium.object("log/00000001/head").unwrap();
    live_until(&medium, &source, START + 7_000).unwrap();
    let whole = medium.snapshot();
    medium.delete("log/00000001/head");
    live_to_the_end(&medium, &source, "without a head");

    let stale = MemoryStore::of(&whole);
    stale.damage("log/00000001/head", old);
    let source = KnownSource::new(START, 9_500);
    live_to_the_end(&stale, &source, "with an old head");

    let forged = MemoryStore::of(&whole);
    forged.damage("log/00000001/head", b"{}".as_slice());
    let store = FaultStore::new(forged.clone());
    let error = live(&store, &source, Pace::SMALL).unwrap().unwrap_err();
    let ArchiveError::Unreadable { key, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(key, "log/00000001/head");
    let read = async {
        let archive = Keys::shared().archive(Arc::new(forged)).await.unwrap();
        let catalogue = Catalogue::read(&archive).await.unwrap();
        assert_eq!(catalogue.streams[0].runs[0].positions.end, START + 7_000);
        let verified = Verifier::new(archive, None, &|_| {}).run().await.unwrap();
        let faults: Vec<_> = verified.faults.iter().map(ToString::to_string).collect();
        assert!(faults.len() == 1 && faults[0].contains(key), "{faults:?}");
    };
    runtime().block_on(read);
    assert!(store.calls().iter().all(|call| !call.puts_segment()));
}

#[test]
fn a_verification_names_both_of_two_swapped_segments_and_goes_on() {
    let (medium, source) = (MemoryStore::new(), KnownSource::new(START, 40_500));
    live_until(&medium, &source, START + 40_000).unwrap();
    // Where the end is looked for, and where only the verification comes by.
    for (one, two) in [(38, 39), (10, 20)] {
        let medium = MemoryStore::of(&medium.snapshot());
        let objects = [one, two].map(|seq| medium.object(&segment(seq)).unwrap());
        let [first, second] = objects;
        medium.damage(&segment(one), second);
        medium.damage(&segment(two), first);
        let verified = runtime().block_on(async {
            let archive = Keys::shared().archive(Arc::new(medium)).await.unwrap();
            Verifier::new(archive, None, &|_| {}).run().await.unwrap()
        });
        let faults: Vec<_> = verified.faults.iter().map(ToString::to_string).collect();
        for seq in [one, two] {
            let named = faults.iter().filter(|fault| fault.contains(&segment(seq)));
            assert_eq!(named.count(), 1, "{seq}: {faults:?}");
        }
        assert!(verified.objects >= 38, "{} objects", verified.objects);
    }
}

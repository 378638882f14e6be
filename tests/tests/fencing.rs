//! Two daemons on one archive: one of them is fenced, and what either was told is durable stays so.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use pitr_archive::ArchiveError;
use pitr_tests::fault_store::{Failure, Fault, FaultStore};
use pitr_tests::known_source::KnownSource;
use pitr_tests::life::{FIRST_POSITION, Pace, Random, archive_all, runtime};
use pitr_tests::memory_store::MemoryStore;
use pitr_tests::takeover::take_over;

const START: u64 = FIRST_POSITION;
const LENGTH: usize = 30_500;

/// A store of which every call takes its time.
fn slow(medium: &MemoryStore, random: &mut Random) -> FaultStore {
    let store = FaultStore::new(medium.clone());
    for number in 0..300 {
        let delay = Duration::from_millis(random.below(3_000));
        store.at(number, Fault::Delay(delay));
    }
    store
}

/// A store as S3 is on a bad day: answers of puts are lost, puts are refused (conflicts, storms), and every call takes its time.
fn unruly(medium: &MemoryStore, random: &mut Random) -> FaultStore {
    let store = FaultStore::new(medium.clone());
    for number in 0..300 {
        let fault = match random.below(6) {
            0 => Fault::FailAfter(Failure::Unavailable),
            1 => Fault::FailBefore(Failure::Unavailable),
            _ => continue,
        };
        store.inject(1, fault, move |call| {
            call.number == number && call.puts_segment()
        });
    }
    for number in 0..300 {
        let delay = Duration::from_millis(random.below(3_000));
        store.at(number, Fault::Delay(delay));
    }
    store
}

/// Two daemons at once, the second a while after the first. What each was told, and how it ended.
fn two_daemons(
    medium: &MemoryStore,
    random: &mut Random,
    paces: [Pace; 2],
    make: fn(&MemoryStore, &mut Random) -> FaultStore,
) -> Vec<(Arc<KnownSource>, Result<u64, ArchiveError>)> {
    let stores = [make(medium, random), make(medium, random)];
    let pause = Duration::from_millis(random.below(20_000));
    runtime().block_on(async {
        let lives = stores.into_iter().zip(paces).enumerate();
        let lives = lives.map(|(number, (store, pace))| {
            // Each has a connection of its own: what one is told does not take bytes from the other.
            let source = KnownSource::new(START, LENGTH);
            tokio::spawn(async move {
                tokio::time::sleep(pause * number as u32).await;
                let ended = archive_all(Arc::new(store), &source, pace).await;
                (source, ended)
            })
        });
        let lives: Vec<_> = lives.collect();
        let ended = futures_util::future::join_all(lives).await;
        ended.into_iter().map(Result::unwrap).collect()
    })
}

/// Two daemons of each seed, and a third one after them. How many were fenced, and how often a put of one stood in the way.
fn meet(seeds: Range<u64>, make: fn(&MemoryStore, &mut Random) -> FaultStore) -> (usize, usize) {
    let (mut fenced, mut forks) = (0, 0);
    for seed in seeds {
        let mut random = Random(seed);
        let mut pace = || Pace {
            segment_bytes: 500 + random.below(1500),
            in_flight: 1 + random.below(16),
            ..Pace::SMALL
        };
        let paces = [pace(), pace()];
        // Daemons that cut alike leave puts behind that fit.
        let paces = if seed % 2 == 0 { paces } else { [paces[0]; 2] };
        let medium = MemoryStore::new();
        let lives = two_daemons(&medium, &mut random, paces, make);
        for (_, ended) in &lives {
            match ended {
                Ok(end) => assert_eq!(*end, START + LENGTH as u64, "seed {seed}"),
                Err(ArchiveError::Fenced { .. }) => fenced += 1,
                Err(error) if !error.is_permanent() => {}
                Err(error) => panic!("seed {seed}: {error}"),
            }
        }
        let acknowledged = lives.iter().map(|(source, _)| source.acknowledged()).max();
        let source = KnownSource::new(START, LENGTH);
        source.acknowledge(acknowledged.unwrap());
        forks += take_over(&medium, &source, &format!("seed {seed}"));
    }
    (fenced, forks)
}

#[test]
fn a_second_daemon_is_fenced_and_nothing_acknowledged_is_lost() {
    let (fenced, forks) = meet(0..200, slow);
    assert!(fenced > 100, "only {fenced} daemons were fenced");
    assert!(forks > 0, "no put of a fenced daemon stood in the way");
}

#[test]
fn two_daemons_on_a_store_that_loses_answers_lose_nothing_acknowledged() {
    let (fenced, _) = meet(1000..1100, unruly);
    assert!(fenced > 5, "only {fenced} daemons were fenced");
}

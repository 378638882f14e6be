//! The process dies at every call of the store, and again while it recovers: nothing acknowledged is lost, nothing is torn, and
//! the next start needs no hand. Two crashes are tried exhaustively, longer rows of them at random.

use std::sync::Arc;

use pitr_archive::ArchiveError;
use pitr_archive::writer::resume;
use pitr_tests::fault_store::{Call, Fault, FaultStore};
use pitr_tests::known_source::{Keys, KnownSource, Pace, archive_all, check_whole, stream};
use pitr_tests::memory_store::MemoryStore;

const START: u64 = 0x300_0000;
const CRASHES: [Fault; 3] = [Fault::CrashBefore, Fault::CrashAfter, Fault::CrashTorn];

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

/// One life of the daemon over `store`. `None`: it died where the script says, and nothing of it is left.
fn live(
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
fn live_to_the_end(medium: &MemoryStore, source: &Arc<KnownSource>, context: &str) {
    let ended = live(&FaultStore::new(medium.clone()), source, Pace::SMALL);
    match ended.expect("no crash is scripted") {
        Ok(end) => assert_eq!(end, source.end(), "{context}"),
        Err(error) => panic!("{context}: the restart needs a hand: {error}"),
    }
    assert_eq!(source.acknowledged(), source.end(), "{context}");
    runtime().block_on(check_whole(Arc::new(medium.clone()), source, source.end()));
}

/// Dies at call `number`. False: the life came to its end before it.
fn die_at(medium: &MemoryStore, source: &Arc<KnownSource>, number: u64, crash: &Fault) -> bool {
    let store = FaultStore::new(medium.clone());
    store.at(number, crash.clone());
    match live(&store, source, Pace::SMALL) {
        None => true,
        Some(Ok(_)) => false,
        Some(Err(error)) => panic!("{crash:?} at {number}: {error}"),
    }
}

#[test]
fn a_crash_at_any_call_loses_nothing_and_the_restart_needs_no_hand() {
    for crash in CRASHES {
        for power_lost in [false, true] {
            let mut points = 0;
            for number in 0.. {
                let (medium, source) = (MemoryStore::new(), KnownSource::new(START, 6_500));
                if !die_at(&medium, &source, number, &crash) {
                    break;
                }
                if power_lost {
                    medium.lose_power();
                }
                let context = format!("{crash:?} at call {number}, power lost: {power_lost}");
                live_to_the_end(&medium, &source, &context);
                points += 1;
            }
            assert!(points > 25, "{crash:?}: only {points} calls were made");
        }
    }
}

#[test]
fn a_second_crash_while_recovering_from_the_first_loses_nothing() {
    let puts = put_numbers(3_500);
    assert!(puts.len() >= 6, "{puts:?}");
    for first in CRASHES {
        for &number in &puts {
            let (medium, source) = (MemoryStore::new(), KnownSource::new(START, 3_500));
            die_at(&medium, &source, number, &first);
            let (left, acknowledged) = (medium.snapshot(), source.acknowledged());
            for second in CRASHES {
                for again in 0.. {
                    let medium = MemoryStore::of(&left);
                    let source = KnownSource::new(START, 3_500);
                    source.acknowledge(acknowledged);
                    if !die_at(&medium, &source, again, &second) {
                        break;
                    }
                    medium.lose_power();
                    let context = format!("{first:?} at {number}, then {second:?} at {again}");
                    live_to_the_end(&medium, &source, &context);
                }
            }
        }
    }
}

/// The calls of an undisturbed life that put something.
fn put_numbers(length: usize) -> Vec<u64> {
    let store = FaultStore::new(MemoryStore::new());
    let source = KnownSource::new(START, length);
    live(&store, &source, Pace::SMALL).unwrap().unwrap();
    let calls = store.calls();
    let puts = calls.iter().filter(|call| Call::is_put(call));
    puts.map(|call| call.number).collect()
}

/// A small generator whose every run can be repeated from its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

#[test]
fn many_crashes_in_a_row_lose_nothing() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let (medium, source) = (MemoryStore::new(), KnownSource::new(START, 20_000));
        for _ in 0..12 {
            let crash = &CRASHES[random.below(3) as usize];
            if !die_at(&medium, &source, random.below(70), crash) {
                break;
            }
            if random.below(2) == 0 {
                medium.lose_power();
            }
        }
        live_to_the_end(&medium, &source, &format!("seed {seed}"));
    }
}

/// Lets the puts of segments that `lands` refuses hang, and kills the process when so many puts were begun.
fn die_with_puts_under_way(
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

fn holes(medium: &MemoryStore) -> usize {
    let medium = medium.clone();
    runtime().block_on(async {
        let writer = Keys::shared().writer(Arc::new(medium)).await.unwrap();
        resume(&writer, &stream(), false).await.unwrap().holes()
    })
}

#[test]
fn whichever_of_the_puts_in_flight_landed_the_holes_are_filled_exactly() {
    let mut with_holes = 0;
    for landed in 0..16_u64 {
        for landed_again in 0..16_u64 {
            let (medium, source) = (MemoryStore::new(), KnownSource::new(START, 9_500));
            die_with_puts_under_way(&medium, &source, Pace::SMALL, 4, move |seq| {
                landed >> seq & 1 == 1
            });
            let first = holes(&medium);
            // In the second life other numbers hang: those that the first one left, and new ones.
            let left: Vec<u64> = (0..9)
                .filter(|seq| medium.object(&segment(*seq)).is_none())
                .collect();
            let puts: Vec<u64> = left.into_iter().take(4).collect();
            if landed_again != 15 {
                die_with_puts_under_way(&medium, &source, Pace::SMALL, 4, move |seq| {
                    let at = puts.iter().position(|put| *put == seq);
                    at.is_none_or(|at| landed_again >> at & 1 == 1)
                });
            }
            with_holes += usize::from(first > 0) + usize::from(holes(&medium) > 0);
            let context = format!("landed {landed:04b}, then {landed_again:04b}");
            live_to_the_end(&medium, &source, &context);
        }
    }
    assert!(with_holes > 200, "only {with_holes} times there were holes");
}

fn segment(seq: u64) -> String {
    pitr_archive::layout::segment(&stream(), seq)
}

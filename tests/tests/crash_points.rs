//! The process dies at every call of the store, and again while it recovers: nothing acknowledged is lost, nothing is torn, and
//! the next start needs no hand. Two crashes are tried exhaustively, longer rows of them at random.

use pitr_tests::fault_store::{Call, Fault, FaultStore};
use pitr_tests::known_source::KnownSource;
use pitr_tests::life::{
    FIRST_POSITION, Pace, Random, die_at, die_with_puts_under_way, holes, live, live_to_the_end,
    segment,
};
use pitr_tests::memory_store::MemoryStore;

const START: u64 = FIRST_POSITION;
const CRASHES: [Fault; 3] = [Fault::CrashBefore, Fault::CrashAfter, Fault::CrashTorn];

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

#[test]
fn crashes_of_a_daemon_whose_segments_end_by_age_lose_nothing() {
    let aging = Pace {
        linger: std::time::Duration::from_secs(1),
        in_flight: 16,
        ..Pace::SMALL
    };
    for seed in 0..60 {
        let mut random = Random(seed);
        let (medium, source) = (MemoryStore::new(), KnownSource::new(START, 20_000));
        for _ in 0..8 {
            let store = FaultStore::new(medium.clone());
            // Calls take their time, so that some overtake others, until one of them is the last.
            let last = random.below(90);
            store.at(last, CRASHES[random.below(3) as usize].clone());
            for number in 0..100 {
                let delay = std::time::Duration::from_millis(random.below(4_000));
                store.at(number, Fault::Delay(delay));
            }
            if live(&store, &source, aging).is_some_and(|ended| ended.is_ok()) {
                break;
            }
            medium.lose_power();
        }
        live_to_the_end(&medium, &source, &format!("seed {seed}"));
    }
}

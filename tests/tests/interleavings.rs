//! Two daemons on one archive, in every order in which their first puts can happen.

use std::sync::Arc;

use pitr_archive::ArchiveError;
use pitr_tests::known_source::KnownSource;
use pitr_tests::life::{FIRST_POSITION, Pace, archive_all};
use pitr_tests::memory_store::MemoryStore;
use pitr_tests::takeover::take_over;
use pitr_tests::turns::Turns;

const START: u64 = FIRST_POSITION;
const LENGTH: usize = 9_500;
/// Puts whose order is laid down, unless `PITRD_DEPTH` says otherwise.
const DEPTH: u32 = 4;
/// Each is one daemon's or the other's, and of those that it has under way the oldest or the second.
const CHOICES: usize = 4;
/// The second daemon reads its position back before this put, or an earlier one.
const STARTS: u32 = 3;

/// Two daemons: the second starts before put `start`, and from there on `order` says whose put comes next.
async fn meet(
    medium: &MemoryStore,
    paces: [Pace; 2],
    start: u32,
    order: impl Iterator<Item = usize>,
) -> [(u64, bool); 2] {
    let turns = Turns::default();
    let daemon = |who: usize| {
        let (store, turns) = (turns.store(medium, who), turns.clone());
        async move {
            let source = KnownSource::new(START, LENGTH);
            let ended = archive_all(Arc::new(store), &source, paces[who]).await;
            turns.end(who);
            let fenced = match ended {
                Ok(end) => {
                    assert_eq!(end, source.end());
                    false
                }
                // What the other one put may stand in the way already.
                Err(ArchiveError::Fenced { .. } | ArchiveError::Stray { .. }) => true,
                Err(error) => panic!("{error}"),
            };
            (source.acknowledged(), fenced)
        }
    };
    let first = tokio::spawn(daemon(0));
    for _ in 0..start {
        turns.grant(0, 0).await;
    }
    let second = tokio::spawn(daemon(1));
    for choice in order {
        turns.grant(choice / 2, choice % 2).await;
    }
    turns.finish();
    [first.await, second.await].map(|ended| ended.expect("no daemon panics"))
}

/// How many daemons were fenced and how many objects stood in the way, in how many orders.
fn in_every_order(paces: [Pace; 2]) -> (usize, usize, usize) {
    let depth = std::env::var("PITRD_DEPTH").map_or(DEPTH, |text| text.parse().expect("a number"));
    let orders = CHOICES.pow(depth);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let (mut fenced, mut forks) = (0, 0);
    for start in 0..STARTS {
        for number in 0..orders {
            let digits = (0..depth).map(|place| number / CHOICES.pow(place) % CHOICES);
            let medium = MemoryStore::new();
            let ended = runtime.block_on(meet(&medium, paces, start, digits));
            let source = KnownSource::new(START, LENGTH);
            for (acknowledged, was_fenced) in ended {
                source.acknowledge(acknowledged);
                fenced += usize::from(was_fenced);
            }
            let context = format!("start {start}, order {number} at depth {depth}");
            forks += take_over(&medium, &source, &context);
        }
    }
    (fenced, forks, orders * STARTS as usize)
}

#[test]
fn in_every_order_of_their_puts_two_daemons_lose_nothing_that_either_acknowledged() {
    let one = Pace {
        segment_bytes: 700,
        in_flight: 3,
        ..Pace::SMALL
    };
    let other = Pace {
        segment_bytes: 1_100,
        ..one
    };
    let (fenced, forks, orders) = in_every_order([one, other]);
    let often = fenced > orders / 2 && forks > orders / 20;
    assert!(
        often,
        "{fenced} fenced, {forks} in the way, {orders} orders"
    );
}

#[test]
fn the_same_of_daemons_that_cut_alike() {
    let pace = Pace {
        in_flight: 3,
        ..Pace::SMALL
    };
    let (fenced, _, orders) = in_every_order([pace; 2]);
    assert!(fenced > orders / 20, "{fenced} fenced in {orders} orders");
}

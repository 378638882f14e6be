//! A store that is away for long, and a spool: reading goes on, nothing counts as durable that the store does not hold, and whatever
//! happens to the process, the spool or the archive meanwhile, the next start needs no hand.

use std::sync::Arc;
use std::time::Duration;

use pitr_archive::ArchiveError;
use pitr_tests::check::check_whole;
use pitr_tests::fault_store::{Call, Failure, Fault, FaultStore};
use pitr_tests::known_source::KnownSource;
use pitr_tests::life::{FIRST_POSITION, Pace, archive_spooling, live_to_the_end, runtime, segment};
use pitr_tests::memory_store::MemoryStore;

const START: u64 = FIRST_POSITION;
const LENGTH: usize = 30_500;
const SEGMENTS: usize = LENGTH.div_ceil(1000);
const CRASHES: [Fault; 3] = [Fault::CrashBefore, Fault::CrashAfter, Fault::CrashTorn];
/// The clock runs ahead meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The two media of a daemon.
#[derive(Clone)]
struct Media {
    archive: MemoryStore,
    spool: MemoryStore,
}

impl Media {
    fn new() -> Self {
        Self {
            archive: MemoryStore::new(),
            spool: MemoryStore::new(),
        }
    }

    fn copy(&self) -> Self {
        Self {
            archive: MemoryStore::of(&self.archive.snapshot()),
            spool: MemoryStore::of(&self.spool.snapshot()),
        }
    }

    fn spooled(&self) -> Vec<String> {
        let keys = self.spool.keys().into_iter();
        keys.filter(|key| key.starts_with("log/")).collect()
    }

    fn aside(&self) -> usize {
        let keys = self.spool.keys().into_iter();
        keys.filter(|key| key.starts_with("aside/")).count()
    }
}

/// Takes neither segments nor data keys.
fn away(archive: &MemoryStore) -> FaultStore {
    let store = FaultStore::new(archive.clone());
    let refused = |call: &Call| call.is_put() && call.key.len() > "keys/writer.json".len();
    store.inject(u64::MAX, Fault::FailBefore(Failure::Unavailable), refused);
    store
}

/// One life, until it ends, dies, or `enough` holds: it would wait for ever. `None` but for an end.
fn live_until(
    store: &FaultStore,
    spool: &FaultStore,
    source: &Arc<KnownSource>,
    enough: impl Fn() -> bool,
) -> Option<Result<u64, ArchiveError>> {
    runtime().block_on(async {
        let archiving = archive_spooling(
            Arc::new(store.clone()),
            Arc::new(spool.clone()),
            source,
            Pace::SMALL,
        );
        let enough = async {
            while !enough() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            ended = archiving => Some(ended),
            () = store.crashed() => None,
            () = spool.crashed() => None,
            () = enough => None,
        }
    })
}

fn live(
    store: &FaultStore,
    spool: &FaultStore,
    source: &Arc<KnownSource>,
) -> Option<Result<u64, ArchiveError>> {
    live_until(store, spool, source, || false)
}

/// A life without a store, until all of the source is in the spool or the spool kills it.
fn live_without_store(media: &Media, spool: &FaultStore, source: &Arc<KnownSource>) {
    let all = || media.spooled().len() == SEGMENTS;
    let ended = live_until(&away(&media.archive), spool, source, all);
    assert!(ended.is_none(), "{ended:?}");
}

/// An outage that the daemon does not survive: the spool has all of the source.
fn outage(media: &Media, source: &Arc<KnownSource>) {
    live_without_store(media, &FaultStore::new(media.spool.clone()), source);
    assert_eq!(media.spooled().len(), SEGMENTS);
    assert_eq!(source.acknowledged(), START, "a spool is no archive");
}

/// A life without faults: it reaches the end, all is whole, and the spool is empty.
fn ends_well(media: &Media, source: &Arc<KnownSource>, context: &str) {
    let store = FaultStore::new(media.archive.clone());
    let ended = live(&store, &FaultStore::new(media.spool.clone()), source);
    match ended.expect("no crash is scripted") {
        Ok(end) => assert_eq!(end, source.end(), "{context}"),
        Err(error) => panic!("{context}: the restart needs a hand: {error}"),
    }
    assert_eq!(source.acknowledged(), source.end(), "{context}");
    assert_eq!(media.spooled(), [""; 0], "{context}");
    runtime().block_on(check_whole(
        Arc::new(media.archive.clone()),
        source,
        source.end(),
    ));
}

#[test]
fn what_a_store_does_not_take_is_read_on_and_put_when_it_is_back() {
    let (media, source) = (Media::new(), KnownSource::new(START, LENGTH));
    let (store, spool) = (away(&media.archive), FaultStore::new(media.spool.clone()));
    let (seen, waiting) = (media.clone(), store.clone());
    let ended = runtime().block_on(async {
        let archiving = archive_spooling(
            Arc::new(store.clone()),
            Arc::new(spool),
            &source,
            Pace::SMALL,
        );
        let healing = async {
            while seen.spooled().len() < SEGMENTS {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            assert_eq!(source.acknowledged(), START, "a spool is no archive");
            waiting.heal();
        };
        futures_util::future::join(archiving, healing).await.0
    });
    assert_eq!(ended.unwrap(), source.end());
    assert_eq!(media.spooled(), [""; 0]);
    assert_eq!(media.aside(), 0);
    runtime().block_on(check_whole(
        Arc::new(media.archive.clone()),
        &source,
        source.end(),
    ));
}

#[test]
fn a_try_at_a_silent_store_lets_go_of_a_segment_as_soon_as_the_spool_has_it() {
    let (media, source) = (Media::new(), KnownSource::new(START, LENGTH));
    let (store, spool) = (
        FaultStore::new(media.archive.clone()),
        FaultStore::new(media.spool.clone()),
    );
    store.inject(u64::MAX, Fault::HangBefore, Call::puts_segment);
    let tries = || {
        let calls = store.calls().into_iter();
        calls
            .filter(|call| call.is_put() && call.key == segment(0))
            .count()
    };
    // By the real clock: the other one runs ahead of the compressor.
    let mut clock = tokio::runtime::Builder::new_current_thread();
    let runtime = clock.enable_time().build().expect("a runtime");
    let waited = runtime.block_on(async {
        let started = tokio::time::Instant::now();
        let archiving = archive_spooling(
            Arc::new(store.clone()),
            Arc::new(spool),
            &source,
            Pace::SMALL,
        );
        let again = async {
            while tries() < 2 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            ended = archiving => panic!("{ended:?}"),
            () = again => started.elapsed(),
        }
    });
    // The deadline of a call was not what ended the first try.
    assert!(waited < Duration::from_secs(60), "{waited:?}");
    ends_well(&media, &source, "after a silent store");
}

#[test]
fn a_crash_at_any_call_of_the_spool_loses_nothing() {
    for crash in CRASHES {
        for power_lost in [false, true] {
            let mut points = 0;
            for number in 0.. {
                let (media, source) = (Media::new(), KnownSource::new(START, LENGTH));
                let spool = FaultStore::new(media.spool.clone());
                spool.at(number, crash.clone());
                live_without_store(&media, &spool, &source);
                if power_lost {
                    media.spool.lose_power();
                }
                let context = format!("{crash:?} at {number}, power lost: {power_lost}");
                ends_well(&media, &source, &context);
                if !spool.has_crashed() {
                    break;
                }
                points += 1;
            }
            assert!(points > 30, "only {points} calls were made");
        }
    }
}

#[test]
fn a_crash_at_any_call_while_the_spool_is_emptied_loses_nothing() {
    let (left, source) = (Media::new(), KnownSource::new(START, LENGTH));
    outage(&left, &source);
    for crash in CRASHES {
        for in_spool in [false, true] {
            let mut points = 0;
            for number in 0.. {
                let (media, source) = (left.copy(), KnownSource::new(START, LENGTH));
                let store = FaultStore::new(media.archive.clone());
                let spool = FaultStore::new(media.spool.clone());
                let dying = if in_spool { &spool } else { &store };
                dying.at(number, crash.clone());
                let ended = live(&store, &spool, &source);
                if !dying.has_crashed() {
                    ended.expect("it ends").unwrap();
                    break;
                }
                media.archive.lose_power();
                media.spool.lose_power();
                ends_well(&media, &source, &format!("{crash:?} at {number}"));
                points += 1;
            }
            assert!(points > 30, "only {points} calls were made");
        }
    }
}

#[test]
fn what_the_source_has_lost_meanwhile_comes_from_the_spool() {
    let (media, source) = (Media::new(), KnownSource::new(START, LENGTH));
    outage(&media, &source);
    // The slot was invalidated: only what was written last is still there.
    source.lose_before(source.end() - 10);
    ends_well(&media, &source, "after the source lost its log");
}

#[test]
fn what_the_store_took_out_of_order_does_not_hide_what_is_spooled_behind_it() {
    const TAKEN: [u64; 4] = [0, 1, 3, 4];
    let (media, source) = (Media::new(), KnownSource::new(START, LENGTH));
    let store = FaultStore::new(media.archive.clone());
    let refused = |call: &Call| {
        call.puts_segment()
            && pitr_archive::layout::segment_seq(&call.key).is_some_and(|seq| !TAKEN.contains(&seq))
    };
    store.inject(u64::MAX, Fault::FailBefore(Failure::Unavailable), refused);
    let spool = FaultStore::new(media.spool.clone());
    let all = || media.spooled().len() == SEGMENTS - TAKEN.len();
    let ended = live_until(&store, &spool, &source, all);
    assert!(ended.is_none(), "{ended:?}");
    source.lose_before(source.end() - 10);
    ends_well(&media, &source, "numbers out of order");
    assert_eq!(media.aside(), 0);
}

#[test]
fn what_a_damaged_data_key_sealed_is_not_put() {
    let (media, source) = (Media::new(), KnownSource::new(START, LENGTH));
    outage(&media, &source);
    let keys = media.spool.keys();
    let key = keys.iter().find(|key| key.starts_with("keys/")).unwrap();
    let mut bytes = media.spool.object(key).unwrap().to_vec();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    media.spool.damage(key, bytes);
    ends_well(&media, &source, "a data key damaged");
    assert_eq!(media.aside(), 1 + SEGMENTS);
}

#[test]
fn a_data_key_that_no_store_takes_ends_the_daemon_instead_of_holding_it_up() {
    let (media, source) = (Media::new(), KnownSource::new(START, LENGTH));
    let store = FaultStore::new(media.archive.clone());
    let refused = |call: &Call| {
        call.is_put() && call.key.starts_with("keys/") && call.key != "keys/writer.json"
    };
    store.inject(u64::MAX, Fault::FailBefore(Failure::Broken), refused);
    let ended = live(&store, &FaultStore::new(media.spool.clone()), &source);
    let error = ended.expect("no crash is scripted").unwrap_err();
    assert!(error.to_string().contains("data key"), "{error}");
    assert_eq!(source.acknowledged(), START);
    ends_well(&media, &source, "the store takes data keys again");
}

#[test]
fn what_a_fenced_daemon_spooled_is_never_put() {
    let (media, source) = (Media::new(), KnownSource::new(START, LENGTH));
    outage(&media, &source);
    let other = Pace {
        segment_bytes: 700,
        ..Pace::SMALL
    };
    let taken_over = FaultStore::new(media.archive.clone());
    let ended = pitr_tests::life::live(&taken_over, &source, other);
    ended.unwrap().unwrap();
    let before = media.archive.keys();
    ends_well(&media, &source, "after another daemon took over");
    let segments = |keys: &[String]| {
        let keys = keys.iter().filter(|key| key.starts_with("log/"));
        keys.count()
    };
    assert_eq!(segments(&before), segments(&media.archive.keys()));
    assert_eq!(media.aside(), SEGMENTS);
}

#[test]
fn a_damaged_object_of_a_spool_is_never_put() {
    for damaged in [0, 7, SEGMENTS - 1] {
        for torn in [false, true] {
            let (media, source) = (Media::new(), KnownSource::new(START, LENGTH));
            outage(&media, &source);
            let key = &media.spooled()[damaged];
            let mut bytes = media.spool.object(key).unwrap().to_vec();
            if torn {
                bytes.truncate(bytes.len() / 2);
            } else {
                let at = bytes.len() / 2;
                bytes[at] ^= 1;
            }
            media.spool.damage(key, bytes);
            ends_well(&media, &source, &format!("{key} damaged, torn: {torn}"));
            assert!(media.aside() > 0);
        }
    }
}

#[test]
fn a_spool_that_fails_or_is_full_costs_nothing_but_the_reading() {
    for failure in [Failure::Full, Failure::Broken, Failure::Denied] {
        let (media, source) = (Media::new(), KnownSource::new(START, LENGTH));
        let spool = FaultStore::new(media.spool.clone());
        let refused = |call: &Call| call.is_put() && call.key.starts_with("log/");
        spool.inject(u64::MAX, Fault::FailBefore(failure), refused);
        let seen = spool.clone();
        let tried = move || {
            let calls = seen.calls().into_iter();
            calls
                .filter(|call| call.is_put() && call.key.starts_with("log/"))
                .count()
                > 3
        };
        let ended = live_until(&away(&media.archive), &spool, &source, tried);
        assert!(ended.is_none(), "{ended:?}");
        assert_eq!(source.acknowledged(), START);
        // The same spool goes on failing, and the store is back.
        let store = FaultStore::new(media.archive.clone());
        let ended = live(&store, &spool, &source);
        assert_eq!(ended.unwrap().unwrap(), source.end());
        live_to_the_end(&media.archive, &source, "without a spool");
    }
}

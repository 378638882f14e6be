//! An archive in several places: what is acknowledged with `all` lies in each of them whatever happens, and a copy that follows is
//! at every moment an archive of its own.

use std::sync::Arc;
use std::time::Duration;

use pitr_archive::copying::{CopyState, Copying, follow};
use pitr_archive::reader::LogReader;
use pitr_archive::store::{
    AllStores, AnyStore, Piece, SharedStore, StoreError, TellingStore, begin_copy,
};
use pitr_archive::{ArchiveError, Reading};
use pitr_tests::check::{check_bytes, check_whole};
use pitr_tests::fault_store::{Call, Failure, Fault, FaultStore};
use pitr_tests::known_source::KnownSource;
use pitr_tests::life::{FIRST_POSITION, Keys, Pace, Random, archive_all, runtime, segment, stream};
use pitr_tests::memory_store::MemoryStore;
use pitr_tests::takeover::readable;
use tokio::sync::watch;

const START: u64 = FIRST_POSITION;

/// A life over two stores that ends, or dies where a script of either says.
fn live_in_two(
    stores: &[FaultStore; 2],
    source: &Arc<KnownSource>,
    pace: Pace,
) -> Option<Result<u64, ArchiveError>> {
    let [primary, copy]: [SharedStore; 2] = stores.clone().map(|store| Arc::new(store) as _);
    let all = AllStores::new(Arc::clone(&primary), vec![Arc::clone(&copy)]);
    let life = async move {
        // As `pitr-tool init` does, again after it died halfway.
        Keys::shared().archive(Arc::clone(&primary)).await?;
        begin_copy(&*primary, &*copy).await?;
        archive_all(Arc::new(all), source, pace).await
    };
    runtime().block_on(async {
        tokio::select! {
            ended = life => Some(ended),
            () = stores[0].crashed() => None,
            () = stores[1].crashed() => None,
        }
    })
}

/// Where a reader of one place sees the stream end.
fn readable_end(medium: &MemoryStore) -> u64 {
    let runs = runtime().block_on(readable(medium));
    runs.last().map_or(START, |run| run.end)
}

fn faultless(media: &[MemoryStore; 2]) -> [FaultStore; 2] {
    media.clone().map(FaultStore::new)
}

fn live_to_the_end(media: &[MemoryStore; 2], source: &Arc<KnownSource>, context: &str) {
    let ended = live_in_two(&faultless(media), source, Pace::SMALL).expect("no crash is scripted");
    assert_eq!(
        ended.unwrap_or_else(|error| panic!("{context}: {error}")),
        source.end()
    );
    for medium in media {
        runtime().block_on(check_whole(Arc::new(medium.clone()), source, source.end()));
    }
}

#[test]
fn a_crash_at_any_call_of_either_place_leaves_what_was_acknowledged_in_both() {
    let crashes = [Fault::CrashBefore, Fault::CrashAfter, Fault::CrashTorn];
    for place in 0..2 {
        for crash in &crashes {
            let mut died = 0;
            for number in 0.. {
                let source = KnownSource::new(START, 3_500);
                let media = [MemoryStore::new(), MemoryStore::new()];
                let stores = faultless(&media);
                stores[place].at(number, crash.clone());
                if live_in_two(&stores, &source, Pace::SMALL).is_some() {
                    break;
                }
                died += 1;
                let context = format!("{crash:?} at call {number} of place {place}");
                for medium in &media {
                    medium.lose_power();
                    if source.acknowledged() > START {
                        let end = readable_end(medium);
                        assert!(end >= source.acknowledged(), "{context}: {end:#x}");
                    }
                }
                live_to_the_end(&media, &source, &context);
            }
            assert!(
                died > 10,
                "only {died} calls of place {place} were there to die at"
            );
        }
    }
}

#[test]
fn while_a_copy_is_away_nothing_is_acknowledged_with_all() {
    for failure in [
        Failure::Unavailable,
        Failure::Denied,
        Failure::Full,
        Failure::Broken,
    ] {
        let source = KnownSource::new(START, 9_500);
        let media = [MemoryStore::new(), MemoryStore::new()];
        let stores = faultless(&media);
        stores[1].inject(u64::MAX, Fault::FailBefore(failure), Call::puts_segment);
        let [primary, copy] = stores.clone();
        let all: SharedStore = Arc::new(AllStores::new(Arc::new(primary), vec![Arc::new(copy)]));
        runtime().block_on(async {
            let same = Arc::clone(&source);
            let life = tokio::spawn(async move { archive_all(all, &same, Pace::SMALL).await });
            while !stores[1].calls().iter().any(Call::puts_segment) {
                tokio::task::yield_now().await;
            }
            tokio::time::sleep(Duration::from_secs(600)).await;
            assert_eq!(source.acknowledged(), START, "{failure:?}");
            assert!(!life.is_finished(), "{failure:?}");
            stores[1].heal();
            assert_eq!(life.await.unwrap().unwrap(), source.end());
        });
        for medium in media {
            runtime().block_on(check_whole(Arc::new(medium), &source, source.end()));
        }
    }
}

#[test]
fn what_lies_behind_a_hole_is_in_every_place_before_it_is_acknowledged() {
    let source = KnownSource::new(START, 6_500);
    let media = [MemoryStore::new(), MemoryStore::new()];
    let stores = faultless(&media);
    let (hole, behind) = (segment(2), segment(3));
    let refused = move |call: &Call| call.is_put() && call.key == hole;
    stores[0].inject(u64::MAX, Fault::FailBefore(Failure::Unavailable), refused);
    let dies = behind.clone();
    stores[1].inject(1, Fault::CrashBefore, move |call| call.key == dies);
    assert!(live_in_two(&stores, &source, Pace::SMALL).is_none());
    let has = |medium: &MemoryStore| medium.keys().contains(&behind);
    assert!(has(&media[0]) && !has(&media[1]));
    live_to_the_end(&media, &source, "after a hole");
}

#[test]
fn a_new_copy_has_everything_before_more_is_acknowledged() {
    let source = KnownSource::new(START, 40_000);
    let media = [MemoryStore::new(), MemoryStore::new()];
    let until = Pace {
        until: Some(START + 35_000),
        ..Pace::SMALL
    };
    pitr_tests::life::live(&FaultStore::new(media[0].clone()), &source, until)
        .unwrap()
        .unwrap();
    assert!(media[1].keys().is_empty());
    live_to_the_end(&media, &source, "a copy that was empty");
}

#[test]
fn an_empty_place_becomes_no_copy_by_being_archived_into() {
    let source = KnownSource::new(START, 9_500);
    let media = [MemoryStore::new(), MemoryStore::new()];
    pitr_tests::life::live(&FaultStore::new(media[0].clone()), &source, Pace::SMALL)
        .unwrap()
        .unwrap();
    let [primary, copy]: [SharedStore; 2] = media.clone().map(|medium| Arc::new(medium) as _);
    runtime().block_on(async {
        let mut following = Copying::new(Arc::clone(&primary), Arc::clone(&copy));
        let refused = following.run(&mut |_| ()).await;
        assert!(
            matches!(refused, Err(StoreError::Unavailable { .. })),
            "{refused:?}"
        );
        let all = AllStores::new(primary, vec![copy]);
        assert!(
            archive_all(Arc::new(all), &source, Pace::SMALL)
                .await
                .is_err()
        );
    });
    assert_eq!(media[1].keys(), Vec::<String>::new());
}

#[test]
fn who_is_fenced_in_the_primary_puts_nothing_into_a_copy() {
    let source = KnownSource::new(START, 9_500);
    let media = [MemoryStore::new(), MemoryStore::new()];
    live_to_the_end(&media, &source, "the first");
    let before = media[1].keys();
    runtime().block_on(async {
        let [primary, copy] = media.clone();
        let all = AllStores::new(Arc::new(primary), vec![Arc::new(copy)]);
        let all: SharedStore = Arc::new(all);
        let writer = Keys::shared().writer(all).await.unwrap();
        let foreign = writer.put(&segment(3), "foreign".into()).await;
        assert!(
            matches!(foreign, Err(ArchiveError::Fenced { .. })),
            "{foreign:?}"
        );
    });
    assert_eq!(media[1].keys(), before);
}

#[test]
fn a_copy_that_follows_through_any_faults_ends_as_the_archive_is() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let source = KnownSource::new(START, 20_000);
        let media = [MemoryStore::new(), MemoryStore::new()];
        let copy = FaultStore::new(media[1].clone());
        for number in 0..60 {
            let fault = match random.below(4) {
                0 => Fault::FailBefore(Failure::Unavailable),
                1 => Fault::FailAfter(Failure::Unavailable),
                _ => Fault::Delay(Duration::from_millis(random.below(5_000))),
            };
            copy.at(number, fault);
        }
        runtime().block_on(async {
            let primary: SharedStore = Arc::new(media[0].clone());
            Keys::shared().archive(Arc::clone(&primary)).await.unwrap();
            begin_copy(&*primary, &media[1]).await.unwrap();
            let (telling, mut told) = TellingStore::new(Arc::clone(&primary), 1);
            let copying = Copying::new(primary, Arc::new(copy.clone()));
            let (state, watch) = watch::channel(CopyState::default());
            let following = tokio::spawn(follow(copying, told.remove(0), state));
            let ended = archive_all(Arc::new(telling), &source, Pace::SMALL).await;
            assert_eq!(ended.unwrap(), source.end(), "seed {seed}");
            // The store is gone; what it told is copied, and then there is nothing more to follow.
            tokio::time::timeout(Duration::from_secs(3600), following)
                .await
                .unwrap()
                .unwrap();
            assert!(watch.borrow().failing.is_none(), "seed {seed}");
        });
        runtime().block_on(check_whole(
            Arc::new(media[1].clone()),
            &source,
            source.end(),
        ));
    }
}

#[test]
fn a_reader_takes_from_a_copy_what_the_archive_has_lost_or_damaged() {
    let source = KnownSource::new(START, 20_500);
    let media = [MemoryStore::new(), MemoryStore::new()];
    live_to_the_end(&media, &source, "both");
    media[0].delete(&segment(2));
    media[1].delete(&segment(9));
    let stores: Vec<SharedStore> = media
        .iter()
        .map(|medium| Arc::new(medium.clone()) as _)
        .collect();
    let any: SharedStore = Arc::new(AnyStore::new(stores));
    let whole = START..source.end();
    let wanted = std::slice::from_ref(&whole);
    runtime().block_on(check_bytes(Arc::clone(&any), &source, wanted));
    let sound = media[0].object(&segment(5)).unwrap();
    for at in [0, sound.len() / 2, sound.len() - 96] {
        let mut damaged = sound.to_vec();
        damaged[at] ^= 1;
        media[0].damage(&segment(5), damaged);
        let read = runtime().block_on(any.get(&segment(5), Piece::Whole));
        assert_eq!(read.unwrap().bytes, sound, "damage at {at}");
    }
}

#[test]
fn a_header_or_a_footer_that_is_damaged_in_one_place_is_read_from_another() {
    let source = KnownSource::new(START, 20_500);
    let media = [MemoryStore::new(), MemoryStore::new()];
    live_to_the_end(&media, &source, "both");
    let sound = media[0].object(&segment(5)).unwrap();
    for at in [0, 130, 300, sound.len() - 100, sound.len() - 1] {
        let mut damaged = sound.to_vec();
        damaged[at] ^= 1;
        media[0].damage(&segment(5), damaged);
        let stores = media.iter().map(|medium| Arc::new(medium.clone()) as _);
        let any: SharedStore = Arc::new(AnyStore::new(stores.collect()));
        runtime().block_on(async {
            let archive = Keys::shared().archive(any).await.unwrap();
            let reading = Reading::new(Arc::clone(&archive), Keys::shared().opener());
            let log = LogReader::new(archive, stream());
            let header = log.header(5).await.unwrap().unwrap();
            let summary = log.summary(5, &reading).await.unwrap();
            assert_eq!(summary, header.start.to_be_bytes(), "damage at {at}");
        });
    }
}

#[test]
fn what_the_archive_has_lost_comes_back_from_a_copy_and_nothing_else_changes() {
    let source = KnownSource::new(START, 20_500);
    let media = [MemoryStore::new(), MemoryStore::new()];
    live_to_the_end(&media, &source, "both");
    let before = media[0].keys();
    let last =
        u64::try_from(before.iter().filter(|key| key.starts_with("log/")).count()).unwrap() - 2;
    for seq in [2, 7, last] {
        media[0].delete(&segment(seq));
    }
    let stores: Vec<SharedStore> = media
        .iter()
        .map(|medium| Arc::new(medium.clone()) as _)
        .collect();
    let mut back = Copying::back(Arc::clone(&stores[1]), Arc::clone(&stores[0]));
    let copied = runtime().block_on(back.run(&mut |_| ())).unwrap();
    assert_eq!(copied.objects, 3);
    assert_eq!(media[0].keys(), before);
    runtime().block_on(check_whole(Arc::clone(&stores[0]), &source, source.end()));
}

#[test]
fn damage_is_not_copied() {
    let source = KnownSource::new(START, 9_500);
    let medium = MemoryStore::new();
    pitr_tests::life::live(&FaultStore::new(medium.clone()), &source, Pace::SMALL)
        .unwrap()
        .unwrap();
    let mut damaged = medium.object(&segment(4)).unwrap().to_vec();
    damaged.truncate(damaged.len() - 1);
    medium.damage(&segment(4), damaged);
    let copy = MemoryStore::new();
    runtime().block_on(begin_copy(&medium, &copy)).unwrap();
    let mut copying = Copying::new(Arc::new(medium), Arc::new(copy.clone()));
    let copied = runtime().block_on(copying.run(&mut |_| ())).unwrap();
    assert_eq!(copied.damaged, 1);
    assert!(copy.object(&segment(4)).is_none() && copy.object(&segment(5)).is_some());
}

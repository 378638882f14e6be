//! Finding positions, times and ends: what the searches say is what reading everything would say.

use std::sync::Arc;
use std::time::Duration;

use pitr_archive::object::{Header, Id, Kind};
use pitr_archive::reader::{LogReader, Run};
use pitr_archive::{Reading, layout};
use pitr_tests::fault_store::{Fault, FaultStore};
use pitr_tests::known_source::KnownSource;
use pitr_tests::life::{FIRST_POSITION, Keys, Pace, Random, live, runtime, stream};
use pitr_tests::memory_store::MemoryStore;

const START: u64 = FIRST_POSITION;
const LENGTH: u64 = 60_000;

/// A stream of unlike segments, written in several lives, with breaks where the source lost bytes.
fn uneven_stream(seed: u64) -> (MemoryStore, Arc<KnownSource>) {
    let mut random = Random(seed);
    let (medium, source) = (MemoryStore::new(), KnownSource::new(START, LENGTH as usize));
    let mut until = 0;
    while until < LENGTH {
        if random.below(4) == 0 {
            source.lose_before(START + until + 1 + random.below(500));
        }
        until = (until + 1000 + random.below(9_000)).min(LENGTH);
        let pace = Pace {
            segment_bytes: 1 + random.below(1500),
            piece_bytes: 700,
            in_flight: 1 + random.below(16),
            until: Some(START + until),
            ..Pace::SMALL
        };
        live(&FaultStore::new(medium.clone()), &source, pace)
            .unwrap()
            .unwrap();
    }
    (medium, source)
}

async fn reader(medium: &MemoryStore) -> LogReader {
    let archive = Keys::shared().archive(Arc::new(medium.clone())).await;
    LogReader::new(archive.unwrap(), stream())
}

async fn all_headers(log: &LogReader, run: &Run) -> Vec<Header> {
    let mut headers = Vec::new();
    for seq in run.seqs.clone() {
        headers.push(log.header_of(seq).await.unwrap());
    }
    headers
}

#[test]
fn a_position_is_found_in_the_segment_that_holds_it() {
    for seed in 0..25 {
        let (medium, _) = uneven_stream(seed);
        runtime().block_on(async {
            let every = reader(&medium).await;
            let runs = every.runs(&every.end().await.unwrap()).await.unwrap();
            let mut random = Random(seed);
            for run in &runs {
                let headers = all_headers(&every, run).await;
                for _ in 0..30 {
                    // A reader that remembers nothing searches from scratch.
                    let log = reader(&medium).await;
                    let bytes = run.positions.end - run.positions.start;
                    let position = run.positions.start + random.below(bytes);
                    let wanted = headers
                        .iter()
                        .find(|header| (header.start..header.end).contains(&position))
                        .map(|header| header.seq);
                    let found = log.seq_at(run, position).await.unwrap();
                    assert_eq!(found, wanted, "seed {seed}, {position:#x}");
                }
                for outside in [run.positions.start - 1, run.positions.end] {
                    assert_eq!(every.seq_at(run, outside).await.unwrap(), None);
                }
            }
        });
    }
}

#[test]
fn a_time_is_found_in_the_first_segment_that_is_past_it() {
    for seed in 100..110 {
        let (medium, _) = uneven_stream(seed);
        runtime().block_on(async {
            let log = reader(&medium).await;
            let runs = log.runs(&log.end().await.unwrap()).await.unwrap();
            let mut random = Random(seed);
            for run in &runs {
                let headers = all_headers(&reader(&medium).await, run).await;
                for _ in 0..20 {
                    let moment = (START + random.below(LENGTH)) as i64;
                    let past = |header: &Header| header.time_high.is_some_and(|t| t > moment);
                    let wanted = headers.iter().find(|header| past(header));
                    let wanted = wanted.map_or(run.seqs.end, |header| header.seq);
                    let found = log.partition(run.seqs.clone(), past).await.unwrap();
                    assert_eq!(found, wanted, "seed {seed}, {moment}");
                }
            }
        });
    }
}

#[test]
fn the_end_is_found_from_any_head_in_few_rounds_of_few_requests() {
    let (medium, source) = (MemoryStore::new(), KnownSource::new(START, 2_000_500));
    live(&FaultStore::new(medium.clone()), &source, Pace::SMALL)
        .unwrap()
        .unwrap();
    for head in [true, false] {
        if !head {
            medium.delete("log/00000001/head");
        }
        let store = FaultStore::new(medium.clone());
        store.inject(u64::MAX, Fault::Delay(Duration::from_secs(1)), |_| true);
        let shared = Arc::new(store.clone());
        let (end, rounds) = runtime().block_on(async {
            let archive = Keys::shared().archive(shared).await.unwrap();
            // The clock runs ahead: what is asked at once takes a second in all.
            let started = tokio::time::Instant::now();
            let end = LogReader::new(archive, stream()).end().await.unwrap();
            (end, started.elapsed().as_secs())
        });
        assert_eq!(end.last, Some(2000));
        let requests = store.calls().len();
        assert!(requests < 70, "{requests} requests, head: {head}");
        assert!(rounds < 12, "{rounds} rounds, head: {head}");
    }
}

#[test]
fn a_listing_leads_to_the_end_that_a_search_finds() {
    for seed in 200..230 {
        let (medium, _) = uneven_stream(seed);
        let mut random = Random(seed);
        runtime().block_on(async {
            let last = reader(&medium).await.end().await.unwrap().last.unwrap();
            // What a daemon leaves that is killed with puts in flight, with and without a head.
            for back in 0..16_u64.min(last) {
                if random.below(4) == 0 {
                    medium.delete(&layout::segment(&stream(), last - back));
                }
            }
            if random.below(3) == 0 && medium.object(&layout::head(&stream())).is_some() {
                medium.delete(&layout::head(&stream()));
            }
            let (searching, listing) = (reader(&medium).await, reader(&medium).await);
            let searched = searching.end().await.unwrap();
            let listed = listing.end_by_listing().await.unwrap();
            assert_eq!(listed, searched, "seed {seed}");
            let (runs, same) = (searching.runs(&searched).await, listing.runs(&listed).await);
            assert_eq!(format!("{runs:?}"), format!("{same:?}"), "seed {seed}");
        });
    }
}

#[test]
fn what_was_asked_for_ahead_is_asked_for_once_and_verified_all_the_same() {
    let (medium, source) = (MemoryStore::new(), KnownSource::new(START, 10_500));
    live(&FaultStore::new(medium.clone()), &source, Pace::SMALL)
        .unwrap()
        .unwrap();
    let store = FaultStore::new(medium.clone());
    runtime().block_on(async {
        let archive = Keys::shared().archive(Arc::new(store.clone())).await;
        let reading = Reading::new(archive.unwrap(), Keys::shared().opener());
        let log = LogReader::new(Arc::clone(reading.archive()), stream());
        let wanted = log.segment(3, &reading).await.unwrap();
        let key = layout::segment(&stream(), 3);
        let expected = |seq| {
            reading
                .archive()
                .expected(Kind::Segment, Some(&stream()), Id::default(), seq)
        };
        let before = store.calls().len();
        reading.ask_ahead(&key, &expected(3));
        reading.ask_ahead(&key, &expected(3));
        let opened = reading.fetch(&key, &expected(3)).await.unwrap();
        assert_eq!(opened.plaintext().unwrap(), wanted.plaintext().unwrap());
        assert_eq!(store.calls().len() - before, 1);

        // Another segment under its key, and bytes that were changed.
        let other = medium.object(&layout::segment(&stream(), 4)).unwrap();
        let mut bent = medium.object(&key).unwrap().to_vec();
        let middle = bent.len() / 2;
        bent[middle] ^= 1;
        for wrong in [other, bent.into()] {
            medium.damage(&key, wrong);
            reading.ask_ahead(&key, &expected(3));
            assert!(reading.fetch(&key, &expected(3)).await.is_err());
        }
    });
}

#[test]
fn a_summary_read_by_range_is_the_one_in_the_whole_object() {
    use pitr_archive::object::Frame;
    runtime().block_on(async {
        let medium = MemoryStore::new();
        let keys = Keys::shared();
        let writer = keys.writer(Arc::new(medium.clone())).await.unwrap();
        let noise = KnownSource::new(0, 1 << 20);
        // Around the first guess of the footer's length, around chunks, and the longest.
        let lengths = [
            0,
            1,
            15_000,
            16_300,
            16_344,
            16_345,
            16_384,
            20_000,
            262_144,
            1 << 20,
        ];
        for (seq, summary) in (0..).zip(lengths) {
            for plaintext in [0_usize, 1, 50_000] {
                let mut header = writer.header(Kind::Segment, &stream(), Id::default(), seq);
                (header.start, header.end) = (seq * 10, seq * 10 + 10);
                let frames = match plaintext {
                    0 => Vec::new(),
                    length => vec![Frame::compress(&noise.known(0, length as u64), 1)],
                };
                let wanted = noise.known(0, summary);
                let sealed = writer.seal(header, frames, wanted.to_vec()).await.unwrap();
                let key = pitr_archive::layout::segment(&stream(), seq);
                medium.damage(&key, sealed.bytes);
                let log = reader(&medium).await;
                let archive = keys.archive(Arc::new(medium.clone())).await.unwrap();
                let reading = Reading::new(archive, keys.opener());
                let ranged = log.summary(seq, &reading).await.unwrap();
                assert!(ranged == wanted, "{plaintext} bytes, summary {summary}");
                let whole = log.segment(seq, &reading).await.unwrap();
                assert!(whole.summary == wanted);
            }
        }
    });
}

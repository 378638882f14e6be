//! Verifying a stream in which segments of fenced daemons stand: those that an accepted break goes on behind are no fault, all others are.

use std::sync::Arc;

use pitr_archive::object::{Frame, Id, Kind};
use pitr_archive::reader::LogReader;
use pitr_archive::verify::Verifier;
use pitr_archive::writer::Writer;
use pitr_tests::life::{Keys, runtime, stream};
use pitr_tests::memory_store::MemoryStore;

/// A stream in the making: each writer names its own segments.
struct Log {
    keys: Keys,
    medium: MemoryStore,
    run: (u64, u64),
    seq: u64,
    hash: [u8; 32],
}

impl Log {
    fn new() -> Self {
        Self {
            keys: Keys::shared(),
            medium: MemoryStore::new(),
            run: (0, 0),
            seq: 0,
            hash: [0; 32],
        }
    }

    async fn daemon(&self) -> Arc<Writer> {
        let store = Arc::new(self.medium.clone());
        self.keys.writer(store).await.unwrap()
    }

    /// The next number, with these positions.
    async fn put(&mut self, writer: &Arc<Writer>, start: u64, end: u64) {
        let mut header = writer.header(Kind::Segment, &stream(), Id::default(), self.seq);
        (header.start, header.end) = (start, end);
        (header.run_seq, header.run_start) = self.run;
        header.previous = self.hash;
        let frames = vec![Frame::compress(b"x", 1)];
        let sealed = writer.seal(header, frames, Vec::new()).await.unwrap();
        let key = pitr_archive::layout::segment(&stream(), self.seq);
        writer.put(&key, sealed.bytes).await.unwrap();
        self.hash = sealed.hash;
        self.seq += 1;
    }

    /// The first segment of a new run.
    async fn begin(&mut self, writer: &Arc<Writer>, start: u64, end: u64) {
        self.run = (self.seq, start);
        self.put(writer, start, end).await;
    }

    /// The numbers of the segments that a verification finds fault with.
    async fn faults(&self) -> Vec<u64> {
        let archive = self.keys.archive(Arc::new(self.medium.clone())).await;
        let verified = Verifier::new(archive.unwrap(), None, &|_| ()).run().await;
        let faults = verified.unwrap().faults;
        let key = |seq| pitr_archive::layout::segment(&stream(), seq);
        let named = |seq: &u64| {
            let key = key(*seq);
            faults.iter().any(|fault| fault.to_string().contains(&key))
        };
        let numbers: Vec<_> = (0..self.seq).filter(named).collect();
        assert_eq!(numbers.len(), faults.len(), "{faults:?}");
        numbers
    }

    async fn runs(&self) -> Vec<std::ops::Range<u64>> {
        let archive = self.keys.archive(Arc::new(self.medium.clone())).await;
        let log = LogReader::new(archive.unwrap(), stream());
        let runs = log.runs(&log.end().await.unwrap()).await.unwrap();
        runs.into_iter().map(|run| run.positions).collect()
    }
}

#[test]
fn strays_in_front_of_an_accepted_break_are_no_fault_whosever() {
    runtime().block_on(async {
        let mut log = Log::new();
        let daemons = [log.daemon().await, log.daemon().await, log.daemon().await];
        log.put(&daemons[0], 0, 100).await;
        log.put(&daemons[0], 100, 200).await;
        // Of two that were fenced, in turns: none fits behind the one before it.
        for number in 0..15 {
            let start = 130 + number * 10 + (number % 2) * 1000;
            log.put(&daemons[number as usize % 2], start, start + 7)
                .await;
        }
        log.begin(&daemons[2], 200, 300).await;
        log.put(&daemons[2], 300, 400).await;
        assert!(log.faults().await.is_empty());
        assert_eq!(log.runs().await, [0..200, 200..400]);
        // Once more, behind that.
        log.put(&daemons[0], 350, 450).await;
        log.put(&daemons[0], 450, 460).await;
        let last = log.daemon().await;
        log.begin(&last, 400, 500).await;
        assert!(log.faults().await.is_empty());
        assert_eq!(log.runs().await, [0..200, 200..400, 400..500]);
    });
}

#[test]
fn a_segment_that_does_not_fit_stays_a_fault_where_no_break_was_accepted_behind_it() {
    runtime().block_on(async {
        let mut log = Log::new();
        let [first, second] = [log.daemon().await, log.daemon().await];
        log.put(&first, 0, 100).await;
        log.put(&second, 90, 200).await;
        assert_eq!(log.faults().await, [1], "the last one");
        for number in 2..40 {
            log.put(&second, number * 100, number * 100 + 100).await;
        }
        log.put(&first, 4050, 4100).await;
        log.begin(&second, 4000, 4200).await;
        // A run that begins behind a gap.
        log.begin(&second, 5000, 5100).await;
        assert_eq!(log.faults().await, [1], "and what it was followed by");
    });
}

#[test]
fn more_than_can_be_in_flight_was_built_upon_a_segment_that_does_not_fit_and_is_a_fault() {
    runtime().block_on(async {
        for (strays, wanted) in [(16, vec![]), (17, vec![1, 18])] {
            let mut log = Log::new();
            let [first, second] = [log.daemon().await, log.daemon().await];
            log.put(&first, 0, 100).await;
            for number in 0..strays {
                log.put(&second, 110 + number * 10, 120 + number * 10).await;
            }
            log.begin(&first, 100, 400).await;
            assert_eq!(log.faults().await, wanted, "{strays} of them");
        }
    });
}

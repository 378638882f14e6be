//! Folding partitions: every thread takes the next one, replays its records in their order over a map from `_id` to document, and
//! hands on what is left.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Mutex;

use super::diff;
use super::documents::{Batch, Content, Limits, Sink, Wanted};
use super::error::FoldError;
use super::key::Key;
use super::ordered::Ordered;
use super::raw::Document;
use super::record::{HEADER_BYTES, Record, Verb};
use super::scratch::Scratch;

/// A batch is handed on at this size.
pub(super) const BATCH_BYTES: usize = 2 * 1024 * 1024;
/// What a thread's unfinished batches may take.
const BATCHES_BYTES_MAX: usize = 4 * BATCH_BYTES;
/// Into how many a partition is dealt out again, and how often at most.
const LANES: usize = 16;
const DEPTH_MAX: u32 = 6;

/// Keys are digests already.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u128(&mut self, key: u128) {
        self.0 = (key >> 64) as u64;
    }
}

/// A document under its key, from its first record on.
struct Slot {
    collection: u32,
    order: u64,
    document: Option<Vec<u8>>,
}

/// What all threads share.
pub(super) struct Work<'a> {
    wanted: &'a [Wanted],
    limits: &'a Limits,
    sink: &'a dyn Sink,
    queue: Mutex<Vec<(Scratch, u32)>>,
    ordered: Mutex<HashMap<u32, Ordered>>,
    done: Mutex<(Vec<Content>, u64)>,
    failed: Mutex<Option<FoldError>>,
}

/// Folds all partitions; returns what each collection holds and how much went to scratch files.
pub(super) fn fold_all(
    wanted: &[Wanted],
    partitions: Vec<Scratch>,
    limits: &Limits,
    sink: &dyn Sink,
) -> Result<(Vec<Content>, u64), FoldError> {
    let work = Work {
        wanted,
        limits,
        sink,
        queue: Mutex::new(partitions.into_iter().map(|scratch| (scratch, 0)).collect()),
        ordered: Mutex::default(),
        done: Mutex::new((vec![Content::default(); wanted.len()], 0)),
        failed: Mutex::default(),
    };
    std::thread::scope(|scope| {
        for _ in 0..limits.threads.max(1) {
            scope.spawn(|| {
                if let Err(error) = work.run() {
                    work.failed
                        .lock()
                        .expect("no holder panics")
                        .get_or_insert(error);
                }
            });
        }
    });
    if let Some(error) = work.failed.into_inner().expect("no holder panics") {
        return Err(error);
    }
    let (mut contents, mut spilled) = work.done.into_inner().expect("no holder panics");
    for (collection, ordered) in work.ordered.into_inner().expect("no holder panics") {
        spilled += ordered.spilled_bytes();
        let cap = wanted[collection as usize].ordered;
        contents[collection as usize] =
            ordered.hand_on(cap, &mut |batch| sink.documents(collection, batch))?;
    }
    Ok((contents, spilled))
}

impl Work<'_> {
    fn run(&self) -> Result<(), FoldError> {
        let mut out = Out::new(self);
        loop {
            // Another thread's partition may still be dealt out again; whoever does so folds the pieces.
            let next = self.queue.lock().expect("no holder panics").pop();
            let failed = || self.failed.lock().expect("no holder panics").is_some();
            match next {
                Some((scratch, depth)) if !failed() => self.partition(scratch, depth, &mut out)?,
                _ => return out.finish(),
            }
        }
    }

    fn partition(&self, scratch: Scratch, depth: u32, out: &mut Out<'_>) -> Result<(), FoldError> {
        let bytes = scratch.bytes();
        if bytes <= self.limits.partition_bytes() as u64 || depth == DEPTH_MAX {
            return self.fold(scratch, out);
        }
        let mut lanes: Vec<_> = (0..LANES).map(|_| Scratch::new()).collect();
        let mut held = 0;
        each_record(scratch, |record, payload| {
            let lane = &mut lanes[record.lane(depth + 1, LANES)];
            held += lane.append(&record.encode()) + lane.append(payload);
            if held > self.limits.partition_bytes() {
                for lane in &mut lanes {
                    lane.spill(&self.limits.scratch)?;
                }
                held = 0;
            }
            Ok(())
        })?;
        self.done.lock().expect("no holder panics").1 +=
            lanes.iter().map(Scratch::file_bytes).sum::<u64>();
        // One document's log cannot be divided.
        let whole = lanes.iter().any(|lane| lane.bytes() > bytes / 8 * 7);
        for lane in lanes {
            self.partition(lane, if whole { DEPTH_MAX } else { depth + 1 }, out)?;
        }
        Ok(())
    }

    fn fold(&self, scratch: Scratch, out: &mut Out<'_>) -> Result<(), FoldError> {
        let mut map: HashMap<Key, u32, BuildHasherDefault<KeyHasher>> = HashMap::default();
        let mut slots: Vec<Slot> = Vec::new();
        each_record(scratch, |record, payload| {
            let fresh = u32::try_from(slots.len()).expect("a partition fits into memory");
            let number = *map.entry(record.key).or_insert(fresh);
            if number == fresh {
                slots.push(Slot {
                    collection: record.collection,
                    order: record.order,
                    document: None,
                });
            }
            self.replay(&mut slots[number as usize], record, payload)
        })?;
        drop(map);
        for slot in slots {
            let Some(document) = slot.document else {
                continue;
            };
            let wanted = &self.wanted[slot.collection as usize];
            if let (Some(filter), Ok(whole)) = (&wanted.filter, Document::new(&document))
                && !filter(whole)
            {
                continue;
            }
            out.document(slot.collection, slot.order, &document)?;
        }
        out.end_of_partition()
    }

    fn replay(&self, slot: &mut Slot, record: &Record, payload: &[u8]) -> Result<(), FoldError> {
        match record.verb {
            Verb::Base | Verb::Replace => put(&mut slot.document, payload),
            Verb::Insert => {
                // Where order matters, the log's is the truth: what it inserts comes after whatever came before.
                slot.order = record.order;
                put(&mut slot.document, payload);
            }
            Verb::Delete => slot.document = None,
            Verb::Diff => {
                let malformed = |_| diff::DiffError::Malformed;
                let applied = slot.document.as_deref().map(|document| {
                    let document = Document::new(document).map_err(malformed)?;
                    diff::apply(document, Document::new(payload).map_err(malformed)?)
                });
                // A document that is missing is deleted later in the log, or was moved by nothing that is logged.
                if let Some(applied) = applied {
                    slot.document = Some(applied.map_err(|error| FoldError::Update {
                        at: record.at,
                        namespace: self.wanted[record.collection as usize].namespace.clone(),
                        error,
                    })?);
                }
            }
        }
        Ok(())
    }
}

fn put(document: &mut Option<Vec<u8>>, bytes: &[u8]) {
    *document = Some(bytes.to_vec());
}

fn each_record(
    scratch: Scratch,
    mut take: impl FnMut(&Record, &[u8]) -> Result<(), FoldError>,
) -> Result<(), FoldError> {
    let (mut contents, mut header, mut payload) = (scratch.read()?, [0; HEADER_BYTES], Vec::new());
    while contents.next_exact(&mut header)? {
        let record = Record::decode(&header);
        let damaged =
            || FoldError::scratch("read a scratch file")(std::io::ErrorKind::InvalidData.into());
        let record = record.ok_or_else(damaged)?;
        payload.resize(record.bytes, 0);
        contents.exact(&mut payload)?;
        take(&record, &payload)?;
    }
    Ok(())
}

/// What one thread hands on.
struct Out<'a> {
    work: &'a Work<'a>,
    batches: HashMap<u32, Batch>,
    batches_bytes: usize,
    contents: HashMap<u32, Content>,
    ordered: HashMap<u32, Vec<(u64, Vec<u8>)>>,
}

impl<'a> Out<'a> {
    fn new(work: &'a Work<'a>) -> Self {
        Self {
            work,
            batches: HashMap::new(),
            batches_bytes: 0,
            contents: HashMap::new(),
            ordered: HashMap::new(),
        }
    }

    fn document(&mut self, collection: u32, order: u64, document: &[u8]) -> Result<(), FoldError> {
        if self.work.wanted[collection as usize].ordered.is_some() {
            let run = self.ordered.entry(collection).or_default();
            run.push((order, document.to_vec()));
            return Ok(());
        }
        self.contents.entry(collection).or_default().add(document);
        let batch = self.batches.entry(collection).or_default();
        batch.bytes.extend_from_slice(document);
        batch.documents += 1;
        self.batches_bytes += document.len();
        if batch.bytes.len() >= BATCH_BYTES {
            let batch = self
                .batches
                .remove(&collection)
                .expect("it was just filled");
            self.batches_bytes -= batch.bytes.len();
            self.work.sink.documents(collection, batch)?;
        }
        if self.batches_bytes > BATCHES_BYTES_MAX {
            self.flush()?;
        }
        Ok(())
    }

    fn end_of_partition(&mut self) -> Result<(), FoldError> {
        for (collection, run) in self.ordered.drain() {
            let mut ordered = self.work.ordered.lock().expect("no holder panics");
            let ordered = ordered.entry(collection).or_default();
            ordered.add(run, &self.work.limits.scratch)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), FoldError> {
        self.batches_bytes = 0;
        for (collection, batch) in self.batches.drain() {
            self.work.sink.documents(collection, batch)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), FoldError> {
        self.flush()?;
        let mut done = self.work.done.lock().expect("no holder panics");
        for (collection, content) in &self.contents {
            done.0[*collection as usize].merge(content);
        }
        Ok(())
    }
}

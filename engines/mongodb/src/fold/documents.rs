//! The documents at the target: base rows, then operations in their order, per collection and `_id`. Records are dealt out to
//! partitions by the digest of their `_id`; then every core folds one partition after the other.
//!
//! Memory: [`Limits::memory_bytes`] and a few documents. What is beyond lies in scratch files; a partition that is too large to be
//! folded at once is dealt out again.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use bson::Uuid;

use super::diff::Update;
use super::entry::Entry;
use super::error::FoldError;
use super::key::{Key, key};
use super::partition::fold_all;
use super::raw::{Document, Value};
use super::record::{HEADER_BYTES, Record, Verb};
use super::scratch::Scratch;
use crate::ClusterTime;

/// How much a fold may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Memory for records and documents.
    pub memory_bytes: usize,
    /// Threads that fold.
    pub threads: usize,
    /// Directory for scratch files, which have no names in it.
    pub scratch: PathBuf,
}

/// A predicate on whole documents.
pub type Predicate = Box<dyn Fn(Document<'_>) -> bool + Send + Sync>;

/// A collection that is folded.
pub struct Wanted {
    /// Which one.
    pub uuid: Uuid,
    /// What errors call it.
    pub namespace: String,
    /// Whether its documents have an order, that of their insertion.
    pub ordered: Option<Cap>,
    /// Only the document with this `_id`: BSON with that one field.
    pub id: Option<Vec<u8>>,
    /// Only documents, as they are at the target, for which this holds.
    pub filter: Option<Predicate>,
}

/// How much a capped collection holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cap {
    /// Bytes of documents.
    pub bytes: u64,
    /// Documents.
    pub documents: u64,
}

/// Documents of one collection, end to end.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    /// BSON.
    pub bytes: Vec<u8>,
    /// How many.
    pub documents: u64,
}

/// Takes what was folded, from several threads at once. Those of a collection with an order come in it, from one.
pub trait Sink: Sync {
    /// Takes documents of the collection that is number `collection` of those wanted.
    fn documents(&self, collection: u32, batch: Batch) -> Result<(), FoldError>;
}

/// What a collection holds, whatever the order of its documents.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Content {
    /// Documents.
    pub documents: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Sum of the digests of all documents.
    pub digest: u128,
}

impl Content {
    /// Counts a document in.
    pub fn add(&mut self, document: &[u8]) {
        self.documents += 1;
        self.bytes += document.len() as u64;
        self.digest = self.digest.wrapping_add(super::key::digest(document));
    }

    /// Counts all of `other` in.
    pub fn merge(&mut self, other: &Self) {
        self.documents += other.documents;
        self.bytes += other.bytes;
        self.digest = self.digest.wrapping_add(other.digest);
    }
}

/// What a fold of documents did.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Folded {
    /// Per collection, in the order in which they were wanted.
    pub contents: Vec<Content>,
    /// Operations of the log that concerned them.
    pub operations: u64,
    /// Bytes that went to scratch files.
    pub spilled_bytes: u64,
}

/// Deals out records.
pub struct Documents {
    wanted: Vec<Wanted>,
    numbers: HashMap<Uuid, u32>,
    ids: Vec<Option<Key>>,
    others: BTreeSet<Uuid>,
    limits: Limits,
    partitions: Vec<Scratch>,
    held_bytes: usize,
    order: u64,
    operations: u64,
}

impl Documents {
    /// For `wanted`; operations on `others` are passed over, on anything else refused. `expected_bytes` is about how much will come.
    ///
    /// # Errors
    /// A wanted `_id` that is not BSON.
    pub fn new(
        wanted: Vec<Wanted>,
        others: BTreeSet<Uuid>,
        expected_bytes: u64,
        limits: Limits,
    ) -> Result<Self, FoldError> {
        let numbers = (0..)
            .zip(&wanted)
            .map(|(number, wanted)| (wanted.uuid, number));
        let numbers = numbers.collect();
        let ids = (0..).zip(&wanted).map(|(number, wanted)| {
            let Some(id) = &wanted.id else {
                return Ok(None);
            };
            let id = Document::new(id)
                .ok()
                .and_then(|id| id.elements().next()?.ok());
            let id = id.ok_or_else(|| FoldError::Base(wanted.namespace.clone()))?;
            Ok(Some(key(number, id.value)))
        });
        let ids = ids.collect::<Result<Vec<_>, FoldError>>()?;
        let room = limits.partition_bytes() as u64 / 2;
        let count = (expected_bytes / room.max(1)).clamp(PARTITIONS_MIN, PARTITIONS_MAX);
        let partitions = (0..count.next_power_of_two())
            .map(|_| Scratch::new())
            .collect();
        Ok(Self {
            wanted,
            numbers,
            ids,
            others,
            limits,
            partitions,
            held_bytes: 0,
            order: 0,
            operations: 0,
        })
    }

    /// Takes rows of the base copy of `uuid`: documents, end to end.
    pub fn base(&mut self, uuid: Uuid, mut documents: &[u8]) -> Result<(), FoldError> {
        let Some(&number) = self.numbers.get(&uuid) else {
            return Ok(());
        };
        while !documents.is_empty() {
            let first = Document::split(documents).ok();
            let row = first.and_then(|(document, rest)| Some((document, rest, id_of(document)?)));
            let (document, rest, id) =
                row.ok_or_else(|| FoldError::Base(self.wanted[number as usize].namespace.clone()))?;
            self.deal(
                number,
                id,
                Verb::Base,
                ClusterTime::default(),
                document.bytes(),
            )?;
            documents = rest;
        }
        Ok(())
    }

    /// Takes an operation of the log; commands are not for documents.
    pub fn apply(&mut self, entry: &Entry<'_>) -> Result<(), FoldError> {
        if entry.op == "c" || entry.is_internal() {
            return Ok(());
        }
        let malformed = |what| FoldError::Malformed { at: entry.at, what };
        let uuid = entry
            .uuid
            .ok_or(malformed("an operation without the UUID of its collection"))?;
        let Some(&number) = self.numbers.get(&uuid) else {
            return if self.others.contains(&uuid) {
                Ok(())
            } else {
                let namespace = entry.namespace.to_owned();
                Err(FoldError::Collection {
                    at: entry.at,
                    namespace,
                    uuid,
                })
            };
        };
        let identified = if entry.op == "u" {
            entry.object2
        } else {
            Some(entry.object)
        };
        let id = identified
            .and_then(id_of)
            .ok_or(malformed("an operation without an _id"))?;
        let (verb, payload) = match entry.op {
            "i" => (Verb::Insert, entry.object.bytes()),
            "d" => (Verb::Delete, [].as_slice()),
            _ => match Update::new(entry.object) {
                Ok(Update::Replacement(document)) => (Verb::Replace, document.bytes()),
                Ok(Update::Diff(diff)) => (Verb::Diff, diff.bytes()),
                Err(error) => {
                    let namespace = entry.namespace.to_owned();
                    return Err(FoldError::Update {
                        at: entry.at,
                        namespace,
                        error,
                    });
                }
            },
        };
        self.operations += 1;
        self.deal(number, id, verb, entry.at, payload)
    }

    fn deal(
        &mut self,
        collection: u32,
        id: Value<'_>,
        verb: Verb,
        at: ClusterTime,
        payload: &[u8],
    ) -> Result<(), FoldError> {
        let key = key(collection, id);
        if self.ids[collection as usize].is_some_and(|wanted| wanted != key) {
            return Ok(());
        }
        self.order += 1;
        let record = Record {
            key,
            collection,
            verb,
            order: self.order,
            at,
            bytes: payload.len(),
        };
        let count = self.partitions.len();
        let partition = &mut self.partitions[record.lane(0, count)];
        let header: [u8; HEADER_BYTES] = record.encode();
        self.held_bytes += partition.append(&header) + partition.append(payload);
        if self.held_bytes > self.limits.memory_bytes / 2 {
            for partition in &mut self.partitions {
                partition.spill(&self.limits.scratch)?;
            }
            self.held_bytes = 0;
        }
        Ok(())
    }

    /// Folds, and hands everything to `sink`.
    pub fn finish(self, sink: &dyn Sink) -> Result<Folded, FoldError> {
        let dealt: u64 = self.partitions.iter().map(Scratch::file_bytes).sum();
        let (contents, spilled_bytes) =
            fold_all(&self.wanted, self.partitions, &self.limits, sink)?;
        Ok(Folded {
            contents,
            operations: self.operations,
            spilled_bytes: dealt + spilled_bytes,
        })
    }
}

/// The least and the most partitions: fewer would leave cores idle, more would be too many open files.
const PARTITIONS_MIN: u64 = 32;
const PARTITIONS_MAX: u64 = 256;

impl Limits {
    /// How much one thread folds at once. Half of the memory holds what waits, an eighth what is folded, for documents take more room
    /// in a map than as records.
    pub(super) fn partition_bytes(&self) -> usize {
        (self.memory_bytes / 8 / self.threads.max(1)).max(64 * 1024)
    }
}

pub(super) fn id_of(document: Document<'_>) -> Option<Value<'_>> {
    document.get("_id").ok().flatten()
}

#[cfg(test)]
#[path = "documents_tests.rs"]
mod tests;

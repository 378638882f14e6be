//! From entries to operations in the order in which they took effect: batches are unwrapped where they stand, transactions wait
//! for their commit. What is still open at the target never happened.
//!
//! Memory: open transactions hold 64 MiB and one entry; what is beyond lies in scratch files.

use std::collections::HashMap;
use std::path::PathBuf;

use super::entry::{Entry, inner};
use super::error::FoldError;
use super::raw::Document;
use super::scratch::Scratch;
use crate::{ClusterTime, FCV_NAMESPACE};

/// What all open transactions together keep in memory.
const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Batches inside of batches do not occur; a few are unwrapped.
const DEPTH_MAX: usize = 4;

/// Who wants the operations: the catalogue only commands, and so it holds less.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keep {
    /// Operations of every kind.
    All,
    /// Commands only.
    Commands,
}

/// An open transaction.
#[derive(Debug)]
struct Open {
    operations: Scratch,
    last: ClusterTime,
}

/// Takes entries in the order of the log and hands on operations.
#[derive(Debug)]
pub struct Unwrapper {
    keep: Keep,
    scratch: PathBuf,
    open: HashMap<(Vec<u8>, i64), Open>,
    held_bytes: usize,
    held_bytes_max: usize,
    last: ClusterTime,
}

/// Takes an operation that took effect.
pub type Effect<'s> = &'s mut dyn FnMut(&Entry<'_>) -> Result<(), FoldError>;

impl Unwrapper {
    /// Scratch files are made in the directory `scratch`, without a name.
    #[must_use]
    pub fn new(keep: Keep, scratch: PathBuf) -> Self {
        Self {
            keep,
            scratch,
            open: HashMap::new(),
            held_bytes: 0,
            held_bytes_max: HELD_BYTES_MAX,
            last: ClusterTime::default(),
        }
    }

    /// With another limit of memory, for tests.
    #[must_use]
    pub fn holding(mut self, bytes: usize) -> Self {
        self.held_bytes_max = bytes;
        self
    }

    /// Takes the next entry of the log; `effect` gets what takes effect with it.
    pub fn push(&mut self, bytes: &[u8], effect: Effect<'_>) -> Result<(), FoldError> {
        let entry = Entry::read(bytes, self.last)?;
        if entry.at <= self.last {
            return Err(FoldError::Malformed {
                at: entry.at,
                what: "it does not come after the one before it",
            });
        }
        self.last = entry.at;
        match entry.op {
            "c" => self.command(&entry, effect),
            "i" | "u" | "d" if self.keep == Keep::Commands && !is_version(&entry) => Ok(()),
            "i" | "u" | "d" => effect(&entry),
            // Markers of sharding and of indexes that change no document.
            "n" | "cd" | "ci" | "cu" | "km" => Ok(()),
            op => Err(unknown(&entry, format!("an operation of kind {op:?}"))),
        }
    }

    fn command(&mut self, entry: &Entry<'_>, effect: Effect<'_>) -> Result<(), FoldError> {
        let (name, value) = entry.command()?;
        match (name, entry.session) {
            ("applyOps", Some(_)) if entry.multi == 0 => self.transaction(entry, effect),
            ("applyOps", _) => {
                let operations = value.document().ok_or(FoldError::Malformed {
                    at: entry.at,
                    what: "applyOps without operations",
                })?;
                self.batch(entry, operations, effect, 0)
            }
            ("commitTransaction", Some(_)) => self.commit(entry, effect),
            ("abortTransaction", Some(session)) => {
                self.take((session.id, session.transaction));
                Ok(())
            }
            ("commitTransaction" | "abortTransaction", None) => Err(FoldError::Malformed {
                at: entry.at,
                what: "the end of a transaction without a session",
            }),
            _ => effect(entry),
        }
    }

    /// Unwraps a batch that takes effect where it stands.
    fn batch(
        &mut self,
        entry: &Entry<'_>,
        operations: Document<'_>,
        effect: Effect<'_>,
        depth: usize,
    ) -> Result<(), FoldError> {
        for element in operations.elements() {
            let element = element.map_err(FoldError::malformed(entry.at, "it is not BSON"))?;
            let operation = element.value.document().ok_or(FoldError::Malformed {
                at: entry.at,
                what: "an operation that is not a document",
            })?;
            let operation = inner(operation, entry.at, entry.wall_ms)?;
            let nested = operation.op == "c" && operation.command()?.0 == "applyOps";
            if nested && depth < DEPTH_MAX {
                let operations = operation.command()?.1.document();
                let operations = operations.ok_or(FoldError::Malformed {
                    at: entry.at,
                    what: "applyOps without operations",
                })?;
                self.batch(&operation, operations, effect, depth + 1)?;
            } else {
                self.operation(&operation, effect)?;
            }
        }
        Ok(())
    }

    fn operation(&self, operation: &Entry<'_>, effect: Effect<'_>) -> Result<(), FoldError> {
        match operation.op {
            "c" => effect(operation),
            "i" | "u" | "d" if self.keep == Keep::Commands => Ok(()),
            "i" | "u" | "d" => effect(operation),
            "n" => Ok(()),
            op => Err(unknown(
                operation,
                format!("an operation of kind {op:?} in a transaction"),
            )),
        }
    }

    /// One of the entries of a transaction: a part of it, its prepared end, or its end, which commits.
    fn transaction(&mut self, entry: &Entry<'_>, effect: Effect<'_>) -> Result<(), FoldError> {
        let session = entry.session.expect("the caller looked");
        let flag =
            |name| Ok::<_, FoldError>(entry.field(name)?.is_some_and(|value| value.is_true()));
        let begins = entry.previous.is_none_or(|previous| previous.0 == 0);
        let key = (session.id.to_vec(), session.transaction);
        let operations = entry.command()?.1.document().ok_or(FoldError::Malformed {
            at: entry.at,
            what: "applyOps without operations",
        })?;
        let commits = !flag("partialTxn")? && !flag("prepare")?;
        if begins {
            self.take((session.id, session.transaction));
            if commits {
                return self.batch(entry, operations, effect, DEPTH_MAX);
            }
            let open = Open {
                operations: Scratch::new(),
                last: entry.at,
            };
            self.open.insert(key.clone(), open);
        }
        let continues = self
            .open
            .get(&key)
            .is_some_and(|open| begins || Some(open.last) == entry.previous);
        if !continues {
            return Err(FoldError::Transaction { at: entry.at });
        }
        self.hold(&key, entry, operations)?;
        if commits {
            self.commit_held(entry, effect)
        } else {
            Ok(())
        }
    }

    /// Keeps the operations of an entry until the commit.
    fn hold(
        &mut self,
        key: &(Vec<u8>, i64),
        entry: &Entry<'_>,
        operations: Document<'_>,
    ) -> Result<(), FoldError> {
        let open = self.open.get_mut(key).expect("the caller looked");
        open.last = entry.at;
        for element in operations.elements() {
            let element = element.map_err(FoldError::malformed(entry.at, "it is not BSON"))?;
            let operation = element.value.document().ok_or(FoldError::Malformed {
                at: entry.at,
                what: "an operation that is not a document",
            })?;
            if self.keep == Keep::Commands && inner(operation, entry.at, 0)?.op != "c" {
                continue;
            }
            self.held_bytes += open.operations.append(operation.bytes());
        }
        if self.held_bytes > self.held_bytes_max {
            self.held_bytes -= open.operations.spill(&self.scratch)?;
        }
        Ok(())
    }

    fn commit(&mut self, entry: &Entry<'_>, effect: Effect<'_>) -> Result<(), FoldError> {
        let session = entry.session.expect("the caller looked");
        let open = self.open.get(&(session.id.to_vec(), session.transaction));
        if open.is_none_or(|open| entry.previous.is_some_and(|previous| previous != open.last)) {
            return Err(FoldError::Transaction { at: entry.at });
        }
        self.commit_held(entry, effect)
    }

    fn commit_held(&mut self, entry: &Entry<'_>, effect: Effect<'_>) -> Result<(), FoldError> {
        let session = entry.session.expect("the caller looked");
        let open = self.take((session.id, session.transaction));
        let open = open.ok_or(FoldError::Transaction { at: entry.at })?;
        let mut operations = open.operations.read()?;
        let mut buffer = Vec::new();
        while operations.next_document(&mut buffer)? {
            let document =
                Document::new(&buffer).map_err(FoldError::malformed(entry.at, "it is not BSON"))?;
            let operation = inner(document, entry.at, entry.wall_ms)?;
            self.operation(&operation, effect)?;
        }
        Ok(())
    }

    fn take(&mut self, (id, transaction): (&[u8], i64)) -> Option<Open> {
        let open = self.open.remove(&(id.to_vec(), transaction))?;
        self.held_bytes -= open.operations.held_bytes();
        Some(open)
    }
}

/// The document that holds the feature compatibility version concerns the catalogue, too.
fn is_version(entry: &Entry<'_>) -> bool {
    entry.namespace == FCV_NAMESPACE
}

fn unknown(entry: &Entry<'_>, what: String) -> FoldError {
    FoldError::Unknown { at: entry.at, what }
}

#[cfg(test)]
#[path = "transactions_tests.rs"]
mod tests;

//! Documents of a capped collection: folded in partitions like all others, then merged back into the order in which they were
//! inserted, and cut to what the collection holds.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::Path;

use super::documents::{Batch, Cap, Content};
use super::error::FoldError;
use super::partition::BATCH_BYTES;
use super::scratch::{Contents, Scratch};

/// A run that is larger lies in a file.
const RUN_BYTES_MAX: usize = 1024 * 1024;

/// Sorted runs of one collection's documents.
#[derive(Debug, Default)]
pub(super) struct Ordered {
    runs: Vec<Scratch>,
    documents: u64,
    bytes: u64,
    spilled_bytes: u64,
}

impl Ordered {
    /// Adds what one partition holds, in any order: ordinals and documents.
    pub(super) fn add(
        &mut self,
        mut run: Vec<(u64, Vec<u8>)>,
        scratch: &Path,
    ) -> Result<(), FoldError> {
        run.sort_unstable_by_key(|(order, _)| *order);
        let mut out = Scratch::new();
        for (order, document) in run {
            out.append(&order.to_le_bytes());
            out.append(&document);
            self.documents += 1;
            self.bytes += document.len() as u64;
            if out.held_bytes() > RUN_BYTES_MAX {
                out.spill(scratch)?;
            }
        }
        self.spilled_bytes += out.file_bytes();
        self.runs.push(out);
        Ok(())
    }

    pub(super) fn spilled_bytes(&self) -> u64 {
        self.spilled_bytes
    }

    /// Hands on the newest documents that fit.
    pub(super) fn hand_on(
        self,
        cap: Option<Cap>,
        take: &mut dyn FnMut(Batch) -> Result<(), FoldError>,
    ) -> Result<Content, FoldError> {
        let (mut documents, mut bytes) = (self.documents, self.bytes);
        let fits = |documents: u64, bytes: u64| {
            cap.is_none_or(|cap| documents <= cap.documents && bytes <= cap.bytes)
        };
        let mut runs = Vec::new();
        let mut heap = BinaryHeap::new();
        for run in self.runs {
            let mut run = Run::new(run)?;
            if run.advance()? {
                heap.push(Reverse((run.order, runs.len())));
                runs.push(run);
            }
        }
        let (mut content, mut batch) = (Content::default(), Batch::default());
        while let Some(Reverse((_, number))) = heap.pop() {
            let run = &mut runs[number];
            if fits(documents, bytes) {
                content.add(&run.document);
                batch.bytes.extend_from_slice(&run.document);
                batch.documents += 1;
                if batch.bytes.len() >= BATCH_BYTES {
                    take(std::mem::take(&mut batch))?;
                }
            }
            documents -= 1;
            bytes -= run.document.len() as u64;
            if run.advance()? {
                heap.push(Reverse((run.order, number)));
            }
        }
        if batch.documents > 0 {
            take(batch)?;
        }
        Ok(content)
    }
}

struct Run {
    contents: Contents,
    order: u64,
    document: Vec<u8>,
}

impl Run {
    fn new(run: Scratch) -> Result<Self, FoldError> {
        Ok(Self {
            contents: run.read()?,
            order: 0,
            document: Vec::new(),
        })
    }

    fn advance(&mut self) -> Result<bool, FoldError> {
        let mut order = [0; 8];
        if !self.contents.next_exact(&mut order)? {
            return Ok(false);
        }
        self.order = u64::from_le_bytes(order);
        self.contents.next_document(&mut self.document)
    }
}

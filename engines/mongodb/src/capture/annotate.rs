//! The eye on the entries as they pass: what is noted, sealed, for each segment.

use pitr_archive::writer::{Annotate, Annotation};

use super::Fcv;
use crate::entry::{Head, split_documents};
use crate::summary::LogSummary;

pub(super) struct OplogAnnotator {
    fcv: Fcv,
    summary: LogSummary,
}

impl OplogAnnotator {
    pub(super) fn new(fcv: Fcv) -> Self {
        Self {
            fcv,
            summary: LogSummary::default(),
        }
    }
}

impl Annotate for OplogAnnotator {
    fn observe(&mut self, _start: u64, bytes: &[u8]) {
        for entry in split_documents(bytes) {
            match entry.and_then(Head::read) {
                Ok(head) => self.summary.observe(&head),
                // Capture passes on only what it could read the head of.
                Err(_) => self.summary.incomplete = true,
            }
        }
    }

    fn cut(&mut self) -> Annotation {
        let mut summary = std::mem::take(&mut self.summary);
        summary
            .fcv
            .clone_from(&self.fcv.lock().expect("no holder panics"));
        Annotation {
            time_min: summary.walls.map(|walls| walls.0),
            time_max: summary.walls.map(|walls| walls.1),
            unsure: false,
            damage: None,
            summary: summary.encode(),
        }
    }
}

//! The eye on the entries as they pass: what is noted, sealed, for each segment.

use pitr_archive::writer::{Annotate, Annotation};

use super::Fcv;
use crate::LogKind;
use crate::summary::LogSummary;

pub(super) struct Annotator {
    kind: LogKind,
    fcv: Fcv,
    summary: LogSummary,
}

impl Annotator {
    pub(super) fn new(kind: LogKind, fcv: Fcv) -> Self {
        Self {
            kind,
            fcv,
            summary: LogSummary::default(),
        }
    }
}

impl Annotate for Annotator {
    fn observe(&mut self, _start: u64, bytes: &[u8]) -> bool {
        for entry in self.kind.entries(bytes) {
            match entry {
                Ok((head, _)) => self.summary.observe(&head),
                // Capture passes on only what it could read the head of.
                Err(_) => self.summary.incomplete = true,
            }
        }
        false
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

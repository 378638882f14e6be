//! What is noted about the entries of one segment, sealed in its footer: who wrote what where, and when the catalogue
//! changed, to be read without opening the segment.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{ClusterTime, Head, Op};

const VERSION: i32 = 1;
/// More namespaces, or catalogue changes, than this in one segment are counted as "there may be more".
const LIST_MAX: usize = 4096;

/// How often each kind of operation touched a namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamespaceCounts {
    /// Documents inserted by entries of their own; in the oplog what is inside transactions is counted as commands.
    pub inserts: i64,
    /// Updates, replacements included.
    pub updates: i64,
    /// Deletes.
    pub deletes: i64,
    /// Commands: DDL, transactions.
    pub commands: i64,
    /// No-ops.
    pub noops: i64,
    /// Operations of a kind that this release does not know.
    pub others: i64,
}

impl NamespaceCounts {
    fn add(&mut self, op: Op) {
        *match op {
            Op::Insert => &mut self.inserts,
            Op::Update => &mut self.updates,
            Op::Delete => &mut self.deletes,
            Op::Command => &mut self.commands,
            Op::Noop => &mut self.noops,
            Op::Other => &mut self.others,
        } += 1;
    }

    fn merge(&mut self, later: Self) {
        self.inserts += later.inserts;
        self.updates += later.updates;
        self.deletes += later.deletes;
        self.commands += later.commands;
        self.noops += later.noops;
        self.others += later.others;
    }
}

/// A change of the catalogue.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataDefinition {
    /// When, exactly.
    pub ts: ClusterTime,
    /// Wall time, µs since the Unix epoch.
    pub wall: i64,
    /// The database's command namespace, `db.$cmd`.
    pub ns: String,
    /// The command: `create`, `drop`, `renameCollection`, …
    pub command: String,
    /// What it is about: the value of the command's first field, where that is a string.
    pub subject: Option<String>,
}

/// The summary of a segment, of the oplog or of a change stream.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSummary {
    version: i32,
    /// Feature compatibility version of the source when the segment was cut.
    pub fcv: String,
    /// Term of the first entry; `None` in a segment without entries, and of events.
    pub term_first: Option<i64>,
    /// Term of the last entry.
    pub term_last: Option<i64>,
    /// Time of the first entry.
    pub first: Option<ClusterTime>,
    /// Time of the last entry.
    pub last: Option<ClusterTime>,
    /// Number of entries.
    pub entries: i64,
    /// Earliest and latest wall time, µs since the Unix epoch.
    pub walls: Option<(i64, i64)>,
    /// By namespace.
    pub counts: BTreeMap<String, NamespaceCounts>,
    /// Catalogue changes, in order.
    pub definitions: Vec<DataDefinition>,
    /// `counts` and `definitions` are not complete: the segment itself has to be read.
    pub incomplete: bool,
}

/// Bytes that are not a summary.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the summary of a segment is not one that this release reads")]
pub struct SummaryError;

impl LogSummary {
    /// Takes an entry in.
    pub fn observe(&mut self, head: &Head<'_>) {
        self.entries += 1;
        if let Some(term) = Some(head.term).filter(|term| *term >= 0) {
            self.term_first.get_or_insert(term);
            self.term_last = Some(term);
        }
        self.first.get_or_insert(head.ts);
        self.last = Some(head.ts);
        let (low, high) = self.walls.unwrap_or((head.wall, head.wall));
        self.walls = Some((low.min(head.wall), high.max(head.wall)));
        self.count(head);
        if let Some(command) = head.command().filter(|command| is_definition(command)) {
            self.define(head, command);
        }
    }

    /// Takes in what was observed of the entries that follow.
    pub(crate) fn merge(&mut self, later: Self) {
        self.entries += later.entries;
        self.term_first = self.term_first.or(later.term_first);
        self.term_last = later.term_last.or(self.term_last);
        self.first = self.first.or(later.first);
        self.last = later.last.or(self.last);
        self.walls = match (self.walls, later.walls) {
            (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
            (one, other) => one.or(other),
        };
        self.incomplete |= later.incomplete;
        for (namespace, counts) in later.counts {
            if let Some(known) = self.counts.get_mut(&namespace) {
                known.merge(counts);
            } else if self.counts.len() == LIST_MAX {
                self.incomplete = true;
            } else {
                self.counts.insert(namespace, counts);
            }
        }
        let room = LIST_MAX - self.definitions.len();
        self.incomplete |= later.definitions.len() > room;
        self.definitions
            .extend(later.definitions.into_iter().take(room));
    }

    fn count(&mut self, head: &Head<'_>) {
        if let Some(counts) = self.counts.get_mut(head.ns.as_ref()) {
            counts.add(head.op);
        } else if self.counts.len() == LIST_MAX || head.ns.contains('\0') {
            // No server has a name with a zero in it, and no document a key.
            self.incomplete = true;
        } else {
            let mut counts = NamespaceCounts::default();
            counts.add(head.op);
            self.counts.insert(head.ns.clone().into_owned(), counts);
        }
    }

    fn define(&mut self, head: &Head<'_>, command: &str) {
        if self.definitions.len() == LIST_MAX {
            self.incomplete = true;
            return;
        }
        self.definitions.push(DataDefinition {
            ts: head.ts,
            wall: head.wall,
            ns: head.ns.clone().into_owned(),
            command: command.into(),
            subject: head.subject().map(Into::into),
        });
    }

    /// The bytes that are sealed: one BSON document.
    ///
    /// # Panics
    /// Never: all of it is BSON.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let versioned = Self {
            version: VERSION,
            ..self.clone()
        };
        bson::serialize_to_vec(&versioned).expect("numbers and strings are BSON")
    }

    /// Reads what [`Self::encode`] wrote. An empty summary, which the format allows, tells nothing.
    pub fn decode(bytes: &[u8]) -> Result<Self, SummaryError> {
        if bytes.is_empty() {
            return Ok(Self {
                incomplete: true,
                ..Self::default()
            });
        }
        let summary: Self = bson::deserialize_from_slice(bytes).map_err(|_| SummaryError)?;
        if summary.version != VERSION {
            return Err(SummaryError);
        }
        Ok(Self {
            version: 0,
            ..summary
        })
    }
}

/// Transactions are commands that change no catalogue.
fn is_definition(command: &str) -> bool {
    !matches!(
        command,
        "applyOps" | "commitTransaction" | "abortTransaction" | "prepareTransaction"
    )
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;
    use crate::entry::tests::entry;

    #[test]
    fn a_summary_names_who_wrote_what_and_when_the_catalogue_changed() {
        let mut summary = LogSummary {
            fcv: "6.0".into(),
            ..LogSummary::default()
        };
        for entry in [
            entry(5, 1, "c", "a.$cmd", doc! { "create": "b" }),
            entry(5, 2, "i", "a.b", doc! { "_id": 1 }),
            entry(5, 3, "i", "a.b", doc! { "_id": 2 }),
            entry(6, 1, "d", "a.b", doc! { "_id": 1 }),
            entry(6, 2, "c", "admin.$cmd", doc! { "applyOps": [] }),
            entry(7, 1, "c", "a.$cmd", doc! { "drop": "b" }),
        ] {
            summary.observe(&Head::read(&entry).unwrap());
        }
        let read = LogSummary::decode(&summary.encode()).unwrap();
        assert_eq!(read, summary);
        assert_eq!(read.entries, 6);
        assert_eq!(
            (read.first, read.last),
            (Some(ClusterTime::new(5, 1)), Some(ClusterTime::new(7, 1)))
        );
        assert_eq!(
            read.counts["a.b"],
            NamespaceCounts {
                inserts: 2,
                deletes: 1,
                ..NamespaceCounts::default()
            }
        );
        let changes: Vec<_> = read
            .definitions
            .iter()
            .map(|d| (d.ts, d.command.as_str(), d.subject.as_deref()))
            .collect();
        let expected = [
            (ClusterTime::new(5, 1), "create", Some("b")),
            (ClusterTime::new(7, 1), "drop", Some("b")),
        ];
        assert_eq!(changes, expected);
        assert_eq!(read.walls, Some((5_005_000, 7_005_000)));
    }

    #[test]
    fn what_was_observed_in_parts_is_what_was_observed_at_once() {
        let entries = [
            entry(5, 1, "c", "a.$cmd", doc! { "create": "b" }),
            entry(5, 2, "i", "a.b", doc! { "_id": 1 }),
            entry(6, 1, "n", "", doc! {}),
            entry(6, 2, "d", "a.b", doc! { "_id": 1 }),
            entry(6, 3, "u", "a.c", doc! { "_id": 1 }),
            entry(7, 1, "c", "a.$cmd", doc! { "drop": "b" }),
        ];
        let observed = |entries: &[bson::RawDocumentBuf]| {
            let mut summary = LogSummary::default();
            for entry in entries {
                summary.observe(&Head::read(entry).unwrap());
            }
            summary
        };
        for at in 0..=entries.len() {
            let mut merged = observed(&entries[..at]);
            merged.merge(observed(&entries[at..]));
            assert_eq!(merged, observed(&entries));
        }
    }

    #[test]
    fn parts_with_too_many_namespaces_or_changes_are_said_to_have_too_many() {
        let names = |numbers: std::ops::Range<usize>| {
            let named = |number| (format!("a.{number}"), NamespaceCounts::default());
            let counts = numbers.map(named).collect();
            LogSummary {
                counts,
                ..LogSummary::default()
            }
        };
        let mut all = names(0..LIST_MAX);
        all.merge(names(5..LIST_MAX));
        assert!(!all.incomplete);
        all.merge(names(LIST_MAX..LIST_MAX + 1));
        assert!(all.incomplete && all.counts.len() == LIST_MAX);
        let changes = |count: u32| {
            let mut summary = LogSummary::default();
            for number in 0..count {
                let create = entry(1, number, "c", "a.$cmd", doc! { "create": "b" });
                summary.observe(&Head::read(&create).unwrap());
            }
            summary
        };
        let mut all = changes(LIST_MAX as u32 - 1);
        all.merge(changes(1));
        assert!(!all.incomplete);
        all.merge(changes(1));
        assert!(all.incomplete && all.definitions.len() == LIST_MAX);
    }

    #[test]
    fn a_namespace_that_no_document_can_name_makes_the_summary_incomplete() {
        let mut summary = LogSummary::default();
        let entry = entry(1, 1, "c", "a\0b.$cmd", doc! { "create": "b" });
        summary.observe(&Head::read(&entry).unwrap());
        let read = LogSummary::decode(&summary.encode()).unwrap();
        assert!(read.incomplete && read.counts.is_empty());
        assert_eq!((read.entries, read.definitions.len()), (1, 1));
    }

    #[test]
    fn too_many_namespaces_are_said_to_be_too_many() {
        let mut summary = LogSummary::default();
        for number in 0..=LIST_MAX {
            let entry = entry(
                1,
                number as u32,
                "i",
                &format!("a.{number}"),
                doc! { "_id": 1 },
            );
            summary.observe(&Head::read(&entry).unwrap());
        }
        assert!(summary.incomplete);
        assert_eq!(
            (summary.counts.len(), summary.entries),
            (LIST_MAX, LIST_MAX as i64 + 1)
        );
    }

    #[test]
    fn what_a_later_release_wrote_is_refused() {
        let later = bson::serialize_to_vec(&doc! { "version": 2 }).unwrap();
        assert_eq!(LogSummary::decode(&later), Err(SummaryError));
        assert_eq!(LogSummary::decode(b"no"), Err(SummaryError));
        assert!(LogSummary::decode(b"").unwrap().incomplete);
    }
}

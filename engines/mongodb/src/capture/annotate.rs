//! The eye on the entries as they pass: what is noted, sealed, for each segment.

use bson::raw::RawDocument;
use pitr_archive::object::Proofs;
use pitr_archive::writer::{Annotate, Annotation};

use super::Fcv;
use super::digests::Digests;
use crate::entry::{Head, Op};
use crate::summary::LogSummary;
use crate::{ClusterTime, FCV_ID, FCV_NAMESPACE, LogKind};

pub(super) struct Annotator {
    kind: LogKind,
    fcv: Fcv,
    later: Option<(ClusterTime, String)>,
    summary: LogSummary,
    digests: Digests,
}

impl Annotator {
    /// `fcv` is the version where the log begins; of a change stream, which does not tell of it, whoever asks keeps it up to date.
    /// Where it was not known, `later` says from when on it is what, unless entries before that change it.
    /// Of what lies in `digests` no entry is read again.
    pub(super) fn new(
        kind: LogKind,
        fcv: Fcv,
        later: Option<(ClusterTime, String)>,
        digests: Digests,
    ) -> Self {
        Self {
            kind,
            fcv,
            later,
            summary: LogSummary::default(),
            digests,
        }
    }

    /// What was noted of these bytes, unless the version becomes known in them.
    fn noted(&self, start: u64, bytes: &[u8]) -> Option<LogSummary> {
        let noted = self.digests.take(start, bytes.len())?;
        let later = self.later.as_ref();
        let before = later.is_none_or(|(from, _)| noted.last < Some(*from));
        before.then_some(noted)
    }

    fn note_version(&mut self, version: &str) {
        version.clone_into(&mut self.fcv.lock().expect("no holder panics"));
    }
}

impl Annotate for Annotator {
    fn observe(&mut self, start: u64, bytes: &[u8]) -> bool {
        if let Some(noted) = self.noted(start, bytes) {
            self.summary.merge(noted);
            return false;
        }
        for entry in self.kind.entries(bytes) {
            match entry {
                Ok((head, entry)) => {
                    self.summary.observe(&head);
                    if let Some(version) = version_set_by(&head, entry) {
                        self.later = None;
                        self.note_version(version);
                    } else if let Some((_, version)) =
                        self.later.take_if(|(from, _)| head.ts >= *from)
                    {
                        self.note_version(&version);
                    }
                }
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
            proofs: Proofs::default(),
            summary: summary.encode(),
        }
    }
}

/// What an entry of the oplog makes the feature compatibility version, empty if that cannot be told; `None` if it leaves it alone.
pub(super) fn version_set_by<'a>(head: &Head<'a>, entry: &'a RawDocument) -> Option<&'a str> {
    if head.ns != FCV_NAMESPACE {
        return None;
    }
    let object = head.object?;
    let named = match head.op {
        Op::Update => entry.get_document("o2").ok()?,
        Op::Insert | Op::Delete => object,
        Op::Command | Op::Noop | Op::Other => return None,
    };
    if named.get_str("_id").ok() != Some(FCV_ID) {
        return None;
    }
    let Ok(diff) = object.get_document("diff") else {
        return Some(object.get_str("version").unwrap_or_default());
    };
    let changed = |part| diff.get_document(part).ok()?.get_str("version").ok();
    let is_gone = diff
        .get_document("d")
        .is_ok_and(|gone| matches!(gone.get("version"), Ok(Some(_))));
    changed("u").or(changed("i")).or(is_gone.then_some(""))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use bson::{DateTime, Document, RawDocumentBuf, Timestamp, doc};

    use super::*;

    fn entry(op: &str, ns: &str, o: Document, id: &str) -> RawDocumentBuf {
        let entry = doc! {
            "op": op, "ns": ns, "o": o, "o2": { "_id": id }, "ts": Timestamp { time: 5, increment: 1 },
            "wall": DateTime::from_millis(0),
        };
        RawDocumentBuf::try_from(&entry).unwrap()
    }

    fn after(entries: &[RawDocumentBuf]) -> String {
        let fcv = Arc::new(Mutex::new("6.0".to_owned()));
        let mut annotator = Annotator::new(LogKind::Oplog, fcv, None, Digests::default());
        for entry in entries {
            assert!(!annotator.observe(0, entry.as_bytes()));
        }
        let cut = annotator.cut();
        LogSummary::decode(&cut.summary).unwrap().fcv
    }

    #[test]
    fn a_segment_carries_the_version_that_its_last_entries_set() {
        let update = |o: Document| entry("u", FCV_NAMESPACE, o, FCV_ID);
        let steps = [
            update(
                doc! { "_id": FCV_ID, "version": "5.0", "targetVersion": "5.0", "previousVersion": "6.0" },
            ),
            update(doc! { "_id": FCV_ID, "version": "5.0" }),
        ];
        assert_eq!(after(&steps[..1]), "5.0");
        assert_eq!(after(&steps), "5.0");
        let diff = |diff: Document| update(doc! { "$v": 2, "diff": diff });
        assert_eq!(after(&[diff(doc! { "u": { "version": "7.0" } })]), "7.0");
        assert_eq!(after(&[diff(doc! { "i": { "version": "7.0" } })]), "7.0");
        assert_eq!(
            after(&[diff(doc! { "d": { "targetVersion": false } })]),
            "6.0"
        );
        assert_eq!(after(&[diff(doc! { "d": { "version": false } })]), "");
        let insert = doc! { "_id": FCV_ID, "version": "7.0" };
        assert_eq!(after(&[entry("i", FCV_NAMESPACE, insert, "")]), "7.0");
        assert_eq!(
            after(&[entry("d", FCV_NAMESPACE, doc! { "_id": FCV_ID }, "")]),
            ""
        );
    }

    #[test]
    fn a_version_that_the_server_forgot_is_known_again_where_the_backlog_ends() {
        let at = |seconds: u32, ns: &str| {
            let entry = doc! {
                "op": "u", "ns": ns, "o": { "_id": FCV_ID, "version": "7.0" }, "o2": { "_id": FCV_ID },
                "ts": Timestamp { time: seconds, increment: 1 }, "wall": DateTime::from_millis(0),
            };
            RawDocumentBuf::try_from(&entry).unwrap()
        };
        let versions = |entries: &[RawDocumentBuf]| {
            let later = Some((ClusterTime::new(6, 1), "6.0".to_owned()));
            let mut annotator =
                Annotator::new(LogKind::Oplog, Fcv::default(), later, Digests::default());
            let cut = |entry: &RawDocumentBuf| {
                annotator.observe(0, entry.as_bytes());
                LogSummary::decode(&annotator.cut().summary).unwrap().fcv
            };
            entries.iter().map(cut).collect::<Vec<_>>()
        };
        assert_eq!(
            versions(&[at(5, "a.b"), at(6, "a.b"), at(7, "a.b")]),
            ["", "6.0", "6.0"]
        );
        assert_eq!(
            versions(&[at(5, FCV_NAMESPACE), at(6, "a.b"), at(7, "a.b")]),
            ["7.0", "7.0", "7.0"]
        );
    }

    #[test]
    fn noted_or_read_again_the_summary_is_the_same() {
        let at = |seconds: u32| {
            let entry = doc! {
                "op": "i", "ns": "a.b", "o": { "_id": 1 }, "ts": Timestamp { time: seconds, increment: 1 },
                "wall": DateTime::from_millis(seconds.into()),
            };
            RawDocumentBuf::try_from(&entry).unwrap()
        };
        let summaries = |noted: bool| {
            let later = Some((ClusterTime::new(7, 1), "6.0".to_owned()));
            let digests = Digests::default();
            let mut annotator =
                Annotator::new(LogKind::Oplog, Fcv::default(), later, digests.clone());
            let cut = |seconds: u32| {
                let entry = at(seconds);
                let (start, bytes) = (ClusterTime::new(seconds, 1), entry.as_bytes());
                if noted {
                    let mut summary = LogSummary::default();
                    summary.observe(&Head::read(&entry).unwrap());
                    digests.push(start, bytes.len(), summary);
                }
                annotator.observe(start.0, bytes);
                annotator.cut()
            };
            [5, 6, 7, 8].map(cut)
        };
        let noted = summaries(true);
        assert_eq!(noted, summaries(false));
        let versions = noted.map(|cut| LogSummary::decode(&cut.summary).unwrap().fcv);
        assert_eq!(versions, ["", "", "6.0", "6.0"]);
    }

    #[test]
    fn other_documents_leave_the_version_alone() {
        let version = || doc! { "_id": FCV_ID, "version": "7.0" };
        assert_eq!(after(&[entry("u", "a.b", version(), FCV_ID)]), "6.0");
        let other = doc! { "_id": "authSchema", "version": "7.0" };
        assert_eq!(
            after(&[entry("u", FCV_NAMESPACE, other.clone(), "authSchema")]),
            "6.0"
        );
        assert_eq!(after(&[entry("i", FCV_NAMESPACE, other, "")]), "6.0");
    }
}

//! The way of a restore through the archive: once over the log for the catalogue, then base copy and log for the documents. The
//! fold runs on threads of its own and is fed from the store.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;

use bson::Uuid;
use futures_util::StreamExt;
use pitr_archive::Reading;
use pitr_archive::catalogue::BackupId;
use pitr_archive::object::StreamName;
use tokio::runtime::Handle;

use super::{RestoreError, Selection, accounts, views};
use crate::base::BaseReader;
use crate::base::views::NAME;
use crate::fold::catalogue::{Catalogue, Collection, from_base};
use crate::fold::key::{Key, key};
use crate::fold::raw::Document;
use crate::fold::{Documents, Entry, FoldError, Folded, Keep, Limits, Replay, Sink, Wanted};
use crate::log::{Entries, PassOver};
use crate::summary::{LogSummary, NamespaceCounts};
use crate::{ClusterTime, FCV_NAMESPACE, LogKind};

/// What a restore takes beside the fold: parts or segments that are read ahead, batches on their way to the target, the program.
const BESIDE_BYTES: u64 = 160 << 20;
/// With less the fold would write scratch files and nothing else.
const FOLD_BYTES_MIN: u64 = 1 << 20;

/// What is folded: a base copy, and the log of `stream` behind it up to and including `to`.
#[derive(Clone, Debug)]
pub struct Source {
    /// The archive and what opens it.
    pub reading: Arc<Reading>,
    /// The base copy.
    pub base: BackupId,
    /// The log's stream.
    pub stream: StreamName,
    /// The last entry that takes effect, or any time before the next one.
    pub to: ClusterTime,
}

/// What happens during a restore, for whoever shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// About so many bytes of base copy will be read.
    Total(u64),
    /// So many more are.
    Read(u64),
    /// So many more documents are in place.
    Placed(u64),
}

/// Is told what happens, from any thread.
pub type Watch = Arc<dyn Fn(Event) + Send + Sync>;

/// The catalogue at the target.
#[derive(Clone, Debug)]
pub struct State {
    /// What is there.
    pub collections: BTreeMap<Uuid, Collection>,
    /// What was there.
    pub dropped: BTreeSet<Uuid>,
    /// Entries of the log.
    pub entries: u64,
}

/// What the fold of a whole command may take that has `memory_bytes`: the rest is for reading ahead, the driver and the program.
#[must_use]
pub fn limits(memory_bytes: u64, threads: usize, scratch: PathBuf) -> Limits {
    let fold = memory_bytes.saturating_sub(BESIDE_BYTES);
    let fold = fold.max(memory_bytes / 4).max(FOLD_BYTES_MIN);
    Limits {
        memory_bytes: usize::try_from(fold).unwrap_or(usize::MAX),
        threads,
        scratch,
    }
}

/// Scratch files of the fold, and how much it may take.
#[derive(Clone)]
pub struct Fold {
    source: Source,
    base: Arc<BaseReader>,
    limits: Limits,
    watch: Watch,
}

impl Fold {
    /// Opens the base copy.
    pub async fn open(source: Source, limits: Limits, watch: Watch) -> Result<Self, RestoreError> {
        let base = BaseReader::open(Arc::clone(&source.reading), source.base).await?;
        let (t1, to) = (base.manifest().t1, source.to);
        if to < t1 {
            return Err(RestoreError::Request(format!(
                "the base copy {} is whole from {t1} on, which is after the target {to}",
                source.base
            )));
        }
        Ok(Self {
            source,
            base: Arc::new(base),
            limits,
            watch,
        })
    }

    /// The base copy.
    #[must_use]
    pub fn base(&self) -> &BaseReader {
        &self.base
    }

    /// The directory for scratch files, and the limits.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Which of the source's logs is folded.
    #[must_use]
    pub fn kind(&self) -> LogKind {
        LogKind::of(&self.source.stream)
    }

    /// What to know of a restore of `selection` from this log.
    #[must_use]
    pub(super) fn remarks(&self, selection: &Selection) -> Vec<String> {
        let admin = selection.is_whole() || selection.only.iter().any(|only| only.db == "admin");
        let remark = "users, roles and what else lies in the database admin are as the base copy found them: a change stream does not \
                      show them";
        let unseen = self.kind() == LogKind::Events && admin;
        unseen.then(|| remark.to_owned()).into_iter().collect()
    }

    /// The log from its beginning.
    async fn log(&self, keep: Keep, pass_over: PassOver) -> Result<Log, RestoreError> {
        Ok(Log {
            entries: self.entries_but(pass_over).await?,
            replay: Replay::new(self.kind(), keep, self.limits.scratch.clone()),
            // Of the oplog the fold itself sees a change.
            fcv: Some(self.base.manifest().fcv.clone())
                .filter(|fcv| self.kind() == LogKind::Events && !fcv.is_empty()),
        })
    }

    /// Folds the catalogue.
    pub async fn catalogue(&self) -> Result<State, RestoreError> {
        let events = self.kind() == LogKind::Events;
        let manifest = self.base.manifest();
        let base = manifest.collections.iter();
        let base = base.filter(|found| !accounts::is_internal(&found.db, &found.name));
        let base = base.filter(|found| !events || found.name != NAME);
        let base = base.filter_map(from_base).chain(accounts::collections());
        let views = events.then(|| views::collections(manifest));
        let mut catalogue = Catalogue::new(base.chain(views.into_iter().flatten()));
        // Summaries of events also tell of the feature compatibility version, which is looked at before anything is touched.
        let pass_over: PassOver = if events {
            |_| false
        } else {
            changes_no_catalogue
        };
        let log = self.log(Keep::Commands, pass_over).await?;
        let (catalogue, count) = blocking(move |handle| {
            let count = each(handle, log, &mut |entry| match accounts::by_name(entry)? {
                Some(entry) => catalogue.apply(&entry),
                None if accounts::is_version(entry) => catalogue.apply(entry),
                None => Ok(()),
            })?;
            Ok((catalogue, count))
        })
        .await?;
        let dropped = catalogue.dropped();
        Ok(State {
            collections: catalogue.finish()?,
            dropped,
            entries: count,
        })
    }

    /// Folds the documents of `wanted` into `sink`; `others` is everything else that exists or existed.
    pub async fn documents(
        &self,
        wanted: Vec<Wanted>,
        others: BTreeSet<Uuid>,
        sink: Arc<dyn Sink + Send>,
    ) -> Result<Folded, RestoreError> {
        let uuids: BTreeSet<Uuid> = wanted.iter().map(|wanted| wanted.uuid).collect();
        let of_base = self.base.manifest().collections.iter();
        let of_base = of_base.filter(|found| found.uuid.is_some_and(|uuid| uuids.contains(&uuid)));
        let bytes: u64 = of_base.map(crate::base::Collection::bytes).sum();
        (self.watch)(Event::Total(bytes));
        let documents = Documents::new(wanted, others, bytes, self.limits.clone())?;
        let (base, watch) = (Arc::clone(&self.base), Arc::clone(&self.watch));
        let events = self.kind() == LogKind::Events;
        let log = self.log(Keep::All, |_| false).await?;
        blocking(move |handle| {
            let mut documents = documents;
            for (uuid, rows) in accounts::rows(base.manifest()) {
                documents.base(uuid, &rows)?;
            }
            let views = events.then(|| views::rows(base.manifest()));
            for (uuid, rows) in views.into_iter().flatten() {
                documents.base(uuid, &rows)?;
            }
            rows(handle, &base, &uuids, &mut documents, &watch)?;
            base.forget_parts();
            each(handle, log, &mut |entry| match accounts::by_name(entry)? {
                Some(entry) => documents.apply(&entry),
                None => Ok(()),
            })?;
            Ok(documents.finish(sink.as_ref())?)
        })
        .await
    }

    /// Hands every operation that took effect to `effect`, in order.
    pub async fn operations(
        &self,
        mut effect: impl FnMut(&Entry<'_>) -> Result<(), FoldError> + Send + 'static,
    ) -> Result<u64, RestoreError> {
        let log = self.log(Keep::All, |_| false).await?;
        blocking(move |handle| each(handle, log, &mut effect)).await
    }

    /// The base copy's row of `collection` whose `_id` has this key in no collection's name.
    pub(crate) async fn row(
        &self,
        collection: &crate::base::Collection,
        wanted: Key,
    ) -> Result<Option<Vec<u8>>, RestoreError> {
        let mut rows = pin!(self.base.documents(collection));
        let mut found = None;
        while let Some(rows) = rows.next().await.transpose()? {
            let mut rest = rows.as_slice();
            while let Ok((document, after)) = Document::split(rest) {
                let id = document.get("_id").ok().flatten();
                if id.is_some_and(|id| key(0, id) == wanted) {
                    found = Some(document.bytes().to_vec());
                }
                rest = after;
            }
        }
        Ok(found)
    }

    async fn entries_but(&self, pass_over: PassOver) -> Result<Entries, RestoreError> {
        let Source {
            reading,
            stream,
            to,
            ..
        } = &self.source;
        let from = self.base.manifest().t0;
        Ok(Entries::open_but(Arc::clone(reading), stream, from, *to, pass_over).await?)
    }
}

/// Whether a segment holds nothing that the catalogue has to see: no command, nothing unknown, no change of the feature
/// compatibility version.
fn changes_no_catalogue(summary: &LogSummary) -> bool {
    let plain = |(namespace, counts): (&String, &NamespaceCounts)| {
        counts.commands == 0 && counts.others == 0 && namespace != FCV_NAMESPACE
    };
    !summary.incomplete && summary.counts.iter().all(plain)
}

/// Runs what computes, with a way to wait for the store.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce(&Handle) -> Result<T, RestoreError> + Send + 'static,
) -> Result<T, RestoreError> {
    let handle = Handle::current();
    let done = tokio::task::spawn_blocking(move || work(&handle)).await;
    done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// The archived log on its way into a fold.
struct Log {
    entries: Entries,
    replay: Replay,
    /// The feature compatibility version that has to stay, where only the segments' summaries tell of it.
    fcv: Option<String>,
}

fn each(
    handle: &Handle,
    mut log: Log,
    effect: &mut dyn FnMut(&Entry<'_>) -> Result<(), FoldError>,
) -> Result<u64, RestoreError> {
    let mut count = 0;
    while let Some(batch) = handle.block_on(log.entries.next())? {
        count += batch.passed_over;
        let found = Some(&batch.summary.fcv).filter(|fcv| !fcv.is_empty());
        let changed = log
            .fcv
            .as_ref()
            .zip(found)
            .is_some_and(|(fcv, found)| fcv != found);
        for entry in batch.entries() {
            let (head, entry) = entry?;
            if changed {
                return Err(FoldError::Compatibility { at: head.ts }.into());
            }
            log.replay.push(entry.as_bytes(), effect)?;
            count += 1;
        }
    }
    Ok(count)
}

fn rows(
    handle: &Handle,
    base: &BaseReader,
    uuids: &BTreeSet<Uuid>,
    documents: &mut Documents,
    watch: &Watch,
) -> Result<(), RestoreError> {
    for collection in &base.manifest().collections {
        let Some(uuid) = collection.uuid.filter(|uuid| uuids.contains(uuid)) else {
            continue;
        };
        let mut rows = pin!(base.documents(collection));
        while let Some(rows) = handle.block_on(rows.next()).transpose()? {
            documents.base(uuid, &rows)?;
            watch(Event::Read(rows.len() as u64));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;
    use crate::Head;
    use crate::entry::tests::entry;

    #[test]
    fn only_segments_of_plain_writes_are_passed_over_for_the_catalogue() {
        let passed = |op: &str, ns: &str| {
            let mut summary = LogSummary::default();
            summary.observe(&Head::read(&entry(5, 1, "i", "a.b", doc! { "_id": 1 })).unwrap());
            summary.observe(&Head::read(&entry(5, 2, op, ns, doc! { "create": "b" })).unwrap());
            changes_no_catalogue(&summary)
        };
        assert!(passed("u", "a.b") && passed("d", "c.d") && passed("n", ""));
        assert!(
            !passed("c", "a.$cmd"),
            "DDL, and transactions, which may hold some"
        );
        assert!(
            !passed("new", "a.b"),
            "what is unknown is refused before anything is touched"
        );
        assert!(!passed("u", FCV_NAMESPACE));
        let incomplete = LogSummary::decode(b"").unwrap();
        assert!(!changes_no_catalogue(&incomplete));
    }
}

//! Restore: the state at a cluster time, into files or into a deployment. `run` folds base copy and log, `select` says what of it is
//! wanted and under which names, `directory` writes files that mongorestore reads, `load` fills a deployment once.

mod accounts;
mod directory;
mod error;
pub mod extjson;
mod filter;
mod load;
mod run;
mod select;
mod series;
mod special;
mod views;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

pub use directory::{Directory, MARK, interrupted_in, into_directory};
pub use error::RestoreError;
pub use filter::Filter;
pub use load::{Load, MARK_DATABASE, interrupted_on, into_deployment};
pub use run::{Event, Fold, Source, State, Watch, limits};
pub use select::{Name, Rename, Role, Selected, Selection, Target};

use crate::fold::key::{Key, key};
use crate::fold::raw::{Document, Value};
use crate::fold::{Batch, Cap, Content, FoldError, Predicate, Sink, Wanted};

/// What a restore did with one collection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restored {
    /// What it was called at the target.
    pub source: String,
    /// What it is called now.
    pub namespace: String,
    /// What it holds.
    pub content: Content,
    /// Its indexes, that of `_id` included.
    pub indexes: u64,
}

/// What a restore did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Collections, by name.
    pub collections: Vec<Restored>,
    /// Views that were made.
    pub views: u64,
    /// Users.
    pub users: u64,
    /// Roles.
    pub roles: u64,
    /// Entries of the log that were read.
    pub entries: u64,
    /// Operations of them that concerned what was restored.
    pub operations: u64,
    /// Bytes that went to scratch files.
    pub spilled_bytes: u64,
    /// What to know.
    pub remarks: Vec<String>,
}

impl Restored {
    fn new(target: &Target, content: Content) -> Self {
        Self {
            source: target.collection.namespace(),
            namespace: target.namespace(),
            content,
            indexes: target.collection.indexes.len() as u64,
        }
    }
}

impl Summary {
    /// Documents in all collections.
    #[must_use]
    pub fn documents(&self) -> u64 {
        self.collections
            .iter()
            .map(|restored| restored.content.documents)
            .sum()
    }

    /// Their bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.collections
            .iter()
            .map(|restored| restored.content.bytes)
            .sum()
    }
}

/// How the documents of `selected` are folded; numbers follow its targets.
fn wanted(selected: &Selected, selection: &Selection, files: Option<HashSet<Key>>) -> Vec<Wanted> {
    let files = files.map(Arc::new);
    let wanted = selected.targets.iter().map(|target| {
        let collection = &target.collection;
        let chunks = is_chunks(target, selected);
        let by_file = chunks.then(|| files.clone()).flatten().map(of_files);
        let filter = selection
            .filter
            .clone()
            .filter(|_| !chunks && target.role == Role::Plain);
        let filter =
            filter.map(|filter| -> Predicate { Box::new(move |document| filter.holds(document)) });
        Wanted {
            uuid: collection.uuid,
            namespace: collection.namespace(),
            ordered: collection.is_capped().then(|| cap(target)),
            id: selection.id.clone().filter(|_| !chunks),
            filter: by_file.or(filter),
        }
    });
    wanted.collect()
}

/// Whether it holds the chunks of files that are selected as well.
fn is_chunks(target: &Target, selected: &Selected) -> bool {
    let twin = target
        .collection
        .name
        .strip_suffix(".chunks")
        .map(|bucket| format!("{bucket}.files"));
    let is_twin = |other: &Target| {
        other.collection.db == target.collection.db && Some(&other.collection.name) == twin.as_ref()
    };
    selected.targets.iter().any(is_twin)
}

fn of_files(files: Arc<HashSet<Key>>) -> Predicate {
    Box::new(move |document| {
        let file = document.get("files_id").ok().flatten();
        file.is_some_and(|file| files.contains(&key(0, file)))
    })
}

fn cap(target: &Target) -> Cap {
    let number = |name: &str| target.collection.option(name).and_then(Value::integer);
    let number = |name: &str| {
        number(name)
            .and_then(|number| u64::try_from(number).ok())
            .filter(|number| *number > 0)
    };
    Cap {
        bytes: number("size").unwrap_or(u64::MAX),
        documents: number("max").unwrap_or(u64::MAX),
    }
}

/// Refuses names that are neither of a collection nor of a view. Views stand in documents, so they are folded first where a name can
/// only be theirs: nothing is touched for a name that does not exist.
async fn check_names(
    fold: &Fold,
    selected: &Selected,
    selection: &Selection,
) -> Result<(), RestoreError> {
    let names = |only: &&Name| {
        let mut targets = selected
            .targets
            .iter()
            .filter(|target| target.role != Role::Views);
        only.collection.as_ref().is_some_and(|name| {
            !targets.any(|target| {
                let stored = &target.collection.name;
                target.collection.db == only.db
                    && stored.strip_prefix(select::BUCKETS).unwrap_or(stored) == name
            })
        })
    };
    let unknown: Vec<&Name> = selection.only.iter().filter(names).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let mut views = selected.clone();
    views.targets.retain(|target| target.role == Role::Views);
    let rest = selected
        .targets
        .iter()
        .filter(|target| target.role != Role::Views);
    views
        .others
        .extend(rest.map(|target| target.collection.uuid));
    let special = Arc::new(special::Special::new(&views));
    let wanted = wanted(&views, &Selection::default(), None);
    fold.documents(wanted, views.others, Arc::clone(&special) as _)
        .await?;
    for only in unknown {
        if !special.has_view(&only.db, only.collection.as_deref().unwrap_or_default()) {
            let reason = format!("there is nothing called {only} at the target");
            return Err(RestoreError::Request(reason));
        }
    }
    Ok(())
}

/// The files of GridFS that a selection by content picks; `None` if it does not concern GridFS.
async fn picked_files(
    fold: &Fold,
    selected: &Selected,
    selection: &Selection,
) -> Result<Option<HashSet<Key>>, RestoreError> {
    if selection.filter.is_none() && selection.id.is_none() || selected.targets.len() < 2 {
        return Ok(None);
    }
    let mut only_files = selected.clone();
    let (chunks, files) = only_files
        .targets
        .into_iter()
        .partition(|target| is_chunks(target, selected));
    only_files.targets = files;
    let passed_over: Vec<Target> = chunks;
    only_files
        .others
        .extend(passed_over.iter().map(|target| target.collection.uuid));
    let ids = Arc::new(Ids::default());
    let wanted = wanted(&only_files, selection, None);
    fold.documents(
        wanted,
        only_files.others,
        Arc::clone(&ids) as Arc<dyn Sink + Send>,
    )
    .await?;
    let ids = std::mem::take(&mut *ids.0.lock().expect("no holder panics"));
    Ok(Some(ids))
}

/// Keeps the keys of what it is given.
#[derive(Default)]
struct Ids(Mutex<HashSet<Key>>);

impl Sink for Ids {
    fn documents(&self, _: u32, batch: Batch) -> Result<(), FoldError> {
        let mut ids = self.0.lock().expect("no holder panics");
        let mut rest = batch.bytes.as_slice();
        while let Ok((document, after)) = Document::split(rest) {
            if let Ok(Some(id)) = document.get("_id") {
                ids.insert(key(0, id));
            }
            rest = after;
        }
        Ok(())
    }
}

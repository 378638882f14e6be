//! The state into a deployment, once: collections with their options, documents in large batches in parallel, indexes, then a
//! comparison with the fold, and only then what deletes or lets in: TTL, views, roles, users.

mod create;
mod insert;
mod one;
mod room;
mod verify;

use std::sync::Arc;

use bson::RawDocumentBuf;
use futures_util::{StreamExt, TryStreamExt, stream};
use mongodb::Client;

use super::select::{Role, Selected, Selection};
use super::special::{Sifted, Special};
use super::{Fold, RestoreError, Restored, Summary, Watch, check_names, picked_files, wanted};
use crate::fold::Folded;

pub use room::{MARK_DATABASE, interrupted_on};

/// Collections that are made, indexed or compared at once.
const AT_ONCE: usize = 4;

/// Where and how a state is loaded.
#[derive(Clone, Debug)]
pub struct Load {
    /// The target deployment.
    pub client: Client,
    /// Whether what is there under the names of what is restored is dropped.
    pub drop: bool,
    /// Put documents into collections that are there, one by one: for a single document.
    pub into_living: bool,
    /// Batches on their way at once.
    pub jobs: usize,
    /// What is restored, as text: an interrupted restore of the same is begun again.
    pub job: String,
}

/// Folds and loads.
///
/// # Errors
/// [`RestoreError::Place`] if the target holds something that would be mixed with what is restored. After any later error the target
/// is marked as incomplete, and the same restore begins again.
pub async fn into_deployment(
    fold: &Fold,
    selection: &Selection,
    load: &Load,
    watch: &Watch,
) -> Result<Summary, RestoreError> {
    let state = fold.catalogue().await?;
    let selected = Arc::new(selection.pick(state.collections, state.dropped)?);
    check_names(fold, &selected, selection).await?;
    let files = picked_files(fold, &selected, selection).await?;
    let special = Arc::new(Special::new(&selected));
    let wanted = wanted(&selected, selection, files);
    let mut summary = Summary {
        entries: state.entries,
        remarks: [fold.remarks(selection), selected.remarks.clone()].concat(),
        ..Summary::default()
    };
    if load.into_living {
        let folded = one::replace(fold, &selected, wanted, load, watch).await?;
        finish(&mut summary, &selected, &folded);
        return Ok(summary);
    }
    let room = room::make(load, selection, &selected).await?;
    each(&selected, |number| {
        create::collection(load, &selected.targets[number])
    })
    .await?;
    let sink = Sifted {
        special: Arc::clone(&special),
        sink: insert::Inserter::start(load, &selected, watch),
    };
    let sink = Arc::new(sink);
    let folded = fold
        .documents(wanted, selected.others.clone(), Arc::clone(&sink) as _)
        .await;
    let inserted = match Arc::into_inner(sink) {
        Some(sink) => sink.sink.finish().await,
        None => Ok(()),
    };
    // The server's own word says more than that the sink failed.
    inserted?;
    let folded = folded?;
    each(&selected, |number| {
        create::indexes(load, &selected.targets[number], create::Which::Lasting)
    })
    .await?;
    each(&selected, |number| {
        verify::collection(load, &selected.targets[number], &folded.contents[number])
    })
    .await?;
    each(&selected, |number| {
        create::indexes(load, &selected.targets[number], create::Which::Expiring)
    })
    .await?;
    let views = special.views(selection);
    create::views(load, &views, room.replaces).await?;
    summary.views = views.len() as u64;
    let (roles, users) = (special.of(Role::Roles), special.of(Role::Users));
    create::accounts(load, "system.roles", "role", &roles).await?;
    create::accounts(load, "system.users", "user", &users).await?;
    (summary.users, summary.roles) = (users.len() as u64, roles.len() as u64);
    room.finish(load).await?;
    finish(&mut summary, &selected, &folded);
    Ok(summary)
}

fn finish(summary: &mut Summary, selected: &Selected, folded: &Folded) {
    summary.operations = folded.operations;
    summary.spilled_bytes = folded.spilled_bytes;
    for (target, content) in selected.targets.iter().zip(&folded.contents) {
        if let Role::Plain | Role::Buckets = target.role {
            summary.collections.push(Restored::new(target, *content));
        }
    }
}

/// Does the same with every collection that holds documents.
async fn each<F: Future<Output = Result<(), RestoreError>>>(
    selected: &Selected,
    work: impl Fn(usize) -> F,
) -> Result<(), RestoreError> {
    let numbers = (0..selected.targets.len())
        .filter(|number| matches!(selected.targets[*number].role, Role::Plain | Role::Buckets));
    stream::iter(numbers.map(work))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

/// Bytes that were made here, as the driver takes them.
fn raw(bytes: Vec<u8>) -> Result<RawDocumentBuf, RestoreError> {
    RawDocumentBuf::from_bytes(bytes).map_err(|_| {
        RestoreError::Request("the catalogue at the target holds something that is not BSON".into())
    })
}

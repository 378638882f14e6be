//! The stores of an archive put together as the configuration says: what a writer puts into, what a reader reads from, and the
//! copies that follow on their own.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use pitr_archive::ArchiveError;
use pitr_archive::copying::{CopyState, Copying, follow};
use pitr_archive::store::{
    AllStores, AnyStore, SharedStore, Standing, Store, TellingStore, Told, standing,
};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::{Acknowledge, Archive, ArchiveUrl};
use crate::exit::{Exit, Refusal};
use crate::open;

/// A copy that fails for so long is worth a word in the state.
const WORTH_A_WORD: Duration = Duration::from_secs(10);

/// A copy that catches up on its own, not started yet.
#[derive(Debug)]
pub struct Follower {
    place: String,
    copying: Copying,
    told: Told,
}

/// What a copy that was started says of itself.
#[derive(Debug)]
pub struct Following {
    place: String,
    state: watch::Receiver<CopyState>,
}

/// Refuses a place that is no copy of the archive in `primary`: an empty mount point is none. Only `pitr-tool init` makes one.
pub async fn require(
    primary: &dyn Store,
    copy: &dyn Store,
    url: &ArchiveUrl,
) -> anyhow::Result<()> {
    let url = url.place();
    let standing = standing(primary, copy).await;
    match standing.with_context(|| format!("look at the copy {url}"))? {
        Standing::Copy => Ok(()),
        Standing::Empty => Err(ArchiveError::Absent { url }).context("open a copy of the archive"),
        Standing::Other => {
            let message = format!("{url} holds another archive, and no copy of this one");
            let refusal = Refusal::new(Exit::Fenced, message);
            Err(refusal
                .hint("give the copy another url in [[archive.copy]]")
                .into())
        }
    }
}

/// The archive and its copies as one store in which everything lies in each place.
async fn all(archive: &Archive) -> anyhow::Result<SharedStore> {
    let primary = open::archive_store(&archive.url).await?;
    let mut copies = Vec::new();
    for copy in &archive.copies {
        copies.push(open::archive_store(&copy.url).await?);
    }
    if copies.is_empty() {
        return Ok(primary);
    }
    Ok(Arc::new(AllStores::new(primary, copies)))
}

/// The store that a writer of the archive puts into, and the copies that follow it.
pub async fn writing(archive: &Archive) -> anyhow::Result<(SharedStore, Vec<Follower>)> {
    if archive.copies.is_empty() || archive.acknowledge == Acknowledge::All {
        return Ok((all(archive).await?, Vec::new()));
    }
    let primary = open::archive_store(&archive.url).await?;
    let (telling, told) = TellingStore::new(Arc::clone(&primary), archive.copies.len());
    let mut followers = Vec::new();
    for (copy, told) in archive.copies.iter().zip(told) {
        let store = open::archive_store(&copy.url).await?;
        followers.push(Follower {
            place: copy.url.place(),
            copying: Copying::new(Arc::clone(&primary), store),
            told,
        });
    }
    Ok((Arc::new(telling), followers))
}

/// The store of a reader, who takes the bytes from whichever of the places has them.
pub async fn reading(places: &[ArchiveUrl]) -> anyhow::Result<SharedStore> {
    let mut stores = Vec::new();
    for place in places {
        stores.push(open::archive_store(place).await?);
    }
    match stores.pop() {
        Some(only) if stores.is_empty() => Ok(only),
        last => {
            stores.extend(last);
            Ok(Arc::new(AnyStore::new(stores)))
        }
    }
}

impl Follower {
    /// Lets it follow, as one of `tasks`.
    pub fn start(self, tasks: &mut JoinSet<()>) -> Following {
        let (sender, state) = watch::channel(CopyState::default());
        tasks.spawn(follow(self.copying, self.told, sender));
        Following {
            place: self.place,
            state,
        }
    }
}

impl Following {
    /// What an operator should know of it, if anything.
    #[must_use]
    pub fn remark(&self) -> Option<String> {
        let (place, state) = (&self.place, self.state.borrow());
        if let Some((since, reason)) = &state.failing {
            let time = since.elapsed();
            let seconds = time.as_secs();
            return (time >= WORTH_A_WORD)
                .then(|| format!("copy {place} FAILS for {seconds} s: {reason}"));
        }
        match state.behind {
            None => Some(format!("copy {place} is being compared")),
            Some(behind) if behind > 1 => Some(format!("copy {place} is {behind} objects behind")),
            Some(_) => None,
        }
    }
}

//! Room in the target: nothing that is there is mixed with what is restored. A mark says that a restore is under way, which one, and
//! what it makes; it goes last.

use std::collections::BTreeSet;

use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};
use mongodb::{Client, Collection};

use super::Load;
use crate::restore::RestoreError;
use crate::restore::select::{Role, Selected, Selection};

/// The database that holds the mark while a restore is under way.
pub const MARK_DATABASE: &str = "pitrd_restore";
const MARK_COLLECTION: &str = "incomplete";
/// Holds functions, and cannot be dropped.
pub(super) const FUNCTIONS: &str = "system.js";

/// What is not of users.
const INTERNAL: [&str; 4] = ["admin", "config", "local", MARK_DATABASE];

/// A target that is marked.
#[derive(Debug)]
pub(super) struct Room {
    /// Whether views that are there make room as well; which ones is known only after the fold.
    pub(super) replaces: bool,
}

fn mark(client: &Client) -> Collection<Document> {
    client.database(MARK_DATABASE).collection(MARK_COLLECTION)
}

fn taken(reason: String) -> RestoreError {
    RestoreError::Place {
        place: "the target deployment".into(),
        reason,
    }
}

/// The job of a restore into this deployment that was interrupted, if there is one.
pub async fn interrupted_on(client: &Client) -> Result<Option<String>, RestoreError> {
    let found = mark(client).find_one(doc! {}).await;
    let found = found.map_err(RestoreError::server("look for an interrupted restore"))?;
    Ok(found.and_then(|found| found.get_str("job").ok().map(str::to_owned)))
}

/// Checks that there is room, makes it where that was asked for, and marks the target.
pub(super) async fn make(
    load: &Load,
    selection: &Selection,
    selected: &Selected,
) -> Result<Room, RestoreError> {
    let doing = "look what the target holds";
    let found = mark(&load.client)
        .find_one(doc! {})
        .await
        .map_err(RestoreError::server(doing))?;
    let names: BTreeSet<(String, String)> = selected
        .targets
        .iter()
        .filter(|target| matches!(target.role, Role::Plain | Role::Buckets))
        .map(|target| (target.db.clone(), target.name.clone()))
        .collect();
    let there = existing(&load.client, &names).await?;
    let mut replaces = load.drop;
    match found {
        Some(found) if found.get_str("job").is_ok_and(|job| job == load.job) => {
            // What an interrupted restore of the same made is begun again.
            drop_all(&load.client, &there).await?;
            replaces = true;
        }
        Some(_) if !load.drop => {
            return Err(taken(
                "an interrupted restore of something else lies there; end it by its own command, or give --drop"
                    .into(),
            ));
        }
        _ if load.drop => drop_all(&load.client, &there).await?,
        _ if !there.is_empty() => {
            let some: Vec<_> = there
                .iter()
                .take(5)
                .map(|(db, name)| format!("{db}.{name}"))
                .collect();
            return Err(taken(format!(
                "it holds {} already; give --drop, or --rename",
                some.join(", ")
            )));
        }
        _ if selection.is_whole() && selection.rename.is_empty() => {
            let all = load
                .client
                .list_database_names()
                .await
                .map_err(RestoreError::server(doing))?;
            let users: Vec<_> = all
                .into_iter()
                .filter(|name| !INTERNAL.contains(&name.as_str()))
                .collect();
            if !users.is_empty() {
                let reason = format!(
                    "it is not empty: it has {}; give --drop, --only or --rename",
                    users.join(", ")
                );
                return Err(taken(reason));
            }
        }
        _ => {}
    }
    let new = doc! { "_id": "restore", "job": &load.job };
    let put = mark(&load.client)
        .replace_one(doc! { "_id": "restore" }, new)
        .upsert(true)
        .await;
    put.map_err(RestoreError::server("mark the target as incomplete"))?;
    Ok(Room { replaces })
}

/// Which of `names` the target has.
async fn existing(
    client: &Client,
    names: &BTreeSet<(String, String)>,
) -> Result<BTreeSet<(String, String)>, RestoreError> {
    let doing = "look what the target holds";
    let databases: BTreeSet<&String> = names.iter().map(|(db, _)| db).collect();
    let mut found = BTreeSet::new();
    for db in databases {
        let collections = client
            .database(db)
            .list_collections()
            .await
            .map_err(RestoreError::server(doing))?;
        let collections: Vec<_> = collections
            .try_collect()
            .await
            .map_err(RestoreError::server(doing))?;
        let there = collections
            .into_iter()
            .map(|collection| (db.clone(), collection.name));
        found.extend(there.filter(|name| names.contains(name)));
    }
    Ok(found)
}

async fn drop_all(client: &Client, names: &BTreeSet<(String, String)>) -> Result<(), RestoreError> {
    for (db, name) in names {
        let collection = client.database(db).collection::<Document>(name);
        let dropped = if name == FUNCTIONS {
            collection.delete_many(doc! {}).await.map(drop)
        } else {
            collection.drop().await
        };
        dropped.map_err(RestoreError::server(format!("drop {db}.{name}")))?;
    }
    Ok(())
}

impl Room {
    /// Makes what was loaded durable and takes the mark away.
    pub(super) async fn finish(self, load: &Load) -> Result<(), RestoreError> {
        let dropped = load.client.database(MARK_DATABASE).drop().await;
        dropped.map_err(RestoreError::server("take the mark away"))
    }
}

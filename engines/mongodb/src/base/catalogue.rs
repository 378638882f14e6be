//! What the source's catalogue says, word for word: every namespace with its options, its indexes and an estimate of its size.

use bson::raw::RawDocument;
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, Document, RawDocumentBuf, Uuid, doc};
use futures_util::TryStreamExt;
use mongodb::{Client, Database};

use super::manifest::{Collection, CollectionKind};
use super::views;
use crate::{EngineError, LogKind, ServerError};

const NAMESPACE_NOT_FOUND: i32 = 26;
/// A view on something that is gone or cannot be listed has no indexes either.
const NOT_A_COLLECTION: [i32; 2] = [166, 59];

/// A namespace, and what copying it takes.
pub(super) struct Found {
    pub(super) collection: Collection,
    /// Documents are copied in one scan, in the order in which they lie.
    pub(super) ordered: bool,
    /// The server's estimate.
    pub(super) bytes: u64,
    /// The server's estimate.
    pub(super) documents: u64,
    /// Its documents, end to end, and their number, if it is not to be read.
    pub(super) known: Option<(Vec<u8>, u64)>,
}

/// Reads it.
pub(super) async fn read(client: &Client, kind: LogKind) -> Result<Vec<Found>, EngineError> {
    let mut all = Vec::new();
    for db in client.list_database_names().await? {
        if matches!(db.as_str(), "local" | "config") {
            continue;
        }
        let database = client.database(&db);
        let infos = documents(&database, doc! { "listCollections": 1 }).await?;
        let mut rows = match kind {
            LogKind::Oplog => rows_of_views(&database, &infos).await?,
            LogKind::Events => None,
        };
        for info in infos {
            let name = name_of(&info)?.to_owned();
            let is_views = name == views::NAME;
            // A change stream tells of views by their names, and so does the catalogue itself.
            let is_told = kind == LogKind::Events && is_views;
            if !is_private(&db, &name) && !is_told {
                let known = rows.take_if(|_| is_views);
                let found = namespace(&database, name, info).await?;
                all.extend(found.map(|found| Found { known, ..found }));
            }
        }
    }
    Ok(all)
}

fn name_of(info: &RawDocument) -> Result<&str, EngineError> {
    info.get_str("name")
        .map_err(|_| EngineError::Answer("name of a collection"))
}

/// The rows of a database's `system.views`, and their number, if the account may not read them: the role `backup` may not.
async fn rows_of_views(
    database: &Database,
    infos: &[RawDocumentBuf],
) -> Result<Option<(Vec<u8>, u64)>, EngineError> {
    let (mut rows, mut count, mut has_any) = (Vec::new(), 0, false);
    for info in infos {
        let name = name_of(info)?;
        has_any |= name == views::NAME;
        if matches!(info.get_str("type"), Ok("view" | "timeseries")) {
            rows.extend(views::row(database.name(), name, info));
            count += 1;
        }
    }
    if !has_any {
        return Ok(None);
    }
    let collection = database.collection::<RawDocumentBuf>(views::NAME);
    let read = collection.find_one(doc! {}).await;
    match read.map_err(EngineError::from) {
        Ok(_) => Ok(None),
        Err(EngineError::Refused { .. }) => Ok(Some((rows, count))),
        Err(error) => Err(error),
    }
}

/// What servers keep for themselves. Users and roles stand in the manifest.
fn is_private(db: &str, name: &str) -> bool {
    name == "system.profile" || (db == "admin" && name.starts_with("system."))
}

/// `None`: it was dropped meanwhile.
async fn namespace(
    database: &Database,
    name: String,
    info: RawDocumentBuf,
) -> Result<Option<Found>, EngineError> {
    let kind = match info.get_str("type").unwrap_or("collection") {
        "view" => CollectionKind::View,
        "timeseries" => CollectionKind::Timeseries,
        _ => CollectionKind::Collection,
    };
    let uuid = info
        .get_document("info")
        .ok()
        .and_then(|info| info.get_binary("uuid").ok());
    let uuid = uuid
        .and_then(|uuid| uuid.bytes.try_into().ok())
        .map(Uuid::from_bytes);
    let options = info.get_document("options").ok();
    let has =
        |option: &str| options.is_some_and(|options| matches!(options.get(option), Ok(Some(_))));
    let ordered = options.is_some_and(|options| options.get_bool("capped").unwrap_or(false))
        || has("clusteredIndex");
    let target = match uuid {
        Some(uuid) => Bson::Binary(binary(uuid)),
        None => Bson::String(name.clone()),
    };
    let indexes = match kind {
        CollectionKind::View => Vec::new(),
        _ => match documents(database, doc! { "listIndexes": target }).await {
            Ok(indexes) => indexes,
            Err(EngineError::Server(error)) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        },
    };
    let (bytes, count) = match kind {
        CollectionKind::Collection => size(database, &name).await?,
        _ => (0, 0),
    };
    let collection = Collection {
        db: database.name().into(),
        name,
        kind,
        uuid: uuid.filter(|_| kind == CollectionKind::Collection),
        info,
        indexes,
        extents: Vec::new(),
    };
    Ok(Some(Found {
        collection,
        ordered,
        bytes,
        documents: count,
        known: None,
    }))
}

pub(super) fn binary(uuid: Uuid) -> Binary {
    Binary {
        subtype: BinarySubtype::Uuid,
        bytes: uuid.bytes().to_vec(),
    }
}

/// True if the server says that there is no such collection.
pub(super) fn is_gone(error: &ServerError) -> bool {
    error.command().is_some_and(|command| {
        command.code == NAMESPACE_NOT_FOUND || NOT_A_COLLECTION.contains(&command.code)
    })
}

/// An estimate; nothing but progress and the choice of ranges depends on it.
async fn size(database: &Database, name: &str) -> Result<(u64, u64), EngineError> {
    let answer = match database.run_command(doc! { "collStats": name }).await {
        Ok(answer) => answer,
        Err(error) => {
            return match EngineError::from(error) {
                EngineError::Server(error) if !is_gone(&error) => Err(EngineError::Server(error)),
                _ => Ok((0, 0)),
            };
        }
    };
    Ok((number(&answer, "size"), number(&answer, "count")))
}

fn number(answer: &Document, name: &str) -> u64 {
    match answer.get(name) {
        Some(Bson::Int32(number)) => u64::try_from(*number).unwrap_or(0),
        Some(Bson::Int64(number)) => u64::try_from(*number).unwrap_or(0),
        Some(Bson::Double(number)) => *number as u64,
        _ => 0,
    }
}

/// The documents that a command answers with, word for word.
async fn documents(
    database: &Database,
    command: Document,
) -> Result<Vec<RawDocumentBuf>, EngineError> {
    let mut batches = database.run_cursor_command(command).batch().await?;
    let mut all = Vec::new();
    while let Some(batch) = batches.try_next().await? {
        for document in batch.doc_slices()? {
            let document = document.ok().and_then(|document| document.as_document());
            all.push(document.ok_or(EngineError::Answer("documents"))?.to_owned());
        }
    }
    Ok(all)
}

//! What a deployment is told to make: collections before their documents, indexes, views and accounts after them.

use mongodb::Client;
use mongodb::bson::doc;

use super::room::FUNCTIONS;
use super::{Load, raw};
use crate::fold::catalogue::options;
use crate::fold::raw::{Builder, Document, kind};
use crate::restore::RestoreError;
use crate::restore::select::{Role, Target};
use crate::restore::series;
use crate::restore::special::View;

const NAMESPACE_EXISTS: i32 = 48;

/// Which indexes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Which {
    /// Those that change no document.
    Lasting,
    /// Those that delete documents.
    Expiring,
}

/// Makes a collection with its options; what deletes its documents by age waits for [`Which::Expiring`].
pub(super) async fn collection(load: &Load, target: &Target) -> Result<(), RestoreError> {
    let mut options = match target.role {
        Role::Buckets => series::user_options(&target.collection.options),
        _ => target.collection.options.clone(),
    };
    options::remove(&mut options, "expireAfterSeconds");
    match create(&load.client, &target.db, &target.name, &options).await {
        // It was emptied, not dropped.
        Err(error) if target.name == FUNCTIONS && is_there(&error) => Ok(()),
        created => created,
    }
}

fn is_there(error: &RestoreError) -> bool {
    let RestoreError::Server { source, .. } = error else {
        return false;
    };
    let command = source.command();
    command.is_some_and(|command| command.code == NAMESPACE_EXISTS)
}

async fn create(client: &Client, db: &str, name: &str, options: &[u8]) -> Result<(), RestoreError> {
    let mut command = Builder::new();
    command.text("create", name);
    for option in Document::new(options)
        .into_iter()
        .flat_map(Document::elements)
        .flatten()
    {
        command.element(option);
    }
    run(client, db, command, format!("create {db}.{name}")).await
}

async fn run(
    client: &Client,
    db: &str,
    command: Builder,
    doing: String,
) -> Result<(), RestoreError> {
    let command = raw(command.finish())?;
    let ran = client.database(db).run_raw_command(command).await;
    ran.map(drop).map_err(RestoreError::server(doing))
}

/// Makes indexes, all of a collection in one pass over its documents.
pub(super) async fn indexes(
    load: &Load,
    target: &Target,
    which: Which,
) -> Result<(), RestoreError> {
    let Target { db, collection, .. } = target;
    let wanted = |index: &&Vec<u8>| {
        let by_itself = options::get(index, "clustered").is_some() || is_of_id(index);
        let expires = options::get(index, "expireAfterSeconds").is_some();
        !by_itself && expires == (which == Which::Expiring)
    };
    let wanted: Vec<_> = collection.indexes.iter().filter(wanted).collect();
    let stored = target.stored_in();
    if !wanted.is_empty() {
        let mut command = Builder::new();
        command
            .text("createIndexes", &stored)
            .open(b"indexes", kind::ARRAY);
        for (number, index) in wanted.iter().enumerate() {
            command.open(number.to_string().as_bytes(), kind::DOCUMENT);
            for field in Document::new(index)
                .into_iter()
                .flat_map(Document::elements)
                .flatten()
            {
                // Old servers noted the namespace.
                if field.name != b"ns" {
                    command.element(field);
                }
            }
            command.close();
        }
        command.close();
        run(&load.client, db, command, format!("index {db}.{stored}")).await?;
    }
    if let (Which::Expiring, Some(seconds)) = (which, collection.option("expireAfterSeconds")) {
        let mut command = Builder::new();
        command
            .text("collMod", &target.name)
            .value(b"expireAfterSeconds", seconds);
        run(
            &load.client,
            db,
            command,
            format!("set the expiry of {db}.{}", target.name),
        )
        .await?;
    }
    Ok(())
}

fn is_of_id(index: &[u8]) -> bool {
    options::get(index, "name").and_then(|name| name.text()) == Some("_id_")
}

/// Makes views, in place of what has their names if `replace` says so.
pub(super) async fn views(load: &Load, views: &[View], replace: bool) -> Result<(), RestoreError> {
    for View { db, name, options } in views {
        if replace {
            let there = load
                .client
                .database(db)
                .collection::<mongodb::bson::Document>(name);
            let dropped = there.drop().await;
            dropped.map_err(RestoreError::server(format!("drop {db}.{name}")))?;
        }
        create(&load.client, db, name, options).await?;
    }
    Ok(())
}

/// Puts users or roles in place of those of the same name; others stay.
pub(super) async fn accounts(
    load: &Load,
    collection: &str,
    name: &str,
    documents: &[Vec<u8>],
) -> Result<(), RestoreError> {
    if documents.is_empty() {
        return Ok(());
    }
    let doing = || format!("restore admin.{collection}");
    let admin = load.client.database("admin");
    // As the server itself has it.
    let index =
        doc! { "key": { name: 1, "db": 1 }, "name": format!("{name}_1_db_1"), "unique": true };
    let command = doc! { "createIndexes": collection, "indexes": [index] };
    admin
        .run_command(command)
        .await
        .map_err(RestoreError::server(doing()))?;
    for document in documents {
        let document = raw(document.clone())?;
        let id = document
            .get("_id")
            .ok()
            .flatten()
            .map(mongodb::bson::RawBson::from);
        let id = id.ok_or_else(|| {
            RestoreError::Request(format!("admin.{collection} holds something without _id"))
        })?;
        let mut filter = mongodb::bson::RawDocumentBuf::new();
        filter.append(mongodb::bson::cstr!("_id"), id);
        let mut update = mongodb::bson::RawDocumentBuf::new();
        update.append(mongodb::bson::cstr!("q"), filter);
        update.append(mongodb::bson::cstr!("u"), document);
        update.append(mongodb::bson::cstr!("upsert"), true);
        let mut updates = mongodb::bson::RawArrayBuf::new();
        updates.push(update);
        let mut command = mongodb::bson::RawDocumentBuf::new();
        command.append(mongodb::bson::cstr!("update"), collection);
        command.append(mongodb::bson::cstr!("updates"), updates);
        let answer = admin
            .run_raw_command(command)
            .await
            .map_err(RestoreError::server(doing()))?;
        if let Ok(errors) = answer.get_array("writeErrors") {
            // Its words quote the account; its code does not.
            let first = errors.first().and_then(|error| error.as_document());
            let first = first.and_then(|error| error.get_i32("code").ok());
            let code = first.map_or_else(|| "no code".into(), |code| format!("code {code}"));
            return Err(RestoreError::Request(format!(
                "{}: it answers {code}",
                doing()
            )));
        }
    }
    Ok(())
}

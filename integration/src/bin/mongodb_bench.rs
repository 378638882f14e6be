//! What the benchmarks of MongoDB need beside the programs: loads, and the bare figures that ours are held against. Results are
//! printed as JSON.
//!
//! `pitr-mongodb-bench initiate URI NAME HOST | fill URI COUNT | update URI COUNT | tail URI FROM TO | stream URI FROM TO |
//! scan URI FILE | load URI FILE | durable ARCHIVE TS`

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bson::raw::RawDocument;
use bson::{Document, RawDocumentBuf, Timestamp, doc};
use futures_util::{StreamExt, TryStreamExt, stream};
use mongodb::options::{CollectionOptions, CursorType, ReadConcern};
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use mongodb::{Client, Collection};
use pitr_archive::Archive;
use pitr_archive::reader::LogReader;
use pitr_archive::store::DirectoryStore;
use pitr_integration::ArchiveFiles;
use pitr_mongodb::{ClusterTime, split_documents};
use serde_json::json;

/// Documents of an insert, updates of a command.
const BATCH: i32 = 1000;

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if let ["durable", archive, ts] = words[..] {
        return wait_durable(Path::new(archive), ts.parse()?);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let said = runtime.block_on(run(&words))?;
    writeln!(std::io::stdout(), "{said}")?;
    Ok(())
}

async fn run(words: &[&str]) -> anyhow::Result<serde_json::Value> {
    let uri = words.get(1).context("a URI")?;
    let client = Client::with_uri_str(uri).await?;
    let documents = client.database("bench").collection("documents");
    let start = Instant::now();
    let said = match words {
        ["initiate", _, name, host] => initiate(&client, name, host).await?,
        ["fill", _, count] => fill(&client, count.parse()?).await?,
        ["update", _, count] => update(&client, count.parse()?).await?,
        ["tail", _, from, to] => tail(&client, from.parse()?, to.parse()?).await?,
        ["stream", _, from, to] => stream_events(&client, from.parse()?, to.parse()?).await?,
        ["scan", _, file] => scan(&documents, Path::new(file)).await?,
        ["load", _, file] => load(&documents, Path::new(file)).await?,
        _ => anyhow::bail!("see the head of this program's source"),
    };
    let mut said = said;
    said["seconds"] = json!(start.elapsed().as_secs_f64());
    Ok(said)
}

async fn initiate(client: &Client, name: &str, host: &str) -> anyhow::Result<serde_json::Value> {
    let admin = client.database("admin");
    let config = doc! { "_id": name, "members": [{ "_id": 0, "host": host }] };
    admin
        .run_command(doc! { "replSetInitiate": config })
        .await?;
    loop {
        let hello = admin.run_command(doc! { "hello": 1 }).await?;
        if hello.get_bool("isWritablePrimary").unwrap_or(false) {
            return Ok(json!({}));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Text that compresses like text: the sequence is the same in every run.
fn text(state: &mut u64, length: usize) -> String {
    let mut text = String::with_capacity(length + 16);
    while text.len() < length {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let word = (*state >> 40) % 4096;
        text.push_str(&format!("{word:x} lorem "));
    }
    text.truncate(length);
    text
}

/// 272 bytes a document.
async fn fill(client: &Client, count: i32) -> anyhow::Result<serde_json::Value> {
    let collection = client.database("bench").collection::<Document>("documents");
    let mut state = 1;
    for first in (0..count).step_by(BATCH as usize) {
        let rows = (first..count.min(first + BATCH)).map(|id| {
            doc! {
                "_id": id, "owner": format!("customer {id:07}"), "balance": 1000_i64, "tenant": id % 50,
                "text": text(&mut state, 178),
            }
        });
        collection.insert_many(rows).await?;
    }
    Ok(json!({}))
}

/// One entry of the oplog for each; the range they lie in: after `from`, up to `to`.
async fn update(client: &Client, count: i32) -> anyhow::Result<serde_json::Value> {
    let database = client.database("bench");
    let now = database
        .run_command(doc! { "insert": "marks", "documents": [{}] })
        .await?;
    let from: ClusterTime = now.get_timestamp("operationTime")?.into();
    let documents = database.collection::<Document>("documents");
    let rows = documents.estimated_document_count().await? as i64;
    let (mut state, mut to) = (7_u64, from);
    for first in (0..count).step_by(BATCH as usize) {
        let updates: Vec<Document> = (first..count.min(first + BATCH))
            .map(|number| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let id = ((state >> 33) as i64 % rows) as i32;
                let set = doc! { "balance": i64::from(number), "seen": number };
                doc! { "q": { "_id": id }, "u": { "$set": set } }
            })
            .collect();
        let command = doc! { "update": "documents", "updates": updates, "ordered": false };
        let answer = database.run_command(command).await?;
        to = answer.get_timestamp("operationTime")?.into();
    }
    // A checkpoint now, so that none is under way while this is read.
    let admin = client.database("admin");
    admin.run_command(doc! { "fsync": 1 }).await?;
    Ok(json!({ "from": from.to_string(), "to": to.to_string(), "entries": count }))
}

/// The limit of capture: every entry as a majority has it, in raw batches, and nothing done with it.
async fn tail(
    client: &Client,
    from: ClusterTime,
    to: ClusterTime,
) -> anyhow::Result<serde_json::Value> {
    let options = CollectionOptions::builder()
        .read_concern(ReadConcern::majority())
        .build();
    let oplog = client
        .database("local")
        .collection_with_options::<RawDocumentBuf>("oplog.rs", options);
    let batches = oplog
        .find(doc! { "ts": { "$gte": Timestamp::from(from) } })
        .cursor_type(CursorType::TailableAwait)
        .batch_size(10_000)
        .batch()
        .await?;
    count(batches, "ts", to).await
}

/// The limit of capture through a change stream: every event, asked for as the daemon does, in raw batches, and nothing done with it.
async fn stream_events(
    client: &Client,
    from: ClusterTime,
    to: ClusterTime,
) -> anyhow::Result<serde_json::Value> {
    let stage = doc! {
        "allChangesForCluster": true, "showExpandedEvents": true, "showRawUpdateDescription": true, "showSystemEvents": true,
        "showMigrationEvents": true, "fullDocumentBeforeChange": "whenAvailable", "startAtOperationTime": Timestamp::from(from),
    };
    let command = doc! {
        "aggregate": 1, "pipeline": [{ "$changeStream": stage }], "cursor": {}, "readConcern": { "level": "majority" },
    };
    let batches = client
        .database("admin")
        .run_cursor_command(command)
        .cursor_type(CursorType::TailableAwait)
        .batch()
        .await?;
    count(batches, "clusterTime", to).await
}

/// Reads up to the first document whose `time` is `to` or later.
async fn count(
    mut batches: RawBatchCursor,
    time: &str,
    to: ClusterTime,
) -> anyhow::Result<serde_json::Value> {
    let (mut entries, mut bytes) = (0_u64, 0);
    while let Some(batch) = batches.try_next().await? {
        let mut last = None;
        for entry in documents_of(&batch)? {
            let entry = entry?;
            (entries, bytes, last) = (entries + 1, bytes + entry.as_bytes().len(), Some(entry));
        }
        let last = last.map(|entry| entry.get_timestamp(time)).transpose()?;
        if last.is_some_and(|last| ClusterTime::from(last) >= to) {
            break;
        }
    }
    Ok(json!({ "entries": entries, "bytes": bytes }))
}

fn documents_of(
    batch: &RawBatch,
) -> anyhow::Result<impl Iterator<Item = anyhow::Result<&RawDocument>>> {
    Ok(batch.doc_slices()?.into_iter().map(|document| {
        document?
            .as_document()
            .context("a batch holds something else than documents")
    }))
}

/// What a plain dump does: one cursor, raw, into a file.
async fn scan(
    collection: &Collection<RawDocumentBuf>,
    file: &Path,
) -> anyhow::Result<serde_json::Value> {
    let mut file = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(file)?);
    let mut batches = collection.find(doc! {}).batch().await?;
    let (mut documents, mut bytes) = (0_u64, 0);
    while let Some(batch) = batches.try_next().await? {
        for document in documents_of(&batch)? {
            let document = document?.as_bytes();
            file.write_all(document)?;
            (documents, bytes) = (documents + 1, bytes + document.len());
        }
    }
    file.into_inner()?.sync_all()?;
    Ok(json!({ "documents": documents, "bytes": bytes }))
}

/// What a plain load does: raw documents, a thousand a command, four commands at once.
async fn load(
    collection: &Collection<RawDocumentBuf>,
    file: &Path,
) -> anyhow::Result<serde_json::Value> {
    let bytes = std::fs::read(file)?;
    let documents: Vec<RawDocumentBuf> = split_documents(&bytes)
        .map(|document| document.map(ToOwned::to_owned))
        .collect::<Result<_, _>>()?;
    let count = documents.len();
    let batches: Vec<Vec<RawDocumentBuf>> = documents
        .chunks(BATCH as usize)
        .map(<[_]>::to_vec)
        .collect();
    stream::iter(batches)
        .map(|batch| async { collection.insert_many(batch).ordered(false).await })
        .buffer_unordered(4)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    Ok(json!({ "documents": count }))
}

/// Each segment is read once, when its name has come: whoever reads the log again and again takes a share of a core from the daemon.
fn wait_durable(directory: &Path, ts: ClusterTime) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let store = Arc::new(DirectoryStore::new(directory));
    let archive = runtime.block_on(Archive::open(store, "the archive"))?;
    let files = ArchiveFiles::new(directory);
    let mut seq = 0;
    loop {
        let stream = files.log_kind().stream();
        if !files.path(&format!("log/{stream}/{seq:016x}")).exists() {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        let reader = LogReader::new(Arc::clone(&archive), stream);
        if ClusterTime(runtime.block_on(reader.header_of(seq))?.end) > ts {
            return Ok(());
        }
        seq += 1;
    }
}

//! Documents over the wire into the parts: several cursors at once, by collection UUID, in raw batches; one writer.
//!
//! A rename or drop kills a cursor. What was renamed is read again under its UUID; of what was dropped the log tells the rest.

use std::time::Duration;

use bson::raw::RawDocument;
use bson::{Document, Timestamp, doc};
use futures_util::{StreamExt, TryStreamExt, stream};
use mongodb::Client;
use mongodb::options::SelectionCriteria;
use pitr_archive::writer::{BackupWriter, PART_BYTES};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::catalogue::{Found, binary, is_gone};
use super::manifest::{Collection, Extent};
use super::take::Progress;
use crate::{ClusterTime, EngineError, ServerError};

/// Documents travel to the writer in pieces of about this size, each an extent.
const PIECE_BYTES: usize = 4 << 20;
/// Collections larger than this are read in several ranges at once.
const RANGE_BYTES: u64 = 64 << 20;
const RANGES_MAX: u64 = 64;
/// Of so many sampled `_id`s one becomes a boundary.
const SAMPLES_EACH: u64 = 20;
/// A collection is renamed so often at most while it is read.
const ATTEMPTS: u32 = 5;
/// Cursors that are killed by a rename, drop or other change of the catalogue: QueryPlanKilled, CursorNotFound, CursorKilled.
const KILLED: [i32; 3] = [175, 43, 237];

/// Everything is in the parts, though not yet durable.
pub(super) struct Copied {
    pub(super) writer_of_parts: BackupWriter,
    pub(super) collections: Vec<Collection>,
}

/// One scan.
#[derive(Clone, Debug)]
struct Scan {
    /// Which namespace.
    at: usize,
    db: String,
    command: Document,
}

/// From a scan to the writer.
enum Sent {
    Documents {
        at: usize,
        scan: usize,
        bytes: Vec<u8>,
        documents: u64,
    },
    /// The scan begins again: what it sent is not counted.
    Again { at: usize, scan: usize },
}

/// Copies the documents of all that was `found`.
pub(super) async fn all(
    client: &Client,
    found: Vec<Found>,
    reached: ClusterTime,
    writer: BackupWriter,
    rate_limit: Option<u64>,
    progress: &(impl Fn(Progress) + Send + Sync),
) -> Result<Copied, EngineError> {
    let total_bytes = found.iter().map(|found| found.bytes).sum();
    let (mut scans, mut given) = (Vec::new(), Vec::new());
    for (at, found) in found.iter().enumerate() {
        match &found.known {
            Some((_, 0)) => {}
            Some((bytes, documents)) => given.push((at, bytes.clone(), *documents)),
            None => scans.extend(plan(client, at, found, reached).await?),
        }
    }
    let cursors = std::thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(2, 4);
    let (send, receive) = mpsc::channel(2);
    let reading = async move {
        let send = &send;
        for (number, (at, bytes, documents)) in (scans.len()..).zip(given) {
            let given = Sent::Documents {
                at,
                scan: number,
                bytes,
                documents,
            };
            // Nobody listens only when the writer has failed, which is told where it is joined.
            let _ = send.send(given).await;
        }
        stream::iter(scans.into_iter().enumerate())
            .map(|(number, scan)| async move { run(client, number, &scan, send).await })
            .buffer_unordered(cursors)
            .try_collect::<()>()
            .await
    };
    let collections = found.into_iter().map(|found| found.collection).collect();
    let sink = Sink {
        writer,
        collections,
        scans: Vec::new(),
        rate_limit,
        total_bytes,
        began: Instant::now(),
    };
    let (read, written) = tokio::join!(reading, sink.take_all(receive, progress));
    // Where the writer fails the cursors only notice that nobody listens.
    let written = written?;
    read?;
    Ok(written)
}

/// How a namespace is read.
async fn plan(
    client: &Client,
    at: usize,
    found: &Found,
    reached: ClusterTime,
) -> Result<Vec<Scan>, EngineError> {
    let collection = &found.collection;
    let Some(uuid) = collection.uuid else {
        return Ok(Vec::new());
    };
    let scan = |more: Document| {
        let mut command = doc! {
            "find": binary(uuid),
            "readConcern": { "level": "majority", "afterClusterTime": Timestamp::from(reached) },
            "noCursorTimeout": true,
        };
        command.extend(more);
        Scan {
            at,
            db: collection.db.clone(),
            command,
        }
    };
    let has_id_index = collection
        .indexes
        .iter()
        .any(|index| index.get_str("name").is_ok_and(|name| name == "_id_"));
    if found.ordered || found.bytes < 2 * RANGE_BYTES || !has_id_index {
        return Ok(vec![scan(doc! { "hint": { "$natural": 1 } })]);
    }
    let cuts = boundaries(client, found).await?;
    // `min` and `max` are places in the index: unlike comparisons they do not stop where the type of `_id` changes.
    let ends = cuts.iter().cloned().map(Some).chain([None]);
    let starts = [None].into_iter().chain(cuts.iter().cloned().map(Some));
    let ranges = starts.zip(ends).map(|(start, end)| {
        let mut range = doc! { "hint": { "_id": 1 } };
        range.extend(start.map(|start| ("min".to_owned(), start.into())));
        range.extend(end.map(|end| ("max".to_owned(), end.into())));
        scan(range)
    });
    Ok(ranges.collect())
}

/// Places in the `_id` index that divide it into parts of about the same size, in order: `{_id: …}` each.
async fn boundaries(client: &Client, found: &Found) -> Result<Vec<Document>, EngineError> {
    let ranges = (found.bytes / RANGE_BYTES).clamp(2, RANGES_MAX);
    let size = (ranges * SAMPLES_EACH).min(found.documents / 20 + 1) as i64;
    let collection = client
        .database(&found.collection.db)
        .collection::<Document>(&found.collection.name);
    let pipeline = [
        doc! { "$sample": { "size": size } },
        doc! { "$project": { "_id": 1 } },
        doc! { "$sort": { "_id": 1 } },
    ];
    // A collection that was renamed just now is read in one range.
    let Ok(sampled) = collection.aggregate(pipeline).await else {
        return Ok(Vec::new());
    };
    let mut samples: Vec<Document> = sampled.try_collect().await?;
    samples.dedup();
    let each = (samples.len() / ranges as usize).max(1);
    Ok(samples
        .into_iter()
        .skip(each)
        .step_by(each)
        .take(ranges as usize - 1)
        .collect())
}

/// Runs one scan to its end, however often its cursor is killed.
async fn run(
    client: &Client,
    number: usize,
    scan: &Scan,
    send: &mpsc::Sender<Sent>,
) -> Result<(), EngineError> {
    for _ in 0..ATTEMPTS {
        match read(client, number, scan, send).await {
            Err(EngineError::Server(error)) if is_gone(&error) => return Ok(()),
            Err(EngineError::Server(error)) if is_killed(&error) => {
                let again = Sent::Again {
                    at: scan.at,
                    scan: number,
                };
                if send.send(again).await.is_err() {
                    return Ok(());
                }
            }
            ended => return ended,
        }
    }
    Err(EngineError::Unsupported(
        "a collection changed its name over and over while it was copied".into(),
    ))
}

fn is_killed(error: &ServerError) -> bool {
    let command = error.command();
    command.is_some_and(|command| KILLED.contains(&command.code))
}

async fn read(
    client: &Client,
    number: usize,
    scan: &Scan,
    send: &mpsc::Sender<Sent>,
) -> Result<(), EngineError> {
    let database = client.database(&scan.db);
    let primary = SelectionCriteria::ReadPreference(mongodb::options::ReadPreference::Primary);
    let preference = client.selection_criteria().cloned().unwrap_or(primary);
    let mut batches = database
        .run_cursor_command(scan.command.clone())
        .selection_criteria(preference)
        .batch()
        .await?;
    let (mut bytes, mut documents) = (Vec::with_capacity(PIECE_BYTES), 0);
    while let Some(batch) = batches.try_next().await? {
        for document in batch.doc_slices()? {
            let document = document.ok().and_then(|document| document.as_document());
            let document: &RawDocument = document.ok_or(EngineError::Answer("documents"))?;
            bytes.extend_from_slice(document.as_bytes());
            documents += 1;
            if bytes.len() >= PIECE_BYTES {
                let full = std::mem::replace(&mut bytes, Vec::with_capacity(PIECE_BYTES));
                let piece = Sent::Documents {
                    at: scan.at,
                    scan: number,
                    bytes: full,
                    documents,
                };
                documents = 0;
                if send.send(piece).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
    if documents > 0 {
        // Nobody listens only when the writer has failed, which is told where it is joined.
        let _ = send
            .send(Sent::Documents {
                at: scan.at,
                scan: number,
                bytes,
                documents,
            })
            .await;
    }
    Ok(())
}

/// Where all scans end.
struct Sink {
    writer: BackupWriter,
    collections: Vec<Collection>,
    /// Which scan sent which extent: of each, in order, the namespace, the scan and the extent.
    scans: Vec<(usize, usize, Extent)>,
    rate_limit: Option<u64>,
    total_bytes: u64,
    began: Instant,
}

impl Sink {
    async fn take_all(
        mut self,
        mut sent: mpsc::Receiver<Sent>,
        progress: &(impl Fn(Progress) + Send + Sync),
    ) -> Result<Copied, EngineError> {
        while let Some(sent) = sent.recv().await {
            match sent {
                Sent::Again { at, scan } => self.scans.retain(|(a, s, _)| (*a, *s) != (at, scan)),
                Sent::Documents {
                    at,
                    scan,
                    bytes,
                    documents,
                } => {
                    let offset = self.writer.position();
                    self.writer.append(&bytes).await?;
                    let extent = Extent {
                        part: offset / PART_BYTES,
                        offset,
                        bytes: bytes.len() as u64,
                        documents,
                    };
                    self.scans.push((at, scan, extent));
                    progress(Progress {
                        bytes: self.writer.position(),
                        total_bytes: self.total_bytes,
                    });
                    self.keep_rate().await;
                }
            }
        }
        for (at, _, extent) in self.scans {
            self.collections[at].extents.push(extent);
        }
        Ok(Copied {
            writer_of_parts: self.writer,
            collections: self.collections,
        })
    }

    async fn keep_rate(&self) {
        if let Some(rate) = self.rate_limit {
            let due = Duration::from_secs_f64(self.writer.position() as f64 / rate.max(1) as f64);
            tokio::time::sleep_until(self.began + due).await;
        }
    }
}

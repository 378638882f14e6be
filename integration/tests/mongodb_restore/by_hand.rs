//! An archive that a test writes by itself: a fuzzy base copy by UUID, and the oplog. So the restore is tested apart from the capture.

use std::sync::Arc;
use std::time::Duration;

use bson::{Document, RawDocumentBuf, Timestamp, doc};
use bytes::Bytes;
use futures_util::TryStreamExt;
use mongodb::Client;
use pitr_archive::catalogue::BackupId;
use pitr_archive::keys::{Identity, Opener, Wrapper, WriterKey};
use pitr_archive::object::StreamName;
use pitr_archive::store::DirectoryStore;
use pitr_archive::writer::{
    Annotate, Annotation, BackupSettings, BackupWriter, Compressor, LogSettings, LogWriter,
    RecordEnd, Writer, resume,
};
use pitr_archive::{Archive, Reading};
use pitr_integration::{Mongo, Site};
use pitr_mongodb::base::{BaseManifest, Collection, CollectionKind, Extent};
use pitr_mongodb::{ClusterTime, Head, LogSummary, OPLOG_STREAM, split_documents};

/// One archive of one test.
pub(crate) struct ByHand {
    site: Arc<Site>,
    identity: Identity,
    writer: Arc<Writer>,
}

/// Notes what the daemon would.
#[derive(Default)]
struct Notes(LogSummary);

impl Annotate for Notes {
    fn observe(&mut self, _: u64, bytes: &[u8]) -> bool {
        for entry in split_documents(bytes) {
            self.0.observe(&Head::read(entry.unwrap()).unwrap());
        }
        false
    }

    fn cut(&mut self) -> Annotation {
        let summary = std::mem::take(&mut self.0);
        let (time_min, time_max) = summary.walls.unzip();
        Annotation {
            time_min,
            time_max,
            summary: summary.encode(),
            ..Annotation::default()
        }
    }
}

pub(crate) fn stream() -> StreamName {
    StreamName::new(OPLOG_STREAM).unwrap()
}

/// The time of the newest entry.
pub(crate) async fn newest(client: &Client) -> ClusterTime {
    let entries = client.database("local").collection::<Document>("oplog.rs");
    let newest = entries
        .find_one(doc! {})
        .sort(doc! { "$natural": -1 })
        .await
        .unwrap()
        .unwrap();
    newest.get_timestamp("ts").unwrap().into()
}

impl ByHand {
    pub(crate) async fn new(site: &Arc<Site>, name: &str) -> ByHand {
        let (identity, key) = (Identity::generate(), WriterKey::generate());
        let wrappers = vec![Wrapper::Recipient(identity.recipient())];
        let store = Arc::new(DirectoryStore::new(site.directory(name)));
        let archive = Archive::create(
            store,
            "test:",
            "mongodb",
            Default::default(),
            &key,
            &wrappers,
        )
        .await
        .unwrap();
        ByHand {
            site: site.clone(),
            identity,
            writer: Writer::new(archive, key, wrappers).unwrap(),
        }
    }

    pub(crate) fn reading(&self) -> Arc<Reading> {
        let opener = Opener::Identity(self.identity.clone());
        Arc::new(Reading::new(Arc::clone(self.writer.archive()), opener))
    }

    pub(crate) fn site(&self) -> &Arc<Site> {
        &self.site
    }

    /// Copies what is there now, while others write.
    pub(crate) async fn base_copy(&self, mongo: &Mongo, id: &str) -> BackupId {
        let client = mongo.client();
        let id: BackupId = id.parse().unwrap();
        let t0 = newest(&client).await;
        let settings = BackupSettings {
            compression_level: 1,
            puts_in_flight: 2,
        };
        let mut backup = BackupWriter::start(
            self.writer.clone(),
            id,
            stream(),
            settings,
            Compressor::new(),
        );
        let mut collections = Vec::new();
        for db in client.list_database_names().await.unwrap() {
            if matches!(db.as_str(), "config" | "local") {
                continue;
            }
            let command = doc! { "listCollections": 1 };
            let listed = client
                .database(&db)
                .run_cursor_command(command)
                .await
                .unwrap();
            let listed: Vec<Document> = listed.try_collect().await.unwrap();
            for info in listed {
                collections.extend(copy_one(&client, &db, &info, &mut backup).await);
            }
        }
        let all = |name: &str| {
            let found = client.database("admin").collection::<RawDocumentBuf>(name);
            async move {
                found
                    .find(doc! {})
                    .await
                    .unwrap()
                    .try_collect()
                    .await
                    .unwrap()
            }
        };
        let manifest = BaseManifest {
            version: BaseManifest::VERSION,
            label: String::new(),
            server_version: "6.0.5".into(),
            fcv: "6.0".into(),
            t0,
            t1: newest(&client).await,
            started: bson::DateTime::now(),
            finished: bson::DateTime::now(),
            collections,
            users: all("system.users").await,
            roles: all("system.roles").await,
            contents_bytes: backup.position(),
            parts: backup.parts_durable().await.unwrap().count,
        };
        let sealed = manifest.encode().unwrap();
        backup
            .finish(t0.0, manifest.t1.0, (0, 1), &sealed)
            .await
            .unwrap();
        id
    }

    /// Archives the oplog behind `from` up to now.
    pub(crate) async fn log(&self, mongo: &Mongo, from: ClusterTime) {
        let found = resume(&self.writer, &stream(), false).await.unwrap();
        let from = found.durable().unwrap_or(from.next().0);
        let settings = LogSettings {
            segment_bytes_max: 1 << 20,
            linger: Duration::from_secs(600),
            compression_level: 1,
            puts_in_flight: 4,
        };
        let notes = Box::<Notes>::default();
        let log = LogWriter::start(
            self.writer.clone(),
            stream(),
            found,
            from,
            settings,
            Compressor::new(),
            notes,
        );
        let entries = mongo
            .client()
            .database("local")
            .collection::<RawDocumentBuf>("oplog.rs");
        let behind = doc! { "ts": { "$gte": Timestamp::from(ClusterTime(from)) } };
        let mut cursor = entries
            .find(behind)
            .sort(doc! { "$natural": 1 })
            .await
            .unwrap();
        let mut start = from;
        while cursor.advance().await.unwrap() {
            let entry = cursor.current();
            let position = Head::read(entry).unwrap().ts.next().0;
            let bytes = Bytes::copy_from_slice(entry.as_bytes());
            let end = RecordEnd {
                position,
                bytes: bytes.len() as u32,
            };
            let room = log.room().await.expect("the writer runs");
            room.append_records(start, bytes, vec![end]);
            start = position;
        }
        log.finish().await.unwrap();
    }
}

/// Copies one namespace; `None` if it has gone meanwhile.
async fn copy_one(
    client: &Client,
    db: &str,
    info: &Document,
    backup: &mut BackupWriter,
) -> Option<Collection> {
    let name = info.get_str("name").unwrap();
    let uuid = info.get_document("info").unwrap().get("uuid").cloned();
    let kind = match info.get_str("type").unwrap() {
        "view" => CollectionKind::View,
        "timeseries" => CollectionKind::Timeseries,
        _ => CollectionKind::Collection,
    };
    let database = client.database(db);
    let mut collection = Collection {
        db: db.into(),
        name: name.into(),
        kind,
        uuid: None,
        info: RawDocumentBuf::try_from(info).unwrap(),
        indexes: vec![],
        extents: vec![],
    };
    let Some(uuid) = uuid else {
        return Some(collection);
    };
    let bson::Bson::Binary(binary) = &uuid else {
        panic!("a UUID is binary")
    };
    collection.uuid = Some(bson::Uuid::from_bytes(
        binary.bytes.as_slice().try_into().unwrap(),
    ));
    let indexes = database
        .run_cursor_command(doc! { "listIndexes": uuid.clone() })
        .await
        .ok()?;
    let indexes: Vec<Document> = indexes.try_collect().await.ok()?;
    collection.indexes = indexes
        .iter()
        .map(|index| RawDocumentBuf::try_from(index).unwrap())
        .collect();
    let rows = database
        .run_cursor_command(doc! { "find": uuid, "batchSize": 100 })
        .await
        .ok()?;
    let rows = rows.with_type::<RawDocumentBuf>();
    let rows: Vec<RawDocumentBuf> = rows.try_collect().await.ok()?;
    let bytes: Vec<u8> = rows
        .iter()
        .flat_map(|row| row.as_bytes().to_vec())
        .collect();
    if !rows.is_empty() {
        let offset = backup.position();
        collection.extents.push(Extent {
            part: u64::MAX,
            offset,
            bytes: bytes.len() as u64,
            documents: rows.len() as u64,
        });
        // A part closes at the first MiB behind its size; the tests' contents stay in the first one.
        assert!(
            offset + (bytes.len() as u64) < pitr_archive::writer::PART_BYTES,
            "one part"
        );
        collection.extents[0].part = 0;
        backup.append(&bytes).await.unwrap();
    }
    Some(collection)
}

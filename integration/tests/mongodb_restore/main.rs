//! Restores of MongoDB on real servers: a base copy taken under load, every kind of operation behind it, and the restored state held
//! against the quiesced source.

mod by_events;
mod by_hand;
mod by_tool;
mod churn;
mod compare;
mod copies;
mod elections;
mod late_release;
mod places;
mod unquoted;
mod workload;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};

use bson::{Document, RawDocumentBuf, doc};
use by_hand::{ByHand, newest, stream};
use compare::{Deployment, Held};
use pitr_archive::catalogue::BackupId;
use pitr_integration::{Mongo, Site};
use pitr_mongodb::fold::Limits;
use pitr_mongodb::restore::{
    Directory, Filter, Fold, Load, MARK, MARK_DATABASE, RestoreError, Selection, Source, Summary,
    into_deployment, into_directory,
};
use pitr_mongodb::{ClusterTime, split_documents};

/// The archive of a source that did everything, and what the source held at the target.
struct Known {
    archive: ByHand,
    base: BackupId,
    to: ClusterTime,
    held: Deployment,
}

/// Made once for all tests that overlap; they only read it.
fn known() -> Arc<Known> {
    static KNOWN: Mutex<Weak<Known>> = Mutex::new(Weak::new());
    let mut slot = KNOWN
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(known) = slot.upgrade() {
        return known;
    }
    let known = Arc::new(make());
    *slot = Arc::downgrade(&known);
    known
}

fn make() -> Known {
    let site = Site::new("mrestore");
    let source = Mongo::single(&site, "source");
    workload::before(&source);
    let writers = workload::Writers::start(&source);
    let client = source.client();
    let from = source.block_on(newest(&client));
    let archive = source.block_on(ByHand::new(&site, "archive"));
    let base = std::thread::scope(|scope| {
        let ddl = scope.spawn(|| workload::meanwhile(&source));
        let base = source.block_on(archive.base_copy(&source, "20261121T031500Z"));
        ddl.join().expect("DDL during the copy");
        base
    });
    workload::after(&source);
    let written = writers.stop();
    assert!(written > 100, "only {written} writes");
    let to = source.block_on(newest(&client));
    let held = source.block_on(Deployment::of(&source));
    workload::beyond(&source);
    source.block_on(archive.log(&source, from));
    Known {
        archive,
        base,
        to,
        held,
    }
}

impl Known {
    async fn fold(&self, memory_bytes: usize) -> Fold {
        let source = Source {
            reading: self.archive.reading(),
            base: self.base,
            stream: stream(),
            to: self.to,
        };
        let limits = Limits {
            memory_bytes,
            threads: 2,
            scratch: self.archive.site().root().to_owned(),
        };
        Fold::open(source, limits, Arc::new(|_| ()))
            .await
            .expect("open the base copy")
    }

    /// Restores into `target`.
    fn load(
        &self,
        target: &Mongo,
        selection: &Selection,
        change: impl FnOnce(&mut Load),
    ) -> Result<Summary, RestoreError> {
        target.block_on(async {
            let fold = self.fold(1 << 26).await;
            let mut load = Load {
                client: target.client(),
                drop: false,
                into_living: false,
                jobs: 2,
                job: format!("{selection:?}"),
            };
            change(&mut load);
            into_deployment(&fold, selection, &load, &(Arc::new(|_| ()) as _)).await
        })
    }

    fn write(&self, path: &Path, memory_bytes: usize) -> Result<Summary, RestoreError> {
        let directory = Directory {
            path: path.to_owned(),
            job: "everything".into(),
        };
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let fold = self.fold(memory_bytes).await;
            into_directory(
                &fold,
                &Selection::default(),
                &directory,
                &(Arc::new(|_| ()) as _),
            )
            .await
        })
    }

    fn documents(&self, namespace: &str) -> Vec<Document> {
        plain(&self.held.collections[namespace])
    }
}

fn plain(held: &Held) -> Vec<Document> {
    held.documents
        .iter()
        .map(|document| Document::try_from(document).unwrap())
        .collect()
}

fn only(names: &[&str]) -> Selection {
    Selection {
        only: names.iter().map(|name| name.parse().unwrap()).collect(),
        ..Selection::default()
    }
}

#[test]
fn a_restored_deployment_is_the_source_at_that_time() {
    let known = known();
    let target = Mongo::single(known.archive.site(), "target");
    let summary = known
        .load(&target, &Selection::default(), |_| ())
        .expect("restore");
    let held = target.block_on(Deployment::of(&target));
    known.held.assert_same(&held);
    places::assert_places(&target);
    assert_eq!((summary.users, summary.roles, summary.views), (2, 1, 2));
    let documents: usize = summary
        .collections
        .iter()
        .map(|restored| restored.content.documents as usize)
        .sum();
    assert!(documents > 1000 && summary.operations > 1000, "{summary:?}");
    // Nothing is mixed with what is there.
    let again = known.load(&target, &Selection::default(), |load| {
        load.job = "another".into()
    });
    assert!(
        matches!(again, Err(RestoreError::Place { .. })),
        "{again:?}"
    );
    // A restore that was interrupted begins again; what the other one left half is gone.
    let marked =
        doc! { "insert": "incomplete", "documents": [{ "_id": "restore", "job": "mine" }] };
    target.run(MARK_DATABASE, marked);
    target.run(
        "shop",
        doc! { "insert": "far", "documents": [{ "_id": "half" }] },
    );
    let other = known.load(&target, &only(&["shop.far"]), |load| {
        load.job = "another".into()
    });
    assert!(
        matches!(other, Err(RestoreError::Place { .. })),
        "{other:?}"
    );
    known
        .load(&target, &Selection::default(), |load| {
            load.job = "mine".into()
        })
        .expect("begin again");
    known
        .held
        .assert_same(&target.block_on(Deployment::of(&target)));
    let databases = target.block_on(async { target.client().list_database_names().await.unwrap() });
    assert!(!databases.contains(&MARK_DATABASE.to_owned()));
}

#[test]
fn files_hold_the_same_documents_with_much_memory_and_with_little() {
    let known = known();
    for (name, memory_bytes) in [("much", 1 << 28), ("little", 200_000)] {
        let path = known.archive.site().path(name);
        let summary = known
            .write(&path, memory_bytes)
            .expect("restore into a directory");
        assert_eq!(summary.spilled_bytes > 0, memory_bytes == 200_000);
        assert!(!path.join(MARK).exists());
        for (namespace, held) in &known.held.collections {
            let (db, collection) = namespace.split_once('.').unwrap();
            if collection == "system.views" || held.options.contains_key("viewOn") {
                continue;
            }
            let file = path.join(db).join(format!("{collection}.bson"));
            if held.options.contains_key("timeseries") && !collection.starts_with("system.") {
                assert!(!file.exists(), "a series has no file of its own");
                continue;
            }
            let bytes =
                std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            let documents = split_documents(&bytes).map(|document| document.unwrap().to_owned());
            let mut documents: Vec<RawDocumentBuf> = documents.collect();
            if !held.options.contains_key("capped") {
                documents.sort_by_key(|document| document.as_bytes().to_vec());
            }
            assert!(documents == held.documents, "{namespace}");
        }
        metadata_says_what_the_source_said(&known, &path);
        let refused = known.write(&path, memory_bytes);
        assert!(matches!(refused, Err(RestoreError::Place { .. })));
    }
}

fn metadata_says_what_the_source_said(known: &Known, path: &Path) {
    let read = |file: &str| {
        let text = std::fs::read_to_string(path.join(file))
            .unwrap_or_else(|error| panic!("{file}: {error}"));
        let document: Document =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        document
    };
    let busy = read("shop/busy.metadata.json");
    let names = |document: &Document| -> BTreeMap<String, Document> {
        let indexes = document
            .get_array("indexes")
            .unwrap()
            .iter()
            .map(|index| index.as_document().unwrap().clone());
        indexes
            .map(|index| (index.get_str("name").unwrap().to_owned(), index))
            .collect()
    };
    let held = &known.held.collections["shop.busy"];
    assert_eq!(
        names(&busy).keys().collect::<Vec<_>>(),
        held.indexes.keys().collect::<Vec<_>>()
    );
    assert_eq!(busy.get_str("type").unwrap(), "collection");
    let series = read("shop/series.metadata.json");
    assert_eq!(series.get_str("type").unwrap(), "timeseries");
    assert_eq!(
        names(&series)["by_m"].get_document("key").unwrap(),
        &doc! { "m.a": 1, "t": -1 }
    );
    let view = read("shop/view.metadata.json");
    assert_eq!(
        view.get_document("options")
            .unwrap()
            .get_str("viewOn")
            .unwrap(),
        "far"
    );
    assert!(!path.join("shop/view3.metadata.json").exists());
    assert_eq!(
        read("admin/system.users.metadata.json")
            .get_str("collectionName")
            .unwrap(),
        "system.users"
    );
    let version = std::fs::read(path.join("admin/system.version.bson")).unwrap();
    let version: Vec<_> = split_documents(&version)
        .map(|document| document.unwrap().get_str("_id").unwrap().to_owned())
        .collect();
    assert_eq!(version, ["authSchema"]);
}

#[test]
fn a_selection_brings_what_was_asked_for_and_touches_nothing_else() {
    let known = known();
    let target = Mongo::single(known.archive.site(), "chosen");
    target.run(
        "shop",
        doc! { "insert": "living", "documents": [{ "_id": 1 }] },
    );
    target.run(
        "shop",
        doc! { "insert": "busy", "documents": [{ "_id": 7, "mine": true }, { "_id": 1000 }] },
    );
    // One collection under another name, some of its documents.
    let selection = Selection {
        rename: vec!["shop.busy=shop.busy_old".parse().unwrap()],
        filter: Some(Filter::parse(r#"{"tenant": {"$in": [3, 7]}, "n": {"$lt": 250}}"#).unwrap()),
        ..only(&["shop.busy"])
    };
    known
        .load(&target, &selection, |_| ())
        .expect("a filtered collection");
    let passes = |document: &Document| {
        [3, 7].contains(&document.get_i32("tenant").unwrap_or(0))
            && document.get_i32("n").unwrap() < 250
    };
    let mut expected: Vec<_> = known
        .documents("shop.busy")
        .into_iter()
        .filter(passes)
        .collect();
    expected.sort_by_key(|document| document.get_i32("_id").unwrap());
    assert_eq!(expected.len(), 50);
    assert_eq!(target.find("shop.busy_old", doc! {}), expected);
    // Into what is there already only where that was said.
    let refused = known.load(&target, &only(&["shop.busy"]), |_| ());
    assert!(
        matches!(&refused, Err(RestoreError::Place { reason, .. }) if reason.contains("shop.busy")),
        "{refused:?}"
    );
    known
        .load(&target, &only(&["shop.far"]), |load| load.drop = true)
        .expect("a collection");
    // The files of one tenant come with their chunks and no others.
    let files = Selection {
        filter: Some(Filter::parse(r#"{"tenant": 1}"#).unwrap()),
        rename: vec!["shop.fs.files=shop.saved.files".parse().unwrap()],
        ..only(&["shop.fs.files"])
    };
    known.load(&target, &files, |_| ()).expect("files");
    assert_eq!(target.find("shop.saved.files", doc! {}).len(), 2);
    let chunks = target.find("shop.saved.chunks", doc! {});
    assert_eq!(chunks.len(), 6);
    assert!(
        chunks
            .iter()
            .all(|chunk| ["file 1", "file 3"].contains(&chunk.get_str("files_id").unwrap()))
    );
    one_document(&known, &target);
    assert_eq!(target.find("shop.living", doc! {}), [doc! { "_id": 1 }]);
    assert_eq!(target.find("shop.busy", doc! { "_id": 1000 }).len(), 1);
}

/// One document goes back into the collection that lives.
fn one_document(known: &Known, target: &Mongo) {
    let by_id = |id: i64| Selection {
        id: Some(doc! { "_id": id }.to_vec().unwrap()),
        ..only(&["shop.busy"])
    };
    known
        .load(target, &by_id(7), |load| load.into_living = true)
        .expect("one document");
    let expected: Vec<_> = known
        .documents("shop.busy")
        .into_iter()
        .filter(|document| document.get_i32("_id").unwrap() == 7)
        .collect();
    assert_eq!(target.find("shop.busy", doc! { "_id": 7 }), expected);
    let absent = known.load(target, &by_id(100_000), |load| load.into_living = true);
    assert!(
        matches!(&absent, Err(RestoreError::Request(text)) if text.contains("no such document")),
        "{absent:?}"
    );
}

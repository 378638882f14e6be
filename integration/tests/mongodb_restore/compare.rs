//! What a deployment holds, to be held against another: documents byte for byte, options, indexes, users, and the server's own hash.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bson::{Bson, Document, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use pitr_integration::{Daemon, Mongo, Site};

use crate::by_hand::newest;

/// One collection or view.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Held {
    pub(crate) options: Document,
    pub(crate) indexes: BTreeMap<String, Document>,
    /// In the order of `_id`; of capped ones in their own order.
    pub(crate) documents: Vec<RawDocumentBuf>,
}

/// All of a deployment that is restored.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Deployment {
    pub(crate) collections: BTreeMap<String, Held>,
    pub(crate) hashes: BTreeMap<String, Document>,
}

/// The same document with its fields in the order of their names, for what has no order.
fn sorted(document: &Document) -> Document {
    let mut names: Vec<_> = document.keys().cloned().collect();
    names.sort();
    names
        .into_iter()
        .map(|name| (name.clone(), whole_numbers(document.get(&name).unwrap())))
        .collect()
}

/// Servers answer with numbers of various widths.
fn whole_numbers(value: &Bson) -> Bson {
    match value {
        Bson::Int32(number) => Bson::Int64((*number).into()),
        Bson::Double(number) if number.fract() == 0.0 => Bson::Int64(*number as i64),
        Bson::Document(inner) => Bson::Document(
            inner
                .iter()
                .map(|(name, value)| (name.clone(), whole_numbers(value)))
                .collect(),
        ),
        other => other.clone(),
    }
}

impl Deployment {
    /// Everything but what belongs to the member or the deployment itself.
    pub(crate) async fn of(mongo: &Mongo) -> Deployment {
        let client = mongo.client();
        let mut deployment = Deployment::default();
        for db in client.list_database_names().await.unwrap() {
            if matches!(db.as_str(), "config" | "local") {
                continue;
            }
            let database = client.database(&db);
            let listed = database
                .run_cursor_command(doc! { "listCollections": 1 })
                .await
                .unwrap();
            let listed: Vec<Document> = listed.try_collect().await.unwrap();
            for info in listed {
                let name = info.get_str("name").unwrap();
                let internal = ["system.version", "system.keys", "system.profile"].contains(&name);
                if internal || db == "admin" && !["system.users", "system.roles"].contains(&name) {
                    continue;
                }
                let held = held(mongo, &db, &info).await;
                deployment.collections.insert(format!("{db}.{name}"), held);
            }
            if db != "admin" {
                let hash = database.run_command(doc! { "dbHash": 1 }).await.unwrap();
                let hashes = sorted(hash.get_document("collections").unwrap());
                deployment.hashes.insert(db.clone(), hashes);
            }
        }
        deployment
    }

    /// Fails with what differs first.
    #[track_caller]
    pub(crate) fn assert_same(&self, other: &Deployment) {
        let names =
            |deployment: &Deployment| deployment.collections.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(self), names(other));
        for (name, one) in &self.collections {
            let two = &other.collections[name];
            assert_eq!(one.options, two.options, "options of {name}");
            assert_eq!(one.indexes, two.indexes, "indexes of {name}");
            assert_eq!(
                one.documents.len(),
                two.documents.len(),
                "documents of {name}"
            );
            for (one, two) in one.documents.iter().zip(&two.documents) {
                assert!(
                    one == two,
                    "a document of {name}:\n{one:.900?}\n{two:.900?}"
                );
            }
        }
        assert_eq!(self.hashes, other.hashes);
    }
}

async fn held(mongo: &Mongo, db: &str, info: &Document) -> Held {
    let (name, options) = (
        info.get_str("name").unwrap(),
        info.get_document("options").unwrap(),
    );
    let database = mongo.client().database(db);
    let capped = options.get_bool("capped").unwrap_or(false);
    let is_view = info.get_str("type").unwrap() != "collection";
    let mut indexes = BTreeMap::new();
    let mut documents = Vec::new();
    if !is_view {
        let listed = database
            .run_cursor_command(doc! { "listIndexes": name })
            .await
            .unwrap();
        let listed: Vec<Document> = listed.try_collect().await.unwrap();
        for index in listed {
            let mut plain = index.clone();
            plain.insert("key", format!("{}", index.get_document("key").unwrap()));
            indexes.insert(index.get_str("name").unwrap().to_owned(), sorted(&plain));
        }
        let collection = database.collection::<RawDocumentBuf>(name);
        let order = if capped {
            doc! { "$natural": 1 }
        } else {
            doc! { "_id": 1 }
        };
        let found = collection.find(doc! {}).sort(order).await.unwrap();
        documents = found.try_collect().await.unwrap();
        if !capped {
            documents.sort_by_key(|document: &RawDocumentBuf| document.as_bytes().to_vec());
        }
    }
    Held {
        options: sorted(options),
        indexes,
        documents,
    }
}

/// Restores what `source` holds now, while nobody writes to it, into a server of its own, of the same release. What that is.
#[track_caller]
pub(crate) fn assert_restored(site: &Arc<Site>, source: &Mongo, daemon: &Daemon) -> Deployment {
    let client = source.client();
    let to = source.block_on(newest(&client));
    let held = source.block_on(Deployment::of(source));
    daemon.wait_covered(source);
    let target = Mongo::of(source.release(), site, "target");
    let (at, uri) = (format!("ts:{to}"), target.uri());
    let restored = daemon.tool().restore(&[&at], Path::new(&uri));
    restored.success("restore");
    held.assert_same(&target.block_on(Deployment::of(&target)));
    held
}

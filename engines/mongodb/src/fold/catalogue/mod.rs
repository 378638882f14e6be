//! The catalogue at the target: what the base copy found, and every DDL entry of the log on top of it, by UUID. Names come and go;
//! the UUID is the collection.
//!
//! The base copy is fuzzy here as well: an entry may be older than what the copy saw. So every change is absolute (it says what is
//! afterwards), and the log from the copy's beginning leads to the same end.

mod coll_mod;
pub mod options;

use std::collections::{BTreeMap, BTreeSet};

use bson::{RawDocumentBuf, Uuid};

use super::entry::Entry;
use super::error::FoldError;
use super::raw::{Builder, Value, kind};
use crate::{ClusterTime, FCV_ID, FCV_NAMESPACE};

/// A collection that has documents.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Collection {
    /// What the log calls it.
    pub uuid: Uuid,
    /// Its database.
    pub db: String,
    /// Its name within it.
    pub name: String,
    /// The options as `listCollections` shows them.
    pub options: Vec<u8>,
    /// Indexes as `listIndexes` shows them, that of `_id` included.
    pub indexes: Vec<Vec<u8>>,
}

impl Collection {
    /// `db.name`
    #[must_use]
    pub fn namespace(&self) -> String {
        format!("{}.{}", self.db, self.name)
    }

    /// An option.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<Value<'_>> {
        options::get(&self.options, name)
    }

    /// Whether it is capped: its documents have an order.
    #[must_use]
    pub fn is_capped(&self) -> bool {
        self.option("capped").is_some_and(Value::is_true)
    }

    fn put_index(&mut self, spec: Vec<u8>) {
        let name = index_name(&spec).map(<[u8]>::to_vec);
        self.indexes
            .retain(|index| index_name(index) != name.as_deref());
        self.indexes.push(spec);
    }
}

fn index_name(spec: &[u8]) -> Option<&[u8]> {
    options::get(spec, "name").map(|name| name.bytes)
}

/// Folds DDL.
#[derive(Debug, Default)]
pub struct Catalogue {
    collections: BTreeMap<Uuid, Collection>,
    dropped: BTreeSet<Uuid>,
    /// What was changed before anybody described it: fine if it is dropped later.
    unknown: BTreeMap<Uuid, (ClusterTime, String)>,
}

impl Catalogue {
    /// With what a base copy found.
    #[must_use]
    pub fn new(base: impl IntoIterator<Item = Collection>) -> Self {
        let collections = base.into_iter().map(|found| (found.uuid, found)).collect();
        Self {
            collections,
            ..Self::default()
        }
    }

    /// Folds an operation that took effect: a command, or a change of `admin.system.version`.
    pub fn apply(&mut self, entry: &Entry<'_>) -> Result<(), FoldError> {
        if entry.op != "c" {
            return check_version(entry);
        }
        if entry.is_internal() {
            return Ok(());
        }
        let (name, value) = entry.command()?;
        match name {
            "create" => self.create(entry, value),
            "renameCollection" => self.rename(entry, value),
            "drop" => {
                let uuid = self.uuid(entry)?;
                self.drop(uuid);
                Ok(())
            }
            // Every collection's drop is logged before it; what the base copy found later must not go.
            "dropDatabase" => Ok(()),
            "createIndexes" => {
                let spec = index_spec(entry)?;
                self.change(entry, |collection| collection.put_index(spec))
            }
            "commitIndexBuild" => {
                let specs = built_specs(entry)?;
                self.change(entry, |collection| {
                    specs
                        .into_iter()
                        .for_each(|spec| collection.put_index(spec))
                })
            }
            "dropIndexes" | "dropIndex" | "deleteIndexes" | "deleteIndex" => {
                self.drop_indexes(entry)
            }
            "collMod" => {
                let change = coll_mod::Change::read(entry)?;
                self.change(entry, |collection| change.apply(collection))
            }
            "startIndexBuild"
            | "abortIndexBuild"
            | "setMultikeyMetadata"
            | "dropIdent"
            | "dbCheck" => Ok(()),
            name => Err(FoldError::Unknown {
                at: entry.at,
                what: format!("the command {name:?}"),
            }),
        }
    }

    /// The collections that are there, by UUID.
    ///
    /// # Errors
    /// Two of one name, and changes of a collection that nobody described and nobody dropped.
    pub fn finish(mut self) -> Result<BTreeMap<Uuid, Collection>, FoldError> {
        self.unknown.retain(|uuid, _| !self.dropped.contains(uuid));
        if let Some((uuid, (at, namespace))) = self.unknown.pop_first() {
            return Err(FoldError::Collection {
                at,
                namespace,
                uuid,
            });
        }
        let mut names = BTreeSet::new();
        for collection in self.collections.values() {
            if !names.insert(collection.namespace()) {
                return Err(FoldError::Twice(collection.namespace()));
            }
        }
        Ok(self.collections)
    }

    /// Whether it existed and is gone.
    #[must_use]
    pub fn is_dropped(&self, uuid: Uuid) -> bool {
        self.dropped.contains(&uuid)
    }

    /// The UUIDs of what was dropped.
    #[must_use]
    pub fn dropped(&self) -> BTreeSet<Uuid> {
        self.dropped.clone()
    }

    fn uuid(&self, entry: &Entry<'_>) -> Result<Uuid, FoldError> {
        entry.uuid.ok_or(FoldError::Malformed {
            at: entry.at,
            what: "a change of a collection without its UUID",
        })
    }

    fn change(
        &mut self,
        entry: &Entry<'_>,
        change: impl FnOnce(&mut Collection),
    ) -> Result<(), FoldError> {
        let uuid = self.uuid(entry)?;
        match self.collections.get_mut(&uuid) {
            Some(collection) => change(collection),
            None => {
                let namespace = || (entry.at, entry.namespace.to_owned());
                self.unknown.entry(uuid).or_insert_with(namespace);
            }
        }
        Ok(())
    }

    fn create(&mut self, entry: &Entry<'_>, name: Value<'_>) -> Result<(), FoldError> {
        let malformed = |what| FoldError::Malformed { at: entry.at, what };
        let name = name
            .text()
            .ok_or(malformed("a collection without a name"))?;
        let uuid = self.uuid(entry)?;
        let (mut options, mut id_index) = (Builder::new(), None);
        for element in entry.object.elements().skip(1) {
            let element = element.map_err(FoldError::malformed(entry.at, "it is not BSON"))?;
            match element.name {
                b"idIndex" => id_index = element.value.document().map(|spec| spec.bytes().to_vec()),
                b"autoIndexId" => {}
                _ => {
                    options.element(element);
                }
            }
        }
        let collection = Collection {
            uuid,
            db: entry.database().to_owned(),
            name: name.to_owned(),
            options: options.finish(),
            indexes: id_index.into_iter().collect(),
        };
        self.collections.insert(uuid, collection);
        self.dropped.remove(&uuid);
        Ok(())
    }

    fn rename(&mut self, entry: &Entry<'_>, from: Value<'_>) -> Result<(), FoldError> {
        let malformed = |what| FoldError::Malformed { at: entry.at, what };
        let to = entry.field("to")?.and_then(Value::text);
        let halves = to.and_then(|to| to.split_once('.'));
        let (db, name) = halves.ok_or(malformed("a rename without a new name"))?;
        match entry.field("dropTarget")? {
            Some(target) if target.kind == kind::BINARY => {
                let target = target.uuid().map(Uuid::from_bytes);
                self.drop(
                    target.ok_or(malformed("a rename over something that is no collection"))?,
                );
            }
            Some(target) if target.is_true() => {
                let named =
                    |collection: &&Collection| collection.db == db && collection.name == name;
                if let Some(target) = self
                    .collections
                    .values()
                    .find(named)
                    .map(|found| found.uuid)
                {
                    self.drop(target);
                }
            }
            _ => {}
        }
        from.text()
            .ok_or(malformed("a rename without the old name"))?;
        let stays_temporary = entry.field("stayTemp")?.is_some_and(Value::is_true);
        let (db, name) = (db.to_owned(), name.to_owned());
        self.change(entry, |collection| {
            (collection.db, collection.name) = (db, name);
            if !stays_temporary {
                options::remove(&mut collection.options, "temp");
            }
        })
    }

    fn drop(&mut self, uuid: Uuid) {
        self.collections.remove(&uuid);
        self.dropped.insert(uuid);
    }

    fn drop_indexes(&mut self, entry: &Entry<'_>) -> Result<(), FoldError> {
        let malformed = || FoldError::Malformed {
            at: entry.at,
            what: "an index that is dropped without a name",
        };
        let named = match entry.field("index")? {
            Some(index) if index.text().is_some() => Some(index.bytes.to_vec()),
            _ => entry
                .object2
                .and_then(|spec| index_name(spec.bytes()))
                .map(<[u8]>::to_vec),
        };
        let named = named.ok_or_else(malformed)?;
        let is_all = named == b"\x02\0\0\0*\0";
        self.change(entry, |collection| {
            collection.indexes.retain(|index| match index_name(index) {
                Some(name) if is_all => name == b"\x05\0\0\0_id_\0",
                name => name != Some(named.as_slice()),
            });
        })
    }
}

/// Refuses to go on across a change of the feature compatibility version.
fn check_version(entry: &Entry<'_>) -> Result<(), FoldError> {
    let document = if entry.op == "u" {
        entry.object2
    } else {
        Some(entry.object)
    };
    let id = document.and_then(|document| document.get("_id").ok().flatten());
    if id.and_then(Value::text) == Some(FCV_ID) && entry.namespace == FCV_NAMESPACE {
        return Err(FoldError::Compatibility { at: entry.at });
    }
    Ok(())
}

/// The spec in a `createIndexes` entry: all of it but the name of the command.
fn index_spec(entry: &Entry<'_>) -> Result<Vec<u8>, FoldError> {
    let mut spec = Builder::new();
    for element in entry.object.elements().skip(1) {
        spec.element(element.map_err(FoldError::malformed(entry.at, "it is not BSON"))?);
    }
    Ok(spec.finish())
}

fn built_specs(entry: &Entry<'_>) -> Result<Vec<Vec<u8>>, FoldError> {
    let malformed = || FoldError::Malformed {
        at: entry.at,
        what: "an index build without its indexes",
    };
    let specs = entry
        .field("indexes")?
        .and_then(Value::document)
        .ok_or_else(malformed)?;
    let spec = |element: Result<super::raw::Element<'_>, _>| {
        let element = element.map_err(FoldError::malformed(entry.at, "it is not BSON"))?;
        let spec = element.value.document().ok_or_else(malformed)?;
        Ok(spec.bytes().to_vec())
    };
    specs.elements().map(spec).collect()
}

/// A collection as a base copy found it; `None` for what has no documents of its own.
pub fn from_base(found: &crate::base::Collection) -> Option<Collection> {
    let options = found.info.get_document("options").ok();
    let empty = RawDocumentBuf::new();
    Some(Collection {
        uuid: found.uuid?,
        db: found.db.clone(),
        name: found.name.clone(),
        options: options.unwrap_or(&empty).as_bytes().to_vec(),
        indexes: found
            .indexes
            .iter()
            .map(|index| index.as_bytes().to_vec())
            .collect(),
    })
}

#[cfg(test)]
mod tests;

//! From events of a change stream to operations as the oplog has them, so that one fold serves both logs. All of a transaction share
//! their cluster time: they are in or out together.
//!
//! Views have no UUID in events. They are made rows of a `system.views` of ours, whose UUID begins anew when its database is dropped.

use std::collections::BTreeMap;

use bson::Uuid;

use super::entry::Entry;
use super::error::FoldError;
use super::raw::{Builder, Document, Element, Value, kind};
use super::transactions::{Effect, Keep};
use crate::ClusterTime;
use crate::event::is_without_effect;

/// Takes events in the order of the log and hands on operations.
#[derive(Debug)]
pub struct Events {
    keep: Keep,
    last: ClusterTime,
    /// When a database was dropped last.
    dropped: BTreeMap<String, ClusterTime>,
}

/// Stands for the collection of a database's views, since the database was last dropped.
#[must_use]
pub fn views_of(db: &str, since: ClusterTime) -> Uuid {
    let mut hasher = blake3::Hasher::new_derive_key("pitrd 2026 views of a database v1");
    hasher.update(&since.0.to_le_bytes()).update(db.as_bytes());
    let mut bytes = [0; 16];
    hasher.finalize_xof().fill(&mut bytes);
    Uuid::from_bytes(bytes)
}

/// The fields of an event that a fold looks at.
#[derive(Clone, Copy)]
struct Event<'a> {
    kind: &'a str,
    at: ClusterTime,
    wall_ms: i64,
    db: &'a str,
    collection: &'a str,
    uuid: Option<Uuid>,
    key: Option<Document<'a>>,
    full: Option<Document<'a>>,
    update: Option<Document<'a>>,
    description: Option<Document<'a>>,
    to: Option<Document<'a>>,
}

impl Events {
    /// For whoever wants operations of these kinds.
    #[must_use]
    pub fn new(keep: Keep) -> Self {
        Self {
            keep,
            last: ClusterTime::default(),
            dropped: BTreeMap::new(),
        }
    }

    /// Takes the next event of the log; `effect` gets what takes effect with it.
    pub fn push(&mut self, bytes: &[u8], effect: Effect<'_>) -> Result<(), FoldError> {
        let event = Event::read(bytes, self.last)?;
        if event.at < self.last {
            return Err(event.malformed("it comes before the one before it"));
        }
        self.last = event.at;
        match event.kind {
            "insert" | "update" | "replace" | "delete" if self.keep == Keep::Commands => Ok(()),
            "insert" | "update" | "replace" | "delete" => event.document(effect),
            "create" | "modify" | "drop" if event.uuid.is_none() => self.view(&event, effect),
            "create" => event.described("create", effect),
            "modify" => event.described("collMod", effect),
            "drop" => {
                let mut command = Builder::new();
                command.text("drop", event.collection);
                event.command(&command.finish(), event.uuid, effect)
            }
            "rename" => event.rename(effect),
            "createIndexes" => event.create_indexes(effect),
            "dropIndexes" => event.drop_indexes(effect),
            "dropDatabase" => self.drop_database(&event, effect),
            kind if is_without_effect(kind) => Ok(()),
            kind => Err(FoldError::Unknown {
                at: event.at,
                what: format!("an event of kind {kind:?}"),
            }),
        }
    }

    /// A view is a row of its database's `system.views`.
    fn view(&self, event: &Event<'_>, effect: Effect<'_>) -> Result<(), FoldError> {
        let since = self.dropped.get(event.db).copied().unwrap_or_default();
        let views = views_of(event.db, since);
        let mut row = Builder::new();
        row.text("_id", &format!("{}.{}", event.db, event.collection));
        if event.kind == "create" {
            let mut command = Builder::new();
            command.text("create", "system.views");
            event.command(&command.finish(), Some(views), effect)?;
        }
        if self.keep == Keep::Commands {
            return Ok(());
        }
        if event.kind != "drop" {
            for element in event.described_by()?.elements() {
                row.element(element.map_err(event.not_bson())?);
            }
        }
        let row = row.finish();
        let row = Document::new(&row).map_err(event.not_bson())?;
        let (op, object2) = match event.kind {
            "create" => ("i", None),
            "modify" => ("u", Some(row)),
            _ => ("d", None),
        };
        let namespace = format!("{}.system.views", event.db);
        effect(&Entry {
            op,
            namespace: &namespace,
            uuid: Some(views),
            object: row,
            object2,
            ..event.entry()
        })
    }

    /// Collections were dropped by events of their own. Views were not.
    fn drop_database(&mut self, event: &Event<'_>, effect: Effect<'_>) -> Result<(), FoldError> {
        let since = self.dropped.insert(event.db.to_owned(), event.at);
        let mut command = Builder::new();
        command.text("drop", "system.views");
        let views = views_of(event.db, since.unwrap_or_default());
        event.command(&command.finish(), Some(views), effect)?;
        let mut command = Builder::new();
        command.int32("dropDatabase", 1);
        event.command(&command.finish(), None, effect)
    }
}

impl<'a> Event<'a> {
    fn read(bytes: &'a [u8], last: ClusterTime) -> Result<Self, FoldError> {
        let malformed = |what| FoldError::Malformed { at: last, what };
        let not_bson = || FoldError::malformed(last, "it is not BSON");
        let document = Document::new(bytes).map_err(not_bson())?;
        let (mut kind, mut at, mut ns) = (None, None, None);
        let mut event = Self {
            kind: "",
            at: last,
            wall_ms: 0,
            db: "",
            collection: "",
            uuid: None,
            key: None,
            full: None,
            update: None,
            description: None,
            to: None,
        };
        for element in document.elements() {
            let Element { name, value, .. } = element.map_err(not_bson())?;
            match name {
                b"operationType" => kind = value.text(),
                b"clusterTime" => at = value.timestamp().map(ClusterTime),
                b"wallTime" => event.wall_ms = value.date().unwrap_or(0),
                b"ns" => ns = value.document(),
                b"collectionUUID" => event.uuid = value.uuid().map(Uuid::from_bytes),
                b"documentKey" => event.key = value.document(),
                b"fullDocument" => event.full = value.document(),
                b"rawUpdateDescription" => event.update = value.document(),
                b"operationDescription" => event.description = value.document(),
                b"to" => event.to = value.document(),
                _ => {}
            }
        }
        event.kind = kind.ok_or(malformed("an event without a kind follows it"))?;
        event.at = at.ok_or(malformed("an event without a time follows it"))?;
        if let Some(ns) = ns {
            let text = |name| Ok(ns.get(name)?.and_then(Value::text).unwrap_or_default());
            event.db = text("db").map_err(not_bson())?;
            event.collection = text("coll").map_err(not_bson())?;
        }
        Ok(event)
    }

    fn malformed(&self, what: &'static str) -> FoldError {
        FoldError::Malformed { at: self.at, what }
    }

    fn not_bson(&self) -> impl Fn(super::raw::Malformed) -> FoldError {
        FoldError::malformed(self.at, "it is not BSON")
    }

    fn described_by(&self) -> Result<Document<'a>, FoldError> {
        let missing = || self.malformed("a change of the catalogue without its description");
        self.description.ok_or_else(missing)
    }

    /// An operation without what it does.
    fn entry(&self) -> Entry<'static> {
        Entry {
            at: self.at,
            wall_ms: self.wall_ms,
            op: "",
            namespace: "",
            uuid: None,
            object: Document::empty(),
            object2: None,
            session: None,
            previous: None,
            multi: 0,
        }
    }

    fn document(&self, effect: Effect<'_>) -> Result<(), FoldError> {
        let of = |part: Option<Document<'a>>, what| part.ok_or_else(|| self.malformed(what));
        let key = of(self.key, "a change of a document without its _id")?;
        let full = || of(self.full, "an event without the document");
        let (op, object, object2) = match self.kind {
            "insert" => ("i", full()?, None),
            "replace" => ("u", full()?, Some(key)),
            "update" => {
                let update = of(self.update, "an update without what the oplog says of it")?;
                ("u", update, Some(key))
            }
            _ => ("d", key, None),
        };
        let namespace = format!("{}.{}", self.db, self.collection);
        effect(&Entry {
            op,
            namespace: &namespace,
            uuid: self.uuid,
            object,
            object2,
            ..self.entry()
        })
    }

    fn command(
        &self,
        object: &[u8],
        uuid: Option<Uuid>,
        effect: Effect<'_>,
    ) -> Result<(), FoldError> {
        let namespace = format!("{}.$cmd", self.db);
        effect(&Entry {
            op: "c",
            namespace: &namespace,
            uuid,
            object: Document::new(object).map_err(self.not_bson())?,
            ..self.entry()
        })
    }

    /// A command whose other fields are the event's description.
    fn described(&self, name: &str, effect: Effect<'_>) -> Result<(), FoldError> {
        let mut command = Builder::new();
        command.text(name, self.collection);
        for element in self.described_by()?.elements() {
            command.element(element.map_err(self.not_bson())?);
        }
        self.command(&command.finish(), self.uuid, effect)
    }

    fn rename(&self, effect: Effect<'_>) -> Result<(), FoldError> {
        let part = |name| {
            let value = self.to.map(|to| to.get(name)).transpose();
            let value = value.map_err(self.not_bson())?;
            let text = value.flatten().and_then(Value::text);
            text.ok_or_else(|| self.malformed("a rename without a new name"))
        };
        let to = format!("{}.{}", part("db")?, part("coll")?);
        let mut command = Builder::new();
        command.text(
            "renameCollection",
            &format!("{}.{}", self.db, self.collection),
        );
        command.text("to", &to);
        let target = self
            .description
            .map(|description| description.get("dropTarget"));
        if let Some(target) = target.transpose().map_err(self.not_bson())?.flatten() {
            command.value(b"dropTarget", target);
        }
        self.command(&command.finish(), self.uuid, effect)
    }

    fn indexes(&self) -> Result<Value<'a>, FoldError> {
        let indexes = self
            .described_by()?
            .get("indexes")
            .map_err(self.not_bson())?;
        let indexes = indexes.filter(|indexes| indexes.kind == kind::ARRAY);
        indexes.ok_or_else(|| self.malformed("a change of indexes that names none"))
    }

    fn create_indexes(&self, effect: Effect<'_>) -> Result<(), FoldError> {
        let mut command = Builder::new();
        command.text("commitIndexBuild", self.collection);
        command.value(b"indexes", self.indexes()?);
        self.command(&command.finish(), self.uuid, effect)
    }

    fn drop_indexes(&self, effect: Effect<'_>) -> Result<(), FoldError> {
        let specs = self.indexes()?.document().into_iter();
        for spec in specs.flat_map(Document::elements) {
            let spec = spec.map_err(self.not_bson())?.value.document();
            let name = spec.map(|spec| spec.get("name")).transpose();
            let name = name.map_err(self.not_bson())?.flatten();
            let name =
                name.ok_or_else(|| self.malformed("an index that is dropped without a name"))?;
            let mut command = Builder::new();
            command.text("dropIndexes", self.collection);
            command.value(b"index", name);
            self.command(&command.finish(), self.uuid, effect)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;

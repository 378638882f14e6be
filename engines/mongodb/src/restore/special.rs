//! What is not restored as documents: definitions of views, users, roles. They are few, kept in memory, and put in place last.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::select::{BUCKETS, Role, Selected, Selection};
use crate::fold::raw::{Builder, Document, Element, Value};
use crate::fold::{Batch, FoldError, Sink};

/// A view, under its new names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct View {
    pub(super) db: String,
    pub(super) name: String,
    /// `viewOn`, `pipeline`, and a collation if it has one.
    pub(super) options: Vec<u8>,
}

/// Keeps special documents, by the number of their collection, and hands all others on.
pub(super) struct Special {
    roles: Vec<Role>,
    kept: Mutex<BTreeMap<u32, Vec<Vec<u8>>>>,
}

impl Special {
    pub(super) fn new(selected: &Selected) -> Self {
        Self {
            roles: selected.targets.iter().map(|target| target.role).collect(),
            kept: Mutex::default(),
        }
    }

    /// Keeps the documents of `batch` if they are special; gives them back if they are not.
    pub(super) fn keep(&self, collection: u32, batch: Batch) -> Option<Batch> {
        if let Role::Plain | Role::Buckets = self.roles[collection as usize] {
            return Some(batch);
        }
        let mut kept = self.kept.lock().expect("no holder panics");
        let kept = kept.entry(collection).or_default();
        let mut rest = batch.bytes.as_slice();
        while let Ok((document, after)) = Document::split(rest) {
            kept.push(document.bytes().to_vec());
            rest = after;
        }
        None
    }

    /// The documents of all collections of a role, as they are.
    pub(super) fn of(&self, role: Role) -> Vec<Vec<u8>> {
        let kept = self.kept.lock().expect("no holder panics");
        let kept = kept
            .iter()
            .filter(|(number, _)| self.roles[**number as usize] == role);
        let mut documents: Vec<_> = kept
            .flat_map(|(_, documents)| documents.iter().cloned())
            .collect();
        documents.sort();
        documents
    }

    /// Whether there is a view `db.name`, time series included.
    pub(super) fn has_view(&self, db: &str, name: &str) -> bool {
        let id = format!("{db}.{name}");
        let is_it = |document: &Vec<u8>| {
            let found = Document::new(document)
                .ok()
                .and_then(|document| document.get("_id").ok()?);
            found.and_then(Value::text) == Some(id.as_str())
        };
        self.of(Role::Views).iter().any(is_it)
    }

    /// The views that are wanted. Those that show time series come with the series.
    pub(super) fn views(&self, selection: &Selection) -> Vec<View> {
        let documents = self.of(Role::Views);
        let view = |document: &Vec<u8>| view(Document::new(document).ok()?, selection);
        documents.iter().filter_map(view).collect()
    }
}

fn view(document: Document<'_>, selection: &Selection) -> Option<View> {
    let id = document.get("_id").ok()??.text()?;
    let (db, name) = id.split_once('.')?;
    let on = document.get("viewOn").ok()??.text()?;
    if on.starts_with(BUCKETS) || !selection.names(db, name) {
        return None;
    }
    let mut options = Builder::new();
    // A rename of what it shows renames the view's source; what its pipeline joins keeps its name.
    options.text("viewOn", &selection.renamed(db, on).1);
    for element in document.elements() {
        let element: Element<'_> = element.ok()?;
        if !matches!(element.name, b"_id" | b"viewOn") {
            options.element(element);
        }
    }
    let (db, name) = selection.renamed(db, name);
    Some(View {
        db,
        name,
        options: options.finish(),
    })
}

/// Takes nothing but what is special.
impl Sink for Special {
    fn documents(&self, collection: u32, batch: Batch) -> Result<(), FoldError> {
        self.keep(collection, batch);
        Ok(())
    }
}

/// Passes on what is not special.
pub(super) struct Sifted<S> {
    pub(super) special: Arc<Special>,
    pub(super) sink: S,
}

impl<S: Sink> Sink for Sifted<S> {
    fn documents(&self, collection: u32, batch: Batch) -> Result<(), FoldError> {
        match self.special.keep(collection, batch) {
            Some(batch) => self.sink.documents(collection, batch),
            None => Ok(()),
        }
    }
}

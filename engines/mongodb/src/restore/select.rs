//! What is restored of the state at the target, and under which names.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use bson::Uuid;

use super::RestoreError;
use super::filter::Filter;
use crate::fold::catalogue::Collection;

/// Time series keep their documents under this prefix.
pub(super) const BUCKETS: &str = "system.buckets.";

/// A database, or one collection of it: `db` or `db.collection`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Name {
    /// The database.
    pub db: String,
    /// The collection; `None` for all of them.
    pub collection: Option<String>,
}

/// `--rename FROM=TO`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rename {
    /// What it was called.
    pub from: Name,
    /// What it shall be called.
    pub to: Name,
}

impl FromStr for Name {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (db, collection) = match text.split_once('.') {
            Some((db, collection)) => (db, Some(collection)),
            None => (text, None),
        };
        let wrong = |c: char| {
            c == '/' || c == '\\' || c == '"' || c == '$' || c == '\0' || c.is_whitespace()
        };
        if db.is_empty() || db.contains(wrong) || collection == Some("") {
            return Err("write a database, or a collection as db.collection");
        }
        Ok(Self {
            db: db.to_owned(),
            collection: collection.map(str::to_owned),
        })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.collection {
            Some(collection) => write!(f, "{}.{collection}", self.db),
            None => f.write_str(&self.db),
        }
    }
}

impl FromStr for Rename {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let halves = text
            .split_once('=')
            .ok_or("write FROM=TO, as in shop.orders=shop.orders_old")?;
        let (from, to): (Name, Name) = (halves.0.parse()?, halves.1.parse()?);
        if from.collection.is_some() != to.collection.is_some() {
            return Err("rename a database to a database, or a collection to a collection");
        }
        Ok(Self { from, to })
    }
}

/// What was asked for; by default everything.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only these; all if it is empty.
    pub only: Vec<Name>,
    /// New names.
    pub rename: Vec<Rename>,
    /// Only documents that pass.
    pub filter: Option<Filter>,
    /// Only the document with this `_id`: BSON with one field.
    pub id: Option<Vec<u8>>,
}

/// What a collection at the target is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Holds documents.
    Plain,
    /// Holds the buckets of a time series.
    Buckets,
    /// Holds the definitions of a database's views.
    Views,
    /// Holds users.
    Users,
    /// Holds roles.
    Roles,
}

/// A collection that is restored.
#[derive(Clone, Debug)]
pub struct Target {
    /// As it is at the target.
    pub collection: Collection,
    /// The database it goes to.
    pub db: String,
    /// The name it gets there; of a time series that of the series.
    pub name: String,
    /// What it is for.
    pub role: Role,
}

impl Target {
    /// `db.name`
    #[must_use]
    pub fn namespace(&self) -> String {
        format!("{}.{}", self.db, self.name)
    }

    /// Where its documents lie.
    #[must_use]
    pub fn stored_in(&self) -> String {
        match self.role {
            Role::Buckets => format!("{BUCKETS}{}", self.name),
            _ => self.name.clone(),
        }
    }
}

/// What is restored, and what is passed over.
#[derive(Clone, Debug, Default)]
pub struct Selected {
    /// What is restored.
    pub targets: Vec<Target>,
    /// The UUIDs of everything else that exists or existed.
    pub others: BTreeSet<Uuid>,
    /// What to know.
    pub remarks: Vec<String>,
}

impl Selection {
    /// Whether everything is restored.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.only.is_empty() && self.filter.is_none() && self.id.is_none()
    }

    /// Whether the namespace `db.name` was asked for.
    #[must_use]
    pub fn names(&self, db: &str, name: &str) -> bool {
        let named = |only: &Name| {
            only.db == db
                && only
                    .collection
                    .as_deref()
                    .is_none_or(|only| only == name || gridfs_twin(only).as_deref() == Some(name))
        };
        self.only.is_empty() || self.only.iter().any(named)
    }

    /// Where `db.name` goes. GridFS's two collections go together.
    #[must_use]
    pub fn renamed(&self, db: &str, name: &str) -> (String, String) {
        for Rename { from, to } in self.rename.iter().filter(|rename| rename.from.db == db) {
            match (&from.collection, &to.collection) {
                (Some(from), Some(new)) if from == name => return (to.db.clone(), new.clone()),
                (Some(from), Some(new)) if gridfs_twin(from).as_deref() == Some(name) => {
                    if let Some(new) = gridfs_twin(new) {
                        return (to.db.clone(), new);
                    }
                }
                _ => {}
            }
        }
        let whole = |rename: &&Rename| rename.from.db == db && rename.from.collection.is_none();
        let db = self
            .rename
            .iter()
            .find(whole)
            .map_or(db, |rename| &rename.to.db);
        (db.to_owned(), name.to_owned())
    }

    /// Picks from the catalogue at the target.
    ///
    /// # Errors
    /// Names that do not exist, two collections that would get one name, and what a selection by content cannot do.
    pub fn pick(
        &self,
        catalogue: BTreeMap<Uuid, Collection>,
        dropped: BTreeSet<Uuid>,
    ) -> Result<Selected, RestoreError> {
        let mut selected = Selected {
            others: dropped,
            ..Selected::default()
        };
        for (uuid, collection) in catalogue {
            match self.target(&collection, &mut selected.remarks) {
                Some(target) => selected.targets.push(target),
                None => {
                    selected.others.insert(uuid);
                }
            }
        }
        selected.targets.sort_by_key(Target::namespace);
        self.check(&selected)?;
        Ok(selected)
    }

    fn target(&self, collection: &Collection, remarks: &mut Vec<String>) -> Option<Target> {
        let (db, stored) = (collection.db.as_str(), collection.name.as_str());
        let (role, name) = match (db, stored) {
            ("admin", "system.users") => (Role::Users, stored),
            ("admin", "system.roles") => (Role::Roles, stored),
            (_, "system.views") => (Role::Views, stored),
            (_, "system.js") => (Role::Plain, stored),
            (_, stored) if stored.starts_with(BUCKETS) => (Role::Buckets, &stored[BUCKETS.len()..]),
            ("config" | "local", _) => return None,
            (_, stored) if stored.starts_with("system.") => return None,
            _ => (Role::Plain, stored),
        };
        if collection
            .option("temp")
            .is_some_and(|temporary| temporary.is_true())
        {
            remarks.push(format!(
                "{} was temporary and is left out",
                collection.namespace()
            ));
            return None;
        }
        let by_content = self.filter.is_some() || self.id.is_some();
        let wanted = match role {
            Role::Plain => self.names(db, name),
            Role::Buckets => self.names(db, name) && !by_content,
            Role::Views => {
                (self.only.is_empty() || self.only.iter().any(|only| only.db == db)) && !by_content
            }
            Role::Users | Role::Roles => {
                (self.only.is_empty() || self.names(db, name)) && !by_content
            }
        };
        let (db, name) = self.renamed(db, name);
        wanted.then(|| Target {
            collection: collection.clone(),
            db,
            name,
            role,
        })
    }

    fn check(&self, selected: &Selected) -> Result<(), RestoreError> {
        let refused = |text: String| Err(RestoreError::Request(text));
        for only in &self.only {
            let is_it = |target: &Target| {
                let collection = &target.collection;
                let name = collection
                    .name
                    .strip_prefix(BUCKETS)
                    .unwrap_or(&collection.name);
                // Whether a view is called so stands in a document.
                collection.db == only.db
                    && (only.collection.as_deref().is_none_or(|only| only == name)
                        || target.role == Role::Views)
            };
            if !selected.targets.iter().any(is_it) {
                return refused(format!("there is nothing called {only} at the target"));
            }
        }
        for rename in &self.rename {
            let (Some(from), Some(to)) = (&rename.from.collection, &rename.to.collection) else {
                continue;
            };
            let twin = gridfs_twin(from);
            let has_twin = selected
                .targets
                .iter()
                .any(|target| Some(&target.collection.name) == twin.as_ref());
            if has_twin && gridfs_twin(to).is_none() {
                return refused(format!(
                    "{from} is half of a GridFS bucket: rename it to something that ends in .files or .chunks as well"
                ));
            }
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = selected
            .targets
            .iter()
            .find(|target| !names.insert(target.namespace()))
        {
            return refused(format!(
                "two collections would be called {}",
                twice.namespace()
            ));
        }
        if self.filter.is_some() || self.id.is_some() {
            self.check_content(selected)?;
        }
        Ok(())
    }

    /// A selection by content concerns one collection, or GridFS's files with their chunks.
    fn check_content(&self, selected: &Selected) -> Result<(), RestoreError> {
        let names: Vec<&str> = selected
            .targets
            .iter()
            .map(|target| target.collection.name.as_str())
            .collect();
        let asked = match self.only[..] {
            [
                Name {
                    collection: Some(ref asked),
                    ..
                },
            ] => asked,
            _ => {
                return Err(RestoreError::Request(
                    "documents are picked from one collection: name it with --only db.collection"
                        .into(),
                ));
            }
        };
        if asked.ends_with(".chunks") && names.len() > 1 {
            return Err(RestoreError::Request(format!(
                "the chunks of GridFS follow their files: pick from {} instead",
                gridfs_twin(asked).unwrap_or_default()
            )));
        }
        Ok(())
    }
}

/// The other one of GridFS's two collections.
pub(super) fn gridfs_twin(name: &str) -> Option<String> {
    let files = name
        .strip_suffix(".files")
        .map(|bucket| format!("{bucket}.chunks"));
    files.or_else(|| {
        name.strip_suffix(".chunks")
            .map(|bucket| format!("{bucket}.files"))
    })
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;

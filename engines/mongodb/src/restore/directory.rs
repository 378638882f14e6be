//! The state as files: one BSON file and one `.metadata.json` per collection, in a directory per database, as mongorestore reads them.
//! No server is needed.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::extjson::{Form, document, quoted};
use super::select::{Role, Selected, Selection, Target};
use super::special::{Sifted, Special, View};
use super::{
    Event, Fold, RestoreError, Restored, Summary, Watch, accounts, check_names, picked_files,
    series, wanted,
};
use crate::fold::catalogue::options;
use crate::fold::raw::{Builder, Document};
use crate::fold::{Batch, FoldError, Sink};

/// Lies in the directory until everything in it is durable.
pub const MARK: &str = ".pitrd-incomplete";
/// Longer escaped names are cut, and the whole name stands in the metadata.
const FILE_NAME_BYTES_MAX: usize = 238;
const FILE_NAME_KEPT: usize = 208;

/// Where files go.
#[derive(Clone, Debug)]
pub struct Directory {
    /// An empty directory, or none yet.
    pub path: PathBuf,
    /// What is restored, as text: an interrupted restore of the same is begun again.
    pub job: String,
}

/// Folds and writes files.
///
/// # Errors
/// [`RestoreError::Place`] if the directory holds something else. After any other error it is marked as incomplete.
pub async fn into_directory(
    fold: &Fold,
    selection: &Selection,
    directory: &Directory,
    watch: &Watch,
) -> Result<Summary, RestoreError> {
    let state = fold.catalogue().await?;
    let selected = Arc::new(selection.pick(state.collections, state.dropped)?);
    check_names(fold, &selected, selection).await?;
    let files = picked_files(fold, &selected, selection).await?;
    directory.prepare()?;
    let special = Arc::new(Special::new(&selected));
    let sink = Sifted {
        special: Arc::clone(&special),
        sink: Files::new(&directory.path, &selected, watch)?,
    };
    let wanted = wanted(&selected, selection, files);
    let folded = fold
        .documents(wanted, selected.others.clone(), Arc::new(sink))
        .await?;
    let mut summary = Summary {
        entries: state.entries,
        operations: folded.operations,
        spilled_bytes: folded.spilled_bytes,
        remarks: [fold.remarks(selection), selected.remarks.clone()].concat(),
        ..Summary::default()
    };
    for (target, content) in selected.targets.iter().zip(&folded.contents) {
        if let Role::Plain | Role::Buckets = target.role {
            let left_out = metadata(&directory.path, target)?;
            summary.remarks.extend(left_out);
            summary.collections.push(Restored::new(target, *content));
        }
    }
    for view in special.views(selection) {
        summary.views += 1;
        write_view(&directory.path, &view)?;
    }
    (summary.users, summary.roles) = accounts(&directory.path, &special)?;
    directory.finish()?;
    Ok(summary)
}

/// The job of a restore into `directory` that was interrupted, if there is one.
pub fn interrupted_in(directory: &Path) -> std::io::Result<Option<String>> {
    match fs::read_to_string(directory.join(MARK)) {
        Ok(job) => Ok(Some(job)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Directory {
    /// Makes the directory and marks it.
    fn prepare(&self) -> Result<(), RestoreError> {
        let refused = |reason: &str| RestoreError::Place {
            place: self.path.display().to_string(),
            reason: reason.into(),
        };
        fs::create_dir_all(&self.path).map_err(RestoreError::file("create", &self.path))?;
        let mark = self.path.join(MARK);
        let entries = fs::read_dir(&self.path).map_err(RestoreError::file("read", &self.path))?;
        let entries: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        match fs::read_to_string(&mark) {
            Ok(job) if job == self.job => {
                for path in entries.iter().filter(|path| **path != mark) {
                    let removed = if path.is_dir() {
                        fs::remove_dir_all(path)
                    } else {
                        fs::remove_file(path)
                    };
                    removed.map_err(RestoreError::file("remove", path))?;
                }
                return Ok(());
            }
            Ok(_) => {
                return Err(refused(
                    "an interrupted restore of something else lies there; end it by its own command, or name another directory",
                ));
            }
            Err(_) if !entries.is_empty() => return Err(refused("the directory is not empty")),
            Err(_) => {}
        }
        write(&mark, self.job.as_bytes())
    }

    /// Makes everything durable, then takes the mark away.
    fn finish(&self) -> Result<(), RestoreError> {
        sync(&self.path)?;
        let mark = self.path.join(MARK);
        fs::remove_file(&mark).map_err(RestoreError::file("remove", &mark))?;
        sync_one(&self.path)
    }
}

fn sync(directory: &Path) -> Result<(), RestoreError> {
    let entries = fs::read_dir(directory).map_err(RestoreError::file("read", directory))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            sync(&path)?
        } else {
            sync_one(&path)?
        }
    }
    sync_one(directory)
}

fn sync_one(path: &Path) -> Result<(), RestoreError> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(RestoreError::file("sync", path))
}

/// Writes a file that is not there yet, for its owner only.
fn write(path: &Path, bytes: &[u8]) -> Result<(), RestoreError> {
    append(path, bytes).map_err(RestoreError::file("write", path))
}

fn append(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)
}

/// Appends batches to the files of their collections.
struct Files {
    files: Vec<Mutex<PathBuf>>,
    watch: Watch,
}

impl Files {
    fn new(root: &Path, selected: &Selected, watch: &Watch) -> Result<Self, RestoreError> {
        let mut files = Vec::new();
        for target in &selected.targets {
            let path = path(root, &target.db, &target.stored_in(), ".bson")?;
            if let Role::Plain | Role::Buckets = target.role {
                write(&path, &[])?;
            }
            files.push(Mutex::new(path));
        }
        Ok(Self {
            files,
            watch: Arc::clone(watch),
        })
    }
}

impl Sink for Files {
    fn documents(&self, collection: u32, batch: Batch) -> Result<(), FoldError> {
        let path = self.files[collection as usize]
            .lock()
            .expect("no holder panics");
        let failed = |error| FoldError::Sink(format!("write {}: {error}", path.display()));
        append(&path, &batch.bytes).map_err(failed)?;
        (self.watch)(Event::Placed(batch.documents));
        Ok(())
    }
}

/// The file of a collection; makes the directory of its database.
fn path(root: &Path, db: &str, name: &str, ending: &str) -> Result<PathBuf, RestoreError> {
    if db.is_empty() || db.starts_with('.') || db.contains(['/', '\0']) {
        return Err(RestoreError::Request(
            "the archive names a database that cannot be a directory".into(),
        ));
    }
    let directory = root.join(db);
    fs::create_dir_all(&directory).map_err(RestoreError::file("create", &directory))?;
    Ok(directory.join(format!("{}{ending}", file_name(name))))
}

/// A collection's name as mongodump writes it.
fn file_name(name: &str) -> String {
    let mut escaped = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~$".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    if escaped.len() <= FILE_NAME_BYTES_MAX {
        return escaped;
    }
    let digest = blake3::hash(name.as_bytes()).to_hex();
    format!("{}%24{}", &escaped[..FILE_NAME_KEPT], &digest[..27])
}

/// Writes the metadata of a collection; returns remarks about what mongorestore could not make.
fn metadata(root: &Path, target: &Target) -> Result<Vec<String>, RestoreError> {
    let collection = &target.collection;
    let (mut indexes, mut remarks) = (collection.indexes.clone(), Vec::new());
    let (options, kind) = match target.role {
        Role::Buckets => {
            let user = |index: &Vec<u8>| series::user_index(index, &collection.options);
            for index in indexes.iter().filter(|index| user(index).is_none()) {
                remarks.push(format!(
                    "{}: an index on its buckets is left out: {}",
                    target.namespace(),
                    name_of(index)
                ));
            }
            indexes = indexes.iter().filter_map(user).collect();
            (series::user_options(&collection.options), "timeseries")
        }
        _ => (collection.options.clone(), "collection"),
    };
    let uuid = collection.uuid.to_string().replace('-', "");
    let text = metadata_text(&options, &indexes, &uuid, &target.name, kind)?;
    write(
        &path(root, &target.db, &target.name, ".metadata.json")?,
        text.as_bytes(),
    )?;
    Ok(remarks)
}

fn name_of(index: &[u8]) -> String {
    let name = options::get(index, "name").and_then(|name| name.text());
    name.unwrap_or("without a name").to_owned()
}

fn metadata_text(
    options: &[u8],
    indexes: &[Vec<u8>],
    uuid: &str,
    name: &str,
    kind: &str,
) -> Result<String, RestoreError> {
    let json = |bytes: &[u8]| {
        let text = Document::new(bytes).and_then(|bytes| document(bytes, Form::Canonical));
        text.map_err(|_| RestoreError::Request(format!("the catalogue of {name} is damaged")))
    };
    let indexes = indexes
        .iter()
        .map(|index| json(index))
        .collect::<Result<Vec<_>, _>>()?;
    let (options, indexes, name) = (json(options)?, indexes.join(","), quoted(name));
    Ok(format!(
        r#"{{"options":{options},"indexes":[{indexes}],"uuid":"{uuid}","collectionName":{name},"type":"{kind}"}}"#
    ))
}

fn write_view(root: &Path, view: &View) -> Result<(), RestoreError> {
    let text = metadata_text(&view.options, &[], "", &view.name, "view")?;
    write(
        &path(root, &view.db, &view.name, ".metadata.json")?,
        text.as_bytes(),
    )
}

/// Writes users and roles, and how they are stored, which mongorestore wants to know.
fn accounts(root: &Path, special: &Special) -> Result<(u64, u64), RestoreError> {
    let (users, roles) = (special.of(Role::Users), special.of(Role::Roles));
    let version = if users.is_empty() && roles.is_empty() {
        Vec::new()
    } else {
        vec![accounts::version()]
    };
    for (name, documents) in [
        ("system.users", &users),
        ("system.roles", &roles),
        ("system.version", &version),
    ] {
        if documents.is_empty() {
            continue;
        }
        write(&path(root, "admin", name, ".bson")?, &documents.concat())?;
        let text = metadata_text(&Builder::new().finish(), &[], "", name, "collection")?;
        write(
            &path(root, "admin", name, ".metadata.json")?,
            text.as_bytes(),
        )?;
    }
    Ok((users.len() as u64, roles.len() as u64))
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;

//! Restore: a plan becomes a data directory that PostgreSQL starts from. `tree` says where every byte goes, `parts` brings it
//! there, `mark` remembers how far that is, `verify` holds it against PostgreSQL's manifest, `settings` tells the server where to
//! stop; then, and not before, `pg_control` gets its name.

mod chain;
mod configuration;
mod error;
mod mark;
mod parts;
mod place;
mod settings;
mod start;
mod tree;
mod verify;
pub mod wal_fetch;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use pitr_archive::Reading;
use pitr_archive::catalogue::BackupId;

pub use configuration::complete_configuration;
pub use error::RestoreError;
pub use settings::{Action, Commands};
pub use start::{Started, State, check_start, start};

use crate::backup::BackupManifest;
use crate::plan::{Plan, read_manifest};
use mark::{JOB_VERSION, Job, MARK, Mark, sync_directory};
use parts::Parts;
use place::Found;
use tree::{PG_CONTROL, PG_CONTROL_PENDING, Tree};

/// Files with these permissions are made so at once.
const FILE_MODE: u32 = 0o600;

/// What happens during a restore, for whoever shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// So many bytes will be written in all.
    Total(u64),
    /// So many more are written.
    Written(u64),
}

/// Is told what happens, from any thread.
pub type Watch = Arc<dyn Fn(Event) + Send + Sync>;

/// How a restore is made.
#[derive(Clone)]
pub struct RestoreOptions {
    /// The data directory to be.
    pub into: PathBuf,
    /// Tablespaces that go elsewhere: where they were, where they shall be.
    pub tablespaces: Vec<(PathBuf, PathBuf)>,
    /// Objects that are fetched at once.
    pub jobs: NonZeroUsize,
    /// What the server does at the target.
    pub action: Action,
    /// What it runs.
    pub commands: Commands,
    /// Directory of PostgreSQL's programs, for incremental backups.
    pub pg_bin: Option<PathBuf>,
    /// Is told how far it is.
    pub watch: Watch,
}

/// Whether a restore into `into` would begin anew there.
#[must_use]
pub fn is_free(into: &Path) -> bool {
    matches!(place::look(into), Ok(Found::Free))
}

/// What a restore did.
#[derive(Clone, PartialEq, Debug)]
pub struct Restored {
    /// The data directory, absolute.
    pub into: PathBuf,
    /// Bytes of files.
    pub bytes: u64,
    /// Files.
    pub files: u64,
    /// Bytes fetched from the store; fewer when a restore was resumed.
    pub fetched_bytes: u64,
    /// Seconds until every byte was in its file, durable.
    pub fetch_seconds: f64,
    /// Seconds from there until the directory was verified, set up and durable.
    pub finish_seconds: f64,
    /// The server that the copy is of, as `server_version` said.
    pub server_version: String,
    /// Bytes of a WAL segment.
    pub wal_segment_bytes: u64,
    /// Configuration files that are not in the backup, because the source has them outside its data directory.
    pub missing_configuration: Vec<String>,
    /// What to know before the server takes writes.
    pub remarks: Vec<String>,
}

/// Restores the base of `plan` and sets the server up to recover to its target.
///
/// Nothing that is there is overwritten. A restore that was interrupted, by SIGKILL too, is taken up where it was.
///
/// # Errors
/// What is left behind when it fails does not start: `pg_control` gets its name after everything else is verified and durable.
pub async fn restore(
    reading: Arc<Reading>,
    plan: &Plan,
    options: &RestoreOptions,
) -> Result<Restored, RestoreError> {
    let into =
        std::path::absolute(&options.into).map_err(RestoreError::file("find", &options.into))?;
    match plan.bases[..] {
        [] => Err(RestoreError::Request(
            "the plan names no base backup".into(),
        )),
        [backup] => {
            let found = place::look(&into)?;
            let manifest = read_manifest(&reading, backup).await?;
            let outside = place::tablespaces(&manifest.tablespaces, &options.tablespaces)?;
            if found == Found::Free {
                place::check_tablespaces(&into, &outside)?;
            }
            let mark = into.join(MARK);
            let laid = lay(&reading, backup, manifest, &into, outside, &mark, options).await?;
            laid.finish(plan, options)
        }
        _ => chain::restore(&reading, plan, &into, options).await,
    }
}

/// A data directory whose files are there and verified, `pg_control` under another name.
struct Laid {
    tree: Arc<Tree>,
    mark: Mark,
    manifest: BackupManifest,
    fetched_bytes: u64,
    fetch_seconds: f64,
    since: Instant,
}

/// Brings the files of `backup` into `into`, those of its tablespaces `outside` of it, and remembers in `mark` how far it is. Both
/// places are free or taken up.
async fn lay(
    reading: &Arc<Reading>,
    backup: BackupId,
    manifest: BackupManifest,
    into: &Path,
    outside: BTreeMap<u32, PathBuf>,
    mark: &Path,
    options: &RestoreOptions,
) -> Result<Laid, RestoreError> {
    let start = Instant::now();
    let contradiction = |reason| RestoreError::Contradiction {
        backup: backup.to_string(),
        reason,
    };
    let tree = Tree::new(&manifest, into, outside.clone()).map_err(contradiction)?;
    place::make_directory(into, 0o700)?;
    let job = Job {
        version: JOB_VERSION,
        archive: reading.archive().id().to_string(),
        backup: backup.to_string(),
        tablespaces: outside,
    };
    let (mark, done) = Mark::open(mark, &job)?;
    (options.watch)(Event::Total(manifest.contents_bytes));
    let before = done.parts.iter().map(|part| part.end - part.start);
    (options.watch)(Event::Written(before.sum()));
    if !is_named(&tree) {
        prepare(&tree)?;
    }
    let tree = Arc::new(tree);
    let parts = Parts {
        reading: Arc::clone(reading),
        backup,
        tree: Arc::clone(&tree),
        count: manifest.parts,
        contents_bytes: manifest.contents_bytes,
        jobs: options.jobs,
        watch: Arc::clone(&options.watch),
    };
    let mut outcome = parts.write(mark, done.parts).await?;
    let fetch_seconds = start.elapsed().as_secs_f64();
    let since = Instant::now();
    if !done.verified {
        verify::written(&tree, &outcome.parts)?;
        outcome.mark.verified()?;
    }
    Ok(Laid {
        tree,
        mark: outcome.mark,
        manifest,
        fetched_bytes: outcome.fetched_bytes,
        fetch_seconds,
        since,
    })
}

/// Makes directories, links and the files that have no contents.
fn prepare(tree: &Tree) -> Result<(), RestoreError> {
    for place in tree.outside.values() {
        place::make_directory(place, 0o700)?;
    }
    for (path, mode) in &tree.directories {
        place::make_directory(path, *mode)?;
    }
    for (path, to) in &tree.links {
        let made = symlink(to, path);
        let same = fs::read_link(path).is_ok_and(|found| found == *to);
        if !same {
            made.map_err(RestoreError::file("create link", path))?;
        }
    }
    for file in tree.files.iter().filter(|file| file.contents.bytes == 0) {
        parts::create(&file.path).map_err(RestoreError::file("create", &file.path))?;
    }
    Ok(())
}

/// Whether `pg_control` has its name: all that was left to do was to take the mark away.
fn is_named(tree: &Tree) -> bool {
    tree.root.join(PG_CONTROL).exists()
}

impl Laid {
    /// Sets the server up, makes everything durable, and only then makes the directory one that can be started.
    fn finish(self, plan: &Plan, options: &RestoreOptions) -> Result<Restored, RestoreError> {
        let root = &self.tree.root;
        // Whatever an interrupted restore wrote, it is this one's target that counts.
        if is_named(&self.tree) {
            place::refuse_if_started(root)?;
            settings::write(root, plan, options.action, &options.commands)?;
            self.sync_all()?;
        } else {
            self.set_modes()?;
            settings::write(root, plan, options.action, &options.commands)?;
            self.name_control()?;
        }
        self.mark.remove()?;
        Ok(Restored {
            into: root.clone(),
            bytes: self.tree.files.iter().map(|file| file.contents.bytes).sum(),
            files: self.tree.files.len() as u64,
            fetched_bytes: self.fetched_bytes,
            fetch_seconds: self.fetch_seconds,
            finish_seconds: self.since.elapsed().as_secs_f64(),
            server_version: self.manifest.server_version,
            wal_segment_bytes: self.manifest.wal_segment_bytes,
            missing_configuration: settings::missing_configuration(root),
            remarks: settings::remarks(root)?,
        })
    }
}

impl Laid {
    fn set_modes(&self) -> Result<(), RestoreError> {
        for file in self.tree.files.iter().filter(|file| file.mode != FILE_MODE) {
            let mode = fs::Permissions::from_mode(file.mode);
            let path = match file.name.as_str() {
                PG_CONTROL if is_named(&self.tree) => &self.tree.root.join(PG_CONTROL),
                _ => &file.path,
            };
            fs::set_permissions(path, mode).map_err(RestoreError::file("set the mode of", path))?;
        }
        Ok(())
    }

    fn sync_all(&self) -> Result<(), RestoreError> {
        let roots = std::iter::once(&self.tree.root).chain(self.tree.outside.values());
        let open = |path: &PathBuf| File::open(path).map_err(RestoreError::file("open", path));
        parts::sync(&roots.map(open).collect::<Result<Vec<_>, _>>()?)
    }

    /// Makes everything durable, then gives `pg_control` its name.
    fn name_control(&self) -> Result<(), RestoreError> {
        let root = &self.tree.root;
        self.sync_all()?;
        let (pending, control) = (root.join(PG_CONTROL_PENDING), root.join(PG_CONTROL));
        fs::rename(&pending, &control).map_err(RestoreError::file("rename", &pending))?;
        sync_directory(control.parent().expect("pg_control lies in global"))
    }
}

#[cfg(test)]
mod tests;

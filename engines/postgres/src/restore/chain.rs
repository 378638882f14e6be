//! Restoring an incremental backup: every backup of its chain is laid into a working directory beside the destination, then
//! PostgreSQL's `pg_combinebackup` makes one cluster of them, which is verified and moved into place.
//!
//! The working directory holds the record of what is done, so that an interrupted restore goes on here, too.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use pitr_archive::Reading;

use super::error::RestoreError;
use super::mark::{JOB_VERSION, Job, MARK, Mark, sync_directory};
use super::place::{self, Found};
use super::tree::PG_CONTROL;
use super::{Laid, RestoreOptions, Restored, lay, parts, settings, verify};
use crate::backup::BackupManifest;
use crate::plan::{Plan, read_manifest};

const PROGRAM: &str = "pg_combinebackup";

/// A chain on its way.
struct Chain<'a> {
    plan: &'a Plan,
    options: &'a RestoreOptions,
    into: &'a Path,
    /// Beside the destination, on the same file system.
    work: PathBuf,
    program: PathBuf,
    last: BackupManifest,
    /// Where tablespaces of the combined cluster go.
    outside: BTreeMap<u32, PathBuf>,
}

/// Restores the chain of `plan` into `into`.
pub(super) async fn restore(
    reading: &Arc<Reading>,
    plan: &Plan,
    into: &Path,
    options: &RestoreOptions,
) -> Result<Restored, RestoreError> {
    let start = Instant::now();
    let newest = *plan.bases.last().expect("a chain has more than one backup");
    let last = read_manifest(reading, newest).await?;
    let program = program(options, &last)?;
    if place::look(into)? == Found::Unfinished {
        let reason = "it holds an interrupted restore of a full backup; remove it, or choose another directory";
        return Err(RestoreError::place(into, reason));
    }
    let outside = place::tablespaces(&last.tablespaces, &options.tablespaces)?;
    let work = work_directory(into)?;
    let chain = Chain {
        plan,
        options,
        into,
        work,
        program,
        last,
        outside,
    };
    let mut mark = chain.begin(reading)?;
    let (mut inputs, mut held) = (Vec::new(), Vec::new());
    let (mut fetched_bytes, mut files) = (0, 0);
    for &backup in &plan.bases {
        let manifest = read_manifest(reading, backup).await?;
        let root = chain.work.join(backup.to_string());
        let tablespaces = chain.working_tablespaces(&root, &manifest);
        // Not inside: pg_combinebackup takes every file for one of the cluster's.
        let mark = root.with_extension("incomplete");
        let laid = lay(
            reading,
            backup,
            manifest,
            &root,
            tablespaces,
            &mark,
            options,
        )
        .await?;
        laid.name()?;
        fetched_bytes += laid.fetched_bytes;
        files = laid.tree.files.len() as u64;
        inputs.push(root);
        held.push(laid);
    }
    let fetch_seconds = start.elapsed().as_secs_f64();
    let combined = chain.combine(&inputs, &mut mark)?;
    drop(held);
    let bytes = chain.finish(&combined)?;
    drop(mark);
    // First: a mark that outlives the move would let a later restore take the cluster's tablespaces for its own.
    let mark = chain.work.join(MARK);
    fs::remove_file(&mark).map_err(RestoreError::file("remove", &mark))?;
    fs::remove_dir_all(&chain.work).map_err(RestoreError::file("remove", &chain.work))?;
    Ok(Restored {
        into: into.into(),
        bytes,
        files,
        fetched_bytes,
        fetch_seconds,
        finish_seconds: start.elapsed().as_secs_f64() - fetch_seconds,
        server_version: chain.last.server_version,
        wal_segment_bytes: chain.last.wal_segment_bytes,
        missing_configuration: settings::missing_configuration(into),
        remarks: settings::remarks(into)?,
    })
}

/// PostgreSQL's program of the backup's own major version; looked for before anything is fetched.
fn program(options: &RestoreOptions, manifest: &BackupManifest) -> Result<PathBuf, RestoreError> {
    let request = |reason: String| Err(RestoreError::Request(reason));
    let Some(pg_bin) = &options.pg_bin else {
        return request(format!(
            "the base backup is incremental and {PROGRAM} puts it together; give --pg-bin DIR, the directory of PostgreSQL {}'s programs",
            manifest.server_version
        ));
    };
    let program = pg_bin.join(PROGRAM);
    let output = match Command::new(&program).arg("--version").output() {
        Ok(output) => output,
        Err(error) => return request(format!("{}: {error}", program.display())),
    };
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let version = said.rsplit(' ').next().unwrap_or_default();
    if major(version) == major(&manifest.server_version) {
        return Ok(program);
    }
    request(format!(
        "{} is of PostgreSQL {version}, the backup of {}; give --pg-bin of the same major version",
        program.display(),
        manifest.server_version
    ))
}

fn major(version: &str) -> &str {
    version
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .unwrap_or_default()
}

/// `/srv/restored` is made in `/srv/.restored.pitrd`.
fn work_directory(into: &Path) -> Result<PathBuf, RestoreError> {
    let Some(name) = into.file_name() else {
        return Err(RestoreError::place(
            into,
            "it cannot be replaced by a restored cluster",
        ));
    };
    let mut work = std::ffi::OsString::from(".");
    work.push(name);
    work.push(".pitrd");
    Ok(into.with_file_name(work))
}

impl Chain<'_> {
    /// Takes the working directory, or takes it up.
    fn begin(&self, reading: &Reading) -> Result<Mark, RestoreError> {
        let bases: Vec<_> = self.plan.bases.iter().map(ToString::to_string).collect();
        let job = Job {
            version: JOB_VERSION,
            archive: reading.archive().id().to_string(),
            backup: bases.join(" "),
            tablespaces: self.outside.clone(),
        };
        if place::look(&self.work)? == Found::Free {
            place::check_tablespaces(self.into, &self.outside)?;
        }
        place::make_directory(&self.work, 0o700)?;
        let (mark, done) = Mark::open(&self.work.join(MARK), &job)?;
        if done.verified {
            let combined = self.combined();
            if !combined.exists() {
                // Nothing was combined yet, or it was and is in use elsewhere by now: what lies in the tablespaces is not ours to remove.
                place::check_tablespaces(self.into, &self.outside)?;
                return Ok(mark);
            }
            // The combination was interrupted: what it wrote is ours, and of no use.
            for place in self.outside.values().chain([&combined]) {
                match fs::remove_dir_all(place) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(RestoreError::file("remove", place)(error));
                    }
                    _ => {}
                }
            }
        }
        Ok(mark)
    }

    fn combined(&self) -> PathBuf {
        self.work.join("combined")
    }

    /// Where a backup of the chain has its tablespaces until they are combined.
    fn working_tablespaces(
        &self,
        root: &Path,
        manifest: &BackupManifest,
    ) -> BTreeMap<u32, PathBuf> {
        let outside = manifest
            .tablespaces
            .iter()
            .filter(|tablespace| Path::new(&tablespace.location).is_absolute());
        let beside = root.with_extension("tablespaces");
        outside
            .map(|tablespace| (tablespace.oid, beside.join(tablespace.oid.to_string())))
            .collect()
    }

    /// Runs PostgreSQL's program on the backups, the full one first.
    fn combine(&self, inputs: &[PathBuf], mark: &mut Mark) -> Result<PathBuf, RestoreError> {
        mark.verified()?;
        let combined = self.combined();
        let mut command = Command::new(&self.program);
        // Everything is made durable here, at once.
        command.arg("--no-sync").arg("--output").arg(&combined);
        let newest = inputs.last().expect("a chain has more than one backup");
        for (oid, from) in self.working_tablespaces(newest, &self.last) {
            if let Some(to) = self.outside.get(&oid) {
                let mut mapping = escape(&from);
                mapping.push("=");
                mapping.push(escape(to));
                command.arg("--tablespace-mapping").arg(mapping);
            }
        }
        let output = command.args(inputs).output();
        let output = output.map_err(RestoreError::file("run", &self.program))?;
        if output.status.success() {
            return Ok(combined);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said
            .lines()
            .last()
            .unwrap_or("it failed without a word")
            .to_owned();
        Err(RestoreError::Program {
            program: PROGRAM,
            said,
        })
    }

    /// Verifies the combined cluster, sets it up, makes it durable and moves it into place. Its bytes.
    fn finish(&self, combined: &Path) -> Result<u64, RestoreError> {
        let bytes = verify::directory(combined)?;
        settings::write(
            combined,
            self.plan,
            self.options.action,
            &self.options.commands,
        )?;
        let roots = std::iter::once(combined).chain(self.outside.values().map(PathBuf::as_path));
        let open = |path: &Path| File::open(path).map_err(RestoreError::file("open", path));
        parts::sync(&roots.map(open).collect::<Result<Vec<_>, _>>()?)?;
        fs::rename(combined, self.into).map_err(RestoreError::file("move to", self.into))?;
        if let Some(parent) = self.into.parent() {
            sync_directory(parent)?;
        }
        Ok(bytes)
    }
}

impl Laid {
    /// Makes a backup of a chain one that `pg_combinebackup` reads.
    fn name(&self) -> Result<(), RestoreError> {
        self.set_modes()?;
        let control = self.tree.root.join(PG_CONTROL);
        if control.exists() {
            Ok(())
        } else {
            self.name_control()
        }
    }
}

/// A path in a tablespace mapping, where `=` separates.
fn escape(path: &Path) -> std::ffi::OsString {
    path.to_string_lossy().replace('=', "\\=").into()
}

#[cfg(test)]
mod tests {
    use super::super::tree::tests::manifest;
    use super::*;
    use pitr_archive::Archive;
    use pitr_archive::keys::{Identity, Opener, Wrapper, WriterKey};
    use pitr_archive::store::DirectoryStore;

    use crate::backup::Tablespace;
    use crate::plan::StopAt;
    use crate::restore::{Action, Commands};
    use crate::{Target, TimelineId};

    async fn empty_archive(root: &Path) -> Reading {
        let store = Arc::new(DirectoryStore::new(root.join("archive")));
        let (key, identity) = (WriterKey::generate(), Identity::generate());
        let wrappers = [Wrapper::Recipient(identity.recipient())];
        let properties = BTreeMap::new();
        let archive = Archive::create(
            store,
            "file:///test",
            "postgres",
            properties,
            &key,
            &wrappers,
        );
        Reading::new(archive.await.unwrap(), Opener::Identity(identity))
    }

    /// A combination was begun, and ended in one of the ways it can. What the same command then does with the tablespace.
    #[tokio::test]
    async fn a_chain_that_is_restored_again_removes_its_own_leavings_and_no_tablespace_in_use() {
        let scratch = tempfile::tempdir().unwrap();
        let reading = empty_archive(scratch.path()).await;
        let plan = Plan {
            target: Target::Immediate,
            before: false,
            stop: StopAt::Consistency,
            last_commit: None,
            first_left_out: None,
            timeline: TimelineId(1),
            bases: vec![
                "20261121T031500Z".parse().unwrap(),
                "20261121T041500Z".parse().unwrap(),
            ],
            base_bytes: 0,
            base_objects: 0,
            path: vec![],
            missing: None,
        };
        let (into, fast) = (scratch.path().join("restored"), scratch.path().join("fast"));
        let options = RestoreOptions {
            into: into.clone(),
            tablespaces: vec![],
            jobs: std::num::NonZeroUsize::MIN,
            action: Action::Pause,
            commands: Commands {
                restore: "fetch".into(),
                end: "end".into(),
            },
            pg_bin: None,
            watch: Arc::new(|_| {}),
        };
        let mut last = manifest(vec![], 0);
        last.tablespaces = vec![Tablespace {
            oid: 16400,
            location: fast.display().to_string(),
        }];
        let chain = Chain {
            plan: &plan,
            options: &options,
            into: &into,
            work: work_directory(&into).unwrap(),
            program: "pg_combinebackup".into(),
            outside: place::tablespaces(&last.tablespaces, &[]).unwrap(),
            last,
        };
        let mut mark = chain.begin(&reading).unwrap();
        mark.verified().unwrap();
        drop(mark);

        // Killed while it was combined: all there is, is ours.
        fs::create_dir_all(chain.combined().join("base")).unwrap();
        fs::create_dir(&fast).unwrap();
        fs::write(fast.join("half"), "").unwrap();
        drop(chain.begin(&reading).unwrap());
        assert!(!chain.combined().exists() && !fast.exists());

        // Killed behind the move, and the cluster was moved on and is in use.
        fs::create_dir(&fast).unwrap();
        fs::write(fast.join("live"), "rows").unwrap();
        let error = chain.begin(&reading).unwrap_err();
        assert!(error.to_string().contains("not empty"), "{error}");
        assert_eq!(fs::read(fast.join("live")).unwrap(), b"rows");
    }

    #[test]
    fn the_working_directory_lies_beside_the_destination() {
        let work = work_directory(Path::new("/srv/restored")).unwrap();
        assert_eq!(work, Path::new("/srv/.restored.pitrd"));
        assert!(work_directory(Path::new("/")).is_err());
    }

    #[test]
    fn versions_are_compared_by_their_major() {
        assert_eq!(major("17.2"), major("17.10 (Debian 17.10-1)"));
        assert_eq!(major("18beta1"), "18");
        assert_ne!(major("18.0"), major("17.2"));
    }
}

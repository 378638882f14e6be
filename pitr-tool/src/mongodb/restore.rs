//! `pitr-tool restore` for archives of MongoDB: the plan carried out by the fold, into files or into a deployment.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use pitr_archive::Reading;
use pitr_mongodb::EngineError;
use pitr_mongodb::fold::{FoldError, Limits};
use pitr_mongodb::plan::{self, Plan};
use pitr_mongodb::restore::{
    self, Directory, Event, Filter, Fold, Load, Name, Rename, RestoreError, Selection, Source,
    Summary, Watch, into_deployment, into_directory,
};
use pitrd::config::{parse_bytes, show_bytes, show_duration};
use pitrd::exit::{Exit, Refusal};
use serde::Serialize;

use super::id;
use super::interrupted::Job;
use super::plan::Entry;
use crate::output::{self, Table};
use crate::progress::Progress;
use crate::restore::Args;

/// What `--into` begins with when it names a deployment.
const SCHEMES: [&str; 2] = ["mongodb://", "mongodb+srv://"];
/// For the command, if nothing is said.
const MEMORY_BYTES: u64 = 512 << 20;
/// Documents of a copy go beside their collection.
const COPY: &str = "_restored";

/// Options of `restore` that only archives of MongoDB have.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Archives of MongoDB")]
pub struct MongodbArgs {
    /// Restores only this database or collection; once for each
    #[arg(long, value_name = "DB[.COLLECTION]")]
    pub only: Vec<Name>,
    /// Restores under another name; once for each
    #[arg(long, value_name = "FROM=TO")]
    pub rename: Vec<Rename>,
    /// Restores only documents that pass, of the one collection that --only names; extended JSON, as in {"tenant": 7}
    #[arg(long, value_name = "JSON", conflicts_with = "id")]
    pub filter: Option<String>,
    /// Restores one document of the collection that --only names, over the living one; its _id as extended JSON, or text
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// With --id: into the collection with _restored behind its name, beside the living one
    #[arg(long, requires = "id")]
    pub as_copy: bool,
    /// Drops what the target has under the names of what is restored
    #[arg(long, conflicts_with = "id")]
    pub drop: bool,
    /// A file with the password of the user that --into names, and nothing else; mode 0600
    #[arg(long, value_name = "FILE")]
    pub into_password_file: Option<PathBuf>,
    /// Memory for the command, 512 MiB if nothing is said; what is beyond goes to scratch files
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub memory: Option<u64>,
    /// Directory for scratch files; by default the one that holds the directory of --into, and with a deployment the one that
    /// TMPDIR names
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
}

impl MongodbArgs {
    /// Whether one of them was given.
    #[must_use]
    pub fn is_given(&self) -> bool {
        let named =
            !self.only.is_empty() || !self.rename.is_empty() || self.into_password_file.is_some();
        let picked = self.filter.is_some() || self.id.is_some() || self.drop;
        named || picked || self.scratch.is_some() || self.memory.is_some()
    }

    fn selection(&self) -> anyhow::Result<Selection> {
        let filter = self
            .filter
            .as_deref()
            .map(Filter::parse)
            .transpose()
            .map_err(classify)?;
        let id = self.id.as_deref().map(id::parse).transpose()?;
        let mut rename = self.rename.clone();
        if self.as_copy {
            let [
                Name {
                    db,
                    collection: Some(name),
                },
            ] = &self.only[..]
            else {
                let message = "--id needs the collection: --only db.collection";
                return Err(Refusal::new(Exit::Usage, message).into());
            };
            // GridFS goes as a whole, and keeps the ends of its names.
            let copy = match name.rsplit_once('.') {
                Some((bucket, half @ ("files" | "chunks"))) => format!("{bucket}{COPY}.{half}"),
                _ => format!("{name}{COPY}"),
            };
            let name = |collection: &str| Name {
                db: db.clone(),
                collection: Some(collection.to_owned()),
            };
            rename.push(Rename {
                from: name(name_of(&self.only)),
                to: name(&copy),
            });
        }
        Ok(Selection {
            only: self.only.clone(),
            rename,
            filter,
            id,
        })
    }

    /// How much the fold may take; `beside` is where scratch files go if nothing else is said.
    fn limits(&self, beside: Option<&Path>) -> Limits {
        let scratch = self.scratch.clone().or(beside.map(Path::to_owned));
        limits(
            self.memory.unwrap_or(MEMORY_BYTES),
            scratch.unwrap_or_else(std::env::temp_dir),
        )
    }
}

/// So much memory for the command, every core, and scratch files in `scratch`.
pub fn limits(memory_bytes: u64, scratch: PathBuf) -> Limits {
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    restore::limits(memory_bytes, threads, scratch)
}

fn name_of(only: &[Name]) -> &str {
    only.first()
        .and_then(|name| name.collection.as_deref())
        .unwrap_or_default()
}

fn size(text: &str) -> Result<u64, &'static str> {
    parse_bytes(text)
        .filter(|bytes| *bytes >= 1 << 20)
        .ok_or("write a size of at least 1 MiB, such as '512 MiB'")
}

/// What `restore` did. Its JSON is documented in docs/cli.md.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The target as it was understood.
    pub target: String,
    /// Whether it ended just before the target.
    pub before: bool,
    /// Everything up to this cluster time is there, inclusive.
    pub stop: String,
    /// The last entry that is there.
    pub last_in: Option<Entry>,
    /// The first entry that is not.
    pub first_left_out: Option<Entry>,
    /// The base copy it was made of.
    pub base_backup: String,
    /// Where the state is now: a directory, or the hosts of a deployment.
    pub into: String,
    /// Collections, by name.
    pub collections: Vec<Collection>,
    /// Documents in all of them.
    pub documents: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Views that were made.
    pub views: u64,
    /// Users.
    pub users: u64,
    /// Roles.
    pub roles: u64,
    /// Entries of the oplog that were read.
    pub entries: u64,
    /// Operations that concerned what was restored.
    pub operations: u64,
    /// Bytes that went to scratch files.
    pub spilled_bytes: u64,
    /// Whether what was loaded was read back and compared with the fold.
    pub compared: bool,
    /// Seconds.
    pub seconds: f64,
    /// What to know.
    pub remarks: Vec<String>,
}

/// One collection that was restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Collection {
    /// What it was called at the target.
    pub source: String,
    /// What it is called now.
    pub namespace: String,
    /// Documents.
    pub documents: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Sum of the digests of its documents, in hexadecimal: two collections with the same documents have the same one.
    pub digest: String,
    /// Indexes, that of _id included.
    pub indexes: u64,
}

/// Plans, folds and loads.
pub async fn run(reading: Arc<Reading>, args: &Args) -> anyhow::Result<Exit> {
    let start = Instant::now();
    let into = args.into.to_string_lossy().into_owned();
    let deployment = SCHEMES.iter().any(|scheme| into.starts_with(scheme));
    check(args, deployment)?;
    let selection = args.mongodb.selection()?;
    let asked = (args.target.mongodb()?, args.target.before);
    // Asked before anything is fetched: a target that cannot be reached costs nothing.
    let load = if deployment {
        Some(connect(args, &into).await?)
    } else {
        None
    };
    let place = load.as_ref().map(|(load, _)| load);
    let job = Job::find(reading.archive(), asked, &selection, place, &args.into).await?;
    let remark = job.remark();
    if let Some(remark) = &remark {
        output::note(remark);
    }
    let (target, before) = job.target(asked.0, asked.1);
    let plan = plan::plan(&reading, target, before).await.context("plan")?;
    let beside = if deployment {
        None
    } else {
        args.into.parent().filter(|parent| parent.is_dir())
    };
    let progress = Arc::new(Progress::start("restore", None));
    let watch = watch(&progress);
    let job = job.mark(plan.stop);
    let fold = open(
        Arc::clone(&reading),
        &plan,
        args.mongodb.limits(beside),
        &watch,
    )
    .await?;
    let (mut summary, place) = match load {
        Some((load, hosts)) => {
            let load = Load { job, ..load };
            let summary = into_deployment(&fold, &selection, &load, &watch).await;
            (summary.map_err(classify)?, hosts)
        }
        None => {
            let directory = Directory {
                path: args.into.clone(),
                job,
            };
            let summary = into_directory(&fold, &selection, &directory, &watch).await;
            (summary.map_err(classify)?, into)
        }
    };
    progress.finish();
    summary.remarks.extend(remark);
    let compared = deployment && args.mongodb.id.is_none();
    let report = Report::new(
        &plan,
        summary,
        place,
        compared,
        start.elapsed().as_secs_f64(),
    );
    output::show(&report, args.json)?;
    Ok(Exit::Done)
}

/// Refuses options that have no meaning here.
fn check(args: &Args, deployment: bool) -> anyhow::Result<()> {
    args.target.check()?;
    let server = args.start || args.pg_bin.is_some() || args.action.is_some();
    let message = if server || !args.tablespaces.is_empty() {
        "--start, --pg-bin, --action and --tablespace belong to PostgreSQL"
    } else if args.mongodb.id.is_some() && !deployment {
        "--id puts a document into a deployment: give --into mongodb://…"
    } else if (args.mongodb.drop || args.mongodb.into_password_file.is_some()) && !deployment {
        "--drop and --into-password-file belong to --into mongodb://…"
    } else {
        return Ok(());
    };
    Err(Refusal::new(Exit::Usage, message).into())
}

/// A client of the target, and its hosts as they are shown.
async fn connect(args: &Args, uri: &str) -> anyhow::Result<(Load, String)> {
    let password_file = args.mongodb.into_password_file.as_deref();
    let connection = pitrd::open::deployment(uri, password_file).await?;
    let client = connection.client().context("connect to the target")?;
    let ping = client
        .database("admin")
        .run_command(bson::doc! { "ping": 1 })
        .await;
    ping.map_err(|error| {
        let hint = "is it running, and does the account of --into have restore, readWriteAnyDatabase and dbAdminAnyDatabase?";
        let error = EngineError::from(error);
        Refusal::new(Exit::Unavailable, format!("connect to the target: {error}")).hint(hint)
    })?;
    let load = Load {
        client,
        drop: args.mongodb.drop,
        into_living: args.mongodb.id.is_some(),
        jobs: args.jobs.map_or(4, NonZeroUsize::get),
        job: String::new(),
    };
    Ok((load, connection.hosts()))
}

/// Opens the base copy of `plan`.
pub async fn open(
    reading: Arc<Reading>,
    plan: &Plan,
    limits: Limits,
    watch: &Watch,
) -> anyhow::Result<Fold> {
    let source = Source {
        reading,
        base: plan.base,
        stream: plan.kind.stream(),
        to: plan.stop,
    };
    Fold::open(source, limits, Arc::clone(watch))
        .await
        .map_err(classify)
}

fn watch(progress: &Arc<Progress>) -> Watch {
    let progress = Arc::clone(progress);
    Arc::new(move |event| match event {
        Event::Total(bytes) => progress.set_total(bytes),
        Event::Read(bytes) => progress.add(bytes),
        Event::Placed(_) => {}
    })
}

/// With the exit code that it ends in.
pub fn classify(error: RestoreError) -> anyhow::Error {
    let said = error.to_string();
    let exit = match error {
        RestoreError::Log(error) => return anyhow::Error::from(error).context("restore"),
        RestoreError::Base(error) => return anyhow::Error::from(error).context("restore"),
        RestoreError::Fold(error) => match error {
            FoldError::Scratch { .. } | FoldError::Sink(_) => Exit::Unavailable,
            FoldError::Unknown { .. }
            | FoldError::Update { .. }
            | FoldError::Compatibility { .. } => Exit::Target,
            _ => Exit::Damage,
        },
        RestoreError::Request(_) | RestoreError::Place { .. } => Exit::Usage,
        RestoreError::Mismatch { .. } => Exit::No,
        RestoreError::Server { .. } | RestoreError::File { .. } => Exit::Unavailable,
    };
    Refusal::new(exit, said).into()
}

impl Report {
    fn new(plan: &Plan, summary: Summary, into: String, compared: bool, seconds: f64) -> Self {
        let (documents, bytes) = (summary.documents(), summary.bytes());
        let collections = summary.collections.into_iter().map(|restored| Collection {
            source: restored.source,
            namespace: restored.namespace,
            documents: restored.content.documents,
            bytes: restored.content.bytes,
            digest: format!("{:032x}", restored.content.digest),
            indexes: restored.indexes,
        });
        let way = super::plan::way(plan);
        Self {
            target: plan.target.to_string(),
            before: plan.before,
            stop: plan.stop.to_string(),
            last_in: way.last_in,
            first_left_out: way.first_left_out,
            base_backup: plan.base.to_string(),
            into,
            collections: collections.collect(),
            documents,
            bytes,
            views: summary.views,
            users: summary.users,
            roles: summary.roles,
            entries: summary.entries,
            operations: summary.operations,
            spilled_bytes: summary.spilled_bytes,
            compared,
            seconds,
            remarks: summary.remarks,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let took = show_duration(Duration::try_from_secs_f64(self.seconds).unwrap_or_default());
        let (documents, bytes, into) = (self.documents, show_bytes(self.bytes), &self.into);
        writeln!(
            f,
            "restored   {documents} documents, {bytes}, into {into} in {took}"
        )?;
        let compared = if self.compared {
            ", read back and the same"
        } else {
            ""
        };
        writeln!(
            f,
            "contents   {} collections{compared}",
            self.collections.len()
        )?;
        let Self {
            views,
            users,
            roles,
            ..
        } = self;
        if views + users + roles > 0 {
            writeln!(f, "           {views} views, {users} users, {roles} roles")?;
        }
        writeln!(f, "stops      with the last entry up to ts:{}", self.stop)?;
        if let Some(entry) = &self.last_in {
            writeln!(f, "last in    {entry}")?;
        }
        if let Some(entry) = &self.first_left_out {
            writeln!(f, "first out  {entry}")?;
        }
        for remark in &self.remarks {
            writeln!(f, "note       {remark}")?;
        }
        let mut table = Table::new(&["collection", "documents", "bytes", "indexes"]);
        for collection in &self.collections {
            let Collection {
                namespace,
                documents,
                bytes,
                indexes,
                ..
            } = collection;
            table.row([
                namespace.clone(),
                documents.to_string(),
                show_bytes(*bytes),
                indexes.to_string(),
            ]);
        }
        write!(f, "{table}")
    }
}

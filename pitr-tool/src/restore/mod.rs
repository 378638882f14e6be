//! `pitr-tool restore`: the plan carried out. Files are fetched in parallel, authenticated, written into an empty
//! directory, and recovery settings are left for the server; with `--start` the server runs to the target.

mod report;
mod server_command;

use std::cell::Cell;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use pitr_postgres::plan::{self, Plan};
use pitr_postgres::restore::{self, Event, RestoreError, RestoreOptions};
use pitr_postgres::{Lsn, TimelineId};
use pitrd::config::ArchiveUrl;
use pitrd::exit::{Exit, Refusal};

pub use report::{Recovered, Report, Stop};
pub(crate) use server_command::archive_arguments;

use crate::mongodb::restore::MongodbArgs;
use crate::output;
use crate::place::Place;
use crate::progress::Progress;
use crate::target::TargetArgs;

/// Objects on their way at once from S3, at least.
const JOBS_FAR: usize = 16;

/// Arguments of `restore`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pitr-tool --config orders.toml --identity orders.identity restore --to latest --into /srv/restored
  pitr-tool --archive file:///backup/orders --identity orders.identity restore \\
      --to 2026-11-20T12:03:04+00:00 --into /srv/restored --start --pg-bin /usr/lib/postgresql/17/bin")]
pub struct Args {
    /// Where the recovery should end.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Directory for the cluster: new, empty, or left by a restore of the same plan that was interrupted. Of MongoDB a directory for
    /// files that mongorestore reads, or a deployment: mongodb://…
    #[arg(long, value_name = "DIR")]
    pub into: PathBuf,
    /// Puts the tablespace that was at OLD to NEW; once for each tablespace
    #[arg(long = "tablespace", value_name = "OLD=NEW")]
    pub tablespaces: Vec<Mapping>,
    /// What the server of PostgreSQL does when it has reached the target; pause if nothing is said
    #[arg(long, value_enum)]
    pub action: Option<Action>,
    /// Start the server, wait until it stands at the target, and say how long that took
    #[arg(long, requires = "pg_bin")]
    pub start: bool,
    /// Directory of the server's programs, for --start and for incremental backups
    #[arg(long, value_name = "DIR")]
    pub pg_bin: Option<PathBuf>,
    /// How many objects are fetched at once; by default two for each processor, from S3 at least 16
    #[arg(long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
    /// Print JSON, as docs/cli.md documents it
    #[arg(long)]
    pub json: bool,
    /// What only archives of MongoDB have.
    #[command(flatten)]
    pub mongodb: MongodbArgs,
}

/// What the server does at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Action {
    /// Stays in recovery and answers queries, so that the target can be looked at
    Pause,
    /// Ends recovery on a new timeline and takes writes
    Promote,
    /// Shuts down, still in recovery
    Shutdown,
}

impl From<Action> for restore::Action {
    fn from(action: Action) -> Self {
        match action {
            Action::Pause => Self::Pause,
            Action::Promote => Self::Promote,
            Action::Shutdown => Self::Shutdown,
        }
    }
}

/// Where a tablespace was and where it shall be; both absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The directory on the source.
    pub old: PathBuf,
    /// The directory here.
    pub new: PathBuf,
}

impl std::str::FromStr for Mapping {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (old, new) = text.split_once('=').ok_or("write OLD=NEW")?;
        let absolute = |path: &str| Path::new(path).is_absolute();
        if !absolute(old) || !absolute(new) {
            return Err("both directories need absolute paths, as in /mnt/fast=/srv/restored-fast");
        }
        Ok(Self {
            old: old.into(),
            new: new.into(),
        })
    }
}

/// Plans, restores, and starts the server if that was asked for.
pub async fn run(place: &Place, args: &Args) -> anyhow::Result<Exit> {
    let start = Instant::now();
    args.target.check()?;
    if let Some(pg_bin) = args.pg_bin.as_deref().filter(|_| args.start) {
        restore::check_start(pg_bin).map_err(classify)?;
    }
    let config = place.config()?;
    let url = place.url(config.as_ref())?;
    let reading = Arc::new(place.reading(config.as_ref()).await?);
    if crate::mongodb::is_engine_of(reading.archive()) {
        return crate::mongodb::restore::run(reading, args).await;
    }
    if args.mongodb.is_given() {
        let message = "--only, --rename, --filter, --id, --memory, --scratch and what goes with them belong to archives of MongoDB";
        return Err(Refusal::new(Exit::Usage, message).into());
    }
    let target = &args.target;
    let timeline = target.timeline.map(TimelineId);
    let jobs = args
        .jobs
        .unwrap_or_else(|| default_jobs(matches!(url, ArchiveUrl::S3(_))));
    // What lies far away is asked for while it is planned; written is nothing before the plan is proved.
    let ahead = if restore::is_free(&args.into) {
        jobs.get()
    } else {
        0
    };
    let (to, before) = (target.postgres()?, target.before);
    let plan = plan::plan_ahead(&reading, to, before, timeline, ahead)
        .await
        .context("plan")?;
    if let Some(seq) = plan.missing {
        eprintln!("warning: {}", crate::plan::missing(seq));
    }
    let progress = Arc::new(Progress::start("restore", None));
    let options = RestoreOptions {
        into: args.into.clone(),
        tablespaces: args
            .tablespaces
            .iter()
            .map(|map| (map.old.clone(), map.new.clone()))
            .collect(),
        jobs,
        action: args.action.unwrap_or(Action::Pause).into(),
        commands: server_command::commands(place, config.as_ref(), &plan)?,
        pg_bin: args.pg_bin.clone(),
        watch: watch(&progress),
    };
    let restored = restore::restore(reading, &plan, &options)
        .await
        .map_err(classify)?;
    let seconds = start.elapsed().as_secs_f64();
    progress.finish();
    let segment_bytes = restored.wal_segment_bytes;
    let mut report = Report::new(&plan, restored, seconds);
    if let Some(pg_bin) = args.pg_bin.as_deref().filter(|_| args.start) {
        output::note(&format!(
            "the files are in place after {seconds:.1} s; the server replays"
        ));
        let written = restore::complete_configuration(&report.into, pg_bin).map_err(classify)?;
        if !written.is_empty() {
            report.remarks.push(format!(
                "{} were written with what a recovery needs; put the source's own in their place before the server goes into service",
                written.join(", ")
            ));
        }
        report.server = Some(run_server(&plan, &report.into, pg_bin, segment_bytes, start).await?);
    }
    output::show(&report, args.json)?;
    Ok(Exit::Done)
}

/// Starts the server and waits until it stands at the target.
async fn run_server(
    plan: &Plan,
    data: &Path,
    pg_bin: &Path,
    segment_bytes: u64,
    since: Instant,
) -> anyhow::Result<Recovered> {
    let from = plan.path.first().map_or(0, |step| step.from.0);
    let to = plan.path.last().map_or(0, |step| step.to.0);
    let progress = Progress::start("replay", Some(to.saturating_sub(from)));
    let reached = Cell::new(from);
    let count = |at: Lsn| {
        progress.add(at.0.min(to).saturating_sub(reached.get()));
        reached.set(reached.get().max(at.0.min(to)));
    };
    let started = restore::start(data, pg_bin, segment_bytes, count).await;
    progress.finish();
    let started = started.map_err(classify)?;
    Ok(Recovered::new(
        plan,
        data,
        pg_bin,
        &started,
        since.elapsed().as_secs_f64(),
    ))
}

/// A store that is far away needs more objects on their way than cores need work.
fn default_jobs(far: bool) -> NonZeroUsize {
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let jobs = cores.get() * 2;
    let jobs = if far { jobs.max(JOBS_FAR) } else { jobs };
    NonZeroUsize::new(jobs).unwrap_or(NonZeroUsize::MIN)
}

fn watch(progress: &Arc<Progress>) -> restore::Watch {
    let progress = Arc::clone(progress);
    Arc::new(move |event| match event {
        Event::Total(bytes) => progress.set_total(bytes),
        Event::Written(bytes) => progress.add(bytes),
    })
}

/// With the exit code that it ends in.
fn classify(error: RestoreError) -> anyhow::Error {
    let exit = match error {
        RestoreError::Archive(error) => return anyhow::Error::from(error).context("restore"),
        RestoreError::Manifest(error) => return anyhow::Error::from(error).context("restore"),
        RestoreError::Contradiction { .. } | RestoreError::Mismatch { .. } => Exit::Damage,
        RestoreError::Place { .. } | RestoreError::Request(_) => Exit::Usage,
        RestoreError::File { .. } | RestoreError::Program { .. } => Exit::Unavailable,
    };
    Refusal::new(exit, error.to_string()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tablespace_mapping_is_two_absolute_paths() {
        let mapping: Mapping = "/mnt/a=/srv/b".parse().unwrap();
        assert_eq!(
            (mapping.old, mapping.new),
            ("/mnt/a".into(), "/srv/b".into())
        );
        for wrong in ["", "/a", "a=/b", "/a=b", "=/b", "/a="] {
            assert!(wrong.parse::<Mapping>().is_err(), "{wrong}");
        }
    }
}

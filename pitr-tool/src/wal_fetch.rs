//! `pitr-tool wal-fetch`: PostgreSQL's `restore_command`. To the server every exit code from 1 to 125 means "there is no
//! such file, the log ends here": it then promotes. So 1 is said only of a file that provably does not exist, and
//! everything else that goes wrong, a mistyped option and a panic included, is 126.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use pitr_archive::Reading;
use pitr_postgres::Lsn;
use pitr_postgres::restore::wal_fetch::{self, Fetched, Ready, WalFetchError};
use pitrd::exit::{Exit, Refusal};

use crate::place::Place;
use crate::restore::archive_arguments;

/// The subcommand's name on the command line.
pub const NAME: &str = "wal-fetch";
/// The name of the subcommand that this one starts beside itself.
pub const PREFETCH_NAME: &str = "wal-prefetch";

/// Arguments of `wal-fetch`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example, as restore writes it into the recovery settings:
  restore_command = 'pitr-tool --archive file:///backup/orders --identity orders.identity wal-fetch %f %p'

Exit codes: 0 fetched; 1 there is provably no such file; 126 anything else, and the server stops.")]
pub struct Args {
    /// The file's name: %f
    #[arg(required_unless_present = "cleanup")]
    pub name: Option<String>,
    /// Where to put it: %p
    #[arg(required_unless_present = "cleanup")]
    pub path: Option<PathBuf>,
    /// The recovery stops before this LSN: WAL up to a gap behind it may be had
    #[arg(long, value_name = "LSN")]
    pub until: Option<Lsn>,
    /// Remove what was fetched ahead into this pg_wal: recovery_end_command
    #[arg(long, value_name = "PG_WAL", conflicts_with_all = ["name", "path"])]
    pub cleanup: Option<PathBuf>,
}

/// Arguments of the process that keeps files ready.
#[derive(Debug, clap::Args)]
pub struct PrefetchArgs {
    /// The server's pg_wal
    pub pg_wal: PathBuf,
}

/// A file that a running prefetcher is about to have ready is waited for so long; then it is fetched here.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Fetches one file. What lies ready is handed over before anything is read: no key, no archive, no threads.
pub fn run(place: &Place, args: &Args) -> anyhow::Result<Exit> {
    if let Some(pg_wal) = &args.cleanup {
        Ready::in_directory(pg_wal)
            .remove()
            .context("remove what was fetched ahead")?;
        return Ok(Exit::Done);
    }
    let (Some(name), Some(path)) = (&args.name, &args.path) else {
        return Err(Refusal::new(Exit::Usage, "name and path of a file are needed").into());
    };
    let ready = Ready::beside(path).filter(|_| !name.contains('.'));
    let origin = origin(place);
    if let Some(ready) = &ready
        && take(ready, name, path, &origin)
    {
        go_on(ready, name, place, &origin);
        return Ok(Exit::Done);
    }
    let first = ready.as_ref().filter(|ready| !ready.is_running());
    if let Some(ready) = first {
        go_on(ready, name, place, &origin);
    }
    let fetched = fetch(place, name, path, args.until)?;
    match fetched {
        Fetched::Absent => return Ok(Exit::No),
        Fetched::InPlace => {}
    }
    if let Some(ready) = &ready {
        go_on(ready, name, place, &origin);
    }
    Ok(Exit::Done)
}

/// Takes the file if it lies ready or will before long.
fn take(ready: &Ready, name: &str, path: &Path, origin: &str) -> bool {
    let since = Instant::now();
    loop {
        if ready.take(name, path, origin) {
            return true;
        }
        if !ready.is_coming(name) || since.elapsed() > PATIENCE {
            // It may have become ready, and the prefetcher have ended, between the two looks.
            return ready.take(name, path, origin);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Tells how far the server is, and starts a prefetcher where none runs. Whatever goes wrong here costs time and nothing else.
fn go_on(ready: &Ready, name: &str, place: &Place, origin: &str) {
    let started = ready
        .note(name, origin)
        .map_err(anyhow::Error::from)
        .and_then(|()| {
            if ready.is_running() {
                return Ok(());
            }
            start_prefetcher(ready, place)
        });
    if let Err(error) = started {
        tracing::warn!(%error, "nothing is fetched ahead");
    }
}

fn start_prefetcher(ready: &Ready, place: &Place) -> anyhow::Result<()> {
    let config = place.config()?;
    let pg_wal = ready.path().parent().context("find pg_wal")?;
    Command::new(std::env::current_exe()?)
        .args(archive_arguments(place, config.as_ref())?)
        .arg(PREFETCH_NAME)
        .arg(pg_wal)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(())
}

/// What tells files of one archive from those of another.
fn origin(place: &Place) -> String {
    let archive: Vec<_> = place.archive.iter().map(ToString::to_string).collect();
    format!(
        "{archive:?} {:?} {:?} {:?}",
        place.config, place.identity, place.key_file
    )
}

fn fetch(place: &Place, name: &str, path: &Path, until: Option<Lsn>) -> anyhow::Result<Fetched> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let reading = reading(place).await?;
        wal_fetch::fetch(&reading, name, path, until)
            .await
            .map_err(classify)
    })
}

/// Keeps the next files ready until the server needs no more.
pub async fn prefetch(place: &Place, args: &PrefetchArgs) -> anyhow::Result<Exit> {
    wal_fetch::detach();
    let ready = Ready::in_directory(&args.pg_wal);
    let Some(running) = ready.run()? else {
        return Ok(Exit::Done);
    };
    let kept = match reading(place).await {
        Ok(reading) => wal_fetch::prefetch(&reading, &ready, running)
            .await
            .map_err(classify),
        Err(error) => Err(error),
    };
    if let Err(error) = &kept {
        ready.leave_word(&format!("{error:#}\n"));
    }
    kept.map(|()| Exit::Done)
}

async fn reading(place: &Place) -> anyhow::Result<Arc<Reading>> {
    let config = place.config()?;
    Ok(Arc::new(place.reading_log(config.as_ref()).await?))
}

/// With the archive's error where it can be classified.
fn classify(error: WalFetchError) -> anyhow::Error {
    match error {
        WalFetchError::Archive(error) => error.into(),
        error => error.into(),
    }
}

/// Whether a command line, its own name first, is for `wal-fetch`. A value that reads the same is taken for it: too careful is
/// harmless.
#[must_use]
pub fn is_asked(line: &[OsString]) -> bool {
    line.iter().skip(1).any(|argument| argument == NAME)
}

/// Makes a panic anywhere end the process with 126 instead of Rust's 101.
pub fn end_fatally_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::exit(Exit::Fatal as i32);
    }));
}

/// The exit code that PostgreSQL may see for `exit`.
#[must_use]
pub fn exit(exit: Exit) -> Exit {
    match exit {
        Exit::Done | Exit::No => exit,
        _ => Exit::Fatal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_done_and_provably_not_there_pass_as_they_are() {
        assert_eq!(exit(Exit::Done), Exit::Done);
        assert_eq!(exit(Exit::No), Exit::No);
        for other in [
            Exit::Usage,
            Exit::Target,
            Exit::Keys,
            Exit::Fenced,
            Exit::Unavailable,
            Exit::Damage,
        ] {
            assert_eq!(exit(other), Exit::Fatal);
        }
    }

    #[test]
    fn it_is_recognised_wherever_the_subcommand_stands() {
        let asked = |line: &str| {
            let line: Vec<_> = line.split(' ').map(OsString::from).collect();
            is_asked(&line)
        };
        assert!(asked(
            "pitr-tool --archive file:///a wal-fetch 00000002.history p"
        ));
        assert!(!asked("pitr-tool status"));
        assert!(!asked("wal-fetch status"));
    }
}

//! Serving WAL to a recovering server, one file for each call of its `restore_command`: from what lies `ready`, else from the
//! archive by way of `log`. What is absent and what is only out of reach is told apart in `decide`.

mod decide;
mod error;
mod log;
mod prefetch;
mod ready;

use std::path::Path;
use std::sync::Arc;

use pitr_archive::{Archive, Reading};

pub use error::WalFetchError;
pub use prefetch::{detach, prefetch};
pub use ready::{Ready, Running};

use crate::source::Source;
use crate::{Lsn, TimelineId, WalFileName};
use decide::Decision;
use log::Log;

/// What became of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fetched {
    /// The file is in place, complete.
    InPlace,
    /// There is provably no such file in the archive.
    Absent,
}

/// Puts the WAL segment or history file `name` to `path`. A segment that the archive's end cuts off is filled up with zeros, which
/// is how PostgreSQL knows the end of its log; so is one that a gap cuts off, for a recovery that stops before `until`.
///
/// # Errors
/// Everything but a whole file and a proof that there is none: the caller must make the server stop.
pub async fn fetch(
    reading: &Arc<Reading>,
    name: &str,
    path: &Path,
    until: Option<Lsn>,
) -> Result<Fetched, WalFetchError> {
    let segment_bytes = Source::of(reading.archive())?.wal_segment_bytes;
    let fetched = match WalFileName::parse(name, segment_bytes)? {
        WalFileName::History(timeline) => history(reading, timeline, path).await?,
        WalFileName::Segment(timeline, start) => {
            let log = Log::open(reading, timeline).await?;
            let wanted = start.0..start.0 + segment_bytes;
            match log.decide(&wanted, until).await? {
                Decision::Bytes { run, upto } => {
                    let partial = partial(path);
                    log.write(run, &wanted, upto, &partial).await?;
                    std::fs::rename(&partial, path)
                        .map_err(WalFetchError::file("rename", &partial))?;
                    Fetched::InPlace
                }
                Decision::Absent => Fetched::Absent,
                Decision::Gap(lost) => return Err(log.lost(name, lost)),
                Decision::TooOld { start } => return Err(log.too_old(name, start)),
            }
        }
    };
    if fetched == Fetched::Absent {
        still_there(reading.archive()).await?;
    }
    Ok(fetched)
}

async fn history(
    reading: &Arc<Reading>,
    timeline: TimelineId,
    path: &Path,
) -> Result<Fetched, WalFetchError> {
    let Some(bytes) = log::history_file(reading, timeline).await? else {
        return Ok(Fetched::Absent);
    };
    let partial = partial(path);
    std::fs::write(&partial, bytes).map_err(WalFetchError::file("write", &partial))?;
    std::fs::rename(&partial, path).map_err(WalFetchError::file("rename", &partial))?;
    Ok(Fetched::InPlace)
}

/// Where a file is written until it is complete.
fn partial(path: &Path) -> std::path::PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".pitrd");
    path.with_file_name(name)
}

/// A store that went away in the middle may have looked as if it held less than it does.
async fn still_there(archive: &Archive) -> Result<(), WalFetchError> {
    Archive::open(Arc::clone(archive.store()), archive.url()).await?;
    Ok(())
}

#[cfg(test)]
mod tests;

//! What an archive holds: streams with their unbroken runs, base backups, timeline histories. Reads headers only.

mod parts;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use futures_util::future::{try_join, try_join_all};

use crate::archive::Archive;
use crate::error::ArchiveError;
use crate::layout;
use crate::object::{Header, Id, Kind, StreamName};
use crate::reader::{End, LogReader, Run};
use crate::store::{Store, StoreError};

pub use parts::{listed_parts, present_parts};

/// The moment a base backup began, to the second, which is also its name: `20261121T031500Z`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BackupId([u8; 16]);

impl BackupId {
    /// The id of a backup that begins at `moment`.
    #[must_use]
    pub fn at(moment: jiff::Timestamp) -> Self {
        let text = moment.strftime("%Y%m%dT%H%M%SZ").to_string();
        text.parse()
            .expect("years have four digits for as long as this program runs")
    }

    /// As it stands in headers.
    #[must_use]
    pub fn set_id(self) -> Id {
        Id(self.0)
    }

    /// When the backup began.
    #[must_use]
    pub fn moment(self) -> Option<jiff::Timestamp> {
        jiff::fmt::strtime::parse("%Y%m%dT%H%M%SZ", self.0)
            .ok()?
            .to_datetime()
            .ok()?
            .to_zoned(jiff::tz::TimeZone::UTC)
            .ok()
            .map(|zoned| zoned.timestamp())
    }
}

/// Text that is not a backup id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a backup id such as 20261121T031500Z")]
pub struct NotABackupId(String);

impl FromStr for BackupId {
    type Err = NotABackupId;

    fn from_str(text: &str) -> Result<Self, NotABackupId> {
        let wrong = || NotABackupId(text.into());
        let bytes: [u8; 16] = text.as_bytes().try_into().map_err(|_| wrong())?;
        let shape = bytes.iter().enumerate().all(|(at, byte)| match at {
            8 => *byte == b'T',
            15 => *byte == b'Z',
            _ => byte.is_ascii_digit(),
        });
        if shape { Ok(Self(bytes)) } else { Err(wrong()) }
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|&byte| write!(f, "{}", char::from(byte)))
    }
}

/// A stream and what can be read from it.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Its name.
    pub name: StreamName,
    /// Where it ends in the store.
    pub end: End,
    /// Its unbroken runs, oldest first. Between two of them the log has a gap.
    pub runs: Vec<Run>,
    /// What read it, and remembers the headers that it saw.
    pub reader: Arc<LogReader>,
}

/// A base backup that is whole: its manifest is there.
#[derive(Clone, Debug)]
pub struct Backup {
    /// Its name.
    pub id: BackupId,
    /// The header of its manifest: stream, and the positions between which it was taken.
    pub header: Header,
}

/// The names that an archive's catalogue is read from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Names {
    /// Its streams.
    pub streams: Vec<StreamName>,
    /// Its base backups, oldest first, whether they are whole or not.
    pub backups: Vec<BackupId>,
}

impl Names {
    /// Lists them.
    pub(crate) async fn list(store: &dyn Store) -> Result<Self, StoreError> {
        let (streams, backups) =
            try_join(store.children(layout::LOG), store.children(layout::BASE)).await?;
        let streams = streams.iter().filter_map(|name| StreamName::new(name));
        let mut backups: Vec<BackupId> = backups.iter().filter_map(|n| n.parse().ok()).collect();
        backups.sort_unstable();
        Ok(Self {
            streams: streams.collect(),
            backups,
        })
    }

    /// Those of `archive`: once as they were listed when it was opened.
    pub async fn of(archive: &Archive) -> Result<Self, ArchiveError> {
        match archive.take_names() {
            Some(names) => Ok(names),
            None => Ok(Self::list(&**archive.store()).await?),
        }
    }
}

/// The contents of an archive.
#[derive(Clone, Debug)]
pub struct Catalogue {
    /// Streams in order of their names.
    pub streams: Vec<Stream>,
    /// Whole base backups, oldest first.
    pub backups: Vec<Backup>,
    /// Backups without a manifest: interrupted, or under way.
    pub incomplete: Vec<BackupId>,
}

impl Catalogue {
    /// Reads it.
    pub async fn read(archive: &Arc<Archive>) -> Result<Self, ArchiveError> {
        Self::read_named(archive, &Names::of(archive).await?).await
    }

    /// Reads what has these names.
    pub async fn read_named(archive: &Arc<Archive>, names: &Names) -> Result<Self, ArchiveError> {
        let streams = names.streams.iter().cloned();
        let streams = try_join_all(streams.map(|name| read_stream(archive, name)));
        let (streams, backups_found) =
            try_join(streams, read_backups(archive, &names.backups)).await?;
        let (mut backups, mut incomplete) = (Vec::new(), Vec::new());
        for (id, header) in backups_found {
            match header {
                Some(header) => backups.push(Backup { id, header }),
                None => incomplete.push(id),
            }
        }
        Ok(Self {
            streams,
            backups,
            incomplete,
        })
    }

    /// The stream of this name.
    #[must_use]
    pub fn stream(&self, name: &str) -> Option<&Stream> {
        self.streams
            .iter()
            .find(|stream| stream.name.as_str() == name)
    }
}

/// The newest base backup that is whole, found from the newest name downwards.
pub async fn newest_backup(archive: &Archive) -> Result<Option<Backup>, ArchiveError> {
    let names = archive.store().children(layout::BASE).await?;
    let mut ids: Vec<BackupId> = names.iter().filter_map(|name| name.parse().ok()).collect();
    ids.sort_unstable();
    while let Some(id) = ids.pop() {
        if let Some(header) = read_backup(archive, id).await? {
            return Ok(Some(Backup { id, header }));
        }
    }
    Ok(None)
}

/// The base backup `id`; `None` if it is not whole or not there.
pub async fn backup(archive: &Archive, id: BackupId) -> Result<Option<Backup>, ArchiveError> {
    let header = read_backup(archive, id).await?;
    Ok(header.map(|header| Backup { id, header }))
}

/// Ids with the headers of their manifests, where there are any.
async fn read_backups(
    archive: &Archive,
    ids: &[BackupId],
) -> Result<Vec<(BackupId, Option<Header>)>, ArchiveError> {
    let headers = try_join_all(ids.iter().map(|&id| read_backup(archive, id))).await?;
    Ok(ids.iter().copied().zip(headers).collect())
}

async fn read_stream(archive: &Arc<Archive>, name: StreamName) -> Result<Stream, ArchiveError> {
    let reader = Arc::new(LogReader::new(Arc::clone(archive), name.clone()));
    let end = reader.end_by_listing().await?;
    if let Err(error) = end.check_head(&name) {
        tracing::warn!(%error, "the head of a stream is damaged; whether its newest segments are gone cannot be told");
    }
    let runs = reader.runs(&end).await?;
    Ok(Stream {
        name,
        end,
        runs,
        reader,
    })
}

pub(crate) async fn read_backup(
    archive: &Archive,
    id: BackupId,
) -> Result<Option<Header>, ArchiveError> {
    let key = layout::manifest(&id.to_string());
    let expected = archive.expected(Kind::Manifest, None, id.set_id(), 0);
    let preamble = archive.preamble(&key, &expected).await?;
    Ok(preamble.map(|(preamble, _)| preamble.header))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_id_is_a_moment_to_the_second() {
        let moment: jiff::Timestamp = "2026-11-21T03:15:00Z".parse().unwrap();
        let id = BackupId::at(moment);
        assert_eq!(id.to_string(), "20261121T031500Z");
        assert_eq!(id.moment(), Some(moment));
        assert_eq!("20261121T031500Z".parse(), Ok(id));
        assert!("../../../../etc/".parse::<BackupId>().is_err());
    }
}

//! BASE_BACKUP: the files of the whole cluster as tar archives in one stream, with PostgreSQL's manifest at the end.

use std::time::Duration;

use bytes::Bytes;
use postgres_protocol::message::frontend::{self, CopyData};

use super::client::{ReplicationClient, Row, SEND_TIMEOUT, literal};
use super::decode::{
    BackupMessage, Frame, parse_backup_message, parse_data_row, parse_row_description,
};
use super::error::ReplicationError;
use crate::{Lsn, TimelineId};

const MANIFEST_CHUNK_BYTES: usize = 64 << 10;
/// Writing a manifest of millions of files to the server's disk may take this long.
const MANIFEST_TIMEOUT: Duration = Duration::from_secs(600);

/// How the checkpoint at the start is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checkpoint {
    /// At once, at full speed.
    #[default]
    Fast,
    /// At the pace of ordinary checkpoints: minutes.
    Spread,
}

/// What to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseBackupOptions {
    /// Stands in `backup_label` and in `pg_stat_progress_basebackup`.
    pub label: String,
    /// How the checkpoint is made.
    pub checkpoint: Checkpoint,
    /// Limit in KiB per second, 32 to 1,048,576.
    pub max_rate_kib: Option<u32>,
    /// Only blocks changed since the backup whose manifest was uploaded (17 and later).
    pub incremental: bool,
    /// Have the sizes estimated and progress reported.
    pub progress: bool,
    /// Have PostgreSQL's manifest made (with CRC-32C checksums).
    pub manifest: bool,
}

/// The server's answer when the backup begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupStart {
    /// WAL is needed from here on.
    pub lsn: Lsn,
    /// The timeline of that.
    pub timeline: TimelineId,
    /// The tablespaces; the main one, last, has neither oid nor location.
    pub tablespaces: Vec<Tablespace>,
}

/// One tablespace of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    /// Its oid; `None` for the main data directory.
    pub oid: Option<u32>,
    /// Its directory on the server.
    pub location: Option<String>,
    /// Estimated size in KiB, if progress was asked for.
    pub size_kib: Option<u64>,
}

/// The server's answer when all is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupEnd {
    /// WAL is needed up to here.
    pub lsn: Lsn,
    /// The timeline of that.
    pub timeline: TimelineId,
}

/// What comes along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupEvent {
    /// An archive begins, its bytes begin, progress is made, or the manifest begins.
    Message(BackupMessage),
    /// Everything was sent; call [`BaseBackupStream::finish`].
    End(BackupEnd),
}

/// A running base backup. Dropping it before the end aborts it.
#[derive(Debug)]
pub struct BaseBackupStream {
    client: ReplicationClient,
    start: BackupStart,
    end: Option<BackupEnd>,
}

impl ReplicationClient {
    /// Starts a base backup. Returns once the checkpoint is done, which may take minutes with [`Checkpoint::Spread`].
    ///
    /// # Errors
    /// `Unsupported` for options that the server cannot have; what the server reports, with its hint; a lost connection.
    pub async fn base_backup(
        mut self,
        options: &BaseBackupOptions,
    ) -> Result<BaseBackupStream, ReplicationError> {
        let major = self.server_major()?;
        let command = command(options, major)?;
        self.send_query(&command).await?;
        let start = self.backup_rows().await?;
        let start = match &start[..] {
            [row] => (row.due("recptr")?, TimelineId(row.due("tli")?)),
            _ => {
                return Err(ReplicationError::Protocol(
                    "a base backup without a start".into(),
                ));
            }
        };
        let mut tablespaces = Vec::new();
        for row in self.backup_rows().await? {
            tablespaces.push(Tablespace {
                oid: row.get("spcoid")?,
                location: row.get("spclocation")?,
                size_kib: row.get("size")?,
            });
        }
        match self.wire.message().await?.tag {
            b'H' => Ok(BaseBackupStream {
                client: self,
                start: BackupStart {
                    lsn: start.0,
                    timeline: start.1,
                    tablespaces,
                },
                end: None,
            }),
            tag => Err(ReplicationError::unexpected(
                tag,
                "instead of a base backup",
            )),
        }
    }

    /// One result set. No time limit: the server waits for its checkpoint, then for its WAL to be archived.
    async fn backup_rows(&mut self) -> Result<Vec<Row>, ReplicationError> {
        let (mut columns, mut rows) = (None, Vec::new());
        loop {
            let Frame { tag, body } = self.wire.message().await?;
            match (tag, &columns) {
                (b'T', None) => columns = Some(parse_row_description(body)?),
                (b'D', Some(columns)) if rows.len() < 1 << 20 => {
                    rows.push(Row {
                        columns: columns.clone(),
                        values: parse_data_row(body)?,
                    });
                }
                (b'C', Some(_)) => return Ok(rows),
                // The COPY's own end, before the last result set.
                (b'C', None) => {}
                (tag, _) => return Err(ReplicationError::unexpected(tag, "in a base backup")),
            }
        }
    }

    /// Gives the server the manifest of the backup that the next incremental one builds on (17 and later).
    ///
    /// # Errors
    /// `Unsupported` before 17; what the server reports, such as a manifest of another cluster.
    pub async fn upload_manifest(&mut self, manifest: &[u8]) -> Result<(), ReplicationError> {
        needs_17(self.server_major()?)?;
        self.send_query("UPLOAD_MANIFEST").await?;
        match self.answer().await?.tag {
            b'G' => {}
            tag => {
                return Err(ReplicationError::unexpected(
                    tag,
                    "in answer to UPLOAD_MANIFEST",
                ));
            }
        }
        for chunk in manifest.chunks(MANIFEST_CHUNK_BYTES) {
            self.wire.queue(|out| {
                CopyData::new(chunk)?.write(out);
                Ok(())
            })?;
            self.wire.send(SEND_TIMEOUT).await?;
        }
        self.wire.queue(|out| {
            frontend::copy_done(out);
            Ok(())
        })?;
        self.wire.send(SEND_TIMEOUT).await?;
        loop {
            match self.wire.message_within(MANIFEST_TIMEOUT).await {
                Ok(Frame { tag: b'C', .. }) => {}
                Ok(Frame { tag: b'Z', .. }) => return Ok(()),
                Ok(Frame { tag, .. }) => {
                    return Err(ReplicationError::unexpected(tag, "after a manifest"));
                }
                Err(error) => return Err(self.settle(error).await),
            }
        }
    }
}

impl BaseBackupStream {
    /// Where the backup starts and what it will send.
    #[must_use]
    pub fn start(&self) -> &BackupStart {
        &self.start
    }

    /// What comes next. Until it is called the server waits. Cancel safe, except at the very end.
    ///
    /// # Errors
    /// A lost connection; what the server reports in mid-stream (a checksum failure, a cancelled backup), with detail and
    /// hint. What was received until then is no backup.
    pub async fn next(&mut self) -> Result<BackupEvent, ReplicationError> {
        if let Some(end) = self.end {
            return Ok(BackupEvent::End(end));
        }
        let Frame { tag, body } = self.client.wire.message().await?;
        match tag {
            b'd' => Ok(BackupEvent::Message(parse_backup_message(body)?)),
            b'c' => {
                let rows = self.client.backup_rows().await?;
                let [row] = &rows[..] else {
                    return Err(ReplicationError::Protocol(
                        "a base backup without an end".into(),
                    ));
                };
                let end = BackupEnd {
                    lsn: row.due("recptr")?,
                    timeline: TimelineId(row.due("tli")?),
                };
                self.end = Some(end);
                Ok(BackupEvent::End(end))
            }
            tag => Err(ReplicationError::unexpected(tag, "in a base backup")),
        }
    }

    /// After [`BackupEvent::End`]: the connection, ready for the next question. It is an error only now if the server counted
    /// failed checksums, so a backup is whole only after this.
    ///
    /// # Errors
    /// What the server reports; a lost connection; called before the end.
    pub async fn finish(self) -> Result<ReplicationClient, ReplicationError> {
        let mut client = self.client;
        if self.end.is_none() {
            return Err(ReplicationError::Unsupported(
                "the base backup has not ended yet".into(),
            ));
        }
        loop {
            match client.answer().await?.tag {
                b'C' => {}
                b'Z' => return Ok(client),
                tag => return Err(ReplicationError::unexpected(tag, "after a base backup")),
            }
        }
    }
}

fn needs_17(major: u32) -> Result<(), ReplicationError> {
    match major {
        17.. => Ok(()),
        _ => Err(ReplicationError::Unsupported(format!(
            "incremental backups need PostgreSQL 17 or later; this server is {major}"
        ))),
    }
}

fn command(options: &BaseBackupOptions, major: u32) -> Result<String, ReplicationError> {
    let mut parts = vec![format!("LABEL {}", literal(&options.label)?)];
    parts.push(match options.checkpoint {
        Checkpoint::Fast => "CHECKPOINT 'fast'".into(),
        Checkpoint::Spread => "CHECKPOINT 'spread'".into(),
    });
    if options.progress {
        parts.push("PROGRESS".into());
    }
    if let Some(rate) = options.max_rate_kib {
        if !(32..=1 << 20).contains(&rate) {
            return Err(ReplicationError::Unsupported(format!(
                "a rate of {rate} KiB/s is outside of what servers accept, 32 to 1048576"
            )));
        }
        parts.push(format!("MAX_RATE {rate}"));
    }
    if options.manifest {
        parts.push("MANIFEST 'yes'".into());
    }
    if options.incremental {
        needs_17(major)?;
        parts.push("INCREMENTAL".into());
    }
    // Where tablespaces lie goes into the archive; completeness of WAL is the archive's own business.
    parts.extend(["TABLESPACE_MAP".into(), "WAIT false".into()]);
    Ok(format!("BASE_BACKUP ({})", parts.join(", ")))
}

/// Bytes of an archive or of the manifest, for callers that care for nothing else.
impl BackupEvent {
    /// The bytes, if this event carries any.
    #[must_use]
    pub fn data(&self) -> Option<&Bytes> {
        match self {
            Self::Message(BackupMessage::Data(data)) => Some(data),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> BaseBackupOptions {
        BaseBackupOptions {
            label: "nightly 'a'".into(),
            checkpoint: Checkpoint::Fast,
            max_rate_kib: None,
            incremental: false,
            progress: true,
            manifest: true,
        }
    }

    #[test]
    fn the_command_says_what_the_options_say() {
        assert_eq!(
            command(&options(), 15).unwrap(),
            "BASE_BACKUP (LABEL 'nightly ''a''', CHECKPOINT 'fast', PROGRESS, MANIFEST 'yes', TABLESPACE_MAP, WAIT false)"
        );
        let slow = BaseBackupOptions {
            max_rate_kib: Some(32),
            checkpoint: Checkpoint::Spread,
            incremental: true,
            ..options()
        };
        assert!(
            command(&slow, 17).unwrap().contains(
                "CHECKPOINT 'spread', PROGRESS, MAX_RATE 32, MANIFEST 'yes', INCREMENTAL"
            )
        );
    }

    #[test]
    fn what_the_server_cannot_do_is_refused_before_it_is_asked() {
        let incremental = BaseBackupOptions {
            incremental: true,
            ..options()
        };
        let text = command(&incremental, 16).unwrap_err().to_string();
        assert!(text.contains("need PostgreSQL 17"), "{text}");
        assert!(
            command(
                &BaseBackupOptions {
                    max_rate_kib: Some(31),
                    ..options()
                },
                17
            )
            .is_err()
        );
        assert!(
            command(
                &BaseBackupOptions {
                    label: "\0".into(),
                    ..options()
                },
                17
            )
            .is_err()
        );
    }
}

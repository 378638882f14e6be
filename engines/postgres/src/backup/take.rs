//! Taking a base backup: connect, check who is there, stream everything into the archive, check it, put the manifest.
//!
//! The manifest is what makes a backup exist and it is put last, so whatever ends this early leaves nothing that looks whole.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use pitr_archive::catalogue::BackupId;
use pitr_archive::object::{StreamName, object_bytes};
use pitr_archive::store::{Piece, StoreError};
use pitr_archive::writer::{BackupSettings, BackupWriter, Compressor, Writer};
use pitr_archive::{Archive, ArchiveError, layout};

use super::cover::{Needs, WalCover, wait_for_wal};
use super::error::BackupError;
use super::intake::{Intake, Whole};
use super::manifest::BackupManifest;
use super::parent::Parent;
use crate::connect::ConnInfo;
use crate::replication::{
    BackupEnd, BackupEvent, BackupStart, BaseBackupOptions, BaseBackupStream, Checkpoint, Mode,
    ReplicationClient,
};
use crate::source::Source;

/// What PostgreSQL accepts as a rate, in KiB a second.
const RATE_KIB: (u64, u64) = (32, 1 << 20);
/// How long to wait for the daemon to archive the last WAL of a backup.
pub const WAL_WAIT: Duration = Duration::from_secs(30);

/// What to back up, and how.
#[derive(Clone, Debug)]
pub struct TakeSettings {
    /// How to connect.
    pub connection: ConnInfo,
    /// What the operator calls it.
    pub label: String,
    /// How the server makes the checkpoint that it begins with.
    pub checkpoint: Checkpoint,
    /// Bytes a second at most; the server's limits are 32 KiB and 1 GiB.
    pub rate_limit: Option<u64>,
    /// zstd's level.
    pub compression_level: i32,
    /// Parts that may be in flight.
    pub puts_in_flight: usize,
    /// A standby may be the source.
    pub allow_standby: bool,
    /// How long to wait for the WAL that it needs; [`WAL_WAIT`] usually.
    pub wal_wait: Duration,
    /// Only what changed since this one (17 and later).
    pub incremental: Option<Parent>,
}

/// How far a backup is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Bytes of contents received.
    pub bytes: u64,
    /// The server's estimate of all of it. Of an incremental backup much less than that arrives.
    pub total_bytes: Option<u64>,
}

/// A backup that is whole.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Its id.
    pub id: BackupId,
    /// Its manifest.
    pub manifest: BackupManifest,
    /// Bytes of its objects in the store.
    pub stored_bytes: u64,
    /// Whether the archive holds the WAL that it needs.
    pub wal: WalCover,
    /// PostgreSQL's manifest of it, for the next incremental one.
    pub postgres_manifest: Bytes,
}

/// Takes a base backup. `progress` is called as bytes arrive, often.
///
/// # Errors
/// See [`BackupError`]; there is no backup then. Dropping the future ends the backup too.
pub async fn take(
    writer: Arc<Writer>,
    settings: TakeSettings,
    progress: impl Fn(Progress),
) -> Result<Taken, BackupError> {
    let source = Source::of(writer.archive())?;
    let mut client = ReplicationClient::connect(&settings.connection, Mode::Physical).await?;
    check_server(&mut client, &settings, source).await?;
    let server_version = client.parameter("server_version").unwrap_or_default();
    let (server_version, from_standby) = (server_version.to_owned(), client.in_recovery());
    if let Some(parent) = &settings.incremental {
        client.upload_manifest(&parent.postgres_manifest).await?;
    }
    let mut stream = client.base_backup(&options(&settings)).await?;
    let started = Timestamp::now();
    let id = free_id(writer.archive(), started).await?;
    tracing::info!(%id, start = %stream.start().lsn, "base backup begins");
    let backup = start_writer(&writer, id, stream.start(), &settings);
    let (whole, end) = receive(&mut stream, Intake::new(backup), &progress).await?;
    let start = stream.start().clone();
    // Here the server says whether its own checksums were right.
    stream.finish().await?.close().await;
    let finished = Timestamp::now();
    let manifest = BackupManifest {
        version: BackupManifest::VERSION,
        label: settings.label,
        server_version,
        system_id: source.system_id,
        wal_segment_bytes: source.wal_segment_bytes,
        start_lsn: start.lsn,
        start_timeline: start.timeline,
        end_lsn: end.lsn,
        end_timeline: end.timeline,
        started,
        finished,
        from_standby,
        parent: settings.incremental.map(|parent| parent.id.to_string()),
        tablespaces: whole.tablespaces,
        entries: whole.entries,
        postgres_manifest: whole.postgres_manifest_at,
        contents_bytes: whole.writer.position(),
        parts: 0,
    };
    let (manifest, stored_bytes) = complete(whole.writer, manifest).await?;
    let needs = Needs {
        start: (manifest.start_timeline, manifest.start_lsn),
        end: (manifest.end_timeline, manifest.end_lsn),
    };
    let wal = wait_for_wal(writer.archive(), needs, settings.wal_wait).await?;
    Ok(Taken {
        id,
        manifest,
        stored_bytes,
        wal,
        postgres_manifest: whole.postgres_manifest.into(),
    })
}

/// Refuses a server that is not ours, or cannot do what is asked, before anything is put.
async fn check_server(
    client: &mut ReplicationClient,
    settings: &TakeSettings,
    source: Source,
) -> Result<(), BackupError> {
    source.check(&client.identify_system().await?)?;
    let major = client.server_major()?;
    if !(15..=18).contains(&major) {
        return Err(BackupError::Version(major));
    }
    if client.in_recovery() && !settings.allow_standby {
        return Err(BackupError::Standby);
    }
    if settings.incremental.is_some() {
        if major < 17 {
            return Err(BackupError::Incremental(format!(
                "it needs PostgreSQL 17 or later, and the server is {major}"
            )));
        }
        if client.show("summarize_wal").await? != "on" {
            return Err(BackupError::Incremental(
                "the server does not summarize its WAL; set summarize_wal = on there, reload, and take a full backup first"
                    .into(),
            ));
        }
    }
    Ok(())
}

fn options(settings: &TakeSettings) -> BaseBackupOptions {
    let rate = settings.rate_limit.map(|bytes| {
        let kib = (bytes / 1024).clamp(RATE_KIB.0, RATE_KIB.1);
        u32::try_from(kib).expect("within PostgreSQL's limits")
    });
    BaseBackupOptions {
        label: settings.label.clone(),
        checkpoint: settings.checkpoint,
        max_rate_kib: rate,
        incremental: settings.incremental.is_some(),
        progress: true,
        manifest: true,
    }
}

fn start_writer(
    writer: &Arc<Writer>,
    id: BackupId,
    start: &BackupStart,
    settings: &TakeSettings,
) -> BackupWriter {
    let stream =
        StreamName::new(&start.timeline.stream()).expect("digits are the name of a stream");
    let backup = BackupSettings {
        compression_level: settings.compression_level,
        puts_in_flight: settings.puts_in_flight,
    };
    BackupWriter::start(Arc::clone(writer), id, stream, backup, Compressor::new())
}

/// Receives everything and checks it.
async fn receive(
    stream: &mut BaseBackupStream,
    mut intake: Intake,
    progress: &impl Fn(Progress),
) -> Result<(Whole, BackupEnd), BackupError> {
    let sizes = stream.start().tablespaces.iter().map(|t| t.size_kib);
    let total_bytes = sizes.sum::<Option<u64>>().map(|kib| kib * 1024);
    loop {
        match stream.next().await? {
            BackupEvent::End(end) => return Ok((intake.finish().await?, end)),
            BackupEvent::Message(message) => intake.take(message).await?,
        }
        progress(Progress {
            bytes: intake.position(),
            total_bytes,
        });
    }
}

/// Makes the parts durable, and then the backup exist.
async fn complete(
    mut writer: BackupWriter,
    mut manifest: BackupManifest,
) -> Result<(BackupManifest, u64), BackupError> {
    let parts = writer.parts_durable().await?;
    manifest.parts = parts.count;
    let times = (
        manifest.started.as_microsecond(),
        manifest.finished.as_microsecond(),
    );
    let (start, end) = (manifest.start_lsn.0, manifest.end_lsn.0);
    let encoded = manifest.encode();
    // A backup whose manifest restore would refuse must not exist.
    BackupManifest::decode(&encoded)?;
    let header = writer.finish(start, end, times, &encoded).await?;
    let stored_bytes = parts.stored_bytes + object_bytes(header.payload_bytes);
    Ok((manifest, stored_bytes))
}

/// The first id from `moment` on that no other backup uses. Asks for single objects, lists nothing.
async fn free_id(archive: &Archive, moment: Timestamp) -> Result<BackupId, ArchiveError> {
    let mut moment = moment;
    loop {
        let id = BackupId::at(moment);
        let (name, mut taken) = (id.to_string(), false);
        for key in [layout::part(&name, 0), layout::manifest(&name)] {
            match archive.store().get(&key, Piece::Range(0..1)).await {
                Ok(_) => taken = true,
                Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if !taken {
            return Ok(id);
        }
        moment += jiff::SignedDuration::from_secs(1);
    }
}

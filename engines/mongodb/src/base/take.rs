//! Taking a base copy: what the catalogue says, documents in parallel into the parts, and the manifest last, which is what makes the
//! copy exist. It is fuzzy: the log from T0 on makes it the state of any moment from T1 on.

use std::sync::Arc;
use std::time::Duration;

use bson::{DateTime, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use jiff::Timestamp as Moment;
use mongodb::Client;
use pitr_archive::catalogue::BackupId;
use pitr_archive::object::object_bytes;
use pitr_archive::store::{Piece, StoreError};
use pitr_archive::writer::{BackupSettings, BackupWriter, Compressor, Writer};
use pitr_archive::{Archive, ArchiveError, layout};

use super::catalogue;
use super::copy::{self, Copied};
use super::cover::{LogCover, wait_for_log};
use super::manifest::BaseManifest;
use super::times::Times;
use crate::connect::Connection;
use crate::source::{Server, Source, feature_compatibility};
use crate::{EngineError, LogKind};

/// How long to wait for the daemon to archive the last entries that a copy needs.
pub const LOG_WAIT: Duration = Duration::from_secs(30);

/// What to copy, and how.
#[derive(Clone, Debug)]
pub struct TakeSettings {
    /// How to connect.
    pub connection: Connection,
    /// Which of the source's logs the archive holds.
    pub kind: LogKind,
    /// What the operator calls it.
    pub label: String,
    /// Bytes a second at most.
    pub rate_limit: Option<u64>,
    /// zstd's level.
    pub compression_level: i32,
    /// Parts that may be in flight.
    pub puts_in_flight: usize,
    /// How long to wait for the log that it needs; [`LOG_WAIT`] usually.
    pub log_wait: Duration,
}

/// How far a copy is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Bytes of documents copied.
    pub bytes: u64,
    /// The server's estimate of all of it.
    pub total_bytes: u64,
}

/// A copy that is whole.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Its id.
    pub id: BackupId,
    /// Its manifest.
    pub manifest: BaseManifest,
    /// Bytes of its objects in the store.
    pub stored_bytes: u64,
    /// Whether the archive holds the log that it needs.
    pub log: LogCover,
}

/// Takes a base copy. `progress` is called as documents arrive, often.
///
/// # Errors
/// See [`EngineError`]; there is no copy then. Dropping the future ends the copy too.
pub async fn take(
    writer: Arc<Writer>,
    settings: TakeSettings,
    progress: impl Fn(Progress) + Send + Sync,
) -> Result<Taken, EngineError> {
    let client = settings.connection.client()?;
    let taken = take_from(&client, writer, &settings, &progress).await;
    client.shutdown().immediate(true).await;
    taken
}

async fn take_from(
    client: &Client,
    writer: Arc<Writer>,
    settings: &TakeSettings,
    progress: &(impl Fn(Progress) + Send + Sync),
) -> Result<Taken, EngineError> {
    let server = Server::ask(client).await?;
    Source::of(writer.archive())?.check(&server.source)?;
    settings.kind.check(writer.archive()).await?;
    let started = Moment::now();
    let times = Times::new(client, &server, writer.archive(), settings.kind)?;
    let t0 = times.first().await?;
    let id = free_id(writer.archive(), started).await?;
    tracing::info!(%id, %t0, "base copy begins");
    let stream = settings.kind.stream();
    let backup = BackupSettings {
        compression_level: settings.compression_level,
        puts_in_flight: settings.puts_in_flight,
    };
    let parts = BackupWriter::start(
        Arc::clone(&writer),
        id,
        stream.clone(),
        backup,
        Compressor::new(),
    );
    let found = catalogue::read(client, settings.kind).await?;
    // Documents are read as a majority has them, by members that have come as far as T0.
    let copied = copy::all(
        client,
        found,
        server.majority.ts,
        parts,
        settings.rate_limit,
        progress,
    )
    .await?;
    let (users, roles) = accounts(client, settings.kind).await?;
    let (t0, t1) = times.last(t0, settings.log_wait).await?;
    if feature_compatibility(client).await?.unwrap_or_default() != server.fcv {
        let reason = "the feature compatibility version changed while the base copy was taken; take another one";
        return Err(EngineError::Unsupported(reason.into()));
    }
    let Copied {
        mut writer_of_parts,
        collections,
    } = copied;
    let durable = writer_of_parts.parts_durable().await?;
    let finished = Moment::now();
    let date = |moment: Moment| DateTime::from_millis(moment.as_millisecond());
    let manifest = BaseManifest {
        version: BaseManifest::VERSION,
        label: settings.label.clone(),
        server_version: server.version,
        fcv: server.fcv,
        t0,
        t1,
        started: date(started),
        finished: date(finished),
        collections,
        users,
        roles,
        contents_bytes: writer_of_parts.position(),
        parts: durable.count,
    };
    let encoded = manifest
        .encode()
        .map_err(|error| EngineError::Unsupported(error.to_string()))?;
    // A copy whose manifest restore would refuse must not exist.
    BaseManifest::decode(&encoded).map_err(|error| EngineError::Unsupported(error.to_string()))?;
    let needs = t0.next().0..t1.next().0;
    let times = (started.as_microsecond(), finished.as_microsecond());
    let header = writer_of_parts
        .finish(needs.start, needs.end, times, &encoded)
        .await?;
    let stored_bytes = durable.stored_bytes + object_bytes(header.payload_bytes);
    let log = wait_for_log(writer.archive(), &stream, needs, settings.log_wait).await?;
    Ok(Taken {
        id,
        manifest,
        stored_bytes,
        log,
    })
}

/// Users and roles, word for word. A change stream asks for less than the oplog: an account that may not read them gets a copy
/// without them.
async fn accounts(
    client: &Client,
    kind: LogKind,
) -> Result<(Vec<RawDocumentBuf>, Vec<RawDocumentBuf>), EngineError> {
    let admin = client.database("admin");
    let mut found = Vec::new();
    for (name, what) in [
        ("system.users", "reading admin.system.users"),
        ("system.roles", "reading admin.system.roles"),
    ] {
        let documents = admin.collection::<RawDocumentBuf>(name).find(doc! {}).await;
        let documents = match documents.map_err(|error| refused(what, error)) {
            Ok(documents) => documents.try_collect::<Vec<_>>().await?,
            Err(EngineError::Refused { message, .. }) if kind == LogKind::Events => {
                tracing::warn!(message, "the base copy has no {name}: {what} is refused");
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        found.push(documents);
    }
    let roles = found.pop().unwrap_or_default();
    Ok((found.pop().unwrap_or_default(), roles))
}

pub(super) fn refused(what: &'static str, error: mongodb::error::Error) -> EngineError {
    match error.into() {
        EngineError::Refused { message, .. } => EngineError::Refused { what, message },
        other => other,
    }
}

/// The first id from `moment` on that no other copy uses. Asks for single objects, lists nothing.
async fn free_id(archive: &Archive, moment: Moment) -> Result<BackupId, ArchiveError> {
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

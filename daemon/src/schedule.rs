//! Base backups that the daemon takes by itself, beside the capture: when the last one is older than `[backup] every`, and at
//! once after a gap. One at a time; a failure is said, and tried again.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use pitr_archive::catalogue;
use pitr_archive::writer::{Writer, stopped};
use pitr_mongodb::base as mongodb;
use pitr_postgres::backup::{self, ManifestCache, TakeSettings, Taken, WAL_WAIT, WalCover};
use pitr_postgres::replication::Checkpoint;
use tokio::sync::watch;

use crate::config::{Compression, Config, MongodbSource, PostgresSource, SourceConfig, show_bytes};
use crate::watching::Watching;
use crate::{exit, open};

const RETRY_FIRST: Duration = Duration::from_secs(30);
const RETRY_MAX: Duration = Duration::from_secs(60 * 60);
/// The archive is asked again so often, because `pitr-tool backup` may have taken one meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(10 * 60);
/// A part takes up to its size in memory while it is put.
const PUTS_IN_FLIGHT_MAX: u8 = 4;
const LABEL: &str = "pitrd";

/// What the schedule says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScheduleStatus {
    /// A backup is being taken.
    pub running: bool,
    /// Why the last attempt failed; `None` after a success.
    pub failed: Option<String>,
}

/// How the configuration wants base backups taken, with the label `label`, full.
pub fn take_settings(
    config: &Config,
    source: &PostgresSource,
    label: &str,
) -> anyhow::Result<TakeSettings> {
    let Compression::Zstd(compression_level) = config.segment.compression;
    Ok(TakeSettings {
        connection: open::connection(source)?,
        label: label.into(),
        checkpoint: Checkpoint::Fast,
        rate_limit: config.backup.rate_limit,
        compression_level,
        puts_in_flight: config.segment.puts_in_flight.min(PUTS_IN_FLIGHT_MAX).into(),
        allow_standby: source.allow_standby,
        wal_wait: WAL_WAIT,
        incremental: None,
    })
}

/// How the configuration wants base copies of a MongoDB source taken, with the label `label`.
pub async fn copy_settings(
    config: &Config,
    source: &MongodbSource,
    label: &str,
) -> anyhow::Result<mongodb::TakeSettings> {
    let Compression::Zstd(compression_level) = config.segment.compression;
    Ok(mongodb::TakeSettings {
        connection: open::mongodb(source).await?,
        kind: source.capture.into(),
        label: label.into(),
        rate_limit: config.backup.rate_limit,
        compression_level,
        puts_in_flight: config.segment.puts_in_flight.min(PUTS_IN_FLIGHT_MAX).into(),
        log_wait: mongodb::LOG_WAIT,
    })
}

/// Takes base backups until `stop` becomes true; one that is under way then is given up, and leaves nothing that looks whole.
pub async fn run(
    config: Config,
    every: Duration,
    writer: Arc<Writer>,
    mut capture: Watching,
    status: watch::Sender<ScheduleStatus>,
    mut stop: watch::Receiver<bool>,
) {
    let schedule = Schedule {
        config,
        every,
        writer,
        status,
    };
    tokio::select! {
        () = schedule.take_for_ever(&mut capture) => {}
        // A closed channel means that the daemon is ending as well.
        () = stopped(&mut stop) => {}
    }
}

struct Schedule {
    config: Config,
    every: Duration,
    writer: Arc<Writer>,
    status: watch::Sender<ScheduleStatus>,
}

impl Schedule {
    async fn take_for_ever(&self, capture: &mut Watching) {
        let (mut retry, mut gaps) = (RETRY_FIRST, 0);
        loop {
            // Without the capture nobody archives the WAL that a backup needs.
            let streaming = capture.wait_for(|view| view.streaming).await;
            let Some(gaps_now) = streaming.map(|view| view.gaps) else {
                return;
            };
            let wait = match self.wait(gaps_now > gaps).await {
                Ok(Duration::ZERO) => match self.take().await {
                    Ok(()) => {
                        (retry, gaps) = (RETRY_FIRST, gaps_now);
                        Duration::ZERO
                    }
                    Err(error) => self.failed(&error, &mut retry),
                },
                Ok(wait) => wait.min(LOOK_EVERY),
                Err(error) => self.failed(&error, &mut retry),
            };
            // A gap is a reason to look at once; the end of the capture is seen above.
            let gap = capture.wait_for(|view| view.gaps > gaps_now);
            let _ = tokio::time::timeout(wait, gap).await;
        }
    }

    /// How long until the next one is due; zero after a gap that no backup has followed.
    async fn wait(&self, gap: bool) -> anyhow::Result<Duration> {
        if gap {
            return Ok(Duration::ZERO);
        }
        let newest = catalogue::newest_backup(self.writer.archive()).await?;
        let began = newest.and_then(|newest| newest.id.moment());
        Ok(due_in(began, self.every, Timestamp::now()))
    }

    async fn take(&self) -> anyhow::Result<()> {
        self.status.send_modify(|status| status.running = true);
        let taken = self.take_one().await;
        self.status.send_modify(|status| status.running = false);
        taken?;
        self.status.send_modify(|status| status.failed = None);
        Ok(())
    }

    async fn take_one(&self) -> anyhow::Result<()> {
        match &self.config.source {
            SourceConfig::Postgres(source) => self.take_postgres(source).await,
            SourceConfig::Mongodb(source) => {
                let settings = copy_settings(&self.config, source, LABEL).await?;
                let taken = mongodb::take(Arc::clone(&self.writer), settings, |_| ()).await?;
                report_copy(&taken);
                Ok(())
            }
        }
    }

    async fn take_postgres(&self, source: &PostgresSource) -> anyhow::Result<()> {
        let settings = take_settings(&self.config, source, LABEL)?;
        let taken = backup::take(Arc::clone(&self.writer), settings, |_| ()).await?;
        let cache = ManifestCache::beside(&self.config.archive.signing_key_file);
        if let Err(error) = cache.keep(taken.id, &taken.postgres_manifest) {
            tracing::warn!(%error, "the backup is whole, but no incremental one can be built on it here");
        }
        report(&taken);
        Ok(())
    }

    fn failed(&self, error: &anyhow::Error, retry: &mut Duration) -> Duration {
        let wait = *retry;
        *retry = (wait * 2).min(RETRY_MAX);
        let (seconds, reason) = (wait.as_secs(), exit::chain(error));
        tracing::error!(
            error = reason,
            retry_in_seconds = seconds,
            "the scheduled base backup failed"
        );
        self.status
            .send_modify(|status| status.failed = Some(reason));
        wait
    }
}

/// Says what was taken, and whether it can be restored.
fn report(taken: &Taken) {
    let (bytes, stored) = (taken.manifest.contents_bytes, taken.stored_bytes);
    let (bytes, stored) = (show_bytes(bytes), show_bytes(stored));
    tracing::info!(id = %taken.id, bytes, stored, end = %taken.manifest.end_lsn, "base backup is whole");
    match taken.wal {
        WalCover::Complete => {}
        WalCover::Behind { .. } => {
            tracing::warn!(id = %taken.id, "not restorable until WAL is archived up to {}", taken.manifest.end_lsn);
        }
        WalCover::StartsLate { from } => {
            tracing::error!(id = %taken.id, "not restorable: the archive's WAL begins only at {from}");
        }
    }
}

/// The same of a base copy.
fn report_copy(taken: &mongodb::Taken) {
    let (bytes, stored) = (taken.manifest.contents_bytes, taken.stored_bytes);
    let (bytes, stored) = (show_bytes(bytes), show_bytes(stored));
    tracing::info!(id = %taken.id, bytes, stored, end = %taken.manifest.t1, "base copy is whole");
    match taken.log {
        mongodb::LogCover::Complete => {}
        mongodb::LogCover::Behind { .. } => {
            tracing::warn!(id = %taken.id, "not restorable until the source's log is archived up to {}", taken.manifest.t1);
        }
        mongodb::LogCover::StartsLate { from } => {
            tracing::error!(id = %taken.id, "not restorable: the archive's log begins only at {from}");
        }
    }
}

/// How long from `now` until a backup is due whose predecessor began at `last`.
fn due_in(last: Option<Timestamp>, every: Duration, now: Timestamp) -> Duration {
    let Some(last) = last else {
        return Duration::ZERO;
    };
    let age = now.duration_since(last);
    let every_signed = SignedDuration::try_from(every).unwrap_or(SignedDuration::MAX);
    // A backup from the future means that a clock was wrong: it counts as made now.
    Duration::try_from(every_signed.saturating_sub(age))
        .unwrap_or(Duration::ZERO)
        .min(every)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_is_due_when_the_last_one_began_long_enough_ago() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let (day, now) = (Duration::from_secs(86_400), at("2026-11-21T12:00:00Z"));
        assert_eq!(due_in(None, day, now), Duration::ZERO);
        assert_eq!(
            due_in(Some(at("2026-11-20T12:00:00Z")), day, now),
            Duration::ZERO
        );
        assert_eq!(
            due_in(Some(at("2026-11-01T12:00:00Z")), day, now),
            Duration::ZERO
        );
        let hour = Duration::from_secs(3600);
        assert_eq!(due_in(Some(at("2026-11-20T13:00:00Z")), day, now), hour);
        assert_eq!(due_in(Some(at("2027-11-20T13:00:00Z")), day, now), day);
    }
}

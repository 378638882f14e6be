//! How long the source can still hold the log that is not archived: asked while the store is away, said in the log and the state, and by
//! `pitr-tool status`.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Context;
use pitr_archive::writer::Troubles;
use pitr_mongodb::{ClusterTime, LogKind, preflight};
use pitr_postgres::{Lsn, SlotMargin, slot_margin};
use tokio::sync::watch;

use crate::config::{SourceConfig, show_bytes, show_duration};
use crate::exit;
use crate::open;
use crate::watching::Watching;

/// Trouble that passes sooner is not worth a question.
const TROUBLE_MIN: Duration = Duration::from_secs(10);
const ASK_EVERY: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_secs(2);
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// What the source can still hold for us.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Margin {
    /// What holds it.
    pub holder: Holder,
    /// It does not hold it any more.
    pub is_lost: bool,
    /// Whether somebody streams from it; `None` of an oplog, which does not know its readers.
    pub is_read: Option<bool>,
    /// Bytes that may be written until then; `None` where only the disk limits it, and for an oplog.
    pub bytes: Option<u64>,
    /// How long that is at the present rate; `None` where it cannot be told.
    pub seconds: Option<f64>,
}

/// What holds a source's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// PostgreSQL's replication slot.
    Slot,
    /// MongoDB's oplog, whose size is fixed.
    Oplog,
}

impl Margin {
    /// Of a slot, when the archive has everything up to `durable` and stands there for `age`.
    fn of_slot(slot: Option<SlotMargin>, durable: Lsn, age: Duration) -> Self {
        let (bytes, end) = slot.map_or((None, Lsn(0)), |slot| (slot.safe_bytes, slot.end));
        let written = end.bytes_since(durable) as f64;
        let rate = written / age.as_secs_f64().max(1.0);
        let seconds = bytes.filter(|_| rate > 0.0);
        Self {
            holder: Holder::Slot,
            is_lost: slot.is_none_or(|slot| slot.is_lost),
            is_read: Some(slot.is_some_and(|slot| slot.is_read)),
            bytes,
            seconds: seconds.map(|bytes| bytes as f64 / rate),
        }
    }

    /// Of an oplog whose oldest entry is of the second `oldest`. It rolls on as time does, once it is full.
    fn of_oplog(oldest: u32, durable: ClusterTime) -> Self {
        let left = i64::from(durable.seconds()) - i64::from(oldest);
        Self {
            holder: Holder::Oplog,
            is_lost: left < 0,
            is_read: None,
            bytes: None,
            seconds: Some(left.max(0) as f64),
        }
    }
}

impl fmt::Display for Margin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.seconds.map(|seconds| {
            let time = Duration::try_from_secs_f64(seconds.round()).unwrap_or(Duration::MAX);
            show_duration(time)
        });
        match (self.holder, self.is_lost, self.bytes, time) {
            (Holder::Slot, true, ..) => f.write_str("the slot is LOST or missing"),
            (Holder::Slot, false, None, _) => f.write_str(
                "the slot holds the log without a limit, as long as the server's disk has room",
            ),
            (Holder::Slot, false, Some(bytes), None) => {
                write!(f, "the slot holds {} more", show_bytes(bytes))
            }
            (Holder::Slot, false, Some(bytes), Some(time)) => {
                let bytes = show_bytes(bytes);
                write!(f, "the slot holds {bytes} more, at this rate about {time}")
            }
            (Holder::Oplog, true, ..) => {
                f.write_str("the oplog has ROLLED OVER what is not archived")
            }
            (Holder::Oplog, false, _, time) => {
                let time = time.unwrap_or_default();
                write!(
                    f,
                    "the oplog holds what is not archived for about {time} more"
                )
            }
        }
    }
}

/// Asks the source. The archive has everything up to `durable`, and stands there for `age`.
///
/// # Errors
/// If the source does not answer.
pub async fn ask(source: &SourceConfig, durable: u64, age: Duration) -> anyhow::Result<Margin> {
    match source {
        SourceConfig::Postgres(source) => {
            let slot = slot_margin(&open::connection(source)?, &source.slot).await?;
            Ok(Margin::of_slot(slot, Lsn(durable), age))
        }
        SourceConfig::Mongodb(source) => {
            // A change stream reads from the same oplog.
            let connection = open::mongodb(source).await?;
            let (server, probe) = preflight::look(&connection, LogKind::Oplog).await?;
            let window = probe.window.context(
                "this account may not read local.oplog.rs, which tells how far the log reaches back",
            )?;
            let window = window.as_secs();
            let oldest = server.majority.ts.seconds().saturating_sub(window as u32);
            Ok(Margin::of_oplog(oldest, ClusterTime(durable)))
        }
    }
}

/// Asks once a minute while the store is away, and says what it hears. Never ends.
pub async fn watch(
    source: SourceConfig,
    troubles: Troubles,
    capture: Watching,
    said: watch::Sender<Option<Margin>>,
) {
    let mut asked: Option<Instant> = None;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let trouble = troubles.oldest();
        let Some(age) = trouble.map(|trouble| trouble.since.elapsed()) else {
            said.send_if_modified(|margin| margin.take().is_some());
            asked = None;
            continue;
        };
        if age < TROUBLE_MIN || asked.is_some_and(|at| at.elapsed() < ASK_EVERY) {
            continue;
        }
        asked = Some(Instant::now());
        let answer = ask(&source, capture.view().durable, age);
        match tokio::time::timeout(ANSWER_MAX, answer).await {
            Ok(Ok(margin)) => {
                let seconds = age.as_secs();
                tracing::warn!(seconds, "the store is away; {margin}");
                said.send_replace(Some(margin));
            }
            Ok(Err(error)) => {
                tracing::debug!(error = exit::chain(&error), "the source was not asked");
            }
            Err(_) => tracing::debug!("the source did not say how long it holds its log"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(safe_bytes: Option<u64>, is_lost: bool) -> SlotMargin {
        SlotMargin {
            is_lost,
            is_read: true,
            safe_bytes,
            end: Lsn(3000),
        }
    }

    #[test]
    fn the_time_left_is_what_is_left_at_the_rate_of_the_outage() {
        let (durable, age) = (Lsn(1000), Duration::from_secs(10));
        let margin = Margin::of_slot(Some(slot(Some(60_000), false)), durable, age);
        assert_eq!(margin.seconds, Some(300.0));
        assert_eq!(
            margin.to_string(),
            "the slot holds 58.6 KiB more, at this rate about 5min"
        );
        let unlimited = Margin::of_slot(Some(slot(None, false)), durable, age);
        assert_eq!((unlimited.bytes, unlimited.seconds), (None, None));
        let quiet = Margin::of_slot(Some(slot(Some(60_000), false)), Lsn(3000), age);
        assert_eq!(quiet.seconds, None);
    }

    #[test]
    fn a_slot_or_an_oplog_that_gave_up_is_said_to_be_lost() {
        let age = Duration::from_secs(10);
        assert!(Margin::of_slot(Some(slot(None, true)), Lsn(0), age).is_lost);
        assert!(Margin::of_slot(None, Lsn(0), age).is_lost);
        let durable = ClusterTime(1000 << 32);
        assert_eq!(Margin::of_oplog(400, durable).seconds, Some(600.0));
        assert!(Margin::of_oplog(1001, durable).is_lost);
    }
}

//! How long the source can still hold what is not archived, as `status` says it.

use std::fmt;
use std::time::Duration;

use pitrd::config::{Config, show_bytes};
use pitrd::exit::chain;
use pitrd::margin::{self, Holder, Margin};
use serde::Serialize;

use crate::output;

/// Where an archive that cannot be read may stand: nothing is known of the rate then.
const UNKNOWN: u64 = u64::MAX;

/// What the source can still hold. Its JSON is documented in docs/cli.md.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourceReport {
    /// `slot` or `oplog`.
    pub holder: &'static str,
    /// It does not hold it any more.
    pub lost: bool,
    /// Whether anybody reads from it now; `null` of an oplog, which does not know.
    pub connected: Option<bool>,
    /// Bytes that may be written until then; `null` where only the disk limits it, and for an oplog.
    pub bytes_left: Option<u64>,
    /// How long that is at the present rate; `null` where it cannot be told.
    pub seconds_left: Option<f64>,
    #[serde(skip)]
    text: String,
}

impl From<Margin> for SourceReport {
    fn from(margin: Margin) -> Self {
        Self {
            holder: match margin.holder {
                Holder::Slot => "slot",
                Holder::Oplog => "oplog",
            },
            lost: margin.is_lost,
            connected: margin.is_read,
            bytes_left: margin.bytes,
            seconds_left: margin.seconds,
            text: margin.to_string(),
        }
    }
}

impl fmt::Display for SourceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if self.connected == Some(false) {
            f.write_str("; NOBODY reads from it: pitrd is not connected, its log and systemctl status say why")?;
        }
        Ok(())
    }
}

/// Asks the configuration's source; the archive ends at `durable` and was behind for `seconds`. `None`, with a note, if it does not
/// answer.
pub(crate) async fn source(
    config: Option<&Config>,
    durable: u64,
    seconds: Option<f64>,
) -> Option<SourceReport> {
    let config = config?;
    let age = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    match margin::ask(&config.source, durable, age.unwrap_or_default()).await {
        Ok(margin) => Some(margin.into()),
        Err(error) => {
            output::note(&format!(
                "how long the source can hold its log is not known: {}",
                chain(&error)
            ));
            None
        }
    }
}

/// The archive cannot be read: then it matters most how long the source can hold its log.
pub(super) async fn without_archive(config: Option<&Config>) {
    let Some(config) = config else {
        return;
    };
    if let Ok(margin) = margin::ask(&config.source, UNKNOWN, Duration::ZERO).await
        && margin.holder == Holder::Slot
    {
        output::note(&format!("the archive cannot be read; {margin}"));
    }
}

/// What waits in the spool of the configuration, on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SpoolReport {
    /// Sealed objects that the store does not have.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of objects that were set aside.
    pub aside_bytes: u64,
    /// Bytes that it may hold.
    pub bytes_max: u64,
}

impl fmt::Display for SpoolReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, all) = (show_bytes(self.bytes), show_bytes(self.bytes_max));
        write!(f, "{} objects, {bytes} of {all}", self.objects)?;
        if self.aside_bytes > 0 {
            write!(f, "; {} SET ASIDE", show_bytes(self.aside_bytes))?;
        }
        Ok(())
    }
}

/// Looks into the spool that the configuration names, if it is on this host and may be read.
#[must_use]
pub(crate) fn spool(config: Option<&Config>, archive: &str) -> Option<SpoolReport> {
    let spool = config?.spool.as_ref()?;
    let root = spool.directory.join(archive);
    let mut report = SpoolReport {
        objects: 0,
        bytes: 0,
        aside_bytes: 0,
        bytes_max: spool.bytes_max,
    };
    for kind in ["log", "keys", "aside"] {
        let mut left = vec![root.join(kind)];
        while let Some(directory) = left.pop() {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                match entry.metadata() {
                    Ok(found) if found.is_dir() => left.push(entry.path()),
                    Ok(found) if kind == "aside" => report.aside_bytes += found.len(),
                    Ok(found) => {
                        report.objects += 1;
                        report.bytes += found.len();
                    }
                    // It is put and removed while we look.
                    Err(_) => {}
                }
            }
        }
    }
    Some(report)
}

//! The archive's side of the check: is it there, is it ours, can we sign for it.

use std::sync::Arc;

use pitr_archive::Archive;
use pitr_archive::keys::WriterKey;

use super::{Finding, failed};
use crate::config::{ArchiveUrl, Config};
use crate::{copies, open, probe};

const SUBJECT: &str = "archive";

/// Looks at the archive; returns it for the comparison with the server.
pub(super) async fn archive(config: &Config) -> (Option<Arc<Archive>>, Vec<Finding>) {
    let archive = match open::archive(&config.archive.url).await {
        Ok(archive) => archive,
        Err(error) => return (None, vec![failed(SUBJECT, &error, "look at the store")]),
    };
    let mut findings = vec![Finding::ok(
        SUBJECT,
        format!("{} is archive {}", archive.url(), archive.id()),
    )];
    // A key that cannot be loaded has a finding of its own.
    if let Ok(key) = WriterKey::load(&config.archive.signing_key_file)
        && let Err(error) = archive.check_writer(&key)
    {
        let hint = "pitr-tool init --config FILE --identity FILE brings the archive's own key back";
        findings.push(Finding::fail("signing key", error.to_string(), hint));
    }
    findings.extend(store(config).await);
    (Some(archive), findings)
}

/// Tries out where the archive and its copies lie.
async fn store(config: &Config) -> Vec<Finding> {
    let tried = async { probe::findings(&*copies::all(&config.archive).await?).await };
    let mut findings = match tried.await {
        Ok(findings) => findings,
        Err(error) => vec![failed("store", &error, "look at the store")],
    };
    if config.archive.lock.is_some() && matches!(config.archive.url, ArchiveUrl::File(_)) {
        findings.push(Finding::warn(
            "immutability",
            "a directory does not enforce immutable_for: whoever may write into it may delete",
            "keep a copy in a bucket with Object Lock",
        ));
    }
    findings
}

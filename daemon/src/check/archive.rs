//! The archive's side of the check: is it there, is it ours, can we sign for it.

use std::sync::Arc;

use pitr_archive::Archive;
use pitr_archive::keys::WriterKey;
use pitr_archive::store::{Lock, Store};

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
    let archive = &config.archive;
    let primary = match open::archive_store(&archive.url).await {
        Ok(primary) => primary,
        Err(error) => return vec![failed("store", &error, "look at the store")],
    };
    let tried = probe::findings("store", &*primary).await;
    let mut findings =
        tried.unwrap_or_else(|error| vec![failed("store", &error, "look at the store")]);
    findings.extend(mutable(&archive.url, archive.lock));
    for copy in &archive.copies {
        let tried = try_copy(&*primary, &copy.url).await;
        findings
            .extend(tried.unwrap_or_else(|error| vec![failed("copy", &error, "look at the copy")]));
        findings.extend(mutable(&copy.url, copy.lock));
    }
    findings
}

async fn try_copy(primary: &dyn Store, url: &ArchiveUrl) -> anyhow::Result<Vec<Finding>> {
    let copy = open::archive_store(url).await?;
    copies::require(primary, &*copy, url).await?;
    let mut findings = probe::findings("copy", &*copy).await?;
    for finding in &mut findings {
        finding.detail = format!("{}: {}", url.place(), finding.detail);
    }
    Ok(findings)
}

/// A lock that is asked for where nobody keeps it.
fn mutable(url: &ArchiveUrl, lock: Option<Lock>) -> Option<Finding> {
    let ArchiveUrl::File(path) = url else {
        return None;
    };
    lock.map(|_| {
        let detail = format!(
            "a directory does not enforce immutable_for: whoever may write into {} may delete",
            path.display()
        );
        let hint = "keep a copy in a bucket with Object Lock";
        Finding::warn("immutability", detail, hint)
    })
}

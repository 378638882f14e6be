//! The store tried out: at every start of the daemon, where a store that cannot keep an archive is refused, and by the check.

use anyhow::Context;
use pitr_archive::store::{self, Probed, Store, Verdict};

use crate::check::{Finding, Level};
use crate::config::{Acknowledge, Archive, ArchiveUrl};
use crate::exit::{Exit, Refusal};
use crate::{copies, open};

/// What is found out about a store; each finding is one about `subject`.
pub async fn findings(subject: &'static str, store: &dyn Store) -> anyhow::Result<Vec<Finding>> {
    let probed = store::probe(store).await;
    let probed = probed.context("try the store out")?;
    let findings = probed.into_iter().map(|probed| finding(subject, probed));
    Ok(findings.collect())
}

fn finding(subject: &'static str, probed: Probed) -> Finding {
    let level = match probed.verdict {
        Verdict::Sound => Level::Ok,
        Verdict::Doubtful => Level::Warn,
        Verdict::Denied | Verdict::Unfit => Level::Fail,
    };
    Finding {
        level,
        subject,
        hint: hint(probed.verdict).map(str::to_owned),
        detail: probed.detail,
    }
}

fn hint(verdict: Verdict) -> Option<&'static str> {
    match verdict {
        Verdict::Sound => None,
        Verdict::Doubtful => Some("docs/operations.md says what it means"),
        Verdict::Denied => Some("pitr-tool policy prints the permissions that are needed"),
        Verdict::Unfit => Some("an archive needs another store; docs/operations.md says which do"),
    }
}

/// Refuses a store that cannot keep the archive; says what else was found. Of the copies, those without which nothing is acknowledged.
pub async fn require(archive: &Archive) -> anyhow::Result<()> {
    let primary = open::archive_store(&archive.url).await?;
    accept(&*primary, &archive.url).await?;
    for copy in &archive.copies {
        let store = open::archive_store(&copy.url).await?;
        if archive.acknowledge == Acknowledge::All {
            copies::require(&*primary, &*store, &copy.url).await?;
            accept(&*store, &copy.url).await?;
        }
    }
    Ok(())
}

async fn accept(store: &dyn Store, url: &ArchiveUrl) -> anyhow::Result<()> {
    let url = url.place();
    let probed = store::probe(store).await;
    for Probed { verdict, detail } in probed.with_context(|| format!("try out {url}"))? {
        let exit = match verdict {
            Verdict::Sound => continue,
            Verdict::Doubtful => {
                tracing::warn!(archive = url, "the store: {detail}");
                continue;
            }
            // Passes when somebody gives the permission.
            Verdict::Denied => Exit::Unavailable,
            Verdict::Unfit => Exit::Usage,
        };
        let refusal = Refusal::new(exit, format!("{url}: {detail}"));
        return Err(refusal.hint(hint(verdict).unwrap_or_default()).into());
    }
    Ok(())
}

//! The store tried out: at every start of the daemon, where a store that cannot keep an archive is refused, and by the check.

use anyhow::Context;
use pitr_archive::Archive;
use pitr_archive::store::{self, Probed, Store, Verdict};

use crate::check::{Finding, Level};
use crate::exit::{Exit, Refusal};

const SUBJECT: &str = "store";

/// What is found out about a store.
pub async fn findings(store: &dyn Store) -> anyhow::Result<Vec<Finding>> {
    let probed = store::probe(store).await;
    let probed = probed.context("try the store out")?;
    Ok(probed.into_iter().map(finding).collect())
}

fn finding(probed: Probed) -> Finding {
    let level = match probed.verdict {
        Verdict::Sound => Level::Ok,
        Verdict::Doubtful => Level::Warn,
        Verdict::Denied | Verdict::Unfit => Level::Fail,
    };
    Finding {
        level,
        subject: SUBJECT,
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

/// Refuses a store that cannot keep the archive; says what else was found.
pub async fn require(archive: &Archive) -> anyhow::Result<()> {
    let probed = store::probe(&**archive.store()).await;
    for Probed { verdict, detail } in probed.context("try the store out")? {
        let exit = match verdict {
            Verdict::Sound => continue,
            Verdict::Doubtful => {
                tracing::warn!(archive = archive.url(), "the store: {detail}");
                continue;
            }
            // Passes when somebody gives the permission.
            Verdict::Denied => Exit::Unavailable,
            Verdict::Unfit => Exit::Usage,
        };
        let refusal = Refusal::new(exit, format!("{}: {detail}", archive.url()));
        return Err(refusal.hint(hint(verdict).unwrap_or_default()).into());
    }
    Ok(())
}

//! The pre-flight check, `pitrd --check`: everything that can be known before the first byte is archived, one finding
//! a line. Each area has a function that looks and returns findings; none of them changes anything but the objects by which the
//! store is tried out.

mod archive;
mod local;
mod mongodb;
mod slot;
mod source;
mod synchronous;

use std::fmt;

use crate::config::{Config, SourceConfig};
use crate::exit::{chain, classify};

/// How a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Ok,
    /// The daemon will run; somebody should look.
    Warn,
    /// The daemon would refuse to run, or could not archive.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How it weighs.
    pub level: Level,
    /// What was looked at, in a word or three.
    pub subject: &'static str,
    /// What was found, with its values.
    pub detail: String,
    /// What to do, if an operator can act.
    pub hint: Option<String>,
}

impl Finding {
    /// A finding that is as it should be.
    pub fn ok(subject: &'static str, detail: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            subject,
            detail: detail.into(),
            hint: None,
        }
    }

    /// A finding that somebody should look at.
    pub fn warn(subject: &'static str, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            level: Level::Warn,
            subject,
            detail: detail.into(),
            hint: Some(hint.into()),
        }
    }

    /// A finding that keeps the daemon from archiving.
    pub fn fail(subject: &'static str, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            level: Level::Fail,
            subject,
            detail: detail.into(),
            hint: Some(hint.into()),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "fail",
        };
        write!(f, "{level:<4}  {}: {}", self.subject, self.detail)?;
        self.hint
            .as_ref()
            .map_or(Ok(()), |hint| write!(f, "  hint: {hint}"))
    }
}

/// Whether the findings let the daemon run.
#[must_use]
pub fn passed(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.level < Level::Fail)
}

/// The finding that says that the configuration was refused.
#[must_use]
pub fn refused(error: &anyhow::Error) -> Finding {
    let hint = classify(error).1;
    Finding {
        level: Level::Fail,
        subject: "configuration",
        detail: chain(error),
        hint,
    }
}

/// The finding that says that looking at `subject` failed.
fn failed(subject: &'static str, error: &anyhow::Error, hint: &str) -> Finding {
    let hint = classify(error).1.unwrap_or_else(|| hint.to_owned());
    Finding::fail(subject, chain(error), hint)
}

/// Everything: this host, the archive, the server.
pub async fn everything(config: &Config) -> Vec<Finding> {
    let mut findings = local::local(config);
    let (archive, found) = archive::archive(config).await;
    findings.extend(found);
    findings.extend(match &config.source {
        SourceConfig::Postgres(config) => source::source(config, archive.as_deref()).await,
        SourceConfig::Mongodb(config) => mongodb::source(config, archive.as_deref()).await,
    });
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_with_its_hint() {
        assert_eq!(
            Finding::ok("server", "18.6").to_string(),
            "ok    server: 18.6"
        );
        assert_eq!(
            Finding::fail("slot", "lost", "take a base backup").to_string(),
            "fail  slot: lost  hint: take a base backup"
        );
    }

    #[test]
    fn only_a_failure_fails_the_check() {
        assert!(passed(&[
            Finding::ok("a", "b"),
            Finding::warn("a", "b", "c")
        ]));
        assert!(!passed(&[
            Finding::ok("a", "b"),
            Finding::fail("a", "b", "c")
        ]));
    }
}

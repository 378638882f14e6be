//! How a command ends: its exit code and what it says on standard error. The last step of both binaries; scripts and
//! systemd rely on the numbers, docs/cli.md documents them.

use std::fmt;
use std::process::ExitCode;

use pitr_archive::keys::KeyError;
use pitr_archive::store::StoreError;

use crate::config::ConfigError;

/// Why a command ended, as its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Done, and the answer is no: a check failed, verification found damage.
    No = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// The recovery target cannot be reached.
    Target = 3,
    /// A key is missing, unreadable or the wrong one.
    Keys = 4,
    /// Another writer owns the archive, or the archive belongs to another source.
    Fenced = 5,
    /// The store or the source cannot be reached, or failed; trying again may help.
    Unavailable = 6,
    /// Something in the archive is damaged or missing.
    Damage = 7,
    /// `wal-fetch` could not tell whether the file exists; PostgreSQL must stop, not promote.
    Fatal = 126,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error of a command itself, with the exit code it ends in and, if an operator can act, what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    exit: Exit,
    message: String,
    hint: Option<String>,
}

impl Refusal {
    /// A refusal that says `message`, one sentence in lower case without a full stop.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            hint: None,
        }
    }

    /// The same with what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

/// The exit code that `error` ends in and the hint that goes with it: the outermost cause that has one decides, and
/// what nobody classified counts as unavailable, which is retried.
#[must_use]
pub fn classify(error: &anyhow::Error) -> (Exit, Option<String>) {
    for cause in error.chain() {
        if let Some(refusal) = cause.downcast_ref::<Refusal>() {
            return (refusal.exit, refusal.hint.clone());
        }
        if let Some(error) = cause.downcast_ref::<ConfigError>() {
            return (Exit::Usage, config_hint(error));
        }
        if let Some(error) = cause.downcast_ref::<KeyError>() {
            return classify_key(error);
        }
        if let Some(error) = cause.downcast_ref::<StoreError>() {
            return classify_store(error);
        }
    }
    (Exit::Unavailable, None)
}

/// Writes `error: …` with its causes, then `hint: …`, to standard error; returns the exit code.
#[must_use]
pub fn report(error: &anyhow::Error) -> Exit {
    let (exit, hint) = classify(error);
    eprintln!("error: {}", chain(error));
    if let Some(hint) = hint {
        eprintln!("hint: {hint}");
    }
    exit
}

/// The error and its causes in one line. A library may have quoted its cause already; then it is not said twice.
#[must_use]
pub fn chain(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if line.is_empty() {
            line = cause;
        } else if !line.ends_with(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

fn classify_key(error: &KeyError) -> (Exit, Option<String>) {
    match error {
        KeyError::NotForUs { .. } => {
            let hint = "give the identity whose recipient is named, with --identity FILE";
            (Exit::Keys, Some(hint.into()))
        }
        KeyError::File { .. } | KeyError::Exposed { .. } | KeyError::Malformed { .. } => {
            (Exit::Keys, None)
        }
        KeyError::Damaged { .. } | KeyError::NotSigned { .. } => (Exit::Damage, None),
    }
}

fn classify_store(error: &StoreError) -> (Exit, Option<String>) {
    match error {
        StoreError::NotFound { .. } => (Exit::Damage, None),
        StoreError::Full { .. } => (
            Exit::Unavailable,
            Some("make room; nothing is lost meanwhile".into()),
        ),
        StoreError::Denied { .. } => {
            let hint = "run as the user who owns the archive, or give this one access";
            (Exit::Unavailable, Some(hint.into()))
        }
        StoreError::AlreadyExists { .. }
        | StoreError::Unavailable { .. }
        | StoreError::Broken { .. } => (Exit::Unavailable, None),
    }
}

fn config_hint(error: &ConfigError) -> Option<String> {
    match error {
        ConfigError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Some("name the file with --config FILE".into())
        }
        ConfigError::Read { .. } => None,
        ConfigError::Wrong { hint, .. } => hint.clone(),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_code_and_hint_are_found_below_any_context() {
        let refused: anyhow::Result<()> = Err(Refusal::new(Exit::Target, "past the end")
            .hint("try latest")
            .into());
        let error = refused.context("plan").unwrap_err();
        assert_eq!(format!("{error:#}"), "plan: past the end");
        assert_eq!(classify(&error), (Exit::Target, Some("try latest".into())));
    }

    #[test]
    fn a_cause_that_was_quoted_is_not_said_twice() {
        let source = std::io::Error::other("disk on fire");
        let quoting = KeyError::File {
            path: "k".into(),
            source,
        };
        let error = anyhow::Error::from(quoting).context("load the identity");
        assert_eq!(chain(&error), "load the identity: key file k: disk on fire");
        assert_eq!(classify(&error).0, Exit::Keys);
    }

    #[test]
    fn a_configuration_error_is_a_usage_error() {
        let error = ConfigError::Read {
            path: "a.toml".into(),
            source: std::io::ErrorKind::NotFound.into(),
        };
        let (exit, hint) = classify(&error.into());
        assert_eq!(exit, Exit::Usage);
        assert!(hint.is_some());
    }

    #[test]
    fn what_nobody_classified_is_retried() {
        assert_eq!(
            classify(&anyhow::anyhow!("connection reset")).0,
            Exit::Unavailable
        );
    }
}

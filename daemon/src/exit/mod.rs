//! How a command ends: its exit code and what it says on standard error. The last step of both binaries; scripts and
//! systemd rely on the numbers, docs/cli.md documents them.

mod classify;
mod mongodb;

use std::fmt;
use std::process::ExitCode;

pub use classify::classify;

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

#[cfg(test)]
mod tests {
    use pitr_archive::keys::KeyError;

    use super::*;

    #[test]
    fn a_cause_that_was_quoted_is_not_said_twice() {
        let source = std::io::Error::other("disk on fire");
        let quoting = KeyError::File {
            path: "k".into(),
            source,
        };
        let error = anyhow::Error::from(quoting).context("load the identity");
        assert_eq!(chain(&error), "load the identity: key file k: disk on fire");
    }
}

//! The pre-flight check, `pitrd --check`: everything that can be known before the first byte is archived, one finding
//! a line. Each area has a function that looks and returns findings; none of them changes anything.

use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::config::{ArchiveUrl, Config, Encryption, show_bytes};
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

/// What can be found out on this host: the configuration, its secrets, the archive's directory.
#[must_use]
pub fn local(config: &Config) -> Vec<Finding> {
    let mut findings = vec![Finding::ok(
        "configuration",
        format!("{} is valid", config.path.display()),
    )];
    findings.extend(password_in_the_open(config));
    findings.push(secret(
        "signing key",
        &config.archive.signing_key_file,
        "pitr-tool init --config makes it; a lost one comes back with pitr-tool init --config FILE --identity FILE",
    ));
    findings.push(match &config.encryption {
        Encryption::Recipients(names) => Finding::ok(
            "encryption",
            format!(
                "{} recipient(s); this host writes and cannot read",
                names.len()
            ),
        ),
        Encryption::KeyFile(path) => secret(
            "key file",
            path,
            "pitr-tool keygen --symmetric --out FILE makes one",
        ),
    });
    if let Some(path) = &config.source.password_file {
        findings.push(secret(
            "password file",
            path,
            "write the password, and nothing else, into it",
        ));
    }
    let ArchiveUrl::File(directory) = &config.archive.url;
    findings.extend(archive_directory(directory));
    findings
}

fn password_in_the_open(config: &Config) -> Option<Finding> {
    let connection = &config.source.connection;
    let holds_password = connection
        .split_whitespace()
        .any(|word| word.starts_with("password"))
        || connection.split_once("://").is_some_and(|(_, rest)| {
            rest.split_once('@')
                .is_some_and(|(user, _)| user.contains(':'))
        });
    let mode = std::fs::metadata(&config.path).ok()?.permissions().mode();
    (holds_password && mode & 0o077 != 0).then(|| {
        Finding::warn(
            "configuration",
            format!(
                "{} holds a password and others can read it",
                config.path.display()
            ),
            "move the password into password_file, or chmod 600 the file",
        )
    })
}

/// A file that must be there and that only its owner may read.
fn secret(subject: &'static str, path: &Path, if_missing: &str) -> Finding {
    let name = path.display();
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Finding::fail(subject, format!("{name} does not exist"), if_missing)
        }
        Err(error) => Finding::fail(
            subject,
            format!("{name}: {error}"),
            "run the check as the daemon's user",
        ),
        Ok(found) if found.permissions().mode() & 0o077 != 0 => {
            let mode = found.permissions().mode() & 0o777;
            Finding::fail(
                subject,
                format!("{name} has mode {mode:03o}, others may read it"),
                format!("chmod 600 {name}"),
            )
        }
        Ok(_) => match std::fs::File::open(path) {
            Ok(_) => Finding::ok(subject, format!("{name} is readable by its owner only")),
            Err(error) => Finding::fail(
                subject,
                format!("{name}: {error}"),
                "run the check as the daemon's user",
            ),
        },
    }
}

fn archive_directory(path: &Path) -> Vec<Finding> {
    const SUBJECT: &str = "archive directory";
    let name = path.display();
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let hint = "create the archive with pitr-tool init --config FILE";
            return vec![Finding::fail(
                SUBJECT,
                format!("{name} does not exist"),
                hint,
            )];
        }
        Err(error) => {
            return vec![Finding::fail(
                SUBJECT,
                format!("{name}: {error}"),
                "run the check as the daemon's user",
            )];
        }
        Ok(found) if !found.is_dir() => {
            return vec![Finding::fail(
                SUBJECT,
                format!("{name} is not a directory"),
                "change url in [archive]",
            )];
        }
        Ok(_) => {}
    }
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    let writable = match rustix::fs::access(path, access) {
        Ok(()) => Finding::ok(SUBJECT, format!("{name} is writable")),
        Err(error) => Finding::fail(
            SUBJECT,
            format!("{name} is not writable: {error}"),
            format!("chown it to the daemon's user: chown -R pitrd {name}"),
        ),
    };
    let space = rustix::fs::statvfs(path).map_or_else(
        |error| Finding::warn("archive space", format!("not known: {error}"), "look at df"),
        |found| {
            space(
                found.f_frsize * found.f_bavail,
                found.f_frsize * found.f_blocks,
            )
        },
    );
    vec![writable, space]
}

fn space(free: u64, total: u64) -> Finding {
    let detail = format!("{} free of {}", show_bytes(free), show_bytes(total));
    let hint = "a full archive stops archiving, and then the server's pg_wal grows";
    if free < 64 << 20 {
        Finding::fail("archive space", detail, hint)
    } else if free < total / 10 {
        Finding::warn("archive space", detail, hint)
    } else {
        Finding::ok("archive space", detail)
    }
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

    #[test]
    fn little_space_is_a_warning_and_none_a_failure() {
        assert_eq!(space(1 << 30, 2 << 30).level, Level::Ok);
        assert_eq!(space(1 << 30, 100 << 30).level, Level::Warn);
        assert_eq!(space(1 << 20, 100 << 30).level, Level::Fail);
    }
}

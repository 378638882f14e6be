//! This host's side of the check: the configuration, its secrets, the archive's directory.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use pitr_archive::keys::{KeyError, KeyFile, WriterKey};

use super::{Finding, failed};
use crate::config::{ArchiveUrl, Config, Encryption, SourceConfig, show_bytes};
use crate::open;

const AS_THE_DAEMON: &str = "run the check as the daemon's user";

/// What can be found out on this host: the configuration, its secrets, the archive's directory.
pub(super) fn local(config: &Config) -> Vec<Finding> {
    let mut findings = vec![Finding::ok(
        "configuration",
        format!("{} is valid", config.path.display()),
    )];
    findings.extend(password_in_the_open(config));
    let path = &config.archive.signing_key_file;
    let hint =
        "pitr-tool init --config FILE makes it; with --identity FILE it brings a lost one back";
    findings.push(secret(
        "signing key",
        path,
        WriterKey::load(path).map(drop),
        hint,
    ));
    findings.push(match &config.encryption {
        Encryption::Recipients(names) => {
            let count = names.len();
            Finding::ok(
                "encryption",
                format!("for {count} recipient(s); this host writes and cannot read"),
            )
        }
        Encryption::KeyFile(path) => {
            let hint = "pitr-tool keygen --symmetric --out FILE makes one";
            secret("key file", path, KeyFile::load(path).map(drop), hint)
        }
    });
    if let Some(path) = config.source.password_file() {
        findings.push(match open::require_password(path) {
            Ok(()) => Finding::ok(
                "password file",
                format!("{} is readable by its owner only", path.display()),
            ),
            Err(error) => failed("password file", &error, AS_THE_DAEMON),
        });
    }
    if let SourceConfig::Postgres(source) = &config.source {
        findings.extend(source.wal_directory.as_deref().map(wal_files));
    }
    if let ArchiveUrl::File(directory) = &config.archive.url {
        findings.extend(archive_directory(directory));
    }
    findings
}

/// Catching up reads them; without them it reads the stream.
fn wal_files(directory: &Path) -> Finding {
    let (what, name) = ("WAL files", directory.display());
    match std::fs::read_dir(directory) {
        Ok(_) => Finding::ok(what, format!("{name} can be read for catching up")),
        Err(error) => Finding::warn(
            what,
            format!("{name}: {error}; catching up will use the stream"),
            "name the server's pg_wal in wal_directory and let the daemon's user read it, or take the key out",
        ),
    }
}

fn password_in_the_open(config: &Config) -> Option<Finding> {
    let connection = config.source.connection();
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

/// A key file that was `loaded`, or was not.
fn secret(
    subject: &'static str,
    path: &Path,
    loaded: Result<(), KeyError>,
    if_missing: &str,
) -> Finding {
    match loaded {
        Ok(()) => Finding::ok(
            subject,
            format!("{} is readable by its owner only", path.display()),
        ),
        Err(KeyError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Finding::fail(
                subject,
                format!("{} does not exist", path.display()),
                if_missing,
            )
        }
        Err(error) => failed(subject, &error.into(), AS_THE_DAEMON),
    }
}

fn archive_directory(path: &Path) -> Vec<Finding> {
    const SUBJECT: &str = "archive directory";
    let name = path.display();
    match std::fs::metadata(path) {
        // The archive's own finding says so.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
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
    use super::super::Level;
    use super::*;

    #[test]
    fn little_space_is_a_warning_and_none_a_failure() {
        assert_eq!(space(1 << 30, 2 << 30).level, Level::Ok);
        assert_eq!(space(1 << 30, 100 << 30).level, Level::Warn);
        assert_eq!(space(1 << 20, 100 << 30).level, Level::Fail);
    }
}

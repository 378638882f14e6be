//! What the restored server is told: recovery settings in `postgresql.auto.conf`, and the signal that makes it recover.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::error::RestoreError;
use crate::plan::{Plan, StopAt};

/// What the server does at the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Stays in recovery and answers queries.
    Pause,
    /// Ends recovery on a new timeline.
    Promote,
    /// Shuts down, still in recovery.
    Shutdown,
}

impl Action {
    /// The value of `recovery_target_action`.
    #[must_use]
    pub fn setting(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Promote => "promote",
            Self::Shutdown => "shutdown",
        }
    }
}

/// The commands that the server runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Commands {
    /// `restore_command`, with `%f` and `%p`.
    pub restore: String,
    /// `recovery_end_command`.
    pub end: String,
}

const AUTO_CONF: &str = "postgresql.auto.conf";
const OUR_COMMENT: &str = "# Recovery, as pitr-tool restore planned it.";
/// What an earlier recovery may have left; PostgreSQL refuses two targets.
const RECOVERY_SETTINGS: [&str; 12] = [
    "restore_command",
    "recovery_end_command",
    "archive_cleanup_command",
    "recovery_target",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
    "recovery_target_lsn",
    "recovery_target_inclusive",
    "recovery_target_timeline",
    "recovery_target_action",
    "recovery_min_apply_delay",
];
/// Files of another life of the directory, which would change what the server does at its start.
const FOREIGN_FILES: [&str; 5] = [
    "standby.signal",
    "postmaster.pid",
    "postmaster.opts",
    // Its links were made here already, to where the tablespaces are now.
    "tablespace_map",
    "backup_label.old",
];
/// Read where no `include` hides them.
const CONFIGURATION_FILES: [&str; 3] = ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"];

/// The lines for `plan`.
fn lines(plan: &Plan, action: Action, commands: &Commands) -> String {
    let mut settings = vec![
        ("restore_command", commands.restore.clone()),
        ("recovery_end_command", commands.end.clone()),
        ("recovery_target_timeline", plan.timeline.to_string()),
        ("recovery_target_action", action.setting().into()),
    ];
    match plan.stop {
        StopAt::Consistency => settings.push(("recovery_target", "immediate".into())),
        StopAt::Record { lsn, inclusive } => {
            settings.push(("recovery_target_lsn", lsn.to_string()));
            settings.push(("recovery_target_inclusive", inclusive.to_string()));
        }
    }
    let line = |(name, value): (&str, String)| {
        format!(
            "{name} = '{}'\n",
            value.replace('\\', "\\\\").replace('\'', "''")
        )
    };
    let lines: String = settings.into_iter().map(line).collect();
    format!("{OUR_COMMENT}\n{lines}")
}

/// The name that a line of a configuration file sets, and its value without quotes.
fn setting(line: &str) -> Option<(String, String)> {
    let line = line.trim_start();
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.')))?;
    let name = line[..end].to_ascii_lowercase();
    let value = line[end..].trim_start().trim_start_matches('=').trim();
    let value = match value.strip_prefix('\'') {
        Some(quoted) => quoted.rsplit_once('\'').map_or(quoted, |(value, _)| value),
        None => value.split('#').next().unwrap_or_default().trim(),
    };
    (!name.is_empty()).then(|| (name, value.to_owned()))
}

/// `found` without what an earlier recovery left.
fn without_recovery(found: &str) -> String {
    let keep = |line: &&str| {
        let recovery =
            setting(line).is_some_and(|(name, _)| RECOVERY_SETTINGS.contains(&name.as_str()));
        !recovery && *line != OUR_COMMENT
    };
    found
        .lines()
        .filter(keep)
        .map(|line| format!("{line}\n"))
        .collect()
}

/// Writes the settings and the signal into the data directory `root`.
pub(super) fn write(
    root: &Path,
    plan: &Plan,
    action: Action,
    commands: &Commands,
) -> Result<(), RestoreError> {
    for name in FOREIGN_FILES {
        let path = root.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(RestoreError::file("remove", &path)(error));
            }
            _ => {}
        }
    }
    let path = root.join(AUTO_CONF);
    let found = read_if_there(&path)?.unwrap_or_default();
    let text = without_recovery(&found) + &lines(plan, action, commands);
    let new = root.join("postgresql.auto.conf.pitrd");
    write_private(&new, &text)?;
    std::fs::rename(&new, &path).map_err(RestoreError::file("replace", &path))?;
    let signal = root.join("recovery.signal");
    write_private(&signal, "")
}

fn write_private(path: &Path, text: &str) -> Result<(), RestoreError> {
    let mut options = OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(RestoreError::file("write", path))
}

fn read_if_there(path: &Path) -> Result<Option<String>, RestoreError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(RestoreError::file("read", path)(error)),
    }
}

/// Configuration files that the source has elsewhere, so that the backup does not hold them.
pub(super) fn missing_configuration(root: &Path) -> Vec<String> {
    let missing = CONFIGURATION_FILES
        .iter()
        .filter(|name| !root.join(name).exists());
    missing.map(|name| (*name).to_owned()).collect()
}

/// What the operator should know before the restored server takes writes.
pub(super) fn remarks(root: &Path) -> Result<Vec<String>, RestoreError> {
    let mut value = None;
    for name in [CONFIGURATION_FILES[0], AUTO_CONF] {
        let text = read_if_there(&root.join(name))?.unwrap_or_default();
        let mut settings = text.lines().rev().filter_map(setting);
        let found = settings.find(|(name, _)| name == "synchronous_standby_names");
        value = found.map(|(_, value)| value).or(value);
    }
    let waits = value.filter(|value| !value.is_empty());
    Ok(waits.map(|value| format!(
        "synchronous_standby_names is '{value}': once promoted, COMMIT waits for it; clear the setting unless it is there again"
    )).into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Lsn, Target, TimelineId};

    fn plan(stop: StopAt) -> Plan {
        Plan {
            target: Target::Latest,
            before: false,
            stop,
            last_commit: None,
            first_left_out: None,
            timeline: TimelineId(3),
            bases: vec![],
            base_bytes: 0,
            base_objects: 0,
            path: vec![],
            missing: None,
        }
    }

    fn commands() -> Commands {
        Commands {
            restore: "pitr-tool 'it''s' %f %p".into(),
            end: "true".into(),
        }
    }

    #[test]
    fn the_target_is_an_lsn_and_quotes_are_doubled() {
        let lsn = Lsn(0x300_0028);
        let text = lines(
            &plan(StopAt::Record {
                lsn,
                inclusive: false,
            }),
            Action::Pause,
            &commands(),
        );
        assert!(
            text.contains(
                "recovery_target_lsn = '0/3000028'\nrecovery_target_inclusive = 'false'\n"
            ),
            "{text}"
        );
        assert!(text.contains("recovery_target_timeline = '3'\n"), "{text}");
        assert!(
            text.contains("restore_command = 'pitr-tool ''it''''s'' %f %p'\n"),
            "{text}"
        );
        let text = lines(&plan(StopAt::Consistency), Action::Promote, &commands());
        assert!(
            text.contains("recovery_target = 'immediate'\n") && !text.contains("_lsn"),
            "{text}"
        );
    }

    #[test]
    fn an_earlier_recovery_leaves_no_second_target() {
        let found =
            "# Do not edit\nwork_mem = '4MB'\nRECOVERY_TARGET_TIME='x'\n  restore_command = 'cp'\n";
        assert_eq!(without_recovery(found), "# Do not edit\nwork_mem = '4MB'\n");
        let ours = lines(&plan(StopAt::Consistency), Action::Pause, &commands());
        assert_eq!(without_recovery(&ours), "");
    }

    #[test]
    fn files_of_another_life_go_and_a_waiting_commit_is_told() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        for name in FOREIGN_FILES {
            std::fs::write(path(name), "").unwrap();
        }
        std::fs::write(
            path("postgresql.conf"),
            "synchronous_standby_names = 'ANY 1 (pitrd)' # x\n",
        )
        .unwrap();
        write(
            root.path(),
            &plan(StopAt::Consistency),
            Action::Pause,
            &commands(),
        )
        .unwrap();
        assert!(FOREIGN_FILES.iter().all(|name| !path(name).exists()));
        assert!(path("recovery.signal").exists());
        assert_eq!(
            missing_configuration(root.path()),
            ["pg_hba.conf", "pg_ident.conf"]
        );
        let remarks = remarks(root.path()).unwrap();
        assert!(remarks[0].contains("'ANY 1 (pitrd)'"), "{remarks:?}");
    }
}

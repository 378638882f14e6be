//! The commands that a restored server runs: this program, the archive and the key, quoted for the shell that runs them.

use std::path::{Path, PathBuf};

use anyhow::Context;
use pitr_postgres::Lsn;
use pitr_postgres::plan::{Plan, StopAt};
use pitr_postgres::restore::Commands;
use pitrd::config::{Config, Encryption};

use crate::place::Place;
use crate::wal_fetch;

/// `restore_command` and `recovery_end_command` for the archive that `place` names. They depend on no configuration file and no
/// working directory.
pub(super) fn commands(
    place: &Place,
    config: Option<&Config>,
    plan: &Plan,
) -> anyhow::Result<Commands> {
    let program = std::env::current_exe().context("find this program")?;
    let mut words = vec![quote(&program.to_string_lossy())];
    for argument in archive_arguments(place, config)? {
        words.push(quote(&argument));
    }
    let archive = words.join(" ");
    let (program, name) = (&words[0], wal_fetch::NAME);
    let until = until(plan).map_or_else(String::new, |lsn| format!(" --until {lsn}"));
    Ok(Commands {
        restore: format!("{archive} {name}{until} \"%f\" \"%p\""),
        end: format!("{program} {name} --cleanup pg_wal"),
    })
}

/// Where the last byte that the recovery needs lies, or the record that does: it may stop short of a gap. Consistency needs the WAL up to
/// the end of the base backup, and its way ends there.
fn until(plan: &Plan) -> Option<Lsn> {
    match plan.stop {
        StopAt::Record { lsn, .. } => Some(lsn),
        StopAt::Consistency => plan
            .path
            .last()
            .map(|step| Lsn(step.to.0.saturating_sub(1))),
    }
}

/// The options that name archive and key, with absolute paths.
pub(crate) fn archive_arguments(
    place: &Place,
    config: Option<&Config>,
) -> anyhow::Result<Vec<String>> {
    let urls = place.urls(config)?.into_iter();
    let mut arguments: Vec<String> = urls
        .flat_map(|url| ["--archive".to_owned(), url.to_string()])
        .collect();
    let configured = config.and_then(|config| match &config.encryption {
        Encryption::KeyFile(path) => Some(path),
        Encryption::Recipients(_) => None,
    });
    if let Some(identity) = &place.identity {
        arguments.extend(["--identity".to_owned(), absolute(identity)?]);
    } else if let Some(key_file) = place.key_file.as_ref().or(configured) {
        arguments.extend(["--key-file".to_owned(), absolute(key_file)?]);
    }
    Ok(arguments)
}

fn absolute(path: &Path) -> anyhow::Result<String> {
    let path: PathBuf = std::path::absolute(path).context("find the key")?;
    path.into_os_string().into_string().map_err(|path| {
        anyhow::anyhow!(
            "the path {path:?} is not UTF-8, so a server's configuration cannot name it"
        )
    })
}

/// One word of a shell's command in which PostgreSQL replaces `%f` and `%p`.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''").replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recovery_to_consistency_may_stop_short_of_a_gap_behind_its_base() {
        let step = |from, to| pitr_postgres::plan::PathStep {
            timeline: pitr_postgres::TimelineId(1),
            from: Lsn(from),
            to: Lsn(to),
            segments: 1,
            bytes: 1,
        };
        let mut plan = Plan {
            target: pitr_postgres::Target::Immediate,
            before: false,
            stop: StopAt::Consistency,
            last_commit: None,
            first_left_out: None,
            timeline: pitr_postgres::TimelineId(1),
            bases: vec![],
            base_bytes: 0,
            base_objects: 0,
            path: vec![step(0x200_0028, 0x300_0100)],
            missing: None,
        };
        assert_eq!(until(&plan), Some(Lsn(0x300_00FF)));
        plan.stop = StopAt::Record {
            lsn: Lsn(0x300_0028),
            inclusive: true,
        };
        assert_eq!(until(&plan), Some(Lsn(0x300_0028)));
    }

    #[test]
    fn a_word_survives_the_server_and_the_shell() {
        assert_eq!(quote("/srv/a b/it's 5%"), "'/srv/a b/it'\\''s 5%%'");
    }
}

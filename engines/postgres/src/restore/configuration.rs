//! A server whose source keeps its configuration elsewhere, as Debian does in `/etc/postgresql`: the backup holds none, and the restored
//! directory does not start by itself. Here it gets what a recovery needs, and nothing more.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

use super::error::RestoreError;
use super::settings::missing_configuration;

const OUR_COMMENT: &str = "# Made by pitr-tool restore --start: the source keeps this file outside of its data directory.";
/// Only the account that the server runs as, on the machine itself.
const HBA: &str = "local all all peer\n";
/// Recovery needs these to be as large as on the source: `pg_controldata`'s words, and the setting.
const AS_ON_THE_SOURCE: [(&str, &str); 5] = [
    ("max_connections setting", "max_connections"),
    ("max_worker_processes setting", "max_worker_processes"),
    ("max_wal_senders setting", "max_wal_senders"),
    ("max_prepared_xacts setting", "max_prepared_transactions"),
    ("max_locks_per_xact setting", "max_locks_per_transaction"),
];

/// Writes the configuration files that `data` lacks; `pg_bin` is the directory of the server's programs. The names of those it wrote.
///
/// # Errors
/// A file that cannot be written.
pub fn complete_configuration(data: &Path, pg_bin: &Path) -> Result<Vec<String>, RestoreError> {
    let missing = missing_configuration(data);
    for name in &missing {
        let text = match name.as_str() {
            "postgresql.conf" => as_on_the_source(data, pg_bin),
            "pg_hba.conf" => HBA.to_owned(),
            _ => String::new(),
        };
        let path = data.join(name);
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&path);
        file.and_then(|mut file| write!(file, "{OUR_COMMENT}\n{text}"))
            .map_err(RestoreError::file("write", &path))?;
    }
    Ok(missing)
}

/// Where the program is missing the server's defaults have to do; it says so if they do not.
fn as_on_the_source(data: &Path, pg_bin: &Path) -> String {
    let mut command = Command::new(pg_bin.join("pg_controldata"));
    let output = command.env("LC_ALL", "C").arg(data).output();
    output.map_or_else(
        |_| String::new(),
        |output| settings(&String::from_utf8_lossy(&output.stdout)),
    )
}

fn settings(control_data: &str) -> String {
    let setting = |line: &str| {
        let (words, value) = line.split_once(':')?;
        let (_, name) = AS_ON_THE_SOURCE.iter().find(|(known, _)| *known == words)?;
        let value: u32 = value.trim().parse().ok()?;
        Some(format!("{name} = {value}\n"))
    };
    control_data.lines().filter_map(setting).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_recovery_needs_is_taken_from_the_control_file() {
        let said = "pg_control version number:            1300\nmax_connections setting:              150\n\
                    max_prepared_xacts setting:           20\nmax_locks_per_xact setting:           '64'\n";
        assert_eq!(
            settings(said),
            "max_connections = 150\nmax_prepared_transactions = 20\n"
        );
    }

    #[test]
    fn only_files_that_are_missing_are_written() {
        let data = tempfile::tempdir().unwrap();
        let ours = data.path().join("pg_hba.conf");
        fs::write(&ours, "local all all reject\n").unwrap();
        let written = complete_configuration(data.path(), "/nowhere".as_ref()).unwrap();
        assert_eq!(written, ["postgresql.conf", "pg_ident.conf"]);
        assert_eq!(fs::read_to_string(&ours).unwrap(), "local all all reject\n");
        assert!(
            complete_configuration(data.path(), "/nowhere".as_ref())
                .unwrap()
                .is_empty()
        );
    }
}

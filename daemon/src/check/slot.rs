//! The replication slot's side of the check: is it there, does it still hold what the archive needs, how much can it take.

use super::Finding;
use crate::config::{PostgresSource, show_bytes};

/// Columns of a slot, in the order [`Slot::read`] takes them.
pub(super) const QUERY: &str =
    "select slot_type, active, wal_status, restart_lsn, safe_wal_size from pg_replication_slots";

/// With less than this left, somebody should look.
const MARGIN_BYTES: i64 = 1 << 30;
const SUBJECT: &str = "slot";

/// A slot as the server shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    kind: String,
    active: bool,
    wal_status: String,
    restart_lsn: String,
    /// WAL that may still be written before it is lost; `None` without a limit.
    safe_bytes: Option<i64>,
}

impl Slot {
    /// Reads the columns of [`QUERY`]; NULL is empty text.
    pub(super) fn read(column: impl Fn(usize) -> String) -> Self {
        Self {
            kind: column(0),
            active: column(1) == "t",
            wal_status: column(2),
            restart_lsn: column(3),
            safe_bytes: column(4).parse().ok(),
        }
    }
}

/// What the slot's state means for us; `room` is how many slots can still be made.
pub(super) fn state(config: &PostgresSource, slot: Option<&Slot>, room: u64) -> Finding {
    let name = &config.slot;
    let Some(slot) = slot else {
        return missing(config, room);
    };
    if slot.kind != "physical" {
        let detail = format!("{name:?} is a {} slot", slot.kind);
        return Finding::fail(SUBJECT, detail, "name another slot in [source.postgres]");
    }
    let lost = slot.wal_status == "lost";
    if lost || slot.restart_lsn.is_empty() && !slot.active {
        let detail = if lost { "is lost" } else { "keeps no WAL" };
        let hint = "what was not archived is gone: the log goes on with a gap, and a base backup must follow";
        return Finding::fail(SUBJECT, format!("{name:?} {detail}"), hint);
    }
    let kept = match slot.safe_bytes {
        None => "without a limit".to_owned(),
        Some(bytes) => format!(
            "and {} more before it is lost",
            show_bytes(bytes.max(0).cast_unsigned())
        ),
    };
    let detail = format!(
        "{name:?} keeps WAL from {} on ({}), {kept}",
        slot.restart_lsn, slot.wal_status
    );
    if slot.wal_status == "unreserved" || slot.safe_bytes.is_some_and(|bytes| bytes < MARGIN_BYTES)
    {
        return Finding::warn(
            SUBJECT,
            detail,
            "start the daemon soon, or raise max_slot_wal_keep_size",
        );
    }
    if slot.active {
        let hint = "if that is this daemon, all is well; otherwise it needs a slot of its own";
        return Finding::warn(SUBJECT, format!("{detail}; it is in use"), hint);
    }
    Finding::ok(SUBJECT, detail)
}

fn missing(config: &PostgresSource, room: u64) -> Finding {
    let name = &config.slot;
    if !config.create_slot {
        let hint = format!(
            "select pg_create_physical_replication_slot('{name}', true), or set create_slot = true"
        );
        return Finding::fail(SUBJECT, format!("{name:?} does not exist"), hint);
    }
    if room == 0 {
        let hint = "raise max_replication_slots and restart the server, or drop a slot nobody uses";
        return Finding::fail(
            SUBJECT,
            format!("{name:?} does not exist and no slot is free"),
            hint,
        );
    }
    Finding::ok(
        SUBJECT,
        format!("{name:?} does not exist yet, the daemon will create it"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn config(create_slot: bool) -> PostgresSource {
        PostgresSource {
            connection: String::new(),
            slot: "pitrd".into(),
            password_file: None,
            allow_standby: false,
            create_slot,
            wal_directory: None,
        }
    }

    fn slot(columns: [&str; 5]) -> Slot {
        Slot::read(|column| columns[column].to_owned())
    }

    #[test]
    fn a_missing_slot_is_fine_if_it_can_be_created() {
        assert_eq!(state(&config(true), None, 1).level, Level::Ok);
        assert_eq!(state(&config(true), None, 0).level, Level::Fail);
        assert_eq!(state(&config(false), None, 1).level, Level::Fail);
    }

    #[test]
    fn a_slot_that_lost_its_wal_fails() {
        let lost = slot(["physical", "f", "lost", "", ""]);
        assert_eq!(state(&config(true), Some(&lost), 1).level, Level::Fail);
        let empty = slot(["physical", "f", "", "", ""]);
        assert_eq!(state(&config(true), Some(&empty), 1).level, Level::Fail);
        let logical = slot(["logical", "f", "reserved", "0/1", ""]);
        assert_eq!(state(&config(true), Some(&logical), 1).level, Level::Fail);
    }

    #[test]
    fn a_slot_that_will_be_lost_soon_is_a_warning() {
        let soon = slot(["physical", "f", "extended", "0/1000000", "1000"]);
        assert_eq!(state(&config(true), Some(&soon), 1).level, Level::Warn);
        let used = slot(["physical", "t", "reserved", "0/1000000", ""]);
        assert_eq!(state(&config(true), Some(&used), 1).level, Level::Warn);
        let well = slot(["physical", "f", "reserved", "0/1000000", ""]);
        assert_eq!(state(&config(true), Some(&well), 1).level, Level::Ok);
    }
}

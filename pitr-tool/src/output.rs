//! How results are shown: lines and tables for people, one versioned JSON document for programs. Results go to
//! standard output, remarks to standard error; docs/cli.md documents the JSON of each command.

use std::fmt;
use std::io::{self, Write};

use jiff::Timestamp;
use serde::Serialize;

/// The version of every JSON document. It rises when a field changes its meaning or goes away, not when one is added.
pub const JSON_VERSION: u32 = 1;

#[derive(Serialize)]
struct Versioned<'a, T: Serialize> {
    version: u32,
    #[serde(flatten)]
    report: &'a T,
}

/// Prints `report` as JSON with its version, or as text.
pub fn show<T: Serialize + fmt::Display>(report: &T, json: bool) -> anyhow::Result<()> {
    if json {
        let versioned = Versioned {
            version: JSON_VERSION,
            report,
        };
        return line(&serde_json::to_string_pretty(&versioned)?);
    }
    bytes(report.to_string().as_bytes())
}

/// Prints one line.
pub fn line(text: &str) -> anyhow::Result<()> {
    bytes(format!("{text}\n").as_bytes())
}

/// Prints bytes as they are. A reader that went away, as `head` does, is no error.
pub fn bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Says something beside the result, on standard error.
pub fn note(text: &str) {
    eprintln!("{text}");
}

/// A time as people and programs read it: RFC 3339 with an offset, to the microsecond.
#[must_use]
pub fn time(unix_us: i64) -> String {
    pitr_postgres::Target::Time(unix_us).to_string()
}

/// The present, as [`time`] takes it.
#[must_use]
pub fn now_unix_us() -> i64 {
    Timestamp::now().as_microsecond()
}

/// Columns under headings, two spaces apart.
#[derive(Clone, Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        let headings = headings
            .iter()
            .map(|heading| (*heading).to_owned())
            .collect();
        Self {
            rows: vec![headings],
        }
    }

    /// Adds a row, one cell per heading.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        for row in &self.rows {
            let last = row.len().saturating_sub(1);
            f.write_str("  ")?;
            for (column, cell) in row.iter().enumerate() {
                if column == last {
                    writeln!(f, "{cell}")?;
                } else {
                    write!(f, "{cell:<width$}  ", width = width(column))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_their_headings() {
        let mut table = Table::new(&["id", "bytes"]);
        table.row(["20261121T031500Z".into(), "1".into()]);
        table.row(["ä".into(), "22".into()]);
        assert_eq!(
            table.to_string(),
            "  id                bytes\n  20261121T031500Z  1\n  ä                 22\n"
        );
    }

    #[test]
    fn json_carries_its_version_beside_the_fields() {
        #[derive(Serialize)]
        struct Report {
            ok: bool,
        }
        let text = serde_json::to_string(&Versioned {
            version: JSON_VERSION,
            report: &Report { ok: true },
        });
        assert_eq!(text.unwrap(), r#"{"version":1,"ok":true}"#);
    }
}

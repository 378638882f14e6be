//! `pitr-tool verify`: is the archive whole and genuine? Structure and signatures need no key; `--deep` opens every
//! chunk. The answer "no" is exit code 1, so that a timer can ask.

use std::fmt;

use pitrd::config::show_bytes;
use serde::Serialize;

/// Arguments of `verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pitr-tool --archive file:///var/lib/pitrd/orders verify
  pitr-tool --archive file:///var/lib/pitrd/orders --identity orders.identity verify --deep --json")]
pub struct Args {
    /// Open every chunk as well; needs a key
    #[arg(long)]
    pub deep: bool,
    /// Print JSON, as docs/cli.md documents it
    #[arg(long)]
    pub json: bool,
}

/// What `verify` found. Its JSON is documented in docs/cli.md.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// True if nothing was found.
    pub ok: bool,
    /// Whether chunks were opened.
    pub deep: bool,
    /// Objects that were read.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is wrong, in the order it was found.
    pub damage: Vec<Damage>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The object's key in the store.
    pub object: String,
    /// What is wrong with it: chunk, offset or range where they are known.
    pub problem: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Damage { object, problem } in &self.damage {
            writeln!(f, "damaged  {object}: {problem}")?;
        }
        let how = if self.deep {
            "every chunk opened"
        } else {
            "structure and signatures"
        };
        let verdict = if self.ok { "whole" } else { "NOT whole" };
        writeln!(
            f,
            "{verdict}: {} objects, {}, {how}",
            self.objects,
            show_bytes(self.bytes)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_comes_last_and_every_damage_has_a_line() {
        let damage = vec![Damage {
            object: "log/00000001/00".into(),
            problem: "chunk 3 at offset 49256".into(),
        }];
        let report = Report {
            ok: false,
            deep: true,
            objects: 2,
            bytes: 1 << 20,
            damage,
        };
        let text = report.to_string();
        assert!(
            text.starts_with("damaged  log/00000001/00: chunk 3"),
            "{text}"
        );
        assert!(
            text.ends_with("NOT whole: 2 objects, 1.0 MiB, every chunk opened\n"),
            "{text}"
        );
    }
}

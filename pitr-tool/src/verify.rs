//! `pitr-tool verify`: is the archive whole and genuine? Structure and signatures need no key; `--deep` opens every
//! chunk. The answer "no" is exit code 1, so that a timer can ask.

use std::fmt;

use anyhow::Context;
use pitr_archive::keys::KeyError;
use pitr_archive::object::StreamName;
use pitr_archive::store::StoreError;
use pitr_archive::verify::{Verified, Verifier};
use pitr_archive::{ArchiveError, Reading, layout};
use pitrd::config::show_bytes;
use pitrd::exit::Exit;
use serde::Serialize;

use crate::output;
use crate::place::Place;
use crate::progress::Progress;

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
    /// Ids of base backups without a manifest: under way, or interrupted. No restore uses them, so they are no damage.
    pub incomplete_backups: Vec<String>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The object's key in the store.
    pub object: String,
    /// What is wrong with it: chunk, offset or range where they are known.
    pub problem: String,
}

/// Reads everything and says what is wrong.
pub async fn run(place: &Place, args: &Args) -> anyhow::Result<Exit> {
    let config = place.config()?;
    let archive = place.open_alone(config.as_ref()).await?;
    let reading = if args.deep {
        let opener = place.require_opener(config.as_ref())?;
        Some(Reading::new(archive.clone(), opener))
    } else {
        None
    };
    let progress = Progress::start("verify", None);
    let count = |bytes| progress.add(bytes);
    let verified = Verifier::new(archive, reading.as_ref(), &count).run().await;
    progress.finish();
    let report = report(verified, args.deep)?;
    output::show(&report, args.json)?;
    Ok(if report.ok { Exit::Done } else { Exit::No })
}

/// What was found, as long as it is damage: a wrong key or a store that does not answer says nothing about the archive.
fn report(verified: Result<Verified, ArchiveError>, deep: bool) -> anyhow::Result<Report> {
    let mut verified = verified.or_else(|error| {
        // Damage where the catalogue stands keeps the rest from being found.
        let faults = vec![error];
        Ok::<_, ArchiveError>(Verified {
            faults,
            ..Verified::default()
        })
    })?;
    let other = verified.faults.iter().position(|fault| !is_damage(fault));
    if let Some(other) = other {
        return Err(verified.faults.swap_remove(other)).context("verify the archive");
    }
    let damage = verified.faults.iter().map(|fault| Damage {
        object: object_of(fault),
        problem: fault.to_string(),
    });
    Ok(Report {
        ok: verified.faults.is_empty(),
        deep,
        objects: verified.objects,
        bytes: verified.bytes,
        damage: damage.collect(),
        incomplete_backups: verified.incomplete,
    })
}

fn is_damage(fault: &ArchiveError) -> bool {
    match fault {
        ArchiveError::Store(StoreError::NotFound { .. }) | ArchiveError::Unreadable { .. } => true,
        ArchiveError::Hole { .. } | ArchiveError::TailMissing { .. } => true,
        ArchiveError::Object(error) => !error.is_wrong_key(),
        ArchiveError::Key(error) => {
            matches!(error, KeyError::NotSigned { .. } | KeyError::Damaged { .. })
        }
        _ => false,
    }
}

/// The key of the object that a fault is about.
fn object_of(fault: &ArchiveError) -> String {
    let stream = |name: &str, seq: u64| {
        let name = StreamName::new(name);
        name.map_or_else(String::new, |name| layout::segment(&name, seq))
    };
    match fault {
        ArchiveError::Object(error) => error.key.clone(),
        ArchiveError::Unreadable { key, .. } => key.clone(),
        ArchiveError::Store(StoreError::NotFound { key }) => key.clone(),
        ArchiveError::Hole {
            stream: name, seq, ..
        } => stream(name, *seq),
        ArchiveError::TailMissing {
            stream: name,
            known,
            ..
        } => stream(name, *known),
        ArchiveError::Key(
            KeyError::NotSigned { object, .. } | KeyError::Damaged { object, .. },
        ) => object.clone(),
        _ => String::new(),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Damage { object, problem } in &self.damage {
            writeln!(f, "damaged  {object}: {problem}")?;
        }
        for id in &self.incomplete_backups {
            writeln!(
                f,
                "note     base backup {id} is not complete: under way, or interrupted"
            )?;
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
            incomplete_backups: vec![],
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

    #[test]
    fn a_wrong_key_is_no_damage() {
        let wrong = KeyError::NotForUs {
            object: "keys/00.json".into(),
            wrapped_for: "x25519:a".into(),
            offered: "x25519:b".into(),
        };
        let verified = Verified {
            faults: vec![wrong.into()],
            ..Verified::default()
        };
        let error = report(Ok(verified), true).unwrap_err();
        assert_eq!(pitrd::exit::classify(&error).0, Exit::Keys);
    }

    #[test]
    fn a_hole_is_damage_and_named_by_its_key() {
        let hole = ArchiveError::Hole {
            stream: "00000001".into(),
            seq: 10,
            start: 0x3000000,
        };
        let report = report(Err(hole), false).unwrap();
        assert!(!report.ok);
        assert_eq!(report.damage[0].object, "log/00000001/000000000000000a");
    }
}

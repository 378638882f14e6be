//! `pitr-tool sync`: brings the copies up to the archive, or what the archive has lost back from a copy. Nothing is replaced and
//! nothing deleted.

use std::fmt;

use anyhow::Context;
use pitr_archive::copying::{Copied, Copying};
use pitrd::config::show_bytes;
use pitrd::exit::{Exit, Refusal};
use pitrd::{copies, open};
use serde::Serialize;

use crate::output;
use crate::place::Place;

/// Arguments of `sync`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pitr-tool sync --config /etc/pitrd/orders.toml          what a copy does not have, from the archive
  pitr-tool sync --config /etc/pitrd/orders.toml --back   what the archive has lost, from a copy that has it

Objects are compared by name, and each that is copied by its hash; `verify` proves the rest. A damaged object is not copied.")]
pub struct Args {
    /// From the copies into the archive: an explicit repair, for when pitrd is stopped
    #[arg(long)]
    pub back: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What was done for one copy.
#[derive(Debug, Serialize)]
struct Report {
    from: String,
    to: String,
    objects: u64,
    bytes: u64,
    damaged: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} → {}: {} objects, {}",
            self.from,
            self.to,
            self.objects,
            show_bytes(self.bytes)
        )?;
        if self.damaged > 0 {
            write!(f, "; {} damaged ones were left out", self.damaged)?;
        }
        writeln!(f)
    }
}

/// Runs it.
pub async fn run(place: &Place, args: &Args) -> anyhow::Result<Exit> {
    let config = place.config()?;
    let urls = place.urls(config.as_ref())?;
    let (primary, copy_urls) = urls.split_first().context("an archive is named")?;
    if copy_urls.is_empty() {
        let message = "there is no copy: name one in [[archive.copy]], or a second --archive";
        return Err(Refusal::new(Exit::Usage, message).into());
    }
    let archive = open::archive_store(primary).await?;
    let mut exit = Exit::Done;
    for copy in copy_urls {
        let store = open::archive_store(copy).await?;
        if !args.back {
            copies::require(&*archive, &*store, copy).await?;
        }
        let (mut copying, from, to) = if args.back {
            (Copying::back(store, archive.clone()), copy, primary)
        } else {
            (Copying::new(archive.clone(), store), primary, copy)
        };
        let (from, to) = (from.place(), to.place());
        let copied = copying.run(&mut |_| ()).await;
        let Copied {
            objects,
            bytes,
            damaged,
        } = copied.with_context(|| format!("copy from {from} to {to}"))?;
        if damaged > 0 {
            exit = Exit::No;
        }
        let report = Report {
            from,
            to,
            objects,
            bytes,
            damaged,
        };
        output::show(&report, args.json)?;
    }
    Ok(exit)
}

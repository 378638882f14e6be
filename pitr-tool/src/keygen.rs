//! `pitr-tool keygen`: makes the key that opens an archive. The first command of an archive's life; what it writes must
//! never lie on the database's host.

use std::path::PathBuf;

use pitr_archive::keys::{Identity, KeyFile};
use pitrd::exit::Exit;

use crate::output;

/// Arguments of `keygen`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pitr-tool keygen --out orders.identity
  pitr-tool keygen --symmetric --out /etc/pitrd/orders.key")]
pub struct Args {
    /// New file for the secret, mode 0600; never overwritten
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Make a key file instead, which whoever writes the archive can read it with as well
    #[arg(long)]
    pub symmetric: bool,
}

/// Writes the secret and prints its public name: the recipient, or the key file's fingerprint.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let path = &args.out;
    if args.symmetric {
        let key = KeyFile::generate();
        key.save(path)?;
        output::line(&format!("key file {}", key.fingerprint()))?;
    } else {
        let identity = Identity::generate();
        identity.save(path)?;
        output::line(&identity.recipient().to_string())?;
        output::note(&format!(
            "{} opens what is sealed for this recipient: keep it, and a copy, away from the database's host",
            path.display()
        ));
    }
    Ok(Exit::Done)
}

//! `pitr-tool restore` for archives of MongoDB.

use pitrd::exit::{Exit, Refusal};

use crate::place::Place;
use crate::restore::Args;

/// Plans, folds and loads.
pub async fn run(_place: &Place, _args: &Args) -> anyhow::Result<Exit> {
    let message = "this release plans restores of MongoDB archives and does not carry them out";
    Err(Refusal::new(Exit::Usage, message).into())
}

//! The subcommands for archives of MongoDB: what they ask the engine, and what they print. Each is entered from the subcommand's
//! own module, which looks at the archive's engine first.

pub mod backup;
pub mod history;
mod id;
mod interrupted;
pub mod plan;
pub mod restore;
pub mod status;

use pitr_archive::Archive;

/// Whether the archive is one of MongoDB.
#[must_use]
pub fn is_engine_of(archive: &Archive) -> bool {
    archive.engine() == pitr_mongodb::ENGINE
}

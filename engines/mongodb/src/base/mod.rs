//! Base copies: documents over the wire into parts, what the catalogue said into a manifest that is put last, and back.

mod catalogue;
mod copy;
mod cover;
pub mod manifest;
mod read;
mod take;
mod times;
pub(crate) mod views;

pub use cover::LogCover;
pub use manifest::{BaseManifest, Collection, CollectionKind, Extent, ManifestError};
pub use read::{BaseError, BaseReader};
pub use take::{LOG_WAIT, Progress, TakeSettings, Taken, take};

//! Base copies: documents over the wire into parts, what the catalogue said into a manifest that is put last, and back.

pub mod manifest;
mod read;

pub use manifest::{BaseManifest, Collection, CollectionKind, Extent, ManifestError};
pub use read::{BaseError, BaseReader};

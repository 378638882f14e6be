#![forbid(unsafe_code)]
//! What an archive IS: sealed objects, keys, the store, the writer, the reader and the catalogue.
//!
//! The way of a byte: [`writer`] cuts and compresses it, [`object`] seals it, [`store`] keeps it, [`reader`] finds
//! it again. This crate knows no database.

pub mod keys;
pub mod object;
pub mod store;

mod archive;
pub mod catalogue;
pub mod copying;
mod error;
pub mod layout;
pub mod reader;
mod reading;
pub mod verify;
pub mod writer;

pub use archive::Archive;
pub use error::ArchiveError;
pub use reading::Reading;

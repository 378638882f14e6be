//! A sealed object, from frames to the bytes that are put, and back.
//!
//! `preamble (header ‖ signature ‖ salt ‖ commitment) ‖ chunks ‖ BLAKE3 ‖ signature`; docs/format.md is normative.

mod cobblestone;
mod error;
mod frames;
mod header;
mod name;
mod open;
mod preamble;
mod proofs;
mod seal;

pub use cobblestone::{CHUNK_BYTES, chunks_bytes, plaintext_bytes};
pub use error::{Fault, ObjectError};
pub use frames::{FRAME_BYTES_MAX, Footer, Frame, FramePlace, SUMMARY_BYTES_MAX};
pub use header::{FORMAT_VERSION, HEADER_BYTES, Header, HeaderError, Kind};
pub use name::{Id, StreamName};
pub(crate) use open::Ranged;
pub use open::{Expected, Object, Opened};
pub use preamble::{PREAMBLE_BYTES, Preamble, TRAILER_BYTES, object_bytes};
pub use proofs::{Proofs, Prover};
pub use seal::{Sealed, seal};

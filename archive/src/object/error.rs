//! What can be wrong with the bytes of an object, told so that damage, forgery and a wrong key are three things.

use super::header::HeaderError;
use super::name::Id;

/// An object whose bytes are not what was sealed under its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("object {key}: {fault}")]
pub struct ObjectError {
    /// Its key in the store.
    pub key: String,
    /// What is wrong.
    pub fault: Fault,
}

impl ObjectError {
    /// True if the bytes are sound and only the key that should open them is not the right one.
    #[must_use]
    pub fn is_wrong_key(&self) -> bool {
        matches!(self.fault, Fault::WrongKey { .. })
    }
}

/// What is wrong with an object. Offsets are in bytes from its start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The header cannot be read.
    #[error("{0}")]
    Header(#[from] HeaderError),
    /// It does not have the length that its header says.
    #[error("it is {actual} bytes long and should be {expected}: truncated or extended")]
    Length {
        /// Bytes there are.
        actual: u64,
        /// Bytes there should be.
        expected: u64,
    },
    /// The signature over header, salt and commitment is not the writer's.
    #[error(
        "the signature of its header (offset 256) is not valid: header, salt or commitment were damaged or forged"
    )]
    HeaderSignature,
    /// It is a genuine object, of another name.
    #[error("it is another object put under this key: {field} is {found}, expected {wanted}")]
    Misplaced {
        /// The header's field.
        field: &'static str,
        /// What the header says.
        found: String,
        /// What the key says.
        wanted: String,
    },
    /// The data key does not belong to it.
    #[error("wrong key: data key {key_id} does not open it (the object itself is not damaged)")]
    WrongKey {
        /// The data key that the header names.
        key_id: Id,
    },
    /// A chunk does not authenticate.
    #[error("chunk {index} at offset {offset} is damaged")]
    Chunk {
        /// Its number.
        index: u64,
        /// Where it starts.
        offset: u64,
    },
    /// The hash at the end does not match.
    #[error(
        "its bytes do not match their BLAKE3 hash at offset {offset}: damaged between offset 376 and the end"
    )]
    Hash {
        /// Where the hash stands.
        offset: u64,
    },
    /// The signature at the end is not the writer's.
    #[error("the signature at offset {offset} is not this archive's writer's: forged or damaged")]
    Signature {
        /// Where the signature stands.
        offset: u64,
    },
    /// It authenticates and its footer cannot be right: a defect of the writer.
    #[error("its footer is not valid: {0}")]
    Footer(&'static str),
    /// It authenticates and a frame cannot be unpacked: a defect of the writer.
    #[error("frame {index}: {reason}")]
    Frame {
        /// Its number.
        index: usize,
        /// What is wrong.
        reason: &'static str,
    },
}

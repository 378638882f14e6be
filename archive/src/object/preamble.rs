//! The first bytes of an object: enough to decide by, authenticated without the rest.

use ed25519_dalek::{Signature, Verifier, VerifyingKey};

use super::cobblestone::{COMMITMENT_BYTES, PREFIX_BYTES, SALT_BYTES, chunks_bytes};
use super::error::Fault;
use super::header::{HEADER_BYTES, Header};

/// Bytes of a preamble: header, signature, salt, commitment.
pub const PREAMBLE_BYTES: usize = HEADER_BYTES + SIGNATURE_BYTES + PREFIX_BYTES;
/// Bytes of a trailer: BLAKE3 hash, signature.
pub const TRAILER_BYTES: usize = 32 + SIGNATURE_BYTES;
pub(super) const SIGNATURE_BYTES: usize = 64;
const HEADER_DOMAIN: &[u8] = b"pitrd/header/v1\0";

/// Bytes of a whole object whose payload has `payload_bytes`.
#[must_use]
pub fn object_bytes(payload_bytes: u64) -> u64 {
    PREAMBLE_BYTES as u64 + chunks_bytes(payload_bytes) + TRAILER_BYTES as u64
}

/// A preamble whose signature is the writer's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Preamble {
    /// The header.
    pub header: Header,
    pub(crate) header_bytes: [u8; HEADER_BYTES],
    pub(crate) salt: [u8; SALT_BYTES],
    pub(crate) commitment: [u8; COMMITMENT_BYTES],
}

impl Preamble {
    /// Reads and authenticates the first [`PREAMBLE_BYTES`] of `bytes`.
    pub fn decode(bytes: &[u8], writer: &VerifyingKey) -> Result<Self, Fault> {
        let Some(bytes) = bytes.first_chunk::<PREAMBLE_BYTES>() else {
            let (actual, expected) = (bytes.len() as u64, PREAMBLE_BYTES as u64);
            return Err(Fault::Length { actual, expected });
        };
        let (header_bytes, rest) = bytes
            .split_first_chunk::<HEADER_BYTES>()
            .expect("a preamble begins with a header");
        let header = Header::decode(header_bytes)?;
        let (signature, rest) = rest
            .split_first_chunk::<SIGNATURE_BYTES>()
            .expect("then a signature");
        let (salt, commitment) = rest.split_first_chunk::<SALT_BYTES>().expect("then a salt");
        let commitment = commitment.try_into().expect("then a commitment");
        writer
            .verify(
                &signed(header_bytes, salt, &commitment),
                &Signature::from_bytes(signature),
            )
            .map_err(|_| Fault::HeaderSignature)?;
        Ok(Self {
            header,
            header_bytes: *header_bytes,
            salt: *salt,
            commitment,
        })
    }
}

/// What the signature of a preamble is made over.
pub(super) fn signed(
    header: &[u8; HEADER_BYTES],
    salt: &[u8; SALT_BYTES],
    commitment: &[u8; COMMITMENT_BYTES],
) -> Vec<u8> {
    [HEADER_DOMAIN, header, salt, commitment].concat()
}

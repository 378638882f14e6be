//! Sealing: header and frames in, the bytes of an object out.

use bytes::Bytes;
use ed25519_dalek::{Signer, SigningKey};

use super::cobblestone::{MessageKeys, SALT_BYTES, chunks_bytes};
use super::frames::{Frame, encode_payload};
use super::header::Header;
use super::preamble::{self, object_bytes};
use crate::keys::DataKey;

pub(super) const OBJECT_DOMAIN: &[u8] = b"pitrd/object/v1\0";

/// A sealed object, ready to be put.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// Its header, lengths filled in.
    pub header: Header,
    /// All of its bytes.
    pub bytes: Bytes,
    /// The BLAKE3 hash in its trailer, which the next object of the stream names.
    pub hash: [u8; 32],
}

/// Seals `frames` and `summary` under `header`, whose `key_id` and lengths are filled in here.
///
/// # Panics
/// If the header is one that [`Header::decode`] would refuse: an object nobody can read must not be put.
#[must_use]
pub fn seal(
    mut header: Header,
    frames: &[Frame],
    summary: &[u8],
    key: &DataKey,
    writer: &SigningKey,
) -> Sealed {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt).expect("the operating system gives random bytes");
    let payload = encode_payload(frames, summary);
    header.key_id = key.id();
    header.plaintext_bytes = frames
        .iter()
        .map(|frame| frame.plaintext_bytes() as u64)
        .sum();
    header.payload_bytes = payload.len() as u64;
    let header_bytes = header.encode();
    assert_eq!(
        Header::decode(&header_bytes).as_ref(),
        Ok(&header),
        "a header is canonical when it is sealed"
    );

    let keys = MessageKeys::derive(key.secret(), &salt, &header_bytes);
    let mut out = Vec::with_capacity(object_bytes(header.payload_bytes) as usize);
    out.extend_from_slice(&header_bytes);
    let signed = preamble::signed(&header_bytes, &salt, keys.commitment());
    out.extend_from_slice(&writer.sign(&signed).to_bytes());
    out.extend_from_slice(&salt);
    out.extend_from_slice(keys.commitment());
    let chunks_at = out.len();
    keys.seal(&payload, &mut out);
    debug_assert_eq!(
        (out.len() - chunks_at) as u64,
        chunks_bytes(header.payload_bytes)
    );
    let hash = *blake3::hash(&out).as_bytes();
    out.extend_from_slice(&hash);
    out.extend_from_slice(&writer.sign(&[OBJECT_DOMAIN, &hash].concat()).to_bytes());
    Sealed {
        header,
        bytes: out.into(),
        hash,
    }
}

//! Chunked encryption: the innermost step of sealing, the first of opening.
//!
//! Cobblestone-256 of C2SP `chunked-encryption`: AES-256-GCM in chunks of 16 KiB, keys by HKDF-Expand with SHA-512.
//! All nonces of the project are made in this file.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use hmac::{Hmac, Mac};
use sha2::Sha512;
use zeroize::Zeroizing;

/// Plaintext bytes in every chunk but the last, which is always shorter.
pub const CHUNK_BYTES: usize = 16 * 1024;
/// Bytes that the authentication tag adds to a chunk.
pub(super) const TAG_BYTES: usize = 16;
/// Bytes of salt in front of the commitment.
pub(super) const SALT_BYTES: usize = 24;
/// Bytes of key commitment in front of the chunks.
pub(super) const COMMITMENT_BYTES: usize = 32;
/// Offset of chunk 0 in a body.
pub(super) const PREFIX_BYTES: usize = SALT_BYTES + COMMITMENT_BYTES;

const SEALED_CHUNK_BYTES: usize = CHUNK_BYTES + TAG_BYTES;
const INFO: &[u8] = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0";

/// The keys of one message, derived and never stored.
pub(crate) struct MessageKeys {
    cipher: Aes256Gcm,
    base_nonce: [u8; 12],
    commitment: [u8; COMMITMENT_BYTES],
}

impl MessageKeys {
    /// `key ‖ base nonce ‖ commitment = HKDF-Expand(SHA-512, input key, info ‖ salt ‖ context)`.
    pub(crate) fn derive(input_key: &[u8; 32], salt: &[u8; SALT_BYTES], context: &[u8]) -> Self {
        let block = |previous: &[u8], counter: u8| {
            let mut mac =
                Hmac::<Sha512>::new_from_slice(input_key).expect("HMAC takes any key length");
            for piece in [previous, INFO, salt, context, &[counter]] {
                mac.update(piece);
            }
            mac.finalize().into_bytes()
        };
        let first = Zeroizing::new(<[u8; 64]>::from(block(&[], 1)));
        let second = Zeroizing::new(<[u8; 64]>::from(block(first.as_slice(), 2)));
        let mut okm = Zeroizing::new([0_u8; 128]);
        okm[..64].copy_from_slice(first.as_slice());
        okm[64..].copy_from_slice(second.as_slice());
        Self {
            cipher: Aes256Gcm::new_from_slice(&okm[..32]).expect("32 bytes are an AES-256 key"),
            base_nonce: okm[32..44].try_into().expect("12 bytes"),
            commitment: okm[44..76].try_into().expect("32 bytes"),
        }
    }

    /// What stands behind the salt, and tells a wrong key from damage.
    pub(crate) fn commitment(&self) -> &[u8; COMMITMENT_BYTES] {
        &self.commitment
    }

    fn nonce(&self, chunk: u64) -> Nonce<aes_gcm::aead::consts::U12> {
        let mut nonce = self.base_nonce;
        for (byte, counter) in nonce[4..].iter_mut().zip(chunk.to_be_bytes()) {
            *byte ^= counter;
        }
        nonce.into()
    }

    /// Appends the sealed chunks of `plaintext` to `out`.
    pub(crate) fn seal(&self, plaintext: &[u8], out: &mut Vec<u8>) {
        let full = plaintext.chunks_exact(CHUNK_BYTES);
        let last = full.remainder();
        for (index, chunk) in full.chain(std::iter::once(last)).enumerate() {
            let at = out.len();
            out.extend_from_slice(chunk);
            let tag = self
                .cipher
                .encrypt_inout_detached(&self.nonce(index as u64), &[], (&mut out[at..]).into())
                .expect("a chunk is far below the limit of AES-GCM");
            out.extend_from_slice(&tag);
        }
    }

    /// Opens one sealed chunk in place and cuts the tag off. False: the tag does not match.
    pub(crate) fn open_chunk(&self, index: u64, sealed: &mut [u8]) -> bool {
        let Some(split) = sealed.len().checked_sub(TAG_BYTES) else {
            return false;
        };
        let (text, tag) = sealed.split_at_mut(split);
        let Ok(tag) = Tag::try_from(&*tag) else {
            return false;
        };
        self.cipher
            .decrypt_inout_detached(&self.nonce(index), &[], text.into(), &tag)
            .is_ok()
    }
}

/// Bytes of the chunks that seal `plaintext_bytes`, without salt and commitment.
#[must_use]
pub fn chunks_bytes(plaintext_bytes: u64) -> u64 {
    let chunks = plaintext_bytes / CHUNK_BYTES as u64 + 1;
    plaintext_bytes + chunks * TAG_BYTES as u64
}

/// Plaintext bytes that chunks of this length hold. `None`: no message has this length, it is truncated.
#[must_use]
pub fn plaintext_bytes(chunks_bytes: u64) -> Option<u64> {
    let last = chunks_bytes % SEALED_CHUNK_BYTES as u64;
    let full = chunks_bytes / SEALED_CHUNK_BYTES as u64;
    (last >= TAG_BYTES as u64).then(|| full * CHUNK_BYTES as u64 + last - TAG_BYTES as u64)
}

/// Where chunk `index` lies among the sealed chunks whose whole length is `total`.
#[must_use]
pub(crate) fn chunk_range(index: u64, total: u64) -> std::ops::Range<u64> {
    let start = index * SEALED_CHUNK_BYTES as u64;
    start..(start + SEALED_CHUNK_BYTES as u64).min(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_go_both_ways_and_the_last_chunk_is_always_short() {
        for length in [0, 1, 16_383, 16_384, 16_385, 32_768, 1 << 24] {
            assert_eq!(plaintext_bytes(chunks_bytes(length)), Some(length));
        }
        for truncated in [0, 15, 16_400, 16_415, 32_800] {
            assert_eq!(plaintext_bytes(truncated), None, "{truncated}");
        }
    }

    #[test]
    fn a_chunk_opens_only_at_its_own_number() {
        let keys = MessageKeys::derive(&[7; 32], &[1; 24], b"context");
        let mut sealed = Vec::new();
        keys.seal(&[9; CHUNK_BYTES + 5], &mut sealed);
        let second = &sealed[SEALED_CHUNK_BYTES..];
        assert!(!keys.open_chunk(0, &mut second.to_vec()));
        assert!(keys.open_chunk(1, &mut second.to_vec()));
    }
}

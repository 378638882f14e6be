//! Proofs of going on: by what stands in a segment's header a writer, which cannot open what it sealed, knows whether a source still has the
//! log that ends there. Keyed, so that nobody else can confirm a guess at the bytes.

use std::num::NonZeroU64;

use zeroize::Zeroizing;

use super::name::StreamName;
use crate::keys::WriterKey;

const CONTEXT: &str = "pitrd 2026 proof of going on v1";
/// A stream's name takes so many bytes, as in a header.
const STREAM_BYTES: usize = 32;

/// What a header carries. Which bytes are proved is the engine's business: `last` may need more of the log than a source is sure to have, `near` less.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Proofs {
    /// Of all the bytes that count.
    pub last: Option<NonZeroU64>,
    /// Of those of them that are close.
    pub near: Option<NonZeroU64>,
}

impl Proofs {
    /// True if nothing can be proved.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn encode(self) -> [[u8; 8]; 2] {
        [self.last, self.near].map(|proof| proof.map_or(0, NonZeroU64::get).to_be_bytes())
    }

    pub(super) fn decode([last, near]: [u64; 2]) -> Self {
        Self {
            last: NonZeroU64::new(last),
            near: NonZeroU64::new(near),
        }
    }
}

/// Makes the proofs of one stream.
#[derive(Clone)]
pub struct Prover {
    key: Zeroizing<[u8; 32]>,
    stream: StreamName,
}

impl Prover {
    /// Of `stream`, in the archive that `writer` signs.
    #[must_use]
    pub fn new(writer: &WriterKey, stream: StreamName) -> Self {
        Self::of_seed(writer.signing().as_bytes(), stream)
    }

    fn of_seed(seed: &[u8; 32], stream: StreamName) -> Self {
        Self {
            key: Zeroizing::new(blake3::derive_key(CONTEXT, seed)),
            stream,
        }
    }

    /// The proof of `pieces`, positions with the bytes that begin there, of a log that ends at `end`. docs/format.md 8.6.
    #[must_use]
    pub fn prove<'a>(
        &self,
        end: u64,
        pieces: impl IntoIterator<Item = (u64, &'a [u8])>,
    ) -> NonZeroU64 {
        let mut name = [0; STREAM_BYTES];
        let stream = self.stream.as_str().as_bytes();
        name[..stream.len()].copy_from_slice(stream);
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&name).update(&end.to_be_bytes());
        for (position, bytes) in pieces {
            let length = bytes.len() as u64;
            hasher
                .update(&position.to_be_bytes())
                .update(&length.to_be_bytes())
                .update(bytes);
        }
        let hash = hasher.finalize();
        let (first, _) = hash.as_bytes().split_first_chunk().expect("32 bytes");
        NonZeroU64::new(u64::from_be_bytes(*first)).unwrap_or(NonZeroU64::MIN)
    }
}

impl std::fmt::Debug for Prover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Prover({})", self.stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_what_another_implementation_made_of_the_format() {
        let seed = std::array::from_fn(|at| at as u8);
        let prover = Prover::of_seed(&seed, StreamName::new("00000001").unwrap());
        let pieces: [(u64, &[u8]); 2] = [(0x100_0000, &[1; 8192]), (0x100_2000, &[2; 100])];
        let proof = prover.prove(0x100_2064, pieces);
        assert_eq!(proof.get(), 0x46fd_604c_f823_4214);
        let stream = StreamName::new("00000002").unwrap();
        assert_ne!(
            Prover::of_seed(&seed, stream).prove(0x100_2064, pieces),
            proof
        );
        let others = Prover::of_seed(&[9; 32], prover.stream.clone());
        assert_ne!(others.prove(0x100_2064, pieces), proof);
    }
}

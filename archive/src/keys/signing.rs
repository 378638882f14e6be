//! The writer's signing key: made with the archive; its public half stands in `archive.json`.

use std::collections::BTreeSet;
use std::path::Path;

use ed25519_dalek::{SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use super::error::KeyError;
use super::identity::Opener;
use super::recipient::Wrapper;
use super::secret_file;
use super::wrap::Wrap;
use crate::object::Id;

const TAG: &str = "PITRD-SIGNING-ED25519:";

/// The key that the daemon signs with.
#[derive(Clone)]
pub struct WriterKey(SigningKey);

/// The document `keys/writer.json`: the signing key, sealed for the recipients, so that a lost host can be replaced.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrappedWriterKey {
    wraps: Vec<Wrap>,
}

impl WriterKey {
    /// A new random key.
    ///
    /// # Panics
    /// If the operating system has no randomness to give.
    #[must_use]
    pub fn generate() -> Self {
        let mut secret = zeroize::Zeroizing::new([0; 32]);
        getrandom::fill(secret.as_mut_slice()).expect("the operating system gives random bytes");
        Self(SigningKey::from_bytes(&secret))
    }

    /// Writes it into a new file with mode 0600.
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        let text =
            zeroize::Zeroizing::new(format!("{TAG}{}\n", secret_file::encode(self.0.as_bytes())));
        secret_file::create(path, &text)
    }

    /// Reads a file that [`Self::save`] wrote.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        Ok(Self(SigningKey::from_bytes(&*secret_file::read_tagged(
            path, TAG,
        )?)))
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> VerifyingKey {
        self.0.verifying_key()
    }

    pub(crate) fn signing(&self) -> &SigningKey {
        &self.0
    }

    pub(crate) fn wrap(&self, archive_id: Id, wrappers: &[Wrapper]) -> WrappedWriterKey {
        let context = context(archive_id);
        WrappedWriterKey {
            wraps: wrappers
                .iter()
                .map(|w| w.wrap(self.0.as_bytes(), &context))
                .collect(),
        }
    }
}

impl WrappedWriterKey {
    /// Whether `other` is sealed for the same recipients and key files.
    pub(crate) fn is_for(&self, other: &Self) -> bool {
        let whom = |key: &Self| -> BTreeSet<String> {
            key.wraps.iter().map(|wrap| wrap.recipient()).collect()
        };
        whom(self) == whom(other)
    }

    pub(crate) fn unwrap(
        &self,
        object: &str,
        archive_id: Id,
        opener: &Opener,
    ) -> Result<WriterKey, KeyError> {
        let secret = opener.unwrap(object, &self.wraps, &context(archive_id))?;
        Ok(WriterKey(SigningKey::from_bytes(&secret)))
    }
}

fn context(archive_id: Id) -> Vec<u8> {
    [b"signing key".as_slice(), &archive_id.0].concat()
}

impl std::fmt::Debug for WriterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WriterKey(..)")
    }
}

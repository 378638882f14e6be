//! Data keys (DEKs): made by the daemon, kept in memory for a day, wrapped in the archive.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::error::KeyError;
use super::identity::Opener;
use super::recipient::Wrapper;
use super::wrap::Wrap;
use crate::object::Id;

/// A data key in the clear. Only in memory.
#[derive(Clone)]
pub struct DataKey {
    id: Id,
    secret: Zeroizing<[u8; 32]>,
}

impl DataKey {
    /// A new random key.
    ///
    /// # Panics
    /// If the operating system has no randomness to give.
    #[must_use]
    pub fn generate() -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(secret.as_mut_slice()).expect("the operating system gives random bytes");
        Self {
            id: Id::random(),
            secret,
        }
    }

    /// A key whose bytes are known: for opening, and for test vectors.
    #[must_use]
    pub fn from_parts(id: Id, secret: [u8; 32]) -> Self {
        Self {
            id,
            secret: Zeroizing::new(secret),
        }
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> Id {
        self.id
    }

    pub(crate) fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// Wraps it for every one of `wrappers`, bound to the archive.
    #[must_use]
    pub fn wrap(&self, archive_id: Id, wrappers: &[Wrapper]) -> WrappedDataKey {
        let context = context(archive_id, self.id);
        WrappedDataKey {
            key_id: self.id.to_string(),
            archive_id: archive_id.to_string(),
            created: jiff::Timestamp::now(),
            wraps: wrappers
                .iter()
                .map(|wrapper| wrapper.wrap(&self.secret, &context))
                .collect(),
        }
    }
}

impl std::fmt::Debug for DataKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// The document `keys/<key-id>.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrappedDataKey {
    key_id: String,
    archive_id: String,
    created: jiff::Timestamp,
    wraps: Vec<Wrap>,
}

impl WrappedDataKey {
    /// Unwraps the key `id` of the archive with what the caller holds; `object` names the document in errors.
    pub fn unwrap(
        &self,
        object: &str,
        archive_id: Id,
        id: Id,
        opener: &Opener,
    ) -> Result<DataKey, KeyError> {
        if self.key_id != id.to_string() || self.archive_id != archive_id.to_string() {
            let reason = "it holds the key of another name or archive";
            return Err(KeyError::NotSigned {
                object: object.into(),
                reason,
            });
        }
        let secret = opener.unwrap(object, &self.wraps, &context(archive_id, id))?;
        Ok(DataKey { id, secret })
    }
}

fn context(archive_id: Id, key_id: Id) -> Vec<u8> {
    [b"data key".as_slice(), &archive_id.0, &key_id.0].concat()
}

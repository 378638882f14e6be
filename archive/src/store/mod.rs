//! Where objects lie. The contract of every store is this page.

mod copies;
mod directory;
mod probe;
mod s3;
mod telling;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

pub use copies::{AllStores, AnyStore, Standing, begin_copy, standing};
pub(crate) use copies::{put_same, require_copy};
pub use directory::DirectoryStore;
pub use probe::{Probed, Verdict, probe};
pub use s3::{Lock, LockMode, S3Settings, S3Store, S3UrlError, Sse, is_endpoint};
pub use telling::{TellingStore, Told};

/// Which bytes of an object are wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// All of it.
    Whole,
    /// This range; bytes past the end of the object are left out.
    Range(Range<u64>),
}

/// Bytes of an object, and how long the whole of it is.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The bytes that were asked for.
    pub bytes: Bytes,
    /// Bytes of the whole object.
    pub object_bytes: u64,
}

/// Whether bytes that were read are what they should be.
pub type IsSound<'s> = dyn for<'f> Fn(&'f Fetched) -> bool + Sync + 's;

/// One object in a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Bytes of the whole object.
    pub object_bytes: u64,
}

/// A place for objects.
///
/// # Contract
/// - Keys are `/`-separated segments of `A-Z a-z 0-9 . _ -`; no segment begins with a dot.
/// - [`Store::put_if_absent`] is atomic: of any number of callers exactly one succeeds, the others get
///   [`StoreError::AlreadyExists`], and no reader ever sees part of an object.
/// - When a put returns `Ok` or `AlreadyExists`, the object under the key is durable.
/// - What a put wrote is seen by every later read (read after write), by listings too.
/// - An error of a put says nothing about whether the object exists now: the response may have been lost.
/// - Methods may be called concurrently. Dropping a future may leave the operation done or not done, never half done.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// Puts an object under a key that has none. The only way in for everything but hints.
    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<(), StoreError>;

    /// Puts an object, replacing what is there: for hints (`head`), whose loss loses nothing.
    async fn put_replacing(&self, key: &str, body: Bytes) -> Result<(), StoreError>;

    /// Reads an object or a piece of it. [`StoreError::NotFound`] only if the store knows that it is not there.
    async fn get(&self, key: &str, piece: Piece) -> Result<Fetched, StoreError>;

    /// As [`Store::get`]. Where the object lies in several places, the bytes from the first one for which `sound` holds, or from the
    /// first one that has any: what is wrong with them is found, and named, where they are opened.
    async fn get_sound(
        &self,
        key: &str,
        piece: Piece,
        _sound: &IsSound<'_>,
    ) -> Result<Fetched, StoreError> {
        self.get(key, piece).await
    }

    /// Objects whose key begins with `prefix` (which ends in `/`) and lies in `keys`, without deeper levels, in
    /// order. For the tool; the daemon does not list.
    async fn list(&self, prefix: &str, keys: Range<&str>) -> Result<Vec<Listed>, StoreError>;

    /// Names of the next level under `prefix` (which ends in `/`) that have objects below them, in order.
    async fn children(&self, prefix: &str) -> Result<Vec<String>, StoreError>;

    /// When this returns, all that a reader has seen under `prefix` is durable, even if its writer was killed
    /// between making it visible and making it durable.
    async fn settle(&self, prefix: &str) -> Result<(), StoreError>;

    /// What [`probe`] has to try beyond the contract, on this kind of medium.
    async fn probe_medium(&self) -> Result<Vec<Probed>, StoreError> {
        Ok(Vec::new())
    }
}

/// A store, shared.
pub type SharedStore = Arc<dyn Store>;

/// What went wrong, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("{key} does not exist")]
    NotFound {
        /// Its key.
        key: String,
    },
    /// There is an object under this key already.
    #[error("{key} exists already")]
    AlreadyExists {
        /// Its key.
        key: String,
    },
    /// No room. Passes when somebody makes room.
    #[error("{key}: no space is left in the store: {reason}")]
    Full {
        /// The key that was put.
        key: String,
        /// In the store's words.
        reason: String,
    },
    /// The store does not let us. Passes when permissions or credentials are mended.
    #[error("{key}: the store refuses: {reason}")]
    Denied {
        /// The key.
        key: String,
        /// In the store's words.
        reason: String,
    },
    /// The store cannot be reached or failed. Passes.
    #[error("{key}: the store does not answer: {reason}")]
    Unavailable {
        /// The key.
        key: String,
        /// In the store's words.
        reason: String,
    },
    /// The medium no longer keeps what it is given, or the key cannot be a key. Does not pass.
    #[error("{key}: {reason}")]
    Broken {
        /// The key.
        key: String,
        /// What happened.
        reason: String,
    },
}

impl StoreError {
    /// True if trying again cannot help.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        matches!(
            self,
            Self::NotFound { .. } | Self::AlreadyExists { .. } | Self::Broken { .. }
        )
    }
}

/// `None` where an object does not exist.
pub(crate) fn found<T>(result: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// True if the contract allows this key.
#[must_use]
pub fn is_key(key: &str) -> bool {
    let segment = |part: &str| {
        let letters = part
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        letters && !part.is_empty() && !part.starts_with('.') && part.len() <= 200
    };
    key.split('/').all(segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_cannot_climb_out_of_the_archive() {
        assert!(is_key("log/00000001/000000000000000a"));
        for wrong in [
            "", "/", "a//b", "../a", "a/..", "a/.b", "a/b/", "/a", "a b", "a\\b",
        ] {
            assert!(!is_key(wrong), "{wrong}");
        }
    }
}

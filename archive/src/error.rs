//! What can go wrong with an archive, by what the caller does next.

use crate::keys::KeyError;
use crate::object::ObjectError;
use crate::store::StoreError;

/// An archive that does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The store failed; [`StoreError`] says whether it can pass.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object is damaged, forged, or the key is wrong.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// There is no archive at the URL.
    #[error("{url} holds no archive")]
    Absent {
        /// Where it was looked for.
        url: String,
    },
    /// A document of the archive cannot be read.
    #[error("{key}: {reason}")]
    Unreadable {
        /// Its key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The archive belongs to somebody else.
    #[error("the archive's {what} is {found}, ours is {ours}: it belongs to another deployment")]
    Foreign {
        /// Which property differs.
        what: &'static str,
        /// The archive's.
        found: String,
        /// Ours.
        ours: String,
    },
    /// Another writer owns a number that we were about to write.
    #[error("{key} was written by another daemon (writer {writer}): this one is fenced and stops")]
    Fenced {
        /// The contested object.
        key: String,
        /// Who wrote it.
        writer: String,
    },
    /// Two daemons wrote at the same time: a put of the one that was fenced landed behind the other's, and does not fit.
    #[error(
        "{key} stands in the way: it begins at {start:#x} and the segment before it ends at {end:#x}; writer {writer} put it when \
         another daemon had taken over. Nobody was told that it is durable"
    )]
    Stray {
        /// The object.
        key: String,
        /// Who wrote it.
        writer: String,
        /// Where it begins.
        start: u64,
        /// Where it should.
        end: u64,
    },
    /// Segments are missing between others.
    #[error(
        "stream {stream}: segment {seq} is missing, position {start:#x} and after; it existed and was deleted"
    )]
    Hole {
        /// The stream.
        stream: String,
        /// The first number that is missing.
        seq: u64,
        /// The position at which it begins.
        start: u64,
    },
    /// The store lost its newest objects: it was rolled back, or its tail was deleted.
    #[error(
        "stream {stream}: segment {known} existed and is gone; {found}: the store was rolled back or its tail deleted"
    )]
    TailMissing {
        /// The stream.
        stream: String,
        /// The number that the last known head names.
        known: u64,
        /// What was found instead.
        found: String,
    },
    /// The caller handed over bytes that do not continue the stream.
    #[error("the source jumped: expected position {expected:#x}, received {received:#x}")]
    Discontinuous {
        /// Where the stream ends.
        expected: u64,
        /// Where the bytes begin.
        received: u64,
    },
}

impl ArchiveError {
    /// True if trying again cannot help.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Store(error) => error.is_permanent(),
            _ => true,
        }
    }
}

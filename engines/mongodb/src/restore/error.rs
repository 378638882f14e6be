//! What can go wrong with a restore, by what the caller does next.

use std::io;
use std::path::{Path, PathBuf};

use crate::base::BaseError;
use crate::fold::FoldError;
use crate::log::LogError;
use crate::server_error::ServerError;

/// A restore that did not come to its end. What it left behind is marked as incomplete.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The base copy cannot be read.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// The log cannot be folded.
    #[error(transparent)]
    Fold(#[from] FoldError),
    /// What was asked for cannot be done this way.
    #[error("{0}")]
    Request(String),
    /// The place where the state shall be is taken.
    #[error("{place}: {reason}")]
    Place {
        /// A directory, or the target deployment.
        place: String,
        /// Why not.
        reason: String,
    },
    /// The target deployment refuses or cannot be reached.
    #[error("{doing}: {source}")]
    Server {
        /// What was being done, in the present tense.
        doing: String,
        /// What happened.
        source: Box<ServerError>,
    },
    /// What was loaded is not what was folded.
    #[error(
        "{namespace} has {found} documents in the target, {expected} in the fold, or others; {hint}"
    )]
    Mismatch {
        /// The collection.
        namespace: String,
        /// Documents found.
        found: u64,
        /// Documents folded.
        expected: u64,
        /// What may have happened.
        hint: &'static str,
    },
    /// The file system failed.
    #[error("{doing} {path}: {source}")]
    File {
        /// What was being done, in the present tense.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
}

impl RestoreError {
    pub(crate) fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File {
            doing,
            path,
            source,
        }
    }

    pub(crate) fn server(doing: impl Into<String>) -> impl FnOnce(mongodb::error::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Server {
            doing,
            source: Box::new(source.into()),
        }
    }
}

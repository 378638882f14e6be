//! What can go wrong with a restore, by what the caller does next.

use std::io;
use std::path::{Path, PathBuf};

use pitr_archive::ArchiveError;

use crate::plan::PlanError;

/// A restore that did not come to its end. What it left behind does not start.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The archive failed or is damaged.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The backup's manifest cannot be read or used.
    #[error(transparent)]
    Manifest(#[from] PlanError),
    /// The backup contradicts itself.
    #[error("the base backup {backup} contradicts itself: {reason}")]
    Contradiction {
        /// Which backup.
        backup: String,
        /// What does not fit.
        reason: String,
    },
    /// A file is not what PostgreSQL said it would be.
    #[error("{file}: {reason}; the restored copy is not whole and does not start")]
    Mismatch {
        /// Its path below the data directory.
        file: String,
        /// What differs.
        reason: String,
    },
    /// The place where the cluster shall be cannot be used.
    #[error("{path}: {reason}")]
    Place {
        /// The directory.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// What was asked for cannot be done this way.
    #[error("{0}")]
    Request(String),
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
    /// One of PostgreSQL's programs failed.
    #[error("{program}: {said}")]
    Program {
        /// Its name.
        program: &'static str,
        /// Its last words.
        said: String,
    },
}

impl RestoreError {
    /// A failure of the file system, for `map_err`.
    pub(super) fn file<'a>(
        doing: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::File {
            doing,
            path: path.into(),
            source,
        }
    }

    /// A place that cannot be used.
    pub(super) fn place(path: &Path, reason: impl Into<String>) -> Self {
        Self::Place {
            path: path.into(),
            reason: reason.into(),
        }
    }
}

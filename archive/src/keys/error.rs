//! What can be wrong with a key.

use std::path::PathBuf;

/// A key that cannot be used. Never holds key material.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("key file {path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others can read a secret.
    #[error("key file {path} can be read by others (mode {mode:03o}); run: chmod 600 {path}")]
    Exposed {
        /// Which one.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The text is not a key of the kind that is needed.
    #[error("{what} is not valid: {reason}")]
    Malformed {
        /// What it should be, and where it was found.
        what: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// None of the wraps of a data key is for this identity or key file.
    #[error("wrong key: {object} is wrapped for {wrapped_for}, not for {offered}")]
    NotForUs {
        /// The wrapped key.
        object: String,
        /// Whom it is wrapped for.
        wrapped_for: String,
        /// What was offered.
        offered: String,
    },
    /// A wrap names this identity and does not open.
    #[error(
        "{object}: the wrap for {offered} does not open: the key object is damaged or was made for another archive"
    )]
    Damaged {
        /// The wrapped key.
        object: String,
        /// What was offered.
        offered: String,
    },
    /// A signed document is not the writer's.
    #[error("{object}: {reason}")]
    NotSigned {
        /// Its key in the store.
        object: String,
        /// What is wrong.
        reason: &'static str,
    },
}

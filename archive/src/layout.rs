//! Keys of the store: which name everything in an archive has. docs/format.md lists them.

use crate::object::{Id, StreamName};

/// What the archive is.
pub const ARCHIVE: &str = "archive.json";
/// The signing key, wrapped for the recipients.
pub const WRITER_KEY: &str = "keys/writer.json";
/// Prefix of all streams.
pub const LOG: &str = "log/";
/// Prefix of all base backups.
pub const BASE: &str = "base/";
/// Prefix of all timeline history files.
pub const TIMELINES: &str = "timelines/";

/// Prefix of wrapped keys.
pub const KEYS: &str = "keys/";

/// A wrapped data key.
#[must_use]
pub fn data_key(id: Id) -> String {
    format!("keys/{id}.json")
}

/// Prefix of the segments of a stream.
#[must_use]
pub fn stream(stream: &StreamName) -> String {
    format!("{LOG}{stream}/")
}

/// A segment.
#[must_use]
pub fn segment(stream: &StreamName, seq: u64) -> String {
    format!("{LOG}{stream}/{seq:016x}")
}

/// The number in a segment's key; `None` for hints.
#[must_use]
pub fn segment_seq(key: &str) -> Option<u64> {
    let name = key.rsplit('/').next()?;
    let digits = name.len() == 16 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    digits.then(|| u64::from_str_radix(name, 16).ok()).flatten()
}

/// True if what lies under `key` is a sealed object.
#[must_use]
pub fn is_sealed(key: &str) -> bool {
    let below = |prefix| key.starts_with(prefix);
    below(BASE) || below(TIMELINES) || (below(LOG) && segment_seq(key).is_some())
}

/// The hint where a stream's end was seen last.
#[must_use]
pub fn head(stream: &StreamName) -> String {
    format!("{LOG}{stream}/head")
}

/// A timeline history file.
#[must_use]
pub fn history(stream: &StreamName) -> String {
    format!("{TIMELINES}{stream}.history")
}

/// A part of a base backup.
#[must_use]
pub fn part(backup: &str, part: u64) -> String {
    format!("{BASE}{backup}/{part:016x}")
}

/// The manifest of a base backup, put last.
#[must_use]
pub fn manifest(backup: &str) -> String {
    format!("{BASE}{backup}/manifest")
}

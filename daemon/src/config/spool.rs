//! `[spool]`: a local disk for what the store does not take.

use std::path::{Path, PathBuf};

use super::section::{ConfigError, Section};
use super::{DIRECTORY, bytes, file};

const BYTES_MAX: u64 = 10 << 30;
const BYTES_MIN: u64 = 64 << 20;

/// Where sealed objects wait for a store that is away, and how many.
#[derive(Clone, Debug)]
pub struct SpoolConfig {
    /// The directory; each archive has its own below it.
    pub directory: PathBuf,
    /// Bytes of all objects in it, at most.
    pub bytes_max: u64,
}

/// `None` where the file has no such section.
pub(super) fn spool(
    section: &Section<'_>,
    path: &Path,
) -> Result<Option<SpoolConfig>, ConfigError> {
    if !section.is_given() {
        return Ok(None);
    }
    let size = "a byte size of \"64 MiB\" or more, such as \"10 GiB\"";
    Ok(Some(SpoolConfig {
        directory: section.require("directory", DIRECTORY, |value| file(value, path))?,
        bytes_max: section
            .get("bytes_max", size, |value| {
                bytes(value).filter(|size| *size >= BYTES_MIN)
            })?
            .unwrap_or(BYTES_MAX),
    }))
}

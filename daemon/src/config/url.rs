//! Where an archive lies, as a URL: `file:///absolute/path`. Given in the configuration or with `--archive`; what is
//! read here decides which store is opened.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The place of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArchiveUrl {
    /// A directory, by its absolute path.
    File(PathBuf),
}

/// A URL that names no place an archive can lie; the text is one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UrlError(String);

impl FromStr for ArchiveUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        match scheme {
            Some("file") => file(text),
            Some("s3") => Err(UrlError(
                "s3:// archives are not supported by this version; use file:///absolute/path"
                    .into(),
            )),
            _ => Err(UrlError(format!(
                "an archive is named by a URL such as file:///var/lib/pitrd/orders, not {text:?}"
            ))),
        }
    }
}

fn file(text: &str) -> Result<ArchiveUrl, UrlError> {
    let path = text.strip_prefix("file://").unwrap_or_default();
    let wrong = |why: &str| Err(UrlError(format!("{text:?} {why}")));
    if !path.starts_with('/') {
        return wrong("needs an absolute path after file://, such as file:///var/lib/pitrd/orders");
    }
    if path.contains(['%', '?', '#']) {
        return wrong("holds one of % ? #, which a file URL here cannot; choose another path");
    }
    let path = Path::new(path);
    if path.parent().is_none() {
        return wrong("is the root of the file system; name a directory of its own");
    }
    if path.components().any(|part| part.as_os_str() == "..") {
        return wrong("holds a .. component; write the path without it");
    }
    Ok(ArchiveUrl::File(path.components().collect()))
}

impl fmt::Display for ArchiveUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_url_is_an_absolute_path() {
        let url: ArchiveUrl = "file:///var/lib/pitrd/orders/".parse().unwrap();
        assert_eq!(url, ArchiveUrl::File("/var/lib/pitrd/orders".into()));
        assert_eq!(url.to_string(), "file:///var/lib/pitrd/orders");
    }

    #[test]
    fn what_names_no_directory_of_its_own_is_refused() {
        for wrong in [
            "",
            "/var/lib",
            "file://",
            "file:///",
            "file://var/lib",
            "file:///a/../b",
            "file:///a%20b",
            "ftp://a",
        ] {
            assert!(wrong.parse::<ArchiveUrl>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn s3_is_said_to_be_unsupported() {
        let error = "s3://bucket/prefix".parse::<ArchiveUrl>().unwrap_err();
        assert!(error.to_string().contains("not supported by this version"));
    }
}

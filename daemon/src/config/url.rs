//! Where an archive lies, as a URL: `file:///absolute/path` or `s3://bucket/prefix`. Given in the configuration or with
//! `--archive`; what is read here decides which store is opened.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use pitr_archive::store::S3Settings;

/// The place of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArchiveUrl {
    /// A directory, by its absolute path.
    File(PathBuf),
    /// A bucket, or a prefix in one.
    S3(Box<S3Settings>),
}

impl ArchiveUrl {
    /// The place alone, without how it is reached: for messages.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::File(_) => self.to_string(),
            Self::S3(settings) => settings.place(),
        }
    }
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
            Some("s3") => match text.parse() {
                Ok(settings) => Ok(Self::S3(Box::new(settings))),
                Err(error) => Err(UrlError(error.to_string())),
            },
            _ => Err(UrlError(format!(
                "an archive is named by a URL such as s3://bucket/orders or file:///var/lib/pitrd/orders, not {text:?}"
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
            Self::S3(settings) => settings.fmt(f),
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
    fn an_s3_url_names_bucket_prefix_and_how_it_is_reached() {
        let text = "s3://backups/orders?endpoint=http://127.0.0.1:9000&region=eu-central-1";
        let url: ArchiveUrl = text.parse().unwrap();
        assert_eq!(url.to_string(), text);
        assert_eq!(url.place(), "s3://backups/orders");
        assert!("s3://Backups".parse::<ArchiveUrl>().is_err());
    }
}

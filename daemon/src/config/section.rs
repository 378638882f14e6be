//! One table of the configuration file, read key by key. On the way from TOML text to [`super::Config`]: every refusal
//! made here names the file, the line, the key and what is allowed.

use std::fmt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

const S3: &[&str] = &[
    "endpoint",
    "region",
    "path_style",
    "profile",
    "credentials_file",
    "ca_file",
    "sse",
    "kms_key",
    "storage_class",
];

/// Every section and its keys; `""` is the top of the file. What is not here is refused.
pub const KNOWN: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "archive",
            "encryption",
            "source",
            "segment",
            "spool",
            "backup",
            "log",
        ],
    ),
    (
        "archive",
        &[
            "url",
            "signing_key_file",
            "s3",
            "immutable_for",
            "immutable_mode",
            "legal_hold",
            "acknowledge",
            "copy",
        ],
    ),
    (
        "archive.copy",
        &["url", "s3", "immutable_for", "immutable_mode", "legal_hold"],
    ),
    ("archive.copy.s3", S3),
    ("archive.s3", S3),
    ("encryption", &["recipients", "key_file"]),
    ("source", &["postgres", "mongodb"]),
    (
        "source.postgres",
        &[
            "connection",
            "slot",
            "password_file",
            "allow_standby",
            "create_slot",
            "wal_directory",
        ],
    ),
    (
        "source.mongodb",
        &["uri", "password_file", "capture", "transaction_bytes_max"],
    ),
    (
        "segment",
        &["bytes_max", "linger", "compression", "puts_in_flight"],
    ),
    ("spool", &["directory", "bytes_max"]),
    ("backup", &["every", "rate_limit"]),
    ("log", &["format", "level"]),
];

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file says something that is not allowed, or does not say what is needed.
    #[error("{place}: {message}")]
    Wrong {
        /// Where.
        place: Place,
        /// One sentence: the key and what is allowed.
        message: String,
        /// What to write instead, if it can be told.
        hint: Option<String>,
    },
}

/// A file and, where known, a line of it (from 1). Written `/etc/pitrd/orders.toml:12`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The configuration file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        self.line.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

/// The file under the reader: its path for messages, its text for line numbers.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) file: &'a Path,
    pub(super) text: &'a str,
}

impl Source<'_> {
    fn place(&self, offset: Option<usize>) -> Place {
        let line = offset.map(|end| {
            let before = self.text.as_bytes().iter().take(end);
            1 + before.filter(|&&byte| byte == b'\n').count()
        });
        Place {
            file: self.file.into(),
            line,
        }
    }

    pub(super) fn wrong(
        &self,
        offset: Option<usize>,
        message: String,
        hint: Option<String>,
    ) -> ConfigError {
        ConfigError::Wrong {
            place: self.place(offset),
            message,
            hint,
        }
    }
}

/// A table whose keys are all known. An absent table reads as an empty one.
pub(super) struct Section<'a> {
    source: Source<'a>,
    name: String,
    table: Option<&'a DeTable<'a>>,
    offset: Option<usize>,
}

impl<'a> Section<'a> {
    pub(super) fn root(source: Source<'a>, table: &'a DeTable<'a>) -> Result<Self, ConfigError> {
        let section = Self {
            source,
            name: String::new(),
            table: Some(table),
            offset: None,
        };
        section.refuse_unknown()?;
        Ok(section)
    }

    /// The table `key` inside this one.
    pub(super) fn open(&self, key: &str) -> Result<Self, ConfigError> {
        let name = if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        };
        let value = self.find(key);
        let table = value.map(|value| {
            value.get_ref().as_table().ok_or_else(|| {
                let message = format!(
                    "{name} is a section: write [{name}] on a line of its own and its keys below"
                );
                self.source.wrong(Some(value.span().start), message, None)
            })
        });
        let offset = value.map(|value| value.span().start).or(self.offset);
        let section = Self {
            source: self.source,
            name,
            table: table.transpose()?,
            offset,
        };
        section.refuse_unknown()?;
        Ok(section)
    }

    /// The tables of the list `key`, written `[[…]]`; none if it is absent.
    pub(super) fn list(&self, key: &str) -> Result<Vec<Self>, ConfigError> {
        let name = format!("{}.{key}", self.name);
        let Some(value) = self.find(key) else {
            return Ok(Vec::new());
        };
        let wrong = || {
            let message = format!("{name} is a list: write [[{name}]] above each of its sections");
            self.source.wrong(Some(value.span().start), message, None)
        };
        let items = value.get_ref().as_array().ok_or_else(wrong)?;
        let open = |item: &'a Spanned<DeValue<'a>>| {
            let section = Self {
                source: self.source,
                name: name.clone(),
                table: Some(item.get_ref().as_table().ok_or_else(wrong)?),
                offset: Some(item.span().start),
            };
            section.refuse_unknown().map(|()| section)
        };
        items.iter().map(open).collect()
    }

    /// True if the file has this section.
    pub(super) fn is_given(&self) -> bool {
        self.table.is_some()
    }

    /// The value of `key`, read by `read`; `None` when the file does not give it. `allowed` ends the sentence
    /// "must be …".
    pub(super) fn get<T>(
        &self,
        key: &str,
        allowed: &str,
        read: impl FnOnce(&DeValue<'a>) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.find(key) else {
            return Ok(None);
        };
        read(value.get_ref())
            .map(Some)
            .ok_or_else(|| self.wrong(key, format!("must be {allowed}")))
    }

    /// As [`Self::get`], and refused when absent.
    pub(super) fn require<T>(
        &self,
        key: &str,
        allowed: &str,
        read: impl FnOnce(&DeValue<'a>) -> Option<T>,
    ) -> Result<T, ConfigError> {
        self.get(key, allowed, read)?
            .ok_or_else(|| self.wrong(key, format!("is missing; it must be {allowed}")))
    }

    /// The refusal of `key` of this section: `says` is the rest of a sentence that begins with the key.
    pub(super) fn wrong(&self, key: &str, says: String) -> ConfigError {
        let offset = self
            .find(key)
            .map(|value| value.span().start)
            .or(self.offset);
        self.source
            .wrong(offset, format!("{key} in [{}] {says}", self.name), None)
    }

    /// Whether the file gives `key`.
    pub(super) fn has(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    fn find(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table?.get(key)
    }

    fn refuse_unknown(&self) -> Result<(), ConfigError> {
        let known = KNOWN.iter().find(|(name, _)| *name == self.name);
        let known = known.map_or(&[][..], |(_, keys)| *keys);
        let keys = self.table.into_iter().flat_map(|table| table.keys());
        let unknown = keys
            .filter(|key| !known.contains(&key.get_ref().as_ref()))
            .min_by_key(|key| key.span().start);
        unknown.map_or(Ok(()), |key| {
            let (message, hint) = unknown_key(&self.name, key.get_ref(), known);
            Err(self
                .source
                .wrong(Some(key.span().start), message, Some(hint)))
        })
    }
}

fn unknown_key(section: &str, key: &str, known: &[&str]) -> (String, String) {
    let in_section = |name: &str| {
        if name.is_empty() {
            "the top of the file".to_owned()
        } else {
            format!("[{name}]")
        }
    };
    let elsewhere = KNOWN
        .iter()
        .find(|(name, keys)| *name != section && keys.contains(&key));
    let what = format!("unknown key {key:?} in {}", in_section(section));
    let all = format!("{} knows {}", in_section(section), known.join(", "));
    if let Some((name, _)) = elsewhere {
        return (format!("{what}; it belongs in {}", in_section(name)), all);
    }
    let nearest = known
        .iter()
        .min_by_key(|name| strsim::damerau_levenshtein(name, key))
        .copied()
        .unwrap_or_default();
    (format!("{what}; the nearest known key is {nearest:?}"), all)
}

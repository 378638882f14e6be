//! Which bucket, reached how: the settings of an S3 store, read from a URL and from `[archive.s3]`. They can be written as one
//! URL again, so that a restored server's `restore_command` needs no configuration file.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// How S3 and what is compatible with it is reached. Written `s3://bucket/prefix?region=eu-central-1&…`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct S3Settings {
    /// The bucket.
    pub bucket: String,
    /// What every key begins with, without `/` at either end; may be empty.
    pub prefix: String,
    /// Where the service answers, if not at Amazon's place for the region.
    pub endpoint: Option<String>,
    /// The region; by default what the environment or the profile says.
    pub region: Option<String>,
    /// Whether the bucket stands in the path instead of the host name; by default if there is an endpoint.
    pub path_style: Option<bool>,
    /// The profile of the shared configuration and credentials files.
    pub profile: Option<String>,
    /// A credentials file in the format of the shared one, instead of it.
    pub credentials_file: Option<PathBuf>,
    /// Certificates of authorities that the service's certificate may come from, besides the system's (PEM).
    pub ca_file: Option<PathBuf>,
    /// How the service encrypts what lies in it, besides our own encryption.
    pub sse: Option<Sse>,
    /// The storage class of new objects.
    pub storage_class: Option<String>,
    /// How long what is put can be neither deleted nor replaced.
    pub lock: Option<Lock>,
}

/// Encryption by the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sse {
    /// With the service's keys: `aes256`.
    S3,
    /// With a key of the key service: `kms`, or `kms:KEY`.
    Kms(Option<String>),
}

impl Sse {
    /// Reads `aes256`, `kms` or `kms:KEY`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            None if text == "aes256" => Some(Self::S3),
            None if text == "kms" => Some(Self::Kms(None)),
            Some(("kms", key)) if !key.is_empty() => Some(Self::Kms(Some(key.into()))),
            _ => None,
        }
    }
}

impl fmt::Display for Sse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3 => f.write_str("aes256"),
            Self::Kms(None) => f.write_str("kms"),
            Self::Kms(Some(key)) => write!(f, "kms:{key}"),
        }
    }
}

/// Object Lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Counted from the put.
    pub immutable_for: Option<Duration>,
    /// Who can lift it.
    pub mode: LockMode,
    /// Whether a legal hold is placed as well, which ends when somebody lifts it.
    pub legal_hold: bool,
}

/// Who can shorten a retention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// Nobody.
    Compliance,
    /// Whoever has a permission of its own for it.
    Governance,
}

/// A URL that names no bucket; the text is one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct S3UrlError(String);

impl S3Settings {
    /// The bucket and the prefix, without how they are reached: for messages.
    #[must_use]
    pub fn place(&self) -> String {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        format!("s3://{}{slash}{}", self.bucket, self.prefix)
    }

    fn parameters(&self) -> Vec<(&'static str, String)> {
        let path_style = self.path_style.map(|on| on.to_string());
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let all = [
            ("endpoint", self.endpoint.clone()),
            ("region", self.region.clone()),
            ("path_style", path_style),
            ("profile", self.profile.clone()),
            ("credentials_file", path(&self.credentials_file)),
            ("ca_file", path(&self.ca_file)),
            ("sse", self.sse.as_ref().map(Sse::to_string)),
            ("storage_class", self.storage_class.clone()),
        ];
        let given = all.into_iter();
        given
            .filter_map(|(name, value)| Some((name, value?)))
            .collect()
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), String> {
        match name {
            "endpoint" if !is_endpoint(&value) => {
                return Err("endpoint begins with http:// or https://".into());
            }
            "endpoint" => self.endpoint = Some(value),
            "region" => self.region = Some(value),
            "path_style" => {
                let flag = value.parse();
                self.path_style = Some(flag.map_err(|_| "path_style is true or false")?);
            }
            "profile" => self.profile = Some(value),
            "credentials_file" => self.credentials_file = Some(value.into()),
            "ca_file" => self.ca_file = Some(value.into()),
            "sse" => {
                let sse = Sse::parse(&value);
                self.sse = Some(sse.ok_or("sse is aes256, kms or kms:KEY")?);
            }
            "storage_class" => self.storage_class = Some(value),
            _ => return Err(format!("{name} is not known")),
        }
        Ok(())
    }
}

/// True if `text` can be an endpoint.
#[must_use]
pub fn is_endpoint(text: &str) -> bool {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(['@', '?', '#', ' ']))
}

impl FromStr for S3Settings {
    type Err = S3UrlError;

    fn from_str(text: &str) -> Result<Self, S3UrlError> {
        let wrong = |why: &str| S3UrlError(format!("{text:?}: {why}"));
        let rest = text
            .strip_prefix("s3://")
            .ok_or_else(|| wrong("not an S3 URL"))?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        let letters =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
        if bucket.is_empty() || bucket.len() > 63 || !bucket.chars().all(letters) {
            return Err(wrong(
                "a bucket stands after s3://, as in s3://bucket/orders, of a-z 0-9 . - _",
            ));
        }
        let prefix = prefix.trim_end_matches('/');
        if !prefix.is_empty() && (!super::super::is_key(prefix) || prefix.len() > 512) {
            return Err(wrong(
                "the prefix after the bucket is made of A-Z a-z 0-9 . _ - and / between",
            ));
        }
        let mut settings = Self {
            bucket: bucket.into(),
            prefix: prefix.into(),
            ..Self::default()
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value).ok_or_else(|| wrong("a % stands before two hex digits"))?;
            settings.set(name, value).map_err(|why| wrong(&why))?;
        }
        Ok(settings)
    }
}

impl fmt::Display for S3Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place())?;
        for (index, (name, value)) in self.parameters().into_iter().enumerate() {
            let mark = if index == 0 { '?' } else { '&' };
            write!(f, "{mark}{name}={}", encode(&value))?;
        }
        Ok(())
    }
}

fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/".contains(&byte);
    let mut out = String::new();
    for byte in text.bytes() {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digits = [bytes.next()?, bytes.next()?];
        out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_with_everything_is_written_as_it_is_read() {
        for text in [
            "s3://backups",
            "s3://backups/prod/orders",
            "s3://b/p?endpoint=https://store.example:9000&region=eu-central-1&path_style=true&profile=a%20b\
             &credentials_file=/etc/pitrd/aws&ca_file=/etc/pitrd/ca.pem&sse=kms:arn:aws:kms:eu:1:key/2&storage_class=STANDARD_IA",
        ] {
            let settings: S3Settings = text.parse().unwrap();
            assert_eq!(settings.to_string(), text);
        }
        let settings: S3Settings = "s3://b/p/?profile=a%20b".parse().unwrap();
        assert_eq!(
            (settings.prefix.as_str(), settings.profile.as_deref()),
            ("p", Some("a b"))
        );
        assert_eq!(settings.place(), "s3://b/p");
    }

    #[test]
    fn what_names_no_bucket_is_refused() {
        for wrong in [
            "s3://",
            "s3:///prefix",
            "s3://Bucket",
            "s3://b/../c",
            "s3://b/a//c",
            "s3://b/.hidden",
            "s3://b?endpoint=store",
            "s3://b?endpoint=http://user:secret@store",
            "s3://b?path_style=maybe",
            "s3://b?profile=%2",
            "s3://b?sse=rot13",
            "s3://b?secret=x",
            "file:///a",
        ] {
            assert!(wrong.parse::<S3Settings>().is_err(), "{wrong}");
        }
    }
}

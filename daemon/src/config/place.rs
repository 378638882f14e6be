//! Where objects go: a URL, how an S3 service is reached, and for how long what is put cannot be deleted. Read from `[archive]`
//! and from whatever else names a place.

use std::path::Path;
use std::time::Duration;

use pitr_archive::store::{Lock, LockMode, S3Settings, Sse, is_endpoint};
use toml::de::DeValue;

use super::section::{ConfigError, Section};
use super::url::{ArchiveUrl, UrlError};
use super::{FILE, file, parse_duration, text};

/// A century: S3 takes no more.
const IMMUTABLE_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
const IMMUTABLE_MIN: Duration = Duration::from_secs(60 * 60);

/// The place that `section` names, with its `s3` section.
pub(super) fn place(
    section: &Section<'_>,
    path: &Path,
) -> Result<(ArchiveUrl, Option<Lock>), ConfigError> {
    let what = "a URL such as \"s3://bucket/orders\" or \"file:///var/lib/pitrd/orders\"";
    let url = section.require("url", what, text)?;
    let url = url
        .parse()
        .map_err(|error: UrlError| section.wrong("url", format!("is refused: {error}")))?;
    let lock = lock(section)?;
    let s3 = section.open("s3")?;
    match url {
        ArchiveUrl::File(_) if s3.is_given() => {
            Err(section.wrong("s3", "goes with a url that begins with s3://".into()))
        }
        ArchiveUrl::File(_) => Ok((url, lock)),
        ArchiveUrl::S3(mut settings) => {
            reached(&mut settings, &s3, path)?;
            settings.lock = lock;
            Ok((ArchiveUrl::S3(settings), lock))
        }
    }
}

/// What `[….s3]` adds to the URL.
fn reached(
    settings: &mut S3Settings,
    section: &Section<'_>,
    path: &Path,
) -> Result<(), ConfigError> {
    let name = |value: &DeValue<'_>| text(value).filter(|text| !text.is_empty());
    let endpoint = "a URL such as \"https://s3.example:9000\", without a password";
    let endpoint = section.get("endpoint", endpoint, |value| {
        text(value).filter(|text| is_endpoint(text))
    })?;
    let region = section.get("region", "a region such as \"eu-central-1\"", name)?;
    let path_style = section.get("path_style", "true or false", DeValue::as_bool)?;
    let profile = section.get(
        "profile",
        "the name of a profile in the shared AWS files",
        name,
    )?;
    // Relative to the file's directory, and then to nobody's: a restored server runs elsewhere.
    let path = |key| {
        let path = section.get(key, FILE, |value| file(value, path))?;
        Ok(path.map(|path| std::path::absolute(&path).unwrap_or(path)))
    };
    let (credentials_file, ca_file) = (path("credentials_file")?, path("ca_file")?);
    let class = "a storage class such as \"STANDARD_IA\"";
    let storage_class = section.get("storage_class", class, name)?;
    let kms_key = section.get("kms_key", "the id, alias or ARN of a KMS key", name)?;
    let sse = section.get("sse", "\"aes256\" or \"kms\"", |value| {
        Sse::parse(value.as_str()?).filter(|sse| !matches!(sse, Sse::Kms(Some(_))))
    })?;
    let sse = match (sse, kms_key) {
        (sse, None) => sse,
        (Some(Sse::Kms(_)), Some(key)) => Some(Sse::Kms(Some(key))),
        (_, Some(_)) => return Err(section.wrong("kms_key", "goes with sse = \"kms\"".into())),
    };
    settings.endpoint = endpoint.or(settings.endpoint.take());
    settings.region = region.or(settings.region.take());
    settings.path_style = path_style.or(settings.path_style);
    settings.profile = profile.or(settings.profile.take());
    settings.credentials_file = credentials_file.or(settings.credentials_file.take());
    settings.ca_file = ca_file.or(settings.ca_file.take());
    settings.storage_class = storage_class.or(settings.storage_class.take());
    settings.sse = sse.or(settings.sse.take());
    Ok(())
}

fn lock(section: &Section<'_>) -> Result<Option<Lock>, ConfigError> {
    let time = "a duration from \"1h\" to \"36500d\", such as \"24h\"";
    let immutable_for = section.get("immutable_for", time, |value| {
        parse_duration(value.as_str()?)
            .filter(|time| (IMMUTABLE_MIN..=IMMUTABLE_MAX).contains(time))
    })?;
    let modes =
        "\"compliance\" (nobody can shorten it) or \"governance\" (a permission of its own can)";
    let mode = section.get("immutable_mode", modes, |value| match value.as_str()? {
        "compliance" => Some(LockMode::Compliance),
        "governance" => Some(LockMode::Governance),
        _ => None,
    })?;
    let legal_hold = section.get("legal_hold", "true or false", DeValue::as_bool)?;
    let legal_hold = legal_hold.unwrap_or(false);
    if mode.is_some() && immutable_for.is_none() {
        return Err(section.wrong("immutable_mode", "goes with immutable_for".into()));
    }
    Ok((immutable_for.is_some() || legal_hold).then_some(Lock {
        immutable_for,
        mode: mode.unwrap_or(LockMode::Compliance),
        legal_hold,
    }))
}

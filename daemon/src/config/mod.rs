//! The configuration file: TOML in, checked values out. It is the daemon's first step, and the one `pitr-tool` takes
//! with `--config`; nothing behind it reads TOML, resolves a relative path or doubts a range again.

mod place;
mod section;
mod spool;
mod units;
mod url;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pitr_archive::keys::{KeyError, Recipient};
use pitr_archive::store::Lock;
use section::{Section, Source};
use toml::de::{DeTable, DeValue};

pub use section::{ConfigError, KNOWN, Place};
pub use spool::SpoolConfig;
pub use units::{parse_bytes, parse_duration, parse_rate, show_bytes, show_duration};
pub use url::{ArchiveUrl, UrlError};

/// No event is larger than the least of it, and no object holds more than 1 GB.
const TRANSACTION_BYTES: (u64, u64) = (64 << 20, 900 << 20);
const SEGMENT_BYTES: (u64, u64) = (64 << 10, 64 << 20);
const LINGER: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(600));
const BACKUP_EVERY_MIN: Duration = Duration::from_secs(60);
const PUTS_IN_FLIGHT_MAX: u64 = 16;

/// A configuration that has been read and found to make sense. Paths are absolute or relative to the working
/// directory exactly as the file's own path was: a relative path in the file starts at the file's directory.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it was read from.
    pub path: PathBuf,
    /// `[archive]`
    pub archive: Archive,
    /// `[encryption]`
    pub encryption: Encryption,
    /// `[source.postgres]` or `[source.mongodb]`
    pub source: SourceConfig,
    /// `[segment]`
    pub segment: Segment,
    /// `[spool]`
    pub spool: Option<SpoolConfig>,
    /// `[backup]`
    pub backup: Backup,
    /// `[log]`
    pub log: Log,
}

/// `[archive]`: where the archive lies and who signs for it.
#[derive(Clone, Debug)]
pub struct Archive {
    /// Where the archive lies.
    pub url: ArchiveUrl,
    /// What is put can be neither deleted nor replaced for so long; only S3 enforces it.
    pub lock: Option<Lock>,
    /// Further places that hold the same.
    pub copies: Vec<CopyPlace>,
    /// Which of them hold what is acknowledged.
    pub acknowledge: Acknowledge,
    /// The file of the signing key, by default the configuration's path with the extension `.signing-key`.
    pub signing_key_file: PathBuf,
}

/// `[[archive.copy]]`: one further place of the archive.
#[derive(Clone, Debug)]
pub struct CopyPlace {
    /// Where it lies.
    pub url: ArchiveUrl,
    /// As that of the archive.
    pub lock: Option<Lock>,
}

/// When the source may forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledge {
    /// When the archive holds it; copies catch up on their own.
    Primary,
    /// When the archive and every copy hold it.
    All,
}

/// `[encryption]`: for whom data keys are wrapped. There is no unencrypted mode.
#[derive(Clone, Debug)]
pub enum Encryption {
    /// Public halves only, at least one, as `x25519:…`: this host writes and cannot read.
    Recipients(Vec<Recipient>),
    /// A file with one symmetric key: this host writes and can read.
    KeyFile(PathBuf),
}

/// `[source]`: what is archived, by engine.
#[derive(Clone, Debug)]
pub enum SourceConfig {
    /// `[source.postgres]`
    Postgres(PostgresSource),
    /// `[source.mongodb]`
    Mongodb(MongodbSource),
}

impl SourceConfig {
    /// The password file, if one is named.
    #[must_use]
    pub fn password_file(&self) -> Option<&Path> {
        match self {
            Self::Postgres(source) => source.password_file.as_deref(),
            Self::Mongodb(source) => source.password_file.as_deref(),
        }
    }

    /// The connection string or URI; it may hold a password.
    #[must_use]
    pub fn connection(&self) -> &str {
        match self {
            Self::Postgres(source) => &source.connection,
            Self::Mongodb(source) => &source.uri,
        }
    }
}

/// `[source.mongodb]`: the replica set to archive.
#[derive(Clone)]
pub struct MongodbSource {
    /// A URI as MongoDB's drivers have them. May hold a password, so `Debug` does not show it.
    pub uri: String,
    /// A file whose first line is the password of the URI's user.
    pub password_file: Option<PathBuf>,
    /// How the log is read.
    pub capture: MongodbCapture,
    /// Events of one transaction that a change stream's capture holds in memory at most; of more a gap is recorded.
    pub transaction_bytes_max: u64,
}

/// How MongoDB's log is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MongodbCapture {
    /// From `local.oplog.rs`: complete.
    Oplog,
    /// Through a change stream over the whole deployment, where `local` cannot be read.
    ChangeStream,
}

impl From<MongodbCapture> for pitr_mongodb::LogKind {
    fn from(capture: MongodbCapture) -> Self {
        match capture {
            MongodbCapture::Oplog => Self::Oplog,
            MongodbCapture::ChangeStream => Self::Events,
        }
    }
}

impl fmt::Debug for MongodbSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MongodbSource")
            .field("password_file", &self.password_file)
            .field("capture", &self.capture)
            .field("transaction_bytes_max", &self.transaction_bytes_max)
            .finish_non_exhaustive()
    }
}

/// `[source.postgres]`: the server to archive.
#[derive(Clone)]
pub struct PostgresSource {
    /// A connection string as libpq has them. May hold a password, so `Debug` does not show it.
    pub connection: String,
    /// The physical replication slot.
    pub slot: String,
    /// A file whose first line is the password.
    pub password_file: Option<PathBuf>,
    /// Whether a standby may be the source.
    pub allow_standby: bool,
    /// Whether a missing slot is created.
    pub create_slot: bool,
    /// The server's `pg_wal`, if it may be read for catching up.
    pub wal_directory: Option<PathBuf>,
}

impl fmt::Debug for PostgresSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresSource")
            .field("slot", &self.slot)
            .field("password_file", &self.password_file)
            .field("allow_standby", &self.allow_standby)
            .field("create_slot", &self.create_slot)
            .field("wal_directory", &self.wal_directory)
            .finish_non_exhaustive()
    }
}

/// `[segment]`: how the stream is cut into objects.
#[derive(Clone, Debug)]
pub struct Segment {
    /// A segment closes at this many bytes, 64 KiB to 64 MiB.
    pub bytes_max: u64,
    /// A segment closes this long after its first byte, 10 ms to 10 min.
    pub linger: Duration,
    /// How contents are compressed.
    pub compression: Compression,
    /// How many puts may be under way at once, 1 to 16.
    pub puts_in_flight: u8,
}

/// How contents are compressed before they are sealed. Written `zstd:1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// zstd at a level of -7 to -1 or 1 to 19.
    Zstd(i32),
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zstd(level) => write!(f, "zstd:{level}"),
        }
    }
}

/// `[backup]`: base backups the daemon takes by itself.
#[derive(Clone, Debug)]
pub struct Backup {
    /// A full base backup is taken when the last is older than this; off when absent.
    pub every: Option<Duration>,
    /// Bytes a second at most, for every base backup.
    pub rate_limit: Option<u64>,
}

/// `[log]`: what goes to standard error.
#[derive(Clone, Copy, Debug)]
pub struct Log {
    /// Lines for people or for machines.
    pub format: LogFormat,
    /// What is said at all.
    pub level: LogLevel,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text.
    Text,
    /// One JSON object a line.
    Json,
}

/// How much is logged: `error`, `warn`, `info`, `debug` or `trace`.
pub type LogLevel = tracing::Level;

impl Config {
    /// Reads the file at `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.into(),
            source,
        })?;
        Self::parse(path, &text)
    }

    /// Reads `text` as the contents of the file at `path`; touches no file.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let source = Source { file: path, text };
        let table = DeTable::parse(text).map_err(|error| {
            let offset = error.span().map(|span| span.start);
            source.wrong(offset, format!("not TOML: {}", error.message()), None)
        })?;
        let root = Section::root(source, table.get_ref())?;
        let archive = archive(&root.open("archive")?, path)?;
        let is_far = matches!(archive.url, ArchiveUrl::S3(_));
        Ok(Self {
            archive,
            encryption: encryption(&root.open("encryption")?, path)?,
            source: source_of(&root.open("source")?, path)?,
            segment: segment(&root.open("segment")?, is_far)?,
            spool: spool::spool(&root.open("spool")?, path)?,
            backup: backup(&root.open("backup")?)?,
            log: log(&root.open("log")?)?,
            path: path.into(),
        })
    }
}

fn archive(section: &Section<'_>, path: &Path) -> Result<Archive, ConfigError> {
    let (url, lock) = place::place(section, path)?;
    let copy = |copy: &Section<'_>| {
        let (url, lock) = place::place(copy, path)?;
        Ok(CopyPlace { url, lock })
    };
    let copies: Result<Vec<_>, ConfigError> = section.list("copy")?.iter().map(copy).collect();
    let copies = copies?;
    let mut places: Vec<_> = copies.iter().map(|copy| copy.url.place()).collect();
    places.push(url.place());
    places.sort_unstable();
    if places.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(section.wrong("copy", "names the same place twice".into()));
    }
    let who = "\"primary\" (copies catch up on their own) or \"all\" (a copy that is away stops archiving)";
    let acknowledge = section.get("acknowledge", who, |value| match value.as_str()? {
        "primary" => Some(Acknowledge::Primary),
        "all" => Some(Acknowledge::All),
        _ => None,
    })?;
    let signing_key_file = section.get("signing_key_file", FILE, |value| file(value, path))?;
    Ok(Archive {
        url,
        lock,
        copies,
        acknowledge: acknowledge.unwrap_or(Acknowledge::Primary),
        signing_key_file: signing_key_file.unwrap_or_else(|| path.with_extension("signing-key")),
    })
}

fn encryption(section: &Section<'_>, path: &Path) -> Result<Encryption, ConfigError> {
    let list =
        "a list of one or more recipients such as [\"x25519:…\"], as pitr-tool keygen prints them";
    let recipients = section.get("recipients", list, |value| {
        let names = value.as_array()?.iter().map(|item| text(item.get_ref()));
        names
            .collect::<Option<Vec<_>>>()
            .filter(|names| !names.is_empty())
    })?;
    let recipients = recipients.map(|names| {
        let keys = names.iter().map(|name| name.parse());
        keys.collect::<Result<Vec<Recipient>, KeyError>>()
            .map_err(|error| section.wrong("recipients", format!("is refused: {error}")))
    });
    let recipients = recipients.transpose()?;
    let key_file = section.get("key_file", FILE, |value| file(value, path))?;
    match (recipients, key_file) {
        (Some(recipients), None) => Ok(Encryption::Recipients(recipients)),
        (None, Some(file)) => Ok(Encryption::KeyFile(file)),
        (Some(_), Some(_)) => Err(section.wrong(
            "key_file",
            "stands beside recipients; keep one of the two, and prefer recipients, which let this host write and not read".into(),
        )),
        (None, None) => Err(section.wrong(
            "recipients",
            "is missing, and so is key_file: there is no unencrypted mode, so make an identity with pitr-tool keygen and name its recipient here".into(),
        )),
    }
}

/// One source a process: `postgres` where neither is there, so that the refusal names a key.
fn source_of(section: &Section<'_>, path: &Path) -> Result<SourceConfig, ConfigError> {
    match (section.has("postgres"), section.has("mongodb")) {
        (true, true) => Err(section.wrong(
            "mongodb",
            "stands beside postgres; one process archives one source, so give each a file of its own".into(),
        )),
        (false, true) => Ok(SourceConfig::Mongodb(mongodb(&section.open("mongodb")?, path)?)),
        _ => Ok(SourceConfig::Postgres(postgres(&section.open("postgres")?, path)?)),
    }
}

fn mongodb(section: &Section<'_>, path: &Path) -> Result<MongodbSource, ConfigError> {
    let uri = "a URI such as \"mongodb://pitrd@db1,db2,db3/?replicaSet=orders\"";
    let ways = "\"oplog\" (complete) or \"change-stream\" (where local cannot be read)";
    let capture = section.get("capture", ways, |value| match value.as_str()? {
        "oplog" => Some(MongodbCapture::Oplog),
        "change-stream" => Some(MongodbCapture::ChangeStream),
        _ => None,
    })?;
    let size = "a byte size from \"64 MiB\" to \"900 MiB\"";
    let transaction_bytes_max = section.get("transaction_bytes_max", size, |value| {
        bytes(value).filter(|size| (TRANSACTION_BYTES.0..=TRANSACTION_BYTES.1).contains(size))
    })?;
    Ok(MongodbSource {
        uri: section.require("uri", uri, |value| {
            text(value)
                .filter(|uri| uri.starts_with("mongodb://") || uri.starts_with("mongodb+srv://"))
        })?,
        password_file: section.get("password_file", FILE, |value| file(value, path))?,
        capture: capture.unwrap_or(MongodbCapture::Oplog),
        transaction_bytes_max: transaction_bytes_max.unwrap_or(TRANSACTION_BYTES.1),
    })
}

fn postgres(section: &Section<'_>, path: &Path) -> Result<PostgresSource, ConfigError> {
    let connection = "a connection string such as \"host=/run/postgresql user=pitrd\"";
    let slot = "a slot name: 1 to 63 of the characters a-z, 0-9 and _";
    Ok(PostgresSource {
        connection: section.require("connection", connection, |value| {
            text(value).filter(|s| !s.trim().is_empty())
        })?,
        slot: section
            .get("slot", slot, |value| {
                text(value).filter(|name| is_slot_name(name))
            })?
            .unwrap_or_else(|| "pitrd".into()),
        password_file: section.get("password_file", FILE, |value| file(value, path))?,
        allow_standby: section
            .get("allow_standby", "true or false", DeValue::as_bool)?
            .unwrap_or(false),
        create_slot: section
            .get("create_slot", "true or false", DeValue::as_bool)?
            .unwrap_or(true),
        wal_directory: section.get("wal_directory", DIRECTORY, |value| file(value, path))?,
    })
}

fn segment(section: &Section<'_>, is_far: bool) -> Result<Segment, ConfigError> {
    let size = "a byte size from \"64 KiB\" to \"64 MiB\"";
    let bytes_max = section.get("bytes_max", size, |value| {
        bytes(value).filter(|size| (SEGMENT_BYTES.0..=SEGMENT_BYTES.1).contains(size))
    })?;
    let time = "a duration from \"10ms\" to \"10min\", such as \"1s\" or \"200ms\"";
    let linger = section.get("linger", time, |value| {
        parse_duration(value.as_str()?).filter(|time| (LINGER.0..=LINGER.1).contains(time))
    })?;
    let codec = "\"zstd:1\" to \"zstd:19\", or \"zstd:-1\" to \"zstd:-7\" for less work";
    let compression = section.get("compression", codec, |value| compression(value.as_str()?))?;
    let puts_in_flight = section.get("puts_in_flight", "a whole number from 1 to 16", |value| {
        let count = integer(value).filter(|count| (1..=PUTS_IN_FLIGHT_MAX).contains(count))?;
        u8::try_from(count).ok()
    })?;
    Ok(Segment {
        bytes_max: bytes_max.unwrap_or(16 << 20),
        linger: linger.unwrap_or(Duration::from_secs(1)),
        compression: compression.unwrap_or(Compression::Zstd(1)),
        puts_in_flight: puts_in_flight.unwrap_or(if is_far { 16 } else { 4 }),
    })
}

fn backup(section: &Section<'_>) -> Result<Backup, ConfigError> {
    let every = "a duration of a minute or more, such as \"24h\" or \"7d\"";
    let rate = "bytes a second above zero, such as \"50 MiB/s\"";
    Ok(Backup {
        every: section.get("every", every, |value| {
            parse_duration(value.as_str()?).filter(|time| *time >= BACKUP_EVERY_MIN)
        })?,
        rate_limit: section.get("rate_limit", rate, |value| {
            value
                .as_str()
                .map_or_else(|| integer(value).filter(|rate| *rate > 0), parse_rate)
        })?,
    })
}

fn log(section: &Section<'_>) -> Result<Log, ConfigError> {
    let format = section.get("format", "\"text\" or \"json\"", |value| {
        match value.as_str()? {
            "text" => Some(LogFormat::Text),
            "json" => Some(LogFormat::Json),
            _ => None,
        }
    })?;
    let levels = "\"error\", \"warn\", \"info\", \"debug\" or \"trace\"";
    let level = section.get("level", levels, |value| match value.as_str()? {
        "error" => Some(LogLevel::ERROR),
        "warn" => Some(LogLevel::WARN),
        "info" => Some(LogLevel::INFO),
        "debug" => Some(LogLevel::DEBUG),
        "trace" => Some(LogLevel::TRACE),
        _ => None,
    })?;
    Ok(Log {
        format: format.unwrap_or(LogFormat::Text),
        level: level.unwrap_or(LogLevel::INFO),
    })
}

const FILE: &str = "the path of a file";
const DIRECTORY: &str = "the path of a directory";

fn file(value: &DeValue<'_>, config: &Path) -> Option<PathBuf> {
    let name = value.as_str().filter(|name| !name.is_empty())?;
    Some(config.parent().unwrap_or(Path::new("")).join(name))
}

fn text(value: &DeValue<'_>) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn bytes(value: &DeValue<'_>) -> Option<u64> {
    value.as_str().map_or_else(|| integer(value), parse_bytes)
}

fn integer(value: &DeValue<'_>) -> Option<u64> {
    let number = value.as_integer()?;
    u64::from_str_radix(number.as_str(), number.radix()).ok()
}

fn is_slot_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

fn compression(text: &str) -> Option<Compression> {
    let level: i32 = text.strip_prefix("zstd:")?.parse().ok()?;
    matches!(level, -7..=-1 | 1..=19).then_some(Compression::Zstd(level))
}

#[cfg(test)]
mod tests;

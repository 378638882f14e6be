//! S3, and what is compatible with it, as a store: an object is one conditional PUT with a checksum that the store verifies.
//!
//! `settings` says which bucket, `connect` makes the client, `pace` bounds the calls, `error` translates what comes back. There
//! is no multipart upload: the largest object is a part of a base backup, a little above 32 MiB.

mod connect;
mod error;
mod listing;
mod pace;
mod probe;
mod settings;

use std::ops::Range;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Config, ResponseChecksumValidation};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{
    ObjectLockLegalHoldStatus, ObjectLockMode, ServerSideEncryption, StorageClass,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};

pub use settings::{Lock, LockMode, S3Settings, S3UrlError, Sse, is_endpoint};

use super::{Fetched, Listed, Piece, Probed, Store, StoreError, is_key};
use connect::Connection;
use error::{Failure, causes};
use listing::WholeDocument;
use pace::Pace;

/// A call that reads is tried so often before it fails. A put is tried once: its callers try again, and compare.
const TRIES: u32 = 8;
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A call may take so long, and as much longer as its body takes at the slowest useful rate.
const CALL_DEADLINE: Duration = Duration::from_secs(30);
const SLOWEST_BYTES_PER_SECOND: u64 = 128 * 1024;
/// No object is larger.
const BODY_BYTES_MAX: u64 = 64 << 20;
/// Keys of one listing request.
const PAGE_KEYS: i32 = 1000;

/// A bucket, or a prefix in it, as a store.
#[derive(Debug)]
pub struct S3Store {
    settings: S3Settings,
    connection: Connection,
    pace: Pace,
}

/// What a listing request brings.
struct Page {
    objects: Vec<Listed>,
    names: Vec<String>,
    next: Option<String>,
}

impl S3Store {
    /// Prepares the connection; asks nothing of the service yet.
    ///
    /// # Errors
    /// If the CA file cannot be read.
    pub async fn connect(settings: S3Settings) -> Result<Self, StoreError> {
        Ok(Self {
            connection: Connection::new(settings.clone()).await?,
            settings,
            pace: Pace::new(),
        })
    }

    fn full_key(&self, key: &str) -> Result<String, StoreError> {
        if !is_key(key) {
            return Err(StoreError::Broken {
                key: key.into(),
                reason: "not a key of an object".into(),
            });
        }
        Ok(self.below(key))
    }

    /// A key or a prefix of keys as the bucket has it.
    fn below(&self, key: &str) -> String {
        match self.settings.prefix.as_str() {
            "" => key.into(),
            prefix => format!("{prefix}/{key}"),
        }
    }

    /// One call, within the store's pace and the deadline for so many bytes.
    async fn call<T>(
        &self,
        bytes: u64,
        call: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let permit = self.pace.enter().await;
        let deadline = deadline(bytes);
        let late =
            |_| Failure::without_answer(format!("no answer within {} s", deadline.as_secs()));
        let result = tokio::time::timeout(deadline, call).await;
        let result = result.map_err(late).and_then(|result| result);
        let throttled = result.as_ref().is_err_and(Failure::is_throttling);
        self.pace.leave(permit, throttled, Instant::now());
        if result.as_ref().is_err_and(Failure::is_about_credentials) {
            self.connection.renew_credentials().await;
        }
        result
    }

    /// A call that changes nothing, tried again while that may help. `attempt` counts from 0.
    async fn reading<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        bytes: u64,
        mut call: impl FnMut(Client, u32) -> F,
    ) -> Result<T, Failure> {
        let mut ceiling = BACKOFF_FIRST;
        for attempt in 0.. {
            let client = self.connection.client().await;
            match self.call(bytes, call(client, attempt)).await {
                Err(failure)
                    if attempt + 1 < TRIES
                        && (failure.is_passing() || failure.is_about_credentials()) =>
                {
                    tokio::time::sleep(ceiling.mul_f64(jitter())).await;
                    ceiling = (ceiling * 3).min(BACKOFF_MAX);
                }
                result => return result,
            }
        }
        unreachable!("the last try returns")
    }

    fn put_request(&self, client: &Client, key: String, body: Bytes) -> PutObjectFluentBuilder {
        let checksum = STANDARD.encode(crc32c::crc32c(&body).to_be_bytes());
        let class = self.settings.storage_class.as_deref();
        let mut request = client
            .put_object()
            .bucket(&self.settings.bucket)
            .key(key)
            .checksum_crc32_c(checksum)
            .set_storage_class(class.map(StorageClass::from))
            .body(ByteStream::from(body));
        match &self.settings.sse {
            None => {}
            Some(Sse::S3) => request = request.server_side_encryption(ServerSideEncryption::Aes256),
            Some(Sse::Kms(key)) => {
                request = request
                    .server_side_encryption(ServerSideEncryption::AwsKms)
                    .set_ssekms_key_id(key.clone());
            }
        }
        request
    }

    /// What makes an object immutable. Hints are replaced, so they are never locked.
    fn locked(&self, request: PutObjectFluentBuilder) -> PutObjectFluentBuilder {
        let Some(lock) = self.settings.lock else {
            return request;
        };
        let hold = lock.legal_hold.then_some(ObjectLockLegalHoldStatus::On);
        let request = request.set_object_lock_legal_hold_status(hold);
        let Some(time) = lock.immutable_for else {
            return request;
        };
        let mode = match lock.mode {
            LockMode::Compliance => ObjectLockMode::Compliance,
            LockMode::Governance => ObjectLockMode::Governance,
        };
        request
            .object_lock_mode(mode)
            .object_lock_retain_until_date(DateTime::from(SystemTime::now() + time))
    }

    async fn send_put(&self, request: PutObjectFluentBuilder, bytes: u64) -> Result<(), Failure> {
        let sent = async {
            // Over TLS the checksum protects the body; a hash of it in the signature would only cost time.
            let sent = if self.connection.is_secure() {
                request.customize().disable_payload_signing().send().await
            } else {
                request.send().await
            };
            sent.map(drop).map_err(|error| Failure::of(&error))
        };
        self.call(bytes, sent).await
    }

    /// One GET. `version` names one that is not the latest.
    async fn fetch(
        &self,
        client: Client,
        key: &str,
        piece: &Piece,
        version: Option<&str>,
        verify: bool,
    ) -> Result<Fetched, Failure> {
        let request = client
            .get_object()
            .bucket(&self.settings.bucket)
            .key(key)
            .set_range(range_header(piece))
            .set_version_id(version.map(str::to_owned));
        let mut request = request.customize();
        if !verify {
            let unverified = ResponseChecksumValidation::WhenRequired;
            request =
                request.config_override(Config::builder().response_checksum_validation(unverified));
        }
        let output = request.send().await.map_err(|error| Failure::of(&error))?;
        read_body(output, piece).await
    }

    /// Bytes of an object of which is known that it exists.
    async fn object_bytes(&self, client: Client, key: &str) -> Result<u64, Failure> {
        let request = client.head_object().bucket(&self.settings.bucket).key(key);
        let output = request.send().await.map_err(|error| Failure::of(&error))?;
        let length = output
            .content_length()
            .and_then(|bytes| bytes.try_into().ok());
        length.ok_or_else(|| Failure::without_answer("it does not say how long the object is"))
    }

    /// The newest version of a key that a delete marker hides.
    async fn hidden_version(&self, key: &str) -> Result<Option<String>, Failure> {
        let find = |client: Client, _| async move {
            let request = client
                .list_object_versions()
                .bucket(&self.settings.bucket)
                .prefix(key)
                .max_keys(PAGE_KEYS);
            let sent = request.customize().interceptor(WholeDocument).send().await;
            let page = sent.map_err(|error| Failure::of(&error))?;
            let mut versions = page.versions().iter();
            // The newest of a key comes first.
            let version = versions.find(|version| version.key() == Some(key));
            Ok(version.and_then(|version| version.version_id().map(str::to_owned)))
        };
        self.reading(0, find).await
    }

    async fn get_piece(
        &self,
        key: &str,
        piece: &Piece,
        version: Option<&str>,
    ) -> Result<Fetched, Failure> {
        let bytes = match piece {
            Piece::Whole => BODY_BYTES_MAX,
            Piece::Range(range) => range.end.saturating_sub(range.start).min(BODY_BYTES_MAX),
        };
        // The last try takes the bytes as they are: what is wrong with them is found, and named, where they are opened.
        let get = |client, attempt| self.fetch(client, key, piece, version, attempt + 1 < TRIES);
        match (self.reading(bytes, get).await, piece) {
            (
                Err(Failure {
                    status: Some(416), ..
                }),
                Piece::Range(_),
            ) => {
                let length = |client, _| self.object_bytes(client, key);
                Ok(Fetched {
                    bytes: Bytes::new(),
                    object_bytes: self.reading(0, length).await?,
                })
            }
            (result, _) => result,
        }
    }

    /// One page of a listing of the level under `prefix`.
    async fn page(
        &self,
        prefix: &str,
        after: Option<&str>,
        token: Option<&str>,
    ) -> Result<Page, StoreError> {
        let list = |client: Client, _| async move {
            let request = client
                .list_objects_v2()
                .bucket(&self.settings.bucket)
                .prefix(self.below(prefix))
                .delimiter("/")
                .max_keys(PAGE_KEYS)
                .set_start_after(after.map(|key| self.below(key)))
                .set_continuation_token(token.map(str::to_owned));
            let sent = request.customize().interceptor(WholeDocument).send().await;
            sent.map_err(|error| Failure::of(&error))
        };
        let output = self.reading(0, list).await;
        let output = output.map_err(|failure| match failure.explain(prefix) {
            // A prefix without keys is an empty listing; so this is about something else.
            StoreError::NotFound { key } => StoreError::Unavailable {
                key,
                reason: "the store cannot list it".into(),
            },
            error => error,
        })?;
        let cut = self.below("").len();
        let own = |key: &str| key.get(cut..).map(str::to_owned);
        let objects = output.contents().iter().filter_map(|object| {
            Some(Listed {
                key: own(object.key()?)?,
                object_bytes: object.size()?.try_into().ok()?,
            })
        });
        let names = output.common_prefixes().iter().filter_map(|common| {
            let key = own(common.prefix()?)?;
            Some(key.strip_prefix(prefix)?.trim_end_matches('/').to_owned())
        });
        Ok(Page {
            objects: objects.collect(),
            names: names.collect(),
            next: output.next_continuation_token().map(str::to_owned),
        })
    }
}

#[async_trait]
impl Store for S3Store {
    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        let (full, bytes) = (self.full_key(key)?, body.len() as u64);
        let client = self.connection.client().await;
        let request = self.put_request(&client, full, body).if_none_match("*");
        let sent = self.send_put(self.locked(request), bytes).await;
        sent.map_err(|failure| failure.explain(key))
    }

    async fn put_replacing(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        let (full, bytes) = (self.full_key(key)?, body.len() as u64);
        let client = self.connection.client().await;
        let sent = self
            .send_put(self.put_request(&client, full, body), bytes)
            .await;
        sent.map_err(|failure| failure.explain(key))
    }

    async fn get(&self, key: &str, piece: Piece) -> Result<Fetched, StoreError> {
        let full = self.full_key(key)?;
        let failure = match self.get_piece(&full, &piece, None).await {
            Ok(fetched) => return Ok(fetched),
            Err(failure) => failure,
        };
        if !failure.delete_marker {
            return Err(failure.explain(key));
        }
        let version = self.hidden_version(&full).await;
        let Some(version) = version.map_err(|failure| failure.explain(key))? else {
            return Err(failure.explain(key));
        };
        tracing::warn!(
            key,
            version,
            "a delete marker hides the object; its last version is read"
        );
        let older = self.get_piece(&full, &piece, Some(&version)).await;
        older.map_err(|failure| failure.explain(key))
    }

    async fn list(&self, prefix: &str, keys: Range<&str>) -> Result<Vec<Listed>, StoreError> {
        let (mut found, mut token) = (Vec::new(), None::<String>);
        let before = key_before(prefix, keys.start);
        loop {
            let page = self
                .page(prefix, before.as_deref(), token.as_deref())
                .await?;
            let past = page
                .objects
                .last()
                .is_some_and(|last| last.key.as_str() >= keys.end);
            let wanted = page.objects.into_iter();
            found.extend(wanted.filter(|object| keys.contains(&object.key.as_str())));
            match page.next {
                Some(next) if !past => token = Some(next),
                _ => return Ok(found),
            }
        }
    }

    async fn children(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let (mut names, mut token) = (Vec::new(), None::<String>);
        loop {
            let page = self.page(prefix, None, token.as_deref()).await?;
            names.extend(page.names);
            match page.next {
                Some(next) => token = Some(next),
                None => return Ok(names),
            }
        }
    }

    /// What S3 shows is durable.
    async fn settle(&self, _prefix: &str) -> Result<(), StoreError> {
        Ok(())
    }

    async fn probe_medium(&self) -> Result<Vec<Probed>, StoreError> {
        self.probe_service().await
    }
}

/// How long a call may take that moves so many bytes.
fn deadline(bytes: u64) -> Duration {
    CALL_DEADLINE + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND)
}

/// The `Range` of a piece. An empty one asks for one byte, so that a missing object is still missing.
fn range_header(piece: &Piece) -> Option<String> {
    let Piece::Range(range) = piece else {
        return None;
    };
    let last = range.end.saturating_sub(1).max(range.start);
    Some(if last > i64::MAX as u64 {
        format!("bytes={}-", range.start)
    } else {
        format!("bytes={}-{last}", range.start)
    })
}

/// The body of an answer, whole, or the piece that was asked for.
async fn read_body(output: GetObjectOutput, piece: &Piece) -> Result<Fetched, Failure> {
    let length = output
        .content_length()
        .and_then(|bytes| u64::try_from(bytes).ok());
    let total = output
        .content_range()
        .and_then(|range| range.rsplit('/').next()?.parse().ok());
    let mut body = output.body;
    let mut bytes = BytesMut::with_capacity(length.unwrap_or(0).min(BODY_BYTES_MAX) as usize);
    let start = tokio::time::Instant::now();
    loop {
        let due = start + deadline(bytes.len() as u64);
        let Ok(piece) = tokio::time::timeout_at(due, body.next()).await else {
            return Err(Failure::without_answer("the answer arrives too slowly"));
        };
        match piece {
            None => break,
            Some(Ok(piece)) => bytes.extend_from_slice(&piece),
            Some(Err(error)) => return Err(Failure::without_answer(causes(&error))),
        }
    }
    let bytes = bytes.freeze();
    if length.is_some_and(|length| length != bytes.len() as u64) {
        return Err(Failure::without_answer("the answer ended before its end"));
    }
    let answered = bytes.len() as u64;
    // A store may answer a range with the whole object.
    let (skipped, object_bytes) = match (piece, total) {
        (Piece::Range(range), None) => (range.start.min(answered), answered),
        (_, total) => (0, total.unwrap_or(answered)),
    };
    let wanted = match piece {
        Piece::Whole if answered != object_bytes => {
            return Err(Failure::without_answer(
                "the answer is a part of the object",
            ));
        }
        Piece::Whole => answered,
        Piece::Range(range) => {
            let wanted = range.end.min(object_bytes).saturating_sub(range.start);
            if answered - skipped < wanted {
                return Err(Failure::without_answer(
                    "the answer is less than was asked for",
                ));
            }
            wanted
        }
    };
    Ok(Fetched {
        bytes: bytes.slice(skipped as usize..(skipped + wanted) as usize),
        object_bytes,
    })
}

/// A key after which a listing begins that is to begin with `start`: below it in order, with no key of ours between.
fn key_before(prefix: &str, start: &str) -> Option<String> {
    let name = start.strip_prefix(prefix).filter(|name| !name.is_empty())?;
    let (last, head) = name.as_bytes().split_last()?;
    let head = std::str::from_utf8(head).ok()?;
    // `~` is above every letter of our keys.
    Some(format!("{prefix}{head}{}~", char::from(last - 1)))
}

/// From 0.1 to 1.
fn jitter() -> f64 {
    let mut random = [0; 4];
    let share = getrandom::fill(&mut random).map_or(1.0, |()| {
        f64::from(u32::from_be_bytes(random)) / f64::from(u32::MAX)
    });
    share.max(0.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_begins_with_its_first_key() {
        let before = key_before("log/a/", "log/a/0000000000000010").unwrap();
        assert!(before.as_str() < "log/a/0000000000000010");
        assert!(before.as_str() > "log/a/000000000000000f");
        assert_eq!(key_before("log/a/", "log/a/"), None);
    }

    #[test]
    fn a_range_is_written_as_the_protocol_has_it() {
        let header = |range| range_header(&Piece::Range(range));
        assert_eq!(header(0..3).as_deref(), Some("bytes=0-2"));
        assert_eq!(header(4..4).as_deref(), Some("bytes=4-4"));
        assert_eq!(header(9..u64::MAX).as_deref(), Some("bytes=9-"));
        assert_eq!(range_header(&Piece::Whole), None);
    }
}

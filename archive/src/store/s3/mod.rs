//! S3, and what is compatible with it, as a store: an object is one conditional PUT with a checksum that the store verifies.
//!
//! `settings` says which bucket, `connect` makes the client, `pace` bounds the calls, `reading` and `listing` make those that change
//! nothing, `error` translates what comes back. There is no multipart upload: no object comes near the 5 GiB that S3 takes in one put.

mod connect;
mod error;
mod listing;
mod pace;
mod probe;
mod reading;
mod settings;

use std::error::Error;
use std::ops::Range;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ObjectLockLegalHoldStatus, ObjectLockMode, ServerSideEncryption,
    StorageClass,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

pub use settings::{Lock, LockMode, S3Settings, S3UrlError, Sse, is_endpoint};

use super::{Fetched, Listed, Piece, Probed, Store, StoreError, is_key};
use connect::Connection;
use error::Failure;
use listing::key_before;
use pace::Pace;

/// A call that reads is tried so often before it fails. A put is tried once: its callers try again, and compare.
const TRIES: u32 = 8;
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A call may take so long, and as much longer as its body takes at the slowest useful rate.
const CALL_DEADLINE: Duration = Duration::from_secs(30);
const SLOWEST_BYTES_PER_SECOND: u64 = 128 * 1024;

/// A bucket, or a prefix in it, as a store.
#[derive(Debug)]
pub struct S3Store {
    settings: S3Settings,
    connection: Connection,
    pace: Pace,
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

    /// One call, within the store's pace.
    async fn call<T>(&self, call: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let permit = self.pace.enter().await;
        let result = call.await;
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
        mut call: impl FnMut(Client, u32) -> F,
    ) -> Result<T, Failure> {
        let mut ceiling = BACKOFF_FIRST;
        for attempt in 0.. {
            let client = self.connection.client().await;
            match self.call(call(client, attempt)).await {
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
        let checksum = STANDARD.encode(crc32fast::hash(&body).to_be_bytes());
        let class = self.settings.storage_class.as_deref();
        let mut request = client
            .put_object()
            .bucket(&self.settings.bucket)
            .key(key)
            .checksum_crc32(checksum)
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
        // S3 takes a lock only with a put that names how its body is verified.
        let request = request
            .checksum_algorithm(ChecksumAlgorithm::Crc32)
            .set_object_lock_legal_hold_status(hold);
        let Some(time) = lock.immutable_for else {
            return request;
        };
        let mode = match lock.mode {
            LockMode::Compliance => ObjectLockMode::Compliance,
            LockMode::Governance => ObjectLockMode::Governance,
        };
        request
            .object_lock_mode(mode)
            .object_lock_retain_until_date(until(SystemTime::now() + time))
    }

    async fn send_put(&self, request: PutObjectFluentBuilder, bytes: u64) -> Result<(), Failure> {
        let sent = async {
            let checksum = request.get_checksum_crc32().clone();
            // Over TLS the checksum protects the body; a hash of it in the signature would only cost time.
            let output = if self.connection.is_secure() {
                answered(bytes, request.customize().disable_payload_signing().send()).await?
            } else {
                answered(bytes, request.send()).await?
            };
            // Whatever stands in between may say 200 as well. Only a store names what it has stored.
            if output.e_tag().is_none() {
                return Err(Failure::without_answer(
                    "the answer is not a store's: it names no object",
                ));
            }
            let stored = output.checksum_crc32();
            if stored.is_some_and(|stored| Some(stored) != checksum.as_deref()) {
                return Err(Failure::without_answer(
                    "what was stored has another checksum",
                ));
            }
            Ok(())
        };
        self.call(sent).await
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

/// The answer to what is sent, within the deadline for so many bytes on their way to the store. A body that is still on its way to us
/// when this returns has a deadline of its own.
async fn answered<T, E>(
    bytes: u64,
    sent: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
) -> Result<T, Failure>
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let deadline = deadline(bytes);
    match tokio::time::timeout(deadline, sent).await {
        Ok(result) => result.map_err(|error| Failure::of(&error)),
        Err(_) => Err(Failure::without_answer(format!(
            "no answer within {} s",
            deadline.as_secs()
        ))),
    }
}

/// How long a call may take that moves so many bytes.
fn deadline(bytes: u64) -> Duration {
    CALL_DEADLINE + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND)
}

/// The first whole second that is not before `moment`: not every service reads parts of one.
fn until(moment: SystemTime) -> DateTime {
    let moment = DateTime::from(moment);
    DateTime::from_secs(moment.secs() + i64::from(moment.subsec_nanos() > 0))
}

/// From 0.1 to 1.
fn jitter() -> f64 {
    let mut random = [0; 4];
    let share = getrandom::fill(&mut random).map_or(1.0, |()| {
        f64::from(u32::from_be_bytes(random)) / f64::from(u32::MAX)
    });
    share.max(0.1)
}

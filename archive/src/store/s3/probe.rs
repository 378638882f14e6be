//! What only an S3 service can be asked: checksums, clocks, locks, and whether we may do more than we need.

use std::time::SystemTime;

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{ObjectLockLegalHoldStatus, ObjectLockMode};
use bytes::Bytes;
use futures_util::future::{try_join, try_join4};

use super::error::Failure;
use super::{Lock, LockMode, S3Store, answered};
use crate::store::StoreError;
use crate::store::probe::{ABSENT, Probed, Verdict, refused};

/// Put with a wrong checksum, which no store should take.
const WRONG: &str = "probe/checksum";
/// Replaced by every probe, to see what the store's clock says.
const CLOCK: &str = "probe/clock";
/// Put with a lock, once for each lock that is asked for.
const TRIED: &str = "probe/lock";
/// S3 refuses requests from a clock that is 15 minutes off.
const SKEW_WARN_SECONDS: u64 = 60;
/// What is asked for and what is answered may differ by a clock's skew and by the time of the call.
const LOCK_SLACK_SECONDS: i64 = 15 * 60;

impl S3Store {
    pub(super) async fn probe_service(&self) -> Result<Vec<Probed>, StoreError> {
        let tries = try_join4(
            self.probe_checksum(),
            self.probe_clock(),
            self.probe_lock(),
            self.probe_delete(),
        );
        let (checksum, clock, lock, delete) = tries.await?;
        let mut found = vec![checksum];
        found.extend(clock);
        found.extend(lock);
        found.extend(delete);
        Ok(found)
    }

    async fn probe_checksum(&self) -> Result<Probed, StoreError> {
        let body = Bytes::from_static(b"the checksum that goes with this is wrong");
        let client = self.connection.client().await;
        let request = self
            .put_request(&client, self.below(WRONG), body)
            .checksum_crc32("AAAAAA==");
        match self.send_put(request, 0).await {
            Ok(()) => Ok(Probed::new(
                Verdict::Doubtful,
                "checksums are not verified: damage on the way to the store shows when an object is read, and not before",
            )),
            Err(failure) if failure.status == Some(400) => Ok(Probed::new(
                Verdict::Sound,
                "a body that does not fit its checksum is refused",
            )),
            Err(failure) => refused(failure.explain(WRONG), "s3:PutObject"),
        }
    }

    async fn probe_clock(&self) -> Result<Option<Probed>, StoreError> {
        let client = self.connection.client().await;
        let body = Bytes::from_static(b"when was this put?");
        let request = self.put_request(&client, self.below(CLOCK), body);
        if let Err(failure) = self.send_put(request, 0).await {
            return Ok(Some(refused(failure.explain(CLOCK), "s3:PutObject")?));
        }
        match self.head(CLOCK).await {
            Ok(head) => Ok(head.last_modified().map(|modified| clock(modified.secs()))),
            Err(failure) => Ok(Some(refused(failure.explain(CLOCK), "s3:GetObject")?)),
        }
    }

    /// What was put with this lock once shows that the store locks; only where there is no such object is one put, as nobody could
    /// delete it again.
    async fn probe_lock(&self) -> Result<Option<Probed>, StoreError> {
        let Some(lock) = self.settings.lock else {
            return Ok(None);
        };
        match self.head(TRIED).await {
            Ok(head) => {
                let shown = locked(lock, &head);
                if shown.verdict == Verdict::Sound {
                    return Ok(Some(shown));
                }
            }
            Err(failure) if failure.status == Some(404) => {}
            Err(failure) => return Ok(Some(refused(failure.explain(TRIED), "s3:GetObject")?)),
        }
        let client = self.connection.client().await;
        let body = Bytes::from_static(b"locked");
        let request = self.locked(self.put_request(&client, self.below(TRIED), body));
        if let Err(failure) = self.send_put(request, 0).await {
            let permission = "s3:PutObjectRetention or s3:PutObjectLegalHold";
            return Ok(Some(refused(failure.explain(TRIED), permission)?));
        }
        match self.head(TRIED).await {
            Ok(head) => Ok(Some(locked(lock, &head))),
            Err(failure) => Ok(Some(refused(failure.explain(TRIED), "s3:GetObject")?)),
        }
    }

    async fn head(&self, key: &str) -> Result<HeadObjectOutput, Failure> {
        let client = self.connection.client().await;
        let request = client
            .head_object()
            .bucket(&self.settings.bucket)
            .key(self.below(key));
        self.call(answered(0, request.send())).await
    }

    /// Deletes what does not exist: whoever may do that may do more than a daemon needs.
    async fn probe_delete(&self) -> Result<Vec<Probed>, StoreError> {
        let (object, version) = try_join(
            self.may_delete("s3:DeleteObject", None),
            self.may_delete("s3:DeleteObjectVersion", Some("null")),
        )
        .await?;
        Ok(object.into_iter().chain(version).collect())
    }

    async fn may_delete(
        &self,
        permission: &str,
        version: Option<&str>,
    ) -> Result<Option<Probed>, StoreError> {
        let client = self.connection.client().await;
        let request = client
            .delete_object()
            .bucket(&self.settings.bucket)
            .key(self.below(ABSENT))
            .set_version_id(version.map(str::to_owned));
        match self.call(answered(0, request.send())).await {
            Ok(_) => Ok(Some(Probed::new(
                Verdict::Doubtful,
                format!("{permission} is given, which the daemon does not need"),
            ))),
            Err(failure) if failure.status.is_none_or(|status| status >= 500) => {
                Err(failure.explain(ABSENT))
            }
            Err(_) => Ok(None),
        }
    }
}

fn now_seconds() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() as i64)
}

fn clock(theirs: i64) -> Probed {
    let skew = now_seconds().abs_diff(theirs);
    if skew < SKEW_WARN_SECONDS {
        Probed::new(Verdict::Sound, "its clock and this host's agree")
    } else {
        let detail =
            format!("its clock and this host's are {skew} s apart; from 900 s on it refuses");
        Probed::new(Verdict::Doubtful, detail)
    }
}

/// What the store says of an object that was put with a lock, whenever that was.
fn locked(lock: Lock, head: &HeadObjectOutput) -> Probed {
    let seconds = |date: Option<&DateTime>| date.map(DateTime::secs);
    let until = seconds(head.object_lock_retain_until_date());
    let mode = head.object_lock_mode();
    let held = head.object_lock_legal_hold_status() == Some(&ObjectLockLegalHoldStatus::On);
    let wanted = match lock.mode {
        LockMode::Compliance => ObjectLockMode::Compliance,
        LockMode::Governance => ObjectLockMode::Governance,
    };
    if let Some(time) = lock.immutable_for {
        let put = seconds(head.last_modified()).unwrap_or_else(now_seconds);
        let needed = put + time.as_secs() as i64 - LOCK_SLACK_SECONDS;
        if mode != Some(&wanted) || until.is_none_or(|until| until < needed) {
            let detail = "objects are not made immutable: the store took the lock and shows none, or a shorter one; is \
                          s3:GetObjectRetention given?";
            return Probed::new(Verdict::Unfit, detail);
        }
    }
    if lock.legal_hold && !held {
        let detail = "legal hold is not placed: the store took it and shows none; is s3:GetObjectLegalHold given?";
        return Probed::new(Verdict::Unfit, detail);
    }
    Probed::new(
        Verdict::Sound,
        "what is put cannot be deleted while its lock lasts",
    )
}

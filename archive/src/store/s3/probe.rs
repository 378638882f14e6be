//! What only an S3 service can be asked: checksums, clocks, locks, and whether we may do more than we need.

use std::time::SystemTime;

use aws_sdk_s3::types::ObjectLockMode;
use bytes::Bytes;
use futures_util::future::{try_join, try_join3};

use super::error::Failure;
use super::{Lock, LockMode, S3Store};
use crate::store::StoreError;
use crate::store::probe::{ABSENT, Probed, Verdict, refused};

/// Put with a wrong checksum, which no store should take.
const WRONG: &str = "probe/checksum";
/// Put with a lock.
const TRIED: &str = "probe/lock";
/// S3 refuses requests from a clock that is 15 minutes off.
const SKEW_WARN_SECONDS: u64 = 60;
/// What is asked for and what is answered may differ by a clock's skew and by the time of the call.
const LOCK_SLACK_SECONDS: i64 = 15 * 60;

impl S3Store {
    pub(super) async fn probe_service(&self) -> Result<Vec<Probed>, StoreError> {
        let tries = try_join3(
            self.probe_checksum(),
            self.probe_clock_and_lock(),
            self.probe_delete(),
        );
        let (checksum, clock_and_lock, delete) = tries.await?;
        let mut found = vec![checksum];
        found.extend(clock_and_lock);
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
            Err(failure) => refused(failure.explain(TRIED), "s3:PutObject"),
        }
    }

    async fn probe_clock_and_lock(&self) -> Result<Vec<Probed>, StoreError> {
        let client = self.connection.client().await;
        let body = Bytes::from_static(b"locked, if there is a lock");
        let request = self.locked(self.put_request(&client, self.below(TRIED), body));
        let permission = match self.settings.lock {
            None => "s3:PutObject",
            Some(_) => "s3:PutObjectRetention or s3:PutObjectLegalHold",
        };
        if let Err(failure) = self.send_put(request, 0).await {
            return Ok(vec![refused(failure.explain(TRIED), permission)?]);
        }
        let head = client
            .head_object()
            .bucket(&self.settings.bucket)
            .key(self.below(TRIED));
        let sent = async { head.send().await.map_err(|error| Failure::of(&error)) };
        let head = match self.call(0, sent).await {
            Ok(head) => head,
            Err(failure) => return Ok(vec![refused(failure.explain(TRIED), "s3:GetObject")?]),
        };
        let mut found = Vec::new();
        if let Some(modified) = head.last_modified() {
            found.push(clock(modified.secs()));
        }
        if let Some(lock) = self.settings.lock {
            let until = head.object_lock_retain_until_date().map(|date| date.secs());
            let held = head
                .object_lock_legal_hold_status()
                .is_some_and(|hold| hold.as_str() == "ON");
            found.push(locked(lock, head.object_lock_mode(), until, held));
        }
        Ok(found)
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
        let sent = async { request.send().await.map_err(|error| Failure::of(&error)) };
        match self.call(0, sent).await {
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

/// What the store says of an object that was put with a lock.
fn locked(lock: Lock, mode: Option<&ObjectLockMode>, until: Option<i64>, held: bool) -> Probed {
    let wanted = match lock.mode {
        LockMode::Compliance => ObjectLockMode::Compliance,
        LockMode::Governance => ObjectLockMode::Governance,
    };
    if let Some(time) = lock.immutable_for {
        let needed = now_seconds() + time.as_secs() as i64 - LOCK_SLACK_SECONDS;
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

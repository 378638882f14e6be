//! What an S3 service says, in the words of the store's contract: by what the caller can do about it.

use std::error::Error;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::store::StoreError;

/// A failed call, taken apart.
#[derive(Debug)]
pub(super) struct Failure {
    /// The HTTP status; none if no answer arrived.
    pub(super) status: Option<u16>,
    /// The service's code, `NoSuchKey` for example.
    pub(super) code: String,
    /// For people.
    reason: String,
    /// The key is hidden by a delete marker.
    pub(super) delete_marker: bool,
}

impl Failure {
    /// No complete answer arrived, or what arrived is not what was asked for.
    pub(super) fn without_answer(reason: impl Into<String>) -> Self {
        Self {
            status: None,
            code: String::new(),
            reason: reason.into(),
            delete_marker: false,
        }
    }

    pub(super) fn of<E>(error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let Some(response) = error.raw_response() else {
            return Self::without_answer(causes(error));
        };
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name).unwrap_or_default().to_owned();
        let code = error.code().unwrap_or_default().to_owned();
        let said = match error.message() {
            _ if status < 300 => causes(error),
            _ if code.is_empty() => format!("HTTP status {status}"),
            Some(message) if !message.is_empty() => format!("{code}: {message}"),
            _ => format!("{code} (HTTP status {status})"),
        };
        let request = header("x-amz-request-id");
        let reason = if request.is_empty() {
            said
        } else {
            format!("{said} (request {request})")
        };
        Self {
            status: Some(status),
            code,
            reason,
            delete_marker: header("x-amz-delete-marker") == "true",
        }
    }

    /// The store asks for fewer calls.
    pub(super) fn is_throttling(&self) -> bool {
        matches!(self.status, Some(503 | 429))
            || matches!(
                self.code.as_str(),
                "SlowDown" | "Throttling" | "RequestLimitExceeded" | "TooManyRequests"
            )
    }

    /// Credentials that may have been replaced meanwhile.
    pub(super) fn is_about_credentials(&self) -> bool {
        matches!(
            self.code.as_str(),
            "ExpiredToken"
                | "ExpiredTokenException"
                | "InvalidToken"
                | "TokenRefreshRequired"
                | "InvalidAccessKeyId"
                | "SignatureDoesNotMatch"
        )
    }

    /// Another try may help soon.
    pub(super) fn is_passing(&self) -> bool {
        match self.status {
            // An answer that could not be understood was cut off.
            None | Some(..300) => true,
            Some(409 | 429) => true,
            Some(400) => matches!(
                self.code.as_str(),
                "RequestTimeout" | "BadDigest" | "IncompleteBody"
            ),
            // Without a code it is not the store's word: something in between said it, or half of it was lost.
            Some(404) => self.code.is_empty(),
            Some(status) => status >= 500 || self.code == "RequestTimeTooSkewed",
        }
    }

    /// In the contract's words; `key` is the key of the call.
    pub(super) fn explain(self, key: &str) -> StoreError {
        let (key, reason, code) = (key.to_owned(), self.reason, self.code.as_str());
        match (self.status, code) {
            (Some(404), "NoSuchKey") => StoreError::NotFound { key },
            (Some(412), _) => StoreError::AlreadyExists { key },
            (_, "RequestTimeTooSkewed") => StoreError::Unavailable {
                key,
                reason: format!("this host's clock and the store's differ too much: {reason}"),
            },
            (Some(507), _) | (_, "QuotaExceeded" | "XMinioStorageFull") => {
                StoreError::Full { key, reason }
            }
            (_, "EntityTooLarge" | "KeyTooLongError") => StoreError::Broken { key, reason },
            (Some(301 | 307), _) | (_, "AuthorizationHeaderMalformed" | "PermanentRedirect") => {
                StoreError::Denied {
                    key,
                    reason: format!("{reason}; the bucket may lie in another region"),
                }
            }
            (Some(403), "AccessDenied" | "") => StoreError::Denied {
                key,
                reason: format!("{reason}; without s3:ListBucket it says so of missing keys, too"),
            },
            (Some(400), "RequestTimeout" | "BadDigest" | "IncompleteBody") => {
                StoreError::Unavailable { key, reason }
            }
            // What was asked for is not allowed or not known there; it passes when a setting is mended.
            (Some(400 | 401 | 403 | 405 | 501), _) => StoreError::Denied { key, reason },
            _ => StoreError::Unavailable { key, reason },
        }
    }
}

/// An error and what caused it, each said once.
pub(super) fn causes(error: &(dyn Error + 'static)) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        cause = error.source();
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(status: u16, code: &str) -> StoreError {
        let failure = Failure {
            status: Some(status),
            code: code.into(),
            reason: code.into(),
            delete_marker: false,
        };
        failure.explain("k")
    }

    #[test]
    fn only_the_store_s_own_word_makes_a_key_missing() {
        assert!(matches!(
            explained(404, "NoSuchKey"),
            StoreError::NotFound { .. }
        ));
        for code in ["", "NoSuchBucket", "NoSuchUpload", "NotFound"] {
            assert!(
                matches!(explained(404, code), StoreError::Unavailable { .. }),
                "{code}"
            );
        }
    }

    #[test]
    fn what_passes_and_what_needs_a_hand_are_told_apart() {
        for (status, code) in [
            (500, "InternalError"),
            (503, "SlowDown"),
            (409, "ConditionalRequestConflict"),
            (400, "BadDigest"),
            (403, "RequestTimeTooSkewed"),
        ] {
            assert!(
                matches!(explained(status, code), StoreError::Unavailable { .. }),
                "{code}"
            );
        }
        for (status, code) in [
            (403, "AccessDenied"),
            (400, "ExpiredToken"),
            (400, "InvalidRequest"),
            (301, "PermanentRedirect"),
            (400, "KMS.DisabledException"),
            (501, "NotImplemented"),
        ] {
            assert!(
                matches!(explained(status, code), StoreError::Denied { .. }),
                "{code}"
            );
        }
        assert!(matches!(
            explained(412, "PreconditionFailed"),
            StoreError::AlreadyExists { .. }
        ));
        assert!(matches!(
            explained(403, "QuotaExceeded"),
            StoreError::Full { .. }
        ));
        assert!(explained(400, "EntityTooLarge").is_permanent());
    }
}

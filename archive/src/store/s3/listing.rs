//! Listings, page by page. One that was cut off is refused: what reads the document takes its half for a short one, and a short listing
//! is a hole in an archive.

use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::AfterDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;

use super::{S3Store, answered};
use crate::store::{Listed, StoreError};

/// Keys of one listing request.
pub(super) const PAGE_KEYS: i32 = 1000;

/// What a listing request brings.
pub(super) struct Page {
    pub(super) objects: Vec<Listed>,
    pub(super) names: Vec<String>,
    pub(super) next: Option<String>,
}

/// Refuses an answer whose document does not end.
#[derive(Debug)]
pub(super) struct WholeDocument;

impl Intercept for WholeDocument {
    fn name(&self) -> &'static str {
        "WholeDocument"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = context.response().body().bytes().unwrap_or_default();
        let is_whole = body.trim_ascii_end().ends_with(b"Result>");
        if context.response().status().is_success() && !is_whole {
            return Err("the listing ended before its end".into());
        }
        Ok(())
    }
}

impl S3Store {
    /// One page of a listing of the level under `prefix`.
    pub(super) async fn page(
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
            answered(0, request.customize().interceptor(WholeDocument).send()).await
        };
        let output = self.reading(list).await;
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

/// A key after which a listing begins that is to begin with `start`: below it in order, with no key of ours between.
pub(super) fn key_before(prefix: &str, start: &str) -> Option<String> {
    let name = start.strip_prefix(prefix).filter(|name| !name.is_empty())?;
    let (last, head) = name.as_bytes().split_last()?;
    let head = std::str::from_utf8(head).ok()?;
    // `~` is above every letter of our keys.
    Some(format!("{prefix}{head}{}~", char::from(last - 1)))
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
}

//! Listings that were cut off: what reads the document takes its half for a short one, and a short listing is a hole in an archive.

use aws_sdk_s3::config::interceptors::AfterDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;

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

//! Reading an object or a piece of it: asked again until it is whole, also where a delete marker hides it.

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Config, ResponseChecksumValidation};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use bytes::{Bytes, BytesMut};

use super::error::{Failure, causes};
use super::listing::{PAGE_KEYS, WholeDocument};
use super::{S3Store, TRIES, deadline};
use crate::store::{Fetched, Piece};

/// No object is larger.
const BODY_BYTES_MAX: u64 = 64 << 20;

impl S3Store {
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
    pub(super) async fn hidden_version(&self, key: &str) -> Result<Option<String>, Failure> {
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

    pub(super) async fn get_piece(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_written_as_the_protocol_has_it() {
        let header = |range| range_header(&Piece::Range(range));
        assert_eq!(header(0..3).as_deref(), Some("bytes=0-2"));
        assert_eq!(header(4..4).as_deref(), Some("bytes=4-4"));
        assert_eq!(header(9..u64::MAX).as_deref(), Some("bytes=9-"));
        assert_eq!(range_header(&Piece::Whole), None);
    }
}
